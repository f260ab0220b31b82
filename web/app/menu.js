// @ts-check
import { ask, attempt, toast } from './dialogs.js';
import { h, icon } from './dom.js';
import { t } from './i18n.js';

/** Reactions offered; any other emoji that someone used can be joined by pressing it. */
const EMOJI = ['👍', '❤️', '😂', '😮', '😢', '🙏', '🎉', '🔥'];

/**
 * The menu of a message, beside it.
 * @param {import('../sdk/index.js').ChatClient} client
 * @param {import('../sdk/types.js').LocalMessage} message
 * @param {HTMLElement} at
 * @param {{reply: (message: any) => void, edit: (message: any) => void, react: (emoji: string) => void}} actions
 */
export function openMessageMenu(client, message, at, actions) {
  const before = /** @type {HTMLElement|null} */ (document.activeElement);
  const key = /** @type {HTMLElement|null|undefined} */ (before?.closest('[data-key]'))?.dataset.key;
  const own = message.sender_id === client.userId;
  const role = client.conversation(message.conversation_id)?.members.find((member) => member.user_id === client.userId)?.role;
  const shade = h('div', { class: 'menu-shade' });
  const close = () => {
    shade.remove();
    document.removeEventListener('keydown', keys, true);
    // A mark that arrived meanwhile may have built the message anew.
    const rows = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('.message')]);
    const back = before?.isConnected ? before : key && rows.find((row) => row.dataset.key === key);
    if (back) back.focus({ preventScroll: true });
  };
  const choose = (/** @type {() => void} */ run) => () => { close(); run(); };
  const entry = (/** @type {any} */ shape, /** @type {string} */ text, /** @type {() => void} */ run, kind = '') =>
    h('button', { type: 'button', role: 'menuitem', class: `menu-item ${kind}`, tabindex: '-1', on: { click: choose(run) } }, icon(shape), text);
  const remove = async () => {
    if (await ask(t('delete_question'), t('delete'))) await attempt(() => client.deleteMessage(message));
  };
  const copy = () => attempt(async () => {
    await navigator.clipboard.writeText(message.body?.text ?? '');
    toast(t('copied'));
  });
  const mayDelete = own || role === 'owner' || role === 'admin';
  const menu = h('div', { class: 'menu', role: 'menu', 'aria-label': t('actions') },
    h('div', { class: 'menu-emoji', role: 'group' }, ...EMOJI.map((emoji) =>
      h('button', { type: 'button', role: 'menuitem', tabindex: '-1', 'aria-label': t('react_with', { emoji }), text: emoji, on: { click: choose(() => actions.react(emoji)) } }))),
    entry('reply', t('reply'), () => actions.reply(message)),
    message.type === 'text' && navigator.clipboard ? entry('copy', t('copy'), () => void copy()) : null,
    own && message.type === 'text' ? entry('edit', t('edit'), () => actions.edit(message)) : null,
    mayDelete && (own || message.conversation_id[0] !== 'd') ? entry('trash', t('delete'), () => void remove(), 'danger') : null);
  const items = /** @type {HTMLElement[]} */ ([...menu.querySelectorAll('[role=menuitem]')]);
  const keys = (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const here = items.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    if (event.key === 'Escape' || event.key === 'Tab') close();
    else if (step) items[(here + step + items.length) % items.length].focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  shade.append(menu);
  shade.addEventListener('pointerdown', (event) => { if (event.target === shade) { event.preventDefault(); close(); } });
  document.addEventListener('keydown', keys, true);
  document.body.append(shade);
  place(menu, at.getBoundingClientRect(), own);
  items[0].focus({ preventScroll: true });
}

/** @param {HTMLElement} menu @param {DOMRect} beside @param {boolean} own */
function place(menu, beside, own) {
  const { width, height } = menu.getBoundingClientRect();
  const left = own ? beside.right - width : beside.left;
  const below = beside.bottom + 6 + height < innerHeight;
  const top = below ? beside.bottom + 6 : beside.top - height - 6;
  menu.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  menu.style.top = `${Math.max(8, Math.min(top, innerHeight - height - 8))}px`;
}
