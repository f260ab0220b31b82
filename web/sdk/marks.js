// @ts-check

/** Own delivery marks go out at most this often per conversation. */
const DELIVERED_INTERVAL_MS = 1_000;
/** A read mark waits this long, so that a burst of messages makes one. */
const READ_DELAY_MS = 250;
const RETRY_MS = 5_000;

/**
 * Sends the own read and delivery marks: only the highest of each conversation, only when something is to be said.
 */
export class Marks {
  /**
   * @param {object} options
   * @param {import('./environment.js').Environment} options.environment
   * @param {() => boolean} options.ready
   * @param {(kind: 'read'|'delivered', conversationId: string, seq: number) => Promise<any>} options.send
   * @param {(conversationId: string, seq: number) => void} options.confirmed a read mark has reached the server
   */
  constructor({ environment, ready, send, confirmed }) {
    this.environment = environment;
    this.ready = ready;
    this.send = send;
    this.confirmed = confirmed;
    /** @type {Record<'read'|'delivered', Map<string, {wanted: number, done: number, timer: any}>>} */
    this.marks = { read: new Map(), delivered: new Map() };
    this.closed = false;
  }

  /**
   * Notes a position; it is sent soon.
   * @param {'read'|'delivered'} kind
   * @param {string} conversationId
   * @param {number} seq
   */
  note(kind, conversationId, seq) {
    const mark = this.get(kind, conversationId);
    if (seq <= mark.wanted) return;
    mark.wanted = seq;
    this.schedule(kind, conversationId, kind === 'read' ? READ_DELAY_MS : DELIVERED_INTERVAL_MS);
  }

  /**
   * @param {'read'|'delivered'} kind
   * @param {string} conversationId
   */
  get(kind, conversationId) {
    const known = this.marks[kind].get(conversationId);
    if (known) return known;
    const mark = { wanted: 0, done: 0, timer: null };
    this.marks[kind].set(conversationId, mark);
    return mark;
  }

  /**
   * @param {'read'|'delivered'} kind
   * @param {string} conversationId
   * @param {number} delayMs
   */
  schedule(kind, conversationId, delayMs) {
    const mark = this.get(kind, conversationId);
    if (mark.timer || this.closed) return;
    mark.timer = this.environment.setTimeout(() => {
      mark.timer = null;
      void this.flush(kind, conversationId);
    }, delayMs);
  }

  /**
   * @param {'read'|'delivered'} kind
   * @param {string} conversationId
   */
  async flush(kind, conversationId) {
    const mark = this.get(kind, conversationId);
    const seq = mark.wanted;
    // Having read says that it was delivered, too.
    const said = kind === 'delivered' ? Math.max(mark.done, this.get('read', conversationId).wanted) : mark.done;
    if (seq <= said || !this.ready() || this.closed) return;
    try {
      await this.send(kind, conversationId, seq);
      mark.done = Math.max(mark.done, seq);
      if (kind === 'read') this.confirmed(conversationId, seq);
    } catch (error) {
      const failure = /** @type {any} */ (error);
      if (!failure.retryable) mark.done = Math.max(mark.done, seq);
      else this.schedule(kind, conversationId, failure.retryAfterMs ?? RETRY_MS);
    }
  }

  /** Sends what could not be sent while there was no connection. */
  flushAll() {
    for (const kind of /** @type {('read'|'delivered')[]} */ (['read', 'delivered'])) {
      for (const id of this.marks[kind].keys()) void this.flush(kind, id);
    }
  }

  close() {
    this.closed = true;
    for (const marks of Object.values(this.marks)) {
      for (const mark of marks.values()) this.environment.clearTimeout(mark.timer);
    }
  }
}
