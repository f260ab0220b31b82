// @ts-check
import { attempt } from './dialogs.js';
import { h, icon, iconButton } from './dom.js';
import { t } from './i18n.js';
import { describe } from './messages.js';
import { nameOf, personAvatar } from './people.js';

/**
 * @typedef {import('../sdk/types.js').LocalMessage} LocalMessage
 */

const TEXT_CHARS_MAX = 100_000;
const TYPING_IDLE_MS = 5_000;
const SUGGESTIONS_MAX = 6;

/** What was written but not sent, kept while the tab lives. @param {string} id */
export function draftOf(id) {
  return sessionStorage.getItem(`chat.draft ${id}`) ?? '';
}

/** @param {string} id @param {string} text */
function keepDraft(id, text) {
  if (text) sessionStorage.setItem(`chat.draft ${id}`, text);
  else sessionStorage.removeItem(`chat.draft ${id}`);
}

/** Where messages are written. */
export class Composer {
  /**
   * @param {import('../sdk/index.js').ChatClient} client
   * @param {string} id
   * @param {() => void} sent
   */
  constructor(client, id, sent) {
    this.client = client;
    this.id = id;
    this.sent = sent;
    /** @type {{kind: 'reply'|'edit', message: LocalMessage}|null} */
    this.about = null;
    /** People chosen from the suggestions, by handle. @type {Map<string, string>} */
    this.mentioned = new Map();
    this.chosen = 0;
    /** @type {string[]} */
    this.suggested = [];
    this.idle = 0;
    this.input = h('textarea', {
      id: 'composer', rows: 1, enterkeyhint: 'send', autocomplete: 'off',
      'aria-autocomplete': 'list', 'aria-controls': 'mentions', 'aria-haspopup': 'listbox',
      on: { input: () => this.changed(), keydown: (/** @type {KeyboardEvent} */ event) => this.key(event), blur: () => this.hideSuggestions(), click: () => this.suggest() },
    });
    this.button = h('button', { type: 'submit', class: 'send-button' }, icon('send'));
    this.context = h('div', { class: 'composer-context', hidden: true });
    this.problem = h('p', { class: 'problem', role: 'alert', hidden: true });
    this.list = h('ul', { id: 'mentions', class: 'suggestions', role: 'listbox', hidden: true });
    this.element = h('form', { class: 'composer', on: { submit: (/** @type {Event} */ event) => { event.preventDefault(); void this.submit(); } } },
      this.list, this.context, this.problem, h('div', { class: 'composer-line' }, this.input, this.button));
    this.input.value = draftOf(id);
    this.label();
    queueMicrotask(() => this.fit());
  }

  label() {
    this.input.setAttribute('aria-label', t('write_message'));
    this.input.placeholder = t('write_message');
    this.button.setAttribute('aria-label', t('send'));
    this.button.title = t('send');
    this.list.setAttribute('aria-label', t('mention_people'));
    this.showContext();
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  fit() {
    this.input.style.height = 'auto';
    this.input.style.height = `${Math.min(this.input.scrollHeight, 200)}px`;
    this.button.disabled = !this.input.value.trim();
  }

  changed() {
    const text = this.input.value;
    if (this.about?.kind !== 'edit') {
      keepDraft(this.id, text);
      this.client.setTyping(this.id, text.trim() !== '');
      clearTimeout(this.idle);
      this.idle = window.setTimeout(() => this.client.setTyping(this.id, false), TYPING_IDLE_MS);
    }
    const over = [...text].length - TEXT_CHARS_MAX;
    this.problem.hidden = over <= 0;
    this.problem.textContent = over > 0 ? t('too_long', { count: over }) : '';
    this.fit();
    this.suggest();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    // While a syllable is being composed, Enter belongs to the input method.
    if (event.isComposing || event.keyCode === 229) return;
    if (this.suggested.length > 0 && this.suggestionKey(event)) return;
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      void this.submit();
    } else if (event.key === 'Escape' && this.about) {
      event.preventDefault();
      event.stopPropagation();
      this.clearContext();
    } else if (event.key === 'ArrowUp' && this.input.value === '' && !this.about) {
      const own = this.client.timeline(this.id)?.rows.findLast((row) => row.sender_id === this.client.userId && row.type === 'text' && !row.deleted);
      if (own) {
        event.preventDefault();
        this.edit(own);
      }
    }
  }

  async submit() {
    const written = this.input.value;
    const text = written.trim();
    if (!text || [...text].length > TEXT_CHARS_MAX) return;
    const mentions = this.mentionsIn(text);
    const about = this.about;
    clearTimeout(this.idle);
    if (about?.kind === 'edit') {
      if (text !== about.message.body?.text) {
        const done = await attempt(async () => { await this.client.editText(about.message, text, mentions); return true; });
        if (!done) return;
      }
      this.clearContext();
      return;
    }
    this.input.value = '';
    this.clearContext();
    this.fit();
    this.client.setTyping(this.id, false);
    const queued = await attempt(() => this.client.sendText(this.id, text, { replyTo: about?.message.message_id, mentions }));
    // Only now: a page that goes away before the message is on disk still has it as a draft.
    if (queued) {
      if (draftOf(this.id) === written) keepDraft(this.id, '');
      this.sent();
    } else if (this.input.value === '') {
      this.input.value = written;
      this.fit();
    }
  }

  // Replying and editing.

  /** @param {LocalMessage} message */
  reply(message) {
    if (this.about?.kind === 'edit') this.clearContext();
    this.about = { kind: 'reply', message };
    this.showContext();
    this.focus();
  }

  /** @param {LocalMessage} message */
  edit(message) {
    this.about = { kind: 'edit', message };
    this.input.value = message.body?.text ?? '';
    for (const id of message.mentions ?? []) {
      const handle = this.client.person(id)?.handle;
      if (handle) this.mentioned.set(handle, id);
    }
    this.showContext();
    this.fit();
    this.focus();
  }

  clearContext() {
    if (this.about?.kind === 'edit') this.input.value = draftOf(this.id);
    this.about = null;
    this.showContext();
    this.fit();
  }

  showContext() {
    const { about, client } = this;
    this.context.hidden = !about;
    if (!about) return this.context.replaceChildren();
    const editing = about.kind === 'edit';
    this.context.replaceChildren(
      icon(editing ? 'edit' : 'reply'),
      h('div', null,
        h('strong', { text: editing ? t('editing') : t('replying_to', { name: nameOf(client, about.message.sender_id) }) }),
        h('span', { class: 'preview', text: describe(client, about.message).slice(0, 200) })),
      iconButton('close', t(editing ? 'cancel_edit' : 'cancel_reply'), () => { this.clearContext(); this.focus(); }));
    return undefined;
  }

  // Mentions.

  /** @param {string} text */
  mentionsIn(text) {
    const members = new Map((this.client.conversation(this.id)?.members ?? []).map(({ user_id: id }) => [this.client.person(id)?.handle ?? '', id]));
    for (const [handle, id] of this.mentioned) members.set(handle, id);
    const found = [...text.matchAll(/@([A-Za-z0-9_.]{3,32})/g)].map(([, handle]) => handle.toLowerCase());
    // A full stop after a handle is part of the pattern, not of the handle.
    const ids = found.map((handle) => members.get(handle) ?? members.get(handle.replace(/\.+$/, '')));
    return [...new Set(ids.filter((id) => id !== undefined))];
  }

  /** The beginning of a handle before the caret. */
  partialMention() {
    const before = this.input.value.slice(0, this.input.selectionStart);
    return before.match(/(?:^|\s)@([A-Za-z0-9_.]*)$/)?.[1] ?? null;
  }

  suggest() {
    const partial = this.partialMention()?.toLowerCase();
    const members = this.client.conversation(this.id)?.members ?? [];
    this.suggested = partial === undefined ? [] : members.map((member) => member.user_id)
      .filter((id) => id !== this.client.userId)
      .filter((id) => {
        const person = this.client.person(id);
        return person && (person.handle.startsWith(partial) || person.name.toLowerCase().startsWith(partial));
      }).slice(0, SUGGESTIONS_MAX);
    this.chosen = 0;
    this.showSuggestions();
  }

  /** People become known while their names are being written. */
  people() {
    if (this.suggested.length === 0 && document.activeElement === this.input && this.partialMention() !== null) this.suggest();
  }

  hideSuggestions() {
    this.suggested = [];
    this.showSuggestions();
  }

  showSuggestions() {
    const shown = this.suggested.length > 0;
    this.list.hidden = !shown;
    if (shown) this.input.setAttribute('aria-activedescendant', `mention-${this.chosen}`);
    else this.input.removeAttribute('aria-activedescendant');
    this.list.replaceChildren(...this.suggested.map((id, index) => {
      const person = this.client.person(id);
      const take = (/** @type {Event} */ event) => { event.preventDefault(); this.take(id); };
      return h('li', { id: `mention-${index}`, role: 'option', 'aria-selected': String(index === this.chosen), on: { pointerdown: take } },
        personAvatar(this.client, id), h('span', { text: person?.name ?? '' }), h('span', { class: 'muted small', text: `@${person?.handle}` }));
    }));
  }

  /** @param {KeyboardEvent} event */
  suggestionKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      this.chosen = (this.chosen + step + this.suggested.length) % this.suggested.length;
      this.showSuggestions();
    } else if (event.key === 'Enter' || event.key === 'Tab') this.take(this.suggested[this.chosen]);
    else if (event.key === 'Escape') this.hideSuggestions();
    else return false;
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  /** @param {string} id */
  take(id) {
    const handle = this.client.person(id)?.handle;
    if (!handle) return;
    const caret = this.input.selectionStart;
    const start = caret - (this.partialMention() ?? '').length;
    this.input.setRangeText(`${handle} `, start, caret, 'end');
    this.mentioned.set(handle, id);
    this.hideSuggestions();
    this.changed();
  }

  close() {
    clearTimeout(this.idle);
    this.client.setTyping(this.id, false);
  }
}
