// @ts-check
import { asChatError } from './errors.js';
import { applyMark, localHead, mergeHead, mergeLast, mergeReactions, mergeConversation, compareIds } from './merge.js';
import { contiguousTail, linkPage, previousSeq, Timeline } from './timeline.js';

/**
 * @typedef {import('./types.js').LocalMessage} LocalMessage
 * @typedef {import('./types.js').Message} Message
 * @typedef {import('./types.js').LocalHead} LocalHead
 * @typedef {import('./types.js').LocalProfile} LocalProfile
 * @typedef {import('./types.js').Conversation} Conversation
 * @typedef {import('./types.js').Reactions} Reactions
 * @typedef {import('./storage.js').Batch} Batch
 */

const PAGE_ROWS = 50;
const FILL_ROWS = 200;
/** A conversation that was announced and is not found is asked for again after this, so many times in all. */
const HEAD_DELAY_MS = 1_000;
const HEAD_ATTEMPTS = 4;
/** A hole is filled only after this time: what is missing is mostly on its way. */
const HOLE_DELAY_MS = 1_000;
/** A longer hole is not filled; the older messages are loaded again when someone scrolls there. */
const HOLE_PAGES_MAX = 5;
/** Conversations whose messages stay in memory. */
const TIMELINES_MAX = 12;
const COMMIT_DELAY_MS = 300;

/**
 * This device's copy of conversations and messages.
 *
 * Frames change it at once; what changed goes to the storage with the next cursor, in one transaction, or soon after.
 *
 * Events: `conversations`; `messages`, `left` with `detail.conversationId`; `storage-failed`.
 */
export class Store extends EventTarget {
  /**
   * @param {object} options
   * @param {string} options.userId
   * @param {import('./api.js').Api} options.api
   * @param {import('./storage.js').Storage} options.storage
   * @param {import('./environment.js').Environment} options.environment
   * @param {(clientMessageId: string) => boolean} options.settled an own message has appeared; answers whether it was waiting
   */
  constructor({ userId, api, storage, environment, settled }) {
    super();
    this.userId = userId;
    this.api = api;
    this.storage = storage;
    this.environment = environment;
    this.settled = settled;
    /** @type {Map<string, LocalHead>} */
    this.heads = new Map();
    /** @type {Map<string, Timeline>} the least recently opened first */
    this.timelines = new Map();
    /** @type {string|undefined} */
    this.cursor = undefined;
    /** The last cursor that the storage has taken. @type {string|undefined} */
    this.storedCursor = undefined;
    this.slot = '0';
    this.generation = 0;
    /** Counts how often the local copy was forgotten; answers from before are thrown away. */
    this.life = 0;
    this.batch = emptyBatch();
    /** @type {Promise<void>} */
    this.commits = Promise.resolve();
    this.commitTimer = null;
    this.storageFailed = false;
    /** Messages of conversations that are not known yet. @type {Map<string, LocalMessage[]>} */
    this.orphans = new Map();
    /** @type {Map<string, Promise<any>>} requests under way, by what they are for */
    this.loading = new Map();
    /** @type {Map<string, any>} */
    this.holeTimers = new Map();
    this.closed = false;
  }

  /**
   * @param {import('./storage.js').Loaded} loaded
   * @param {string} slot
   */
  load(loaded, slot) {
    this.heads = new Map(loaded.heads.map((head) => [head.conversation_id, head]));
    this.cursor = loaded.cursor;
    this.generation = loaded.generation;
    this.slot = slot;
    this.emit('conversations');
  }

  /**
   * @param {string} type
   * @param {string} [conversationId]
   */
  emit(type, conversationId) {
    this.dispatchEvent(new CustomEvent(type, { detail: { conversationId } }));
  }

  // Frames.

  /**
   * A new or changed message.
   * @param {LocalMessage} message
   */
  applyMessage(message) {
    const id = message.conversation_id;
    const room = id.startsWith('r_');
    if (message.sender_id === this.userId && this.settled(message.client_message_id)) this.batch.sent.push(message.client_message_id);
    if (!room) this.batch.messages.push(message);
    const head = this.heads.get(id);
    if (head) {
      this.setHead({ ...head, last_seq: Math.max(head.last_seq, message.seq), last_message: mergeLast(head.last_message, message) });
    } else if (!room) {
      this.orphans.set(id, [...(this.orphans.get(id) ?? []), message]);
      void this.loadHead(id);
    }
    const timeline = this.timelines.get(id);
    if (timeline && this.belongs(timeline, message)) {
      timeline.put(message);
      if (!room || !message.skipped) this.watchHoles(id);
      this.emit('messages', id);
    }
    this.commitSoon();
  }

  /**
   * Whether a message lies in the part of the conversation that is in memory. Older ones are read when someone gets there.
   * @param {Timeline} timeline
   * @param {LocalMessage} message
   */
  belongs(timeline, message) {
    return !timeline.first || message.seq >= timeline.first.seq;
  }

  /**
   * @param {{conversation_id: string, message_id: string, reactions: Reactions}} change
   */
  applyReactions({ conversation_id: id, message_id, reactions }) {
    const known = this.timelines.get(id)?.byId.get(message_id);
    if (known) {
      this.timelines.get(id)?.put({ ...known, reactions: mergeReactions(known.reactions, reactions) });
      this.emit('messages', id);
    }
    if (!id.startsWith('r_')) this.batch.reactions.push({ message_id, reactions });
    this.commitSoon();
  }

  /** @param {Conversation} conversation */
  applyConversation(conversation) {
    const id = conversation.conversation_id;
    const known = this.heads.get(id);
    if (known && compareIds(conversation.version, known.conversation.version) < 0) return;
    if (conversation.kind !== 'room' && !conversation.members.some((member) => member.user_id === this.userId)) {
      if (known) this.forgetConversation(id);
      return;
    }
    if (known) {
      this.setHead({ ...known, conversation: mergeConversation(known.conversation, conversation) });
    } else if (conversation.kind !== 'room') {
      // With what came before it.
      this.putHead({ conversation_id: id, conversation, last_seq: 0, read_seq: 0 });
      void this.loadHead(id);
    }
    this.commitSoon();
  }

  /**
   * @param {'read'|'delivered'} kind
   * @param {{conversation_id: string, user_id: string, seq: number}} receipt
   */
  applyReceipt(kind, receipt) {
    const head = this.heads.get(receipt.conversation_id);
    if (!head) return;
    const conversation = applyMark(head.conversation, kind, receipt);
    const own = kind === 'read' && receipt.user_id === this.userId;
    const readSeq = own ? Math.max(head.read_seq, receipt.seq) : head.read_seq;
    if (conversation === head.conversation && readSeq === head.read_seq) return;
    this.setHead({ ...head, conversation, read_seq: readSeq });
    this.emit('messages', receipt.conversation_id);
    this.commitSoon();
  }

  /** @param {LocalHead} head */
  setHead(head) {
    this.heads.set(head.conversation_id, head);
    this.batch.heads.set(head.conversation_id, head);
    this.emit('conversations');
  }

  /** The own read mark, before the server has it. @param {string} id @param {number} seq */
  markRead(id, seq) {
    const head = this.heads.get(id);
    if (!head || seq <= head.read_seq) return false;
    this.setHead({ ...head, read_seq: seq, pending_read: seq });
    this.commitSoon();
    return true;
  }

  /** @param {string} id @param {number} seq */
  readConfirmed(id, seq) {
    const head = this.heads.get(id);
    if (!head?.pending_read || head.pending_read > seq) return;
    const { pending_read: _, ...rest } = head;
    this.setHead(rest);
    this.batch.confirmedReads.push(id);
    this.commitSoon();
  }

  /** @param {string} id */
  forgetConversation(id) {
    this.heads.delete(id);
    this.timelines.delete(id);
    this.batch.heads.delete(id);
    this.batch.messages = this.batch.messages.filter((message) => message.conversation_id !== id);
    this.batch.left.push(id);
    this.emit('left', id);
    this.emit('conversations');
    this.commitSoon();
  }

  // Storage.

  /**
   * Everything before this cursor on this connection is in memory: store both together.
   * @param {string} cursor
   */
  reached(cursor) {
    this.cursor = cursor;
    this.commit({ slot: this.slot, cursor, generation: this.generation });
  }

  commitSoon() {
    if (this.commitTimer || this.closed) return;
    this.commitTimer = this.environment.setTimeout(() => this.commit(), COMMIT_DELAY_MS);
  }

  /** @param {Batch['cursor']} [cursor] */
  commit(cursor) {
    this.environment.clearTimeout(this.commitTimer);
    this.commitTimer = null;
    if (this.closed) return this.commits;
    const batch = { ...this.batch, heads: [...this.batch.heads.values()], ...(cursor ? { cursor } : {}) };
    this.batch = emptyBatch();
    const life = this.life;
    this.commits = this.commits.then(async () => {
      // What was forgotten meanwhile must not come back; a cursor whose entries could not be stored must not be stored.
      if (life !== this.life || this.storageFailed || this.closed) return;
      try {
        await this.storage.commit(batch);
        if (cursor && life === this.life) this.storedCursor = cursor.cursor;
      } catch (error) {
        this.storageFailed = true;
        this.dispatchEvent(new CustomEvent('storage-failed', { detail: { error } }));
      }
    });
    return this.commits;
  }

  /**
   * Forgets the local copy.
   * @returns {Promise<void>}
   */
  forget() {
    this.life += 1;
    this.cursor = undefined;
    this.storedCursor = undefined;
    this.batch = emptyBatch();
    this.heads.clear();
    const opened = [...this.timelines.keys()];
    this.timelines.clear();
    this.orphans.clear();
    this.commits = this.commits.then(async () => {
      if (this.closed) return;
      try {
        this.generation = await this.storage.forget(this.slot);
        this.storageFailed = false;
      } catch {
        this.storageFailed = true;
      }
    });
    this.emit('conversations');
    for (const id of opened) this.emit('messages', id);
    return this.commits;
  }

  // Loading over HTTP.

  /**
   * Runs a request unless the same one is under way.
   * @template T
   * @param {string} key
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  once(key, work) {
    const known = this.loading.get(key);
    if (known) return known;
    const mine = work().finally(() => this.loading.delete(key));
    this.loading.set(key, mine);
    return mine;
  }

  /** All conversations. Those that the server no longer lists are gone. */
  async loadHeads() {
    const life = this.life;
    const before = new Set(this.heads.keys());
    const heads = await this.api.conversations();
    if (life !== this.life || this.closed) return;
    for (const head of heads) {
      before.delete(head.conversation.conversation_id);
      this.putHead(localHead(head));
    }
    for (const id of before) if (!id.startsWith('r_')) this.forgetConversation(id);
    this.commitSoon();
  }

  /** @param {LocalHead} head */
  putHead(head) {
    const id = head.conversation_id;
    let merged = mergeHead(this.heads.get(id), head);
    for (const message of this.orphans.get(id) ?? []) {
      merged = { ...merged, last_seq: Math.max(merged.last_seq, message.seq), last_message: mergeLast(merged.last_message, message) };
    }
    this.orphans.delete(id);
    this.setHead(merged);
    if (this.timelines.has(id)) this.emit('messages', id);
  }

  /** @param {string} id @param {number} [attempt] */
  loadHead(id, attempt = 1) {
    return this.once(`head ${id}`, async () => {
      const life = this.life;
      try {
        const head = await this.api.conversation(id);
        if (life === this.life && !this.closed) this.putHead(localHead(head));
      } catch (error) {
        const { code, retryable } = asChatError(error);
        const announced = this.orphans.has(id) || this.heads.has(id);
        if (code === 'not_found' && announced && attempt < HEAD_ATTEMPTS && life === this.life && !this.closed) {
          // What was announced live can be read a moment later.
          this.environment.setTimeout(() => { if (!this.closed) void this.loadHead(id, attempt + 1); }, HEAD_DELAY_MS);
        } else if (!retryable) {
          // Not for this person (any more). Anything else is made up for by the next load of the list.
          this.orphans.delete(id);
        }
      }
      this.commitSoon();
    });
  }

  /**
   * The messages of a conversation, the newest first from this device, then from the server.
   * @param {string} id
   * @returns {Timeline}
   */
  open(id) {
    const known = this.timelines.get(id);
    if (known) {
      this.timelines.delete(id);
      this.timelines.set(id, known);
      return known;
    }
    const timeline = new Timeline();
    this.timelines.set(id, timeline);
    for (const oldest of this.timelines.keys()) {
      if (this.timelines.size <= TIMELINES_MAX) break;
      this.timelines.delete(oldest);
    }
    void this.once(`open ${id}`, () => this.fill(id, timeline));
    return timeline;
  }

  /**
   * @param {string} id
   * @param {Timeline} timeline
   */
  async fill(id, timeline) {
    if (!id.startsWith('r_')) {
      try {
        await this.commit();
        const rows = await this.storage.messagesBefore(id, Number.MAX_SAFE_INTEGER, PAGE_ROWS);
        for (const row of contiguousTail(rows)) timeline.put(row);
      } catch { /* the server has them, too */ }
    }
    timeline.opened = true;
    this.emit('messages', id);
    await this.loadNewest(id);
  }

  /**
   * The newest page from the server.
   * @param {string} id
   */
  loadNewest(id) {
    return this.once(`newest ${id}`, async () => {
      const timeline = this.timelines.get(id);
      if (!timeline) return;
      try {
        const page = await this.api.messages(id, { limit: PAGE_ROWS });
        if (this.timelines.get(id) !== timeline) return;
        const rows = linkPage(page.messages.slice().reverse(), { linked: !page.tail_missing, before: page.more ? undefined : 0 });
        this.dropBehind(timeline, rows);
        this.putPage(id, timeline, rows);
        if (rows.length === 0 && !page.more) this.empty(timeline);
      } catch (error) {
        if (!asChatError(error).retryable) this.dispatchEvent(new CustomEvent('load-failed', { detail: { conversationId: id, error } }));
      }
      timeline.loaded = true;
      this.emit('messages', id);
    });
  }

  /** @param {Timeline} timeline */
  empty(timeline) {
    timeline.isEmpty = timeline.rows.length === 0;
  }

  /**
   * When more is missing between memory and the newest page than is worth fetching, the older part leaves memory.
   * @param {Timeline} timeline
   * @param {LocalMessage[]} rows ascending
   */
  dropBehind(timeline, rows) {
    const [oldest] = rows;
    if (!oldest) return;
    const below = timeline.rows.filter((row) => row.seq < oldest.seq);
    const last = below[below.length - 1];
    if (last && previousSeq(oldest) > last.seq) timeline.rows = timeline.rows.slice(below.length);
  }

  /**
   * @param {string} id
   * @param {Timeline} timeline
   * @param {LocalMessage[]} rows
   */
  putPage(id, timeline, rows) {
    for (const row of rows) {
      timeline.put(row);
      if (!id.startsWith('r_')) this.batch.messages.push(row);
    }
    const newest = rows[rows.length - 1];
    const head = this.heads.get(id);
    if (newest && head && newest.seq >= head.last_seq) {
      this.setHead({ ...head, last_seq: newest.seq, last_message: mergeLast(head.last_message, newest) });
    }
    this.commitSoon();
    this.emit('messages', id);
  }

  /**
   * Messages before the first one in memory.
   * @param {string} id
   * @returns {Promise<boolean>} whether some were added
   */
  loadOlder(id) {
    return this.once(`older ${id}`, async () => {
      const timeline = this.timelines.get(id);
      const first = timeline?.first;
      if (!timeline || !first || timeline.complete) return false;
      const local = id.startsWith('r_') ? [] : await this.storage.messagesBefore(id, first.seq, PAGE_ROWS);
      const rows = contiguousTail(local);
      if (rows.length > 0 && rows[rows.length - 1].seq >= previousSeq(first)) {
        for (const row of rows) timeline.put(row);
        this.emit('messages', id);
        return true;
      }
      const page = await this.api.messages(id, { before: first.message_id, limit: PAGE_ROWS });
      if (this.timelines.get(id) !== timeline) return false;
      const older = linkPage(page.messages.slice().reverse(), { linked: !page.tail_missing, before: page.more ? undefined : 0 });
      const last = older[older.length - 1];
      const link = { ...first, prev_seq: last ? last.seq : 0 };
      this.putPage(id, timeline, page.tail_missing ? older : [...older, link]);
      return older.length > 0;
    });
  }

  /** @param {string} id */
  watchHoles(id) {
    if (this.holeTimers.has(id) || this.closed) return;
    const timeline = this.timelines.get(id);
    if (!timeline || timeline.holes().length === 0) return;
    this.holeTimers.set(id, this.environment.setTimeout(() => {
      this.holeTimers.delete(id);
      void this.once(`holes ${id}`, () => this.fillHoles(id)).catch(() => { /* the next connection loads the newest page */ });
    }, HOLE_DELAY_MS));
  }

  /** @param {string} id */
  async fillHoles(id) {
    const timeline = this.timelines.get(id);
    for (const hole of timeline?.holes() ?? []) {
      if (!timeline || this.timelines.get(id) !== timeline) return;
      await this.fillHole(id, timeline, hole);
    }
  }

  /**
   * @param {string} id
   * @param {Timeline} timeline
   * @param {{after: LocalMessage, before: LocalMessage}} hole
   */
  async fillHole(id, timeline, { after, before }) {
    let from = after;
    for (let pages = 0; pages < HOLE_PAGES_MAX; pages += 1) {
      const page = await this.api.messages(id, { after: from.message_id, limit: FILL_ROWS });
      if (this.timelines.get(id) !== timeline) return;
      const rows = linkPage(page.messages, { linked: !page.tail_missing, before: from.seq });
      this.putPage(id, timeline, rows);
      const last = rows[rows.length - 1];
      if (!last || last.seq >= before.seq || !page.more) return;
      from = last;
    }
    timeline.rows = timeline.rows.filter((row) => row.seq > from.seq);
    this.emit('messages', id);
  }

  /** After a connection was away: what is in memory may lack its newest part. */
  refreshOpened() {
    for (const id of this.timelines.keys()) void this.loadNewest(id);
  }

  close() {
    this.closed = true;
    this.environment.clearTimeout(this.commitTimer);
    for (const timer of this.holeTimers.values()) this.environment.clearTimeout(timer);
  }
}

/** @returns {{messages: LocalMessage[], reactions: {message_id: string, reactions: Reactions}[], heads: Map<string, LocalHead>, confirmedReads: string[], profiles: LocalProfile[], sent: string[], left: string[]}} */
function emptyBatch() {
  return { messages: [], reactions: [], heads: new Map(), confirmedReads: [], profiles: [], sent: [], left: [] };
}
