// @ts-check
import { clockTime, dayName, fullTime, startOfDay, t } from './i18n.js';
import { button, h, icon, iconButton, onNextFrame, reconcile } from './dom.js';
import { attempt } from './dialogs.js';
import { openMessageMenu } from './menu.js';
import { nameOf, personAvatar } from './people.js';

/**
 * @typedef {import('../sdk/index.js').ChatClient} ChatClient
 * @typedef {import('../sdk/types.js').LocalMessage} LocalMessage
 * @typedef {import('../sdk/types.js').OutboxEntry} OutboxEntry
 */

/** Messages in the page at once; more are in memory or on disk and come when someone scrolls there. */
const ROWS_MAX = 240;
const ROWS_STEP = 60;
/** Messages of one person within this time stand together. */
const GROUP_MS = 300_000;
/** How close to an end of the log more messages are fetched. */
const EDGE_PX = 600;
const BOTTOM_PX = 80;

/** A message as one line of text. @param {ChatClient} client @param {LocalMessage} message @returns {string} */
export function describe(client, message) {
  if (message.deleted) return t('deleted_message');
  if (message.type === 'text') return String(message.body?.text ?? '');
  if (message.type === 'system') return systemText(client, message);
  return t('unsupported_message', { type: message.type });
}

/** @param {ChatClient} client @param {LocalMessage} message */
function systemText(client, message) {
  const { event, user_id: userId, role, name: text } = message.body ?? {};
  const name = nameOf(client, message.sender_id);
  const other = userId ? nameOf(client, userId) : '';
  const roles = /** @type {Record<string, any>} */ ({ owner: t('role_owner'), admin: t('role_admin'), member: t('role_member') });
  if (event === 'joined' && userId === message.sender_id) return t('system_joined_self', { name });
  const key = `system_${event}`;
  const known = ['created', 'joined', 'left', 'removed', 'role_changed', 'renamed', 'picture_changed'].includes(event);
  return known ? t(/** @type {any} */ (key), { name, other, role: roles[role], text }) : t('unsupported_message', { type: event });
}

/** The log of one conversation. */
export class MessageLog {
  /**
   * @param {ChatClient} client
   * @param {string} id
   * @param {{reply: (message: LocalMessage) => void, edit: (message: LocalMessage) => void}} actions
   */
  constructor(client, id, actions) {
    this.client = client;
    this.id = id;
    this.actions = actions;
    /** The part that is in the page, by seq. */
    this.low = 0;
    this.high = Infinity;
    this.follow = true;
    this.closed = false;
    this.loadingOlder = false;
    this.reachedAt = 0;
    /** Where the end was when it was last scrolled to. */
    this.placed = 0;
    /** Read mark when the conversation was opened: what is above it is new. */
    this.newFrom = this.client.head(id)?.read_seq ?? 0;
    this.hadUnread = this.client.unread(id) > 0;
    this.list = h('div', { class: 'messages', role: 'log', 'aria-live': 'polite', tabindex: '0' });
    this.scroller = h('div', { class: 'scroller' }, this.list);
    this.jump = iconButton('down', t('jump_newest'), () => this.toNewest(), { class: 'icon-button jump', hidden: true });
    this.jumpCount = h('span', { class: 'badge', hidden: true });
    this.jump.append(this.jumpCount);
    this.element = h('div', { class: 'log-frame' }, this.scroller, this.jump);
    this.refresh = onNextFrame(() => this.update());
    this.scroller.addEventListener('scroll', () => this.scrolled(), { passive: true });
    this.list.addEventListener('keydown', (event) => this.key(event));
    this.list.addEventListener('click', (event) => this.clicked(event));
    this.list.addEventListener('contextmenu', (event) => this.menuAt(event));
    this.observer = new ResizeObserver(() => { if (this.follow) this.toBottom(); });
    this.observer.observe(this.scroller);
  }

  close() {
    this.closed = true;
    this.observer.disconnect();
  }

  get timeline() {
    return this.client.timeline(this.id);
  }

  /** @returns {LocalMessage[]} the messages that belong in the page */
  rows() {
    const rows = this.timeline?.opened ? this.timeline.rows : [];
    if (this.follow) {
      this.high = Infinity;
      const first = rows[Math.max(0, rows.length - ROWS_MAX)];
      if (!this.low || (first && first.seq > this.low)) this.low = rows[Math.max(0, rows.length - ROWS_STEP)]?.seq ?? 0;
    }
    return rows.filter((row) => row.seq >= this.low && row.seq <= this.high);
  }

  update() {
    if (this.closed) return;
    const { client } = this;
    // A scroll is told a frame later: what was loaded meanwhile must not take the reader back to the end.
    if (this.follow && this.scroller.scrollTop < this.placed && this.below() >= BOTTOM_PX) this.follow = false;
    this.list.setAttribute('aria-label', t('messages_label'));
    this.jump.setAttribute('aria-label', t('jump_newest'));
    const rows = this.rows();
    const items = this.items(rows);
    const anchor = this.follow ? null : this.anchor();
    reconcile(this.list, items);
    if (this.follow) this.toBottom();
    else if (anchor) this.restore(anchor);
    this.updateJump();
    this.markRead();
    if (rows.length > 0 && rows.length < ROWS_STEP / 2 && client.connection?.state === 'live') this.scrolled();
  }

  /** @param {LocalMessage[]} rows */
  items(rows) {
    const { client } = this;
    const timeline = this.timeline;
    /** @type {{key: string, signature: string, build: () => HTMLElement}[]} */
    const items = [];
    const note = (/** @type {string} */ key, /** @type {string} */ text, /** @type {string} */ kind) => items.push({
      key, signature: text, build: () => h('div', { class: kind }, h('span', { text })),
    });
    const atStart = timeline?.complete && timeline.first?.seq === rows[0]?.seq;
    if (rows.length === 0) {
      const waiting = (client.outbox?.of(this.id).length ?? 0) > 0;
      if (!waiting) note('nothing', timeline?.loaded ? t('no_messages') : t('loading'), 'log-note');
    } else if (atStart) note('beginning', t('beginning'), 'log-note');
    else note('older', t('loading'), 'log-note');
    const context = { members: client.conversation(this.id)?.members ?? [], kind: client.conversation(this.id)?.kind };
    let previous = /** @type {LocalMessage|null} */ (null);
    for (const row of rows) {
      const day = startOfDay(row.created_at);
      if (!previous || startOfDay(previous.created_at) !== day) note(`day ${day}`, dayName(row.created_at), 'day');
      if (this.hadUnread && row.sender_id !== client.userId && row.seq > this.newFrom && (previous ? previous.seq <= this.newFrom : atStart)) note('new', t('new_messages'), 'day new-line');
      if (row.skipped) note(`skipped ${row.seq}`, t('skipped', { count: row.skipped }), 'log-note');
      items.push(this.item(row, previous, context));
      previous = row;
    }
    if (this.high === Infinity) for (const entry of client.outbox?.of(this.id) ?? []) items.push(this.queued(entry));
    return items;
  }

  /**
   * @param {LocalMessage} row
   * @param {LocalMessage|null} previous
   * @param {{members: import('../sdk/types.js').Member[], kind?: string}} context
   */
  item(row, previous, context) {
    const { client } = this;
    const own = row.sender_id === client.userId;
    const together = !!previous && previous.sender_id === row.sender_id && previous.type !== 'system' && !row.skipped
      && row.created_at - previous.created_at < GROUP_MS && startOfDay(previous.created_at) === startOfDay(row.created_at);
    const status = own && row.type !== 'system' ? delivery(context.members, row, client.userId ?? '') : null;
    const replied = row.reply_to ? this.timeline?.byId.get(row.reply_to) ?? null : null;
    const names = [row.sender_id, row.body?.user_id, replied?.sender_id].map((id) => (id ? nameOf(client, id) : ''));
    const mentions = (row.mentions ?? []).map((id) => client.profiles.get(id)?.handle ?? '');
    // The same message keeps its element from the moment it is written: the id of its sender's choice stays.
    return {
      key: own && row.type !== 'system' ? row.client_message_id + row.sender_id : row.message_id,
      signature: JSON.stringify([row.version, row.provisional, row.reactions?.version, together, status, names, mentions, replied?.version, context.kind, client.profiles.get(row.sender_id)?.picture, t('reply')]),
      build: () => (row.type === 'system' ? this.systemRow(row) : this.messageRow(row, { own, together, status, replied, mentions, group: context.kind !== 'direct' })),
    };
  }

  /** @param {LocalMessage} row */
  systemRow(row) {
    return h('div', { class: 'log-note system', title: fullTime(row.created_at), data: { seq: row.seq } }, h('span', { text: systemText(this.client, row) }));
  }

  /**
   * @param {LocalMessage} row
   * @param {{own: boolean, together: boolean, status: {state: string, count: number}|null, replied: LocalMessage|null, mentions: string[], group: boolean}} shape
   */
  messageRow(row, { own, together, status, replied, mentions, group }) {
    const { client } = this;
    const name = nameOf(client, row.sender_id);
    const time = h('time', { datetime: new Date(row.created_at).toISOString(), title: fullTime(row.created_at), text: clockTime(row.created_at) });
    const meta = h('span', { class: 'meta' }, row.edited_at && !row.deleted ? h('span', { text: t('edited') }) : null, time, status ? statusMark(status) : null);
    const bubble = h('div', { class: 'bubble' },
      replied || row.reply_to ? this.quote(row, replied) : null,
      this.content(row, mentions), meta);
    const mentioned = row.mentions?.includes(client.userId ?? '') && !own;
    return h('article', {
      class: ['message', own ? 'own' : 'other', together ? 'together' : '', mentioned ? 'mentioned' : ''].join(' '),
      tabindex: '-1', 'aria-label': `${own ? t('you') : name}, ${clockTime(row.created_at)}`, data: { id: row.message_id, seq: row.seq },
    },
      !own && group ? h('div', { class: 'message-avatar' }, together ? null : personAvatar(client, row.sender_id)) : null,
      h('div', { class: 'message-body' },
        !own && group && !together ? h('span', { class: 'sender', text: name }) : null,
        h('div', { class: 'bubble-line' }, bubble,
          row.deleted ? null : iconButton('more', t('actions'), () => {}, { 'aria-haspopup': 'menu', data: { action: 'menu' }, class: 'icon-button message-more' })),
        this.reactions(row)));
  }

  /** @param {LocalMessage} row @param {string[]} mentions */
  content(row, mentions) {
    if (row.deleted) return h('p', { class: 'text deleted', text: t('deleted_message') });
    if (row.type !== 'text') return h('p', { class: 'text deleted', text: t('unsupported_message', { type: row.type }) });
    const paragraph = h('p', { class: 'text', dir: 'auto' });
    appendText(paragraph, String(row.body?.text ?? ''), mentions);
    return paragraph;
  }

  /** @param {LocalMessage} row @param {LocalMessage|null} replied */
  quote(row, replied) {
    const text = replied ? describe(this.client, replied).slice(0, 200) : t('original_missing');
    return h('button', { type: 'button', class: 'quote', data: { action: 'quote', target: row.reply_to } },
      replied ? h('strong', { text: nameOf(this.client, replied.sender_id) }) : null, h('span', { text }));
  }

  /** @param {LocalMessage} row */
  reactions(row) {
    const items = row.deleted ? [] : row.reactions?.items ?? [];
    if (items.length === 0) return null;
    const { client } = this;
    return h('div', { class: 'reactions' }, ...items.map(({ emoji, user_ids: ids }) => {
      const own = ids.includes(client.userId ?? '');
      const names = ids.map((id) => (id === client.userId ? t('you') : nameOf(client, id))).join(', ');
      return h('button', { type: 'button', class: own ? 'reaction own' : 'reaction', 'aria-pressed': own ? 'true' : 'false', 'aria-label': t('reaction_label', { emoji, names }), title: names, data: { action: 'react', emoji } },
        h('span', { text: emoji }), h('span', { text: String(ids.length) }));
    }));
  }

  /** @param {OutboxEntry} entry */
  queued(entry) {
    const { client } = this;
    const failed = entry.failed;
    const text = h('p', { class: 'text', dir: 'auto' });
    appendText(text, String(entry.body?.text ?? entry.type), []);
    return {
      key: entry.client_message_id + client.userId,
      signature: JSON.stringify(['queued', failed, t('status_queued')]),
      build: () => h('article', { class: `message own queued ${failed ? 'failed' : ''}`, tabindex: '-1', 'aria-label': t(failed ? 'status_failed' : 'status_queued') },
        h('div', { class: 'message-body' },
          h('div', { class: 'bubble-line' }, h('div', { class: 'bubble' }, text,
            h('span', { class: 'meta' }, h('time', { text: clockTime(entry.created_at) }), statusMark({ state: failed ? 'failed' : 'queued', count: 0 })))),
          failed ? h('div', { class: 'failure', role: 'alert' }, h('span', { text: `${t('status_failed')}: ${failed.detail}` }),
            button(t('try_again'), () => void client.outbox?.retry(entry.client_message_id), 'small'),
            button(t('discard'), () => void client.outbox?.discard(entry.client_message_id), 'small')) : null)),
    };
  }

  // Acting on a message.

  /** @param {EventTarget|null} target */
  messageAt(target) {
    const element = /** @type {HTMLElement|null} */ (target instanceof Element ? target.closest('.message[data-id]') : null);
    const message = element ? this.timeline?.byId.get(element.dataset.id ?? '') : null;
    return element && message ? { element, message } : null;
  }

  /** @param {MouseEvent} event */
  clicked(event) {
    const target = /** @type {Element} */ (event.target);
    const control = /** @type {HTMLElement|null} */ (target.closest('[data-action]'));
    const found = this.messageAt(target);
    if (!found) return;
    const { element, message } = found;
    const action = control?.dataset.action;
    if (action === 'menu') this.openMenu(message, control ?? element);
    else if (action === 'quote') this.showMessage(control?.dataset.target ?? '');
    else if (action === 'react') void this.react(message, control?.dataset.emoji ?? '');
    else if (!target.closest('a') && matchMedia('(hover: none)').matches && target.closest('.bubble') && !String(getSelection())) {
      this.openMenu(message, element.querySelector('.bubble') ?? element);
    }
  }

  /** @param {MouseEvent} event */
  menuAt(event) {
    const found = this.messageAt(event.target);
    const target = /** @type {Element} */ (event.target);
    if (!found || found.message.deleted || target.closest('a') || String(getSelection())) return;
    event.preventDefault();
    this.openMenu(found.message, found.element.querySelector('.bubble') ?? found.element);
  }

  /** @param {LocalMessage} message @param {Element} at */
  openMenu(message, at) {
    if (message.deleted || message.type === 'system') return;
    openMessageMenu(this.client, message, /** @type {HTMLElement} */ (at), { ...this.actions, react: (emoji) => void this.react(message, emoji) });
  }

  /** @param {LocalMessage} message @param {string} emoji */
  react(message, emoji) {
    const own = message.reactions?.items.some((one) => one.emoji === emoji && one.user_ids.includes(this.client.userId ?? ''));
    return attempt(() => this.client.react(message, emoji, !!own));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const all = /** @type {HTMLElement[]} */ ([...this.list.querySelectorAll('.message')]);
    const here = all.findIndex((one) => one.contains(target));
    if (event.key === 'ArrowUp' || event.key === 'ArrowDown') {
      const next = here < 0 ? all.length - 1 : here + (event.key === 'ArrowUp' ? -1 : 1);
      if (!all[next]) return;
      event.preventDefault();
      all[next].focus({ preventScroll: true });
      all[next].scrollIntoView({ block: 'nearest' });
    } else if ((event.key === 'Enter' || event.key === 'ContextMenu') && here >= 0 && target === all[here]) {
      const found = this.messageAt(target);
      if (!found) return;
      event.preventDefault();
      this.openMenu(found.message, found.element.querySelector('.bubble') ?? target);
    }
  }

  /** @param {string} messageId */
  showMessage(messageId) {
    const message = this.timeline?.byId.get(messageId);
    if (!message) return;
    if (message.seq < this.low || message.seq > this.high) {
      this.follow = false;
      const rows = this.timeline?.rows ?? [];
      const index = rows.indexOf(message);
      this.low = rows[Math.max(0, index - ROWS_STEP)].seq;
      this.high = rows[Math.min(rows.length - 1, index + ROWS_STEP)].seq;
      this.update();
    }
    const element = /** @type {HTMLElement|null} */ (this.list.querySelector(`[data-id="${CSS.escape(messageId)}"]`));
    element?.scrollIntoView({ block: 'center' });
    element?.focus({ preventScroll: true });
    element?.classList.add('found');
    setTimeout(() => element?.classList.remove('found'), 1_500);
  }

  // Scrolling.

  toBottom() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.placed = this.scroller.scrollTop;
  }

  /** How much there is below what is shown. */
  below() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
  }

  toNewest() {
    this.follow = true;
    // Where the reader stands now is no scroll away from the end.
    this.placed = 0;
    this.low = 0;
    this.update();
  }

  /** The first message in view and where it stands. */
  anchor() {
    const top = this.scroller.getBoundingClientRect().top;
    for (const child of this.list.children) {
      if (child.classList.contains('message') || child.classList.contains('system')) {
        const box = child.getBoundingClientRect();
        if (box.bottom > top) return { key: /** @type {HTMLElement} */ (child).dataset.key, offset: box.top - top };
      }
    }
    return null;
  }

  /** @param {{key?: string, offset: number}} anchor */
  restore({ key, offset }) {
    const element = [...this.list.children].find((child) => /** @type {HTMLElement} */ (child).dataset.key === key);
    if (!element) return;
    const moved = element.getBoundingClientRect().top - this.scroller.getBoundingClientRect().top - offset;
    if (Math.abs(moved) >= 1) this.scroller.scrollTop += moved;
  }

  scrolled() {
    const { scroller } = this;
    const below = this.below();
    const atEnd = this.high === Infinity;
    const follow = atEnd && below < BOTTOM_PX;
    if (follow !== this.follow) {
      this.follow = follow;
      if (follow) this.refresh();
      this.updateJump();
    }
    if (scroller.scrollTop < EDGE_PX) void this.extendUp();
    else if (!atEnd && below < EDGE_PX) this.extendDown();
  }

  async extendUp() {
    const rows = this.timeline?.rows ?? [];
    const index = rows.findIndex((row) => row.seq >= this.low);
    if (index > 0) {
      this.reveal(Math.max(0, index - ROWS_STEP));
      return;
    }
    if (this.loadingOlder || rows.length === 0 || this.timeline?.complete) return;
    this.loadingOlder = true;
    this.list.setAttribute('aria-busy', 'true');
    const added = await this.client.loadOlder(this.id).catch(() => false);
    this.loadingOlder = false;
    this.list.removeAttribute('aria-busy');
    if (this.closed) return;
    if (added) {
      const now = this.timeline?.rows ?? [];
      const first = now.findIndex((row) => row.seq >= this.low);
      this.reveal(Math.max(0, first - ROWS_STEP));
    } else {
      this.refresh();
    }
  }

  /** Shows messages from this index on; takes the newest out when there are too many. @param {number} index */
  reveal(index) {
    const rows = this.timeline?.rows ?? [];
    // The reader is away from the end only if there is something to scroll.
    const short = this.scroller.scrollHeight <= this.scroller.clientHeight + BOTTOM_PX;
    this.low = rows[index]?.seq ?? this.low;
    if (!short) {
      const last = rows[index + ROWS_MAX];
      if (last && last.seq < this.high) {
        this.high = last.seq;
        this.follow = false;
      }
    }
    this.update();
  }

  extendDown() {
    const rows = this.timeline?.rows ?? [];
    const index = rows.findIndex((row) => row.seq > this.high);
    if (index < 0) {
      this.high = Infinity;
    } else {
      const end = index + ROWS_STEP;
      this.high = rows[end]?.seq ?? Infinity;
      const first = rows[Math.min(end, rows.length - 1) - ROWS_MAX];
      if (first && first.seq > this.low) this.low = first.seq;
    }
    this.update();
  }

  updateJump() {
    const last = this.timeline?.last?.seq ?? 0;
    if (this.follow) this.reachedAt = last;
    const fresh = Math.max(0, last - this.reachedAt);
    this.jump.hidden = this.follow;
    this.jumpCount.hidden = fresh === 0;
    this.jumpCount.textContent = String(fresh);
  }

  /** What is in view at the end of the log counts as read. */
  markRead() {
    if (!this.follow || document.hidden || !document.hasFocus()) return;
    const last = this.timeline?.last;
    if (last) this.client.markRead(this.id, last.seq);
  }
}

/**
 * How far an own message has got: the state that all others have reached.
 * @param {import('../sdk/types.js').Member[]} members
 * @param {LocalMessage} row
 * @param {string} self
 */
function delivery(members, row, self) {
  const others = members.filter((member) => member.user_id !== self && BigInt(member.joined_id) <= BigInt(row.message_id));
  const read = others.filter((member) => member.read_seq >= row.seq).length;
  const delivered = others.filter((member) => member.delivered_seq >= row.seq).length;
  if (others.length === 0) return { state: 'sent', count: 0 };
  if (read === others.length) return { state: 'read', count: others.length > 1 ? read : 0 };
  if (read > 0) return { state: 'delivered', count: read };
  return { state: delivered === others.length ? 'delivered' : 'sent', count: 0 };
}

/** @param {{state: string, count: number}} status */
function statusMark({ state, count }) {
  const shapes = /** @type {Record<string, any>} */ ({ queued: 'clock', sent: 'check', delivered: 'checks', read: 'checks', failed: 'alert' });
  const text = count > 0 ? t('status_read_by', { count }) : t(/** @type {any} */ (`status_${state}`));
  return h('span', { class: `delivery ${state}`, role: 'img', 'aria-label': text, title: text, data: { state } }, icon(shapes[state]));
}

/**
 * Text with links and mentions, built from nodes: nothing a person wrote is ever read as markup.
 * @param {HTMLElement} parent
 * @param {string} text
 * @param {string[]} handles
 */
function appendText(parent, text, handles) {
  const pattern = /(https?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]])|@([A-Za-z0-9_.]{3,32})/g;
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    const [whole, link, handle] = match;
    const mention = handle ? handles.find((one) => one && handle.toLowerCase().startsWith(one)) : undefined;
    if (!link && !mention) continue;
    const shown = mention ? `@${handle.slice(0, mention.length)}` : whole;
    parent.append(text.slice(end, match.index));
    if (link) parent.append(h('a', { href: link, target: '_blank', rel: 'noopener noreferrer nofollow', text: link }));
    else parent.append(h('span', { class: 'mention', text: shown }));
    end = match.index + shown.length;
  }
  parent.append(text.slice(end));
}
