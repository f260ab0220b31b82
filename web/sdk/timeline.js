// @ts-check
import { mergeMessage } from './merge.js';

/**
 * @typedef {import('./types.js').LocalMessage} LocalMessage
 * @typedef {import('./types.js').Message} Message
 */

/**
 * The messages of one conversation in memory, in order. `seq` is dense, so a hole shows at once; where someone was not a
 * member for a while, `prev_seq` says that nothing visible is missing.
 */
export class Timeline {
  constructor() {
    /** @type {LocalMessage[]} ascending by seq */
    this.rows = [];
    /** @type {Map<string, LocalMessage>} by message id */
    this.byId = new Map();
    /** What this device keeps is in memory. Before that, what comes live would stand there alone. */
    this.opened = false;
    /** The server was asked for the newest messages. */
    this.loaded = false;
    /** There are no messages at all. */
    this.isEmpty = false;
  }

  /** @returns {LocalMessage|undefined} */
  get first() {
    return this.rows[0];
  }

  /** @returns {LocalMessage|undefined} */
  get last() {
    return this.rows[this.rows.length - 1];
  }

  /** Whether the first message in memory is the first that this person may see. */
  get complete() {
    return this.first ? previousSeq(this.first) === 0 : this.isEmpty;
  }

  /**
   * Adds a message or merges it with the copy at hand.
   * @param {LocalMessage} message
   * @returns {LocalMessage} the copy kept
   */
  put(message) {
    let low = 0;
    let high = this.rows.length;
    // New messages come at the end: look there first.
    if (high > 0 && this.rows[high - 1].seq < message.seq) low = high;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].seq < message.seq) low = middle + 1;
      else high = middle;
    }
    const known = this.rows[low]?.seq === message.seq ? this.rows[low] : undefined;
    const merged = mergeMessage(known, message);
    this.rows.splice(low, known ? 1 : 0, merged);
    this.byId.set(merged.message_id, merged);
    return merged;
  }

  /** Where messages are missing: the rows on both sides of each hole, oldest first. */
  holes() {
    /** @type {{after: LocalMessage, before: LocalMessage}[]} */
    const found = [];
    for (let i = 1; i < this.rows.length; i += 1) {
      if (previousSeq(this.rows[i]) > this.rows[i - 1].seq) {
        found.push({ after: this.rows[i - 1], before: this.rows[i] });
      }
    }
    return found;
  }
}

/**
 * Seq of the visible message before this one, 0 if there is none.
 * @param {LocalMessage} message
 */
export function previousSeq(message) {
  return message.prev_seq ?? message.seq - 1;
}

/**
 * The newest messages without a hole among them.
 * @param {LocalMessage[]} rows ascending
 * @returns {LocalMessage[]}
 */
export function contiguousTail(rows) {
  let start = rows.length - 1;
  while (start > 0 && previousSeq(rows[start]) <= rows[start - 1].seq) start -= 1;
  return start < 0 ? [] : rows.slice(start);
}

/**
 * The messages of a page of history, ascending, each linked to the one before it: what the server left out between two
 * of them is not for this person. Without `linked` (its newest messages may be missing) they stay as they are.
 * @param {Message[]} page ascending
 * @param {{linked: boolean, before?: number}} options `before`: seq of the visible message before the page, if known
 * @returns {LocalMessage[]}
 */
export function linkPage(page, { linked, before }) {
  if (!linked) return page.map((message) => ({ ...message }));
  let previous = before;
  return page.map((message) => {
    /** @type {LocalMessage} */
    const row = { ...message };
    if (previous !== undefined && previous !== message.seq - 1) row.prev_seq = previous;
    previous = message.seq;
    return row;
  });
}
