// @ts-check
import { button, h } from './dom.js';
import { t } from './i18n.js';

/** A connection that is only being made for less than this time is not worth a word. */
const CONNECTING_SHOWN_AFTER_MS = 1_500;

/** Says in words how the connection is, when it is not simply fine. */
export class Banner {
  /** @param {import('../sdk/index.js').ChatClient} client */
  constructor(client) {
    this.client = client;
    this.text = h('span');
    this.action = h('span');
    this.element = h('div', { class: 'banner', role: 'status', hidden: true }, this.text, this.action);
    this.since = 0;
    this.storageFailed = false;
    this.timer = 0;
  }

  update() {
    clearTimeout(this.timer);
    const connection = this.client.connection;
    const state = connection?.state ?? 'stopped';
    const now = Date.now();
    if (state === 'live') this.since = 0;
    else this.since ||= now;
    const { text, kind, action } = this.say(state, now);
    this.element.hidden = !text;
    this.element.dataset.kind = kind;
    this.element.dataset.state = state;
    if (this.text.textContent !== text) this.text.textContent = text;
    if (this.action.dataset.name !== action?.name) {
      this.action.dataset.name = action?.name ?? '';
      this.action.replaceChildren(...(action ? [button(action.name, action.run, 'small')] : []));
    }
    if (state !== 'live') this.timer = window.setTimeout(() => this.update(), 500);
  }

  /**
   * @param {string} state
   * @param {number} now
   * @returns {{text: string, kind: string, action?: {name: string, run: () => void}}}
   */
  say(state, now) {
    const connection = this.client.connection;
    if (!this.client.userId || !connection) return { text: '', kind: '' };
    if (state === 'offline') return { text: t('banner_offline'), kind: 'warning' };
    if (state === 'stopped') {
      return connection.stopReason ? { text: t('banner_stopped'), kind: 'warning', action: { name: t('reload'), run: () => location.reload() } } : { text: '', kind: '' };
    }
    // A node that hands its clients over said when to come to the next one: that is no outage.
    const moves = connection.moving && state === 'waiting';
    const patience = moves || now - this.since < CONNECTING_SHOWN_AFTER_MS;
    if (state === 'waiting' && !patience) {
      const seconds = Math.ceil(Math.max(0, connection.retryAt - now) / 1000);
      return { text: t('banner_waiting', { seconds }), kind: 'warning', action: { name: t('try_now'), run: () => connection.wake() } };
    }
    if (state === 'connecting' && !patience) return { text: t('connecting'), kind: 'calm' };
    return this.storageFailed ? { text: t('banner_storage'), kind: 'warning' } : { text: '', kind: '' };
  }
}
