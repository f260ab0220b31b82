// @ts-check
import { ChatClient } from '../sdk/index.js';
import { authView } from './auth.js';
import { Banner } from './banner.js';
import { ConversationView } from './conversation.js';
import { h, onNextFrame } from './dom.js';
import { toast } from './dialogs.js';
import { chosenLanguage, language, setLanguage, t } from './i18n.js';
import { SettingsView } from './settings.js';
import { Sidebar } from './sidebar.js';
import { applyTheme, chosenTheme, setTheme } from './theme.js';

const VERSION = 'chat-web/1';

/** The page: who is logged in decides what it shows, the address after `#` decides which place. */
class Page {
  constructor() {
    this.client = new ChatClient({ name: VERSION, discover: true });
    this.root = /** @type {HTMLElement} */ (document.getElementById('app'));
    this.notice = '';
    /** @type {Sidebar|null} */
    this.sidebar = null;
    /** @type {{element: HTMLElement, update: () => void, close: () => void}|null} */
    this.view = null;
    this.viewKey = '';
    this.banner = new Banner(this.client);
    this.refresh = onNextFrame(() => this.update());
  }

  async start() {
    applyTheme();
    document.documentElement.lang = language;
    const { client } = this;
    for (const type of ['connection', 'conversations', 'messages', 'outbox', 'typing', 'people']) client.addEventListener(type, this.refresh);
    client.addEventListener('account', () => this.adoptSettings());
    client.addEventListener('session', (event) => this.sessionChanged(/** @type {CustomEvent} */ (event).detail));
    client.addEventListener('left', (event) => this.left(/** @type {CustomEvent} */ (event).detail.conversationId));
    client.addEventListener('storage-failed', () => { this.banner.storageFailed = true; this.refresh(); });
    addEventListener('hashchange', () => this.route());
    addEventListener('focus', this.refresh);
    document.addEventListener('visibilitychange', this.refresh);
    document.addEventListener('keydown', (event) => this.key(event));
    await client.start();
    if (!client.userId) this.show();
  }

  /** @param {{reason?: 'expired'|'logged_out'}} detail */
  sessionChanged({ reason }) {
    if (reason) this.notice = t(reason === 'expired' ? 'session_expired' : 'session_logged_out');
    this.show();
  }

  /** Builds the page anew: after logging in or out, or in another language. */
  show() {
    this.view?.close();
    this.view = null;
    this.viewKey = '';
    const toasts = h('div', { id: 'toast', class: 'toast', role: 'status', 'aria-live': 'polite' });
    document.title = t('app_name');
    if (!this.client.userId) {
      this.sidebar = null;
      this.root.className = 'logged-out';
      this.root.replaceChildren(authView(this.client, this.notice), toasts);
      return;
    }
    this.notice = '';
    this.sidebar = new Sidebar(this.client, go);
    this.main = h('main', { class: 'main', 'aria-label': t('main_label') });
    this.root.className = 'app';
    const skip = h('a', { class: 'skip-link', href: '#composer', text: t('skip_to_composer') });
    skip.addEventListener('click', (event) => {
      event.preventDefault();
      document.getElementById('composer')?.focus();
    });
    this.root.replaceChildren(skip, this.banner.element, h('div', { class: 'panes' }, this.sidebar.element, this.main), toasts);
    this.route();
  }

  route() {
    if (!this.sidebar || !this.main) return;
    const [, place = 'chats', id = ''] = location.hash.split('/');
    const section = place === 'r' || place === 'rooms' ? 'rooms' : place === 'friends' ? 'friends' : 'chats';
    const key = `${place}/${id}`;
    const opens = (place === 'c' || place === 'r') && /^[dgr]_[\w-]+$/.test(id);
    if (place !== 'settings' || !this.sidebar.section) this.sidebar.show(section, id);
    else this.sidebar.show(this.sidebar.section, '');
    if (key !== this.viewKey) {
      this.view?.close();
      this.viewKey = key;
      if (opens) this.view = new ConversationView(this.client, id, go);
      else if (place === 'settings') this.view = new SettingsView(this.client, go, () => this.restyle());
      else this.view = null;
      this.main.replaceChildren(this.view?.element ?? this.nothing());
    }
    this.root.dataset.pane = this.view ? 'main' : 'list';
    this.update();
  }

  restyle() {
    const { hash } = location;
    this.show();
    if (location.hash !== hash) go(hash);
  }

  nothing() {
    return h('div', { class: 'empty' }, h('h2', { text: t('pick_chat_title') }), h('p', { class: 'muted', text: t('pick_chat_text') }));
  }

  update() {
    this.banner.update();
    if (!this.sidebar) return;
    this.sidebar.update();
    this.view?.update();
    const unread = this.client.conversations().reduce((sum, head) => sum + this.client.unread(head.conversation_id), 0);
    document.title = unread > 0 ? `(${unread}) ${t('app_name')}` : t('app_name');
  }

  /** Language and theme follow the account from device to device. */
  adoptSettings() {
    const { language: wanted, theme } = this.client.settings;
    if (theme && theme !== chosenTheme()) setTheme(theme);
    if (wanted && wanted !== chosenLanguage()) {
      setLanguage(wanted);
      this.restyle();
    }
    this.refresh();
  }

  /** @param {string} id */
  left(id) {
    if (this.viewKey === `c/${id}`) {
      toast(t('left_conversation'));
      go('#/chats');
      // Now, not when the browser tells: the view would ask for what is no longer there.
      this.route();
    }
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key !== 'Escape' || event.defaultPrevented || document.querySelector('dialog[open]')) return;
    if (!this.view || !this.sidebar) return;
    const selected = /** @type {HTMLElement|null} */ (this.sidebar.element.querySelector('.conversation[aria-current]'));
    if (matchMedia('(max-width: 760px)').matches || this.viewKey.startsWith('settings')) go(`#/${this.sidebar.section}`);
    else selected?.focus();
  }
}

/** @param {string} hash */
function go(hash) {
  if (location.hash !== hash) location.hash = hash;
}

/** Lets the page open without a network. Browsers offer this only on secure origins. */
async function keepFiles() {
  if (!('serviceWorker' in navigator)) return;
  try {
    await navigator.serviceWorker.register('/sw.js');
    const { active } = await navigator.serviceWorker.ready;
    const files = performance.getEntriesByType('resource').map((entry) => entry.name);
    active?.postMessage({ files: [new URL('/', location.href).href, ...files] });
  } catch { /* the page works without it */ }
}

const page = new Page();
// For people who look around in the console, and for tests.
Object.assign(globalThis, { chat: page.client });
void page.start();
void keepFiles();
