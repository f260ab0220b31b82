// @ts-check
import { backoffMs } from './backoff.js';
import { exclusively, uuid } from './environment.js';
import { asChatError } from './errors.js';

/**
 * @typedef {import('./types.js').OutboxEntry} OutboxEntry
 * @typedef {import('./types.js').Sent} Sent
 */

/** Messages noted as tried in one transaction. */
const CLAIM_ROWS = 20;

/**
 * Messages that the server has not acknowledged. They survive reloads; each is sent until it is acknowledged or refused
 * for good, in the order of writing within a conversation, by one tab at a time.
 *
 * Events: `changed` with `detail.conversationId`.
 */
export class Outbox extends EventTarget {
  /**
   * @param {object} options
   * @param {string} options.userId
   * @param {import('./storage.js').Storage} options.storage
   * @param {import('./environment.js').Environment} options.environment
   * @param {() => boolean} options.ready whether sending makes sense now
   * @param {(entry: OutboxEntry, retry: boolean) => Promise<Sent>} options.send
   * @param {(entry: OutboxEntry, sent: Sent) => Promise<void>} options.sent stores the message and takes the entry out, in one go
   */
  constructor({ userId, storage, environment, ready, send, sent }) {
    super();
    this.userId = userId;
    this.storage = storage;
    this.environment = environment;
    this.ready = ready;
    this.send = send;
    this.sent = sent;
    /** @type {OutboxEntry[]} what this tab shows */
    this.entries = [];
    /** Conversations being sent from by this tab, and whether to look again afterwards. @type {Map<string, boolean>} */
    this.flushing = new Map();
    this.closed = false;
    this.channel = environment.channel(`chat-outbox-${userId}`);
    if (this.channel) this.channel.onmessage = () => void this.reload();
  }

  /** @param {OutboxEntry[]} entries */
  load(entries) {
    this.entries = entries;
  }

  /** @param {string} conversationId */
  of(conversationId) {
    return this.entries.filter((entry) => entry.conversation_id === conversationId);
  }

  /**
   * Queues a message. It is on disk when this returns.
   * @param {{conversation_id: string, type: string, body: any, reply_to?: string, mentions?: string[]}} message
   * @returns {Promise<OutboxEntry>}
   */
  async add(message) {
    const entry = await this.storage.addToOutbox({
      ...message,
      client_message_id: uuid(),
      created_at: this.environment.now(),
      tried: false,
      failed: null,
    });
    this.entries = [...this.entries, entry];
    this.changed(entry.conversation_id, true);
    void this.flush(entry.conversation_id);
    return entry;
  }

  /** Sends a refused message again, with the same id. @param {string} clientMessageId */
  async retry(clientMessageId) {
    const entry = await this.change(clientMessageId, (known) => ({ ...known, failed: null }));
    if (entry) void this.flush(entry.conversation_id);
  }

  /** Gives a message up. @param {string} clientMessageId */
  async discard(clientMessageId) {
    await this.change(clientMessageId, () => null);
  }

  /**
   * Changes an entry on disk and on show; answers it as it was.
   * @param {string} clientMessageId
   * @param {(entry: OutboxEntry) => OutboxEntry|null} change
   */
  async change(clientMessageId, change) {
    const known = await this.storage.changeOutbox(clientMessageId, change);
    if (!known) return null;
    this.entries = this.entries.flatMap((entry) => {
      if (entry.client_message_id !== clientMessageId) return [entry];
      const next = change(entry);
      return next ? [next] : [];
    });
    this.changed(known.conversation_id, true);
    return known;
  }

  /**
   * Its message has appeared, so it is settled whatever was answered.
   * @param {string} clientMessageId
   * @returns {boolean} whether it was waiting here
   */
  settle(clientMessageId) {
    const entry = this.entries.find((one) => one.client_message_id === clientMessageId);
    if (!entry) return false;
    this.entries = this.entries.filter((one) => one !== entry);
    this.changed(entry.conversation_id, false);
    return true;
  }

  /** Sends whatever waits. */
  flushAll() {
    for (const id of new Set(this.entries.map((entry) => entry.conversation_id))) void this.flush(id);
  }

  /** @param {string} conversationId */
  async flush(conversationId) {
    if (this.flushing.has(conversationId)) {
      this.flushing.set(conversationId, true);
      return;
    }
    this.flushing.set(conversationId, false);
    try {
      await exclusively(this.environment, `chat-send-${this.userId}-${conversationId}`, () => this.drain(conversationId));
    } finally {
      const again = this.flushing.get(conversationId);
      this.flushing.delete(conversationId);
      if (again && !this.closed && this.ready()) void this.flush(conversationId);
    }
  }

  /** Sends the conversation's messages one by one until none is left or the connection is gone. @param {string} conversationId */
  async drain(conversationId) {
    let attempt = 0;
    while (this.ready() && !this.closed) {
      // Noted before anything is sent: after a crash nobody could tell what went out.
      const claimed = await this.storage.claimOutbox(conversationId, CLAIM_ROWS);
      if (claimed.length === 0) return;
      for (const entry of claimed) {
        const wait = this.ready() && !this.closed ? await this.attempt(entry, entry.tried, attempt) : null;
        if (wait === null) return;
        attempt = wait > 0 ? attempt + 1 : 0;
        if (wait === 0) continue;
        await new Promise((resolve) => this.environment.setTimeout(() => resolve(undefined), wait));
        // Read again from the first: what follows must not overtake it.
        break;
      }
    }
  }

  /**
   * Sends one message once.
   * @param {OutboxEntry} entry
   * @param {boolean} retry whether it may have been sent before
   * @param {number} attempt
   * @returns {Promise<number|null>} how long to wait before the next attempt; null to stop for now
   */
  async attempt(entry, retry, attempt) {
    // Given up, or settled by its appearance, since it was read.
    if (!this.entries.some((one) => one.client_message_id === entry.client_message_id)) return 0;
    try {
      const sent = await this.send(entry, retry);
      await this.sent(entry, sent);
      this.settle(entry.client_message_id);
      this.changed(entry.conversation_id, true);
      return 0;
    } catch (error) {
      const failure = asChatError(error);
      if (failure.retryable) {
        if (failure.transport && !this.ready()) return null;
        return Math.max(failure.retryAfterMs ?? 0, 1) + backoffMs(attempt, this.environment.random);
      }
      // The connection ends when a token is not taken; the message waits for the next one.
      if (failure.status === 401 || failure.code === 'token_expired' || failure.code === 'unauthenticated') return null;
      const failed = { code: failure.code, detail: failure.detail };
      await this.change(entry.client_message_id, (one) => ({ ...one, failed }));
      return 0;
    }
  }

  /** Reads again what another tab has changed. */
  async reload() {
    if (this.closed) return;
    const before = new Set(this.entries.map((entry) => entry.conversation_id));
    this.entries = await this.storage.outbox();
    for (const entry of this.entries) before.add(entry.conversation_id);
    for (const id of before) this.changed(id, false);
  }

  /**
   * @param {string} conversationId
   * @param {boolean} tell whether the other tabs should look
   */
  changed(conversationId, tell) {
    if (this.closed) return;
    this.dispatchEvent(new CustomEvent('changed', { detail: { conversationId } }));
    if (tell) this.channel?.postMessage(conversationId);
  }

  close() {
    this.closed = true;
    this.channel?.close();
  }
}
