// @ts-check
import { mergeHead, mergeMessage, mergeReactions } from './merge.js';

/**
 * What a device remembers between reloads.
 *
 * Both implementations promise: one `commit` is one transaction, entries and cursor together; every write merges with
 * what is there, so that several tabs may write the same things in any order; a commit of an older generation (from
 * before the local copy was forgotten) leaves its cursor out.
 *
 * @typedef {import('./types.js').LocalMessage} LocalMessage
 * @typedef {import('./types.js').LocalHead} LocalHead
 * @typedef {import('./types.js').LocalProfile} LocalProfile
 * @typedef {import('./types.js').OutboxEntry} OutboxEntry
 * @typedef {import('./types.js').Reactions} Reactions
 *
 * @typedef {object} Batch
 * @property {LocalMessage[]} [messages]
 * @property {{message_id: string, reactions: Reactions}[]} [reactions]
 * @property {LocalHead[]} [heads]
 * @property {string[]} [confirmedReads] conversations whose own read mark the server has
 * @property {LocalProfile[]} [profiles]
 * @property {string[]} [sent] client message ids that left the outbox
 * @property {string[]} [left] conversations to forget
 * @property {{slot: string, cursor: string, generation: number}} [cursor]
 *
 * @typedef {object} Loaded
 * @property {LocalHead[]} heads
 * @property {LocalProfile[]} profiles
 * @property {OutboxEntry[]} outbox
 * @property {string|undefined} cursor
 * @property {number} generation
 *
 * @typedef {object} Storage
 * @property {(account: {userId: string, deviceId: string, slot: string}) => Promise<Loaded>} open
 * @property {(batch: Batch) => Promise<void>} commit
 * @property {(slot: string) => Promise<number>} forget drops all but the outbox; answers the new generation
 * @property {(conversationId: string, beforeSeq: number, limit: number) => Promise<LocalMessage[]>} messagesBefore ascending
 * @property {(entry: OutboxEntry) => Promise<OutboxEntry>} addToOutbox
 * @property {() => Promise<OutboxEntry[]>} outbox in order of writing
 * @property {(clientMessageId: string, change: (entry: OutboxEntry) => OutboxEntry|null) => Promise<OutboxEntry|null>} changeOutbox
 *   answers the entry as it was; `change` returning null deletes it
 * @property {(conversationId: string, limit: number) => Promise<OutboxEntry[]>} claimOutbox the first messages to send, each as
 *   it was, noted as tried on disk
 * @property {() => Promise<void>} close
 * @property {() => Promise<void>} destroy
 */

const SCHEMA = 1;
const TABLES = ['meta', 'heads', 'messages', 'profiles', 'outbox'];

/**
 * One request of IndexedDB as a promise.
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/**
 * A transaction's end as a promise.
 * @param {IDBTransaction} transaction
 * @returns {Promise<void>}
 */
function finished(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error ?? new Error('the transaction was aborted'));
  });
}

/**
 * Messages of a conversation that wait to be sent, in order.
 * @param {OutboxEntry[]} entries
 * @param {string} conversationId
 */
function sendable(entries, conversationId) {
  return entries.filter((entry) => entry.conversation_id === conversationId && !entry.failed);
}

/**
 * Storage in IndexedDB, one database per account.
 * @implements {Storage}
 */
export class IndexedDbStorage {
  constructor() {
    /** @type {IDBDatabase|null} */
    this.database = null;
    this.name = '';
  }

  /** @param {{userId: string, deviceId: string, slot: string}} account */
  async open({ userId, deviceId, slot }) {
    this.name = `chat-${userId}`;
    const request = indexedDB.open(this.name, SCHEMA);
    request.onupgradeneeded = () => {
      const database = request.result;
      database.createObjectStore('meta');
      database.createObjectStore('heads', { keyPath: 'conversation_id' });
      const messages = database.createObjectStore('messages', { keyPath: ['conversation_id', 'seq'] });
      messages.createIndex('message_id', 'message_id');
      database.createObjectStore('profiles', { keyPath: 'user_id' });
      const outbox = database.createObjectStore('outbox', { keyPath: 'position', autoIncrement: true });
      outbox.createIndex('client_message_id', 'client_message_id', { unique: true });
    };
    this.database = await answer(request);
    // Another tab logs out and deletes the database: let go of it.
    this.database.onversionchange = () => this.database?.close();

    const transaction = this.begin(TABLES, 'readwrite');
    const meta = transaction.objectStore('meta');
    const device = await answer(meta.get('device_id'));
    // A cursor belongs to a device. After a new login only the unsent messages still mean something.
    if (device !== undefined && device !== deviceId) {
      for (const table of ['meta', 'heads', 'messages']) transaction.objectStore(table).clear();
    }
    meta.put(deviceId, 'device_id');
    const [heads, profiles, outbox, cursor, generation] = await Promise.all([
      answer(transaction.objectStore('heads').getAll()),
      answer(transaction.objectStore('profiles').getAll()),
      answer(transaction.objectStore('outbox').getAll()),
      answer(meta.get(`cursor ${slot}`)),
      answer(meta.get('generation')),
    ]);
    return { heads, profiles, outbox, cursor, generation: generation ?? 0 };
  }

  /**
   * @param {string[]} tables
   * @param {IDBTransactionMode} mode
   * @param {any} [options]
   */
  begin(tables, mode, options) {
    if (!this.database) throw new Error('the storage is not open');
    const database = /** @type {any} */ (this.database);
    return /** @type {IDBTransaction} */ (database.transaction(tables, mode, options));
  }

  /** @param {Batch} batch */
  async commit(batch) {
    const transaction = this.begin(TABLES, 'readwrite');
    const end = finished(transaction);
    try {
      await this.write(transaction, batch);
    } catch (error) {
      try { transaction.abort(); } catch { /* it has ended by itself */ }
      await end.catch(() => {});
      throw error;
    }
    await end;
  }

  /**
   * @param {IDBTransaction} transaction
   * @param {Batch} batch
   */
  async write(transaction, batch) {
    const messages = transaction.objectStore('messages');
    await Promise.all((batch.messages ?? []).map(async (message) => {
      const known = await answer(messages.get([message.conversation_id, message.seq]));
      messages.put(mergeMessage(known, message));
    }));
    await Promise.all((batch.reactions ?? []).map(async ({ message_id, reactions }) => {
      const known = await answer(messages.index('message_id').get(message_id));
      if (known) messages.put({ ...known, reactions: mergeReactions(known.reactions, reactions) });
    }));
    const heads = transaction.objectStore('heads');
    const confirmed = new Set(batch.confirmedReads ?? []);
    await Promise.all((batch.heads ?? []).map(async (head) => {
      const merged = mergeHead(await answer(heads.get(head.conversation_id)), head);
      if (confirmed.has(head.conversation_id)) delete merged.pending_read;
      heads.put(merged);
    }));
    for (const profile of batch.profiles ?? []) transaction.objectStore('profiles').put(profile);
    const outbox = transaction.objectStore('outbox');
    await Promise.all((batch.sent ?? []).map(async (id) => {
      const key = await answer(outbox.index('client_message_id').getKey(id));
      if (key !== undefined) outbox.delete(key);
    }));
    for (const id of batch.left ?? []) {
      heads.delete(id);
      messages.delete(IDBKeyRange.bound([id], [id, []]));
    }
    if (batch.cursor) {
      const meta = transaction.objectStore('meta');
      const generation = (await answer(meta.get('generation'))) ?? 0;
      if (generation === batch.cursor.generation) meta.put(batch.cursor.cursor, `cursor ${batch.cursor.slot}`);
    }
  }

  /** @param {string} _slot */
  async forget(_slot) {
    const transaction = this.begin(TABLES, 'readwrite');
    const end = finished(transaction);
    const meta = transaction.objectStore('meta');
    const generation = ((await answer(meta.get('generation'))) ?? 0) + 1;
    const device = await answer(meta.get('device_id'));
    // Every tab's cursor goes: what they point at is no longer here.
    for (const table of ['meta', 'heads', 'messages']) transaction.objectStore(table).clear();
    meta.put(generation, 'generation');
    meta.put(device, 'device_id');
    await end;
    return generation;
  }

  /**
   * @param {string} conversationId
   * @param {number} beforeSeq
   * @param {number} limit
   */
  async messagesBefore(conversationId, beforeSeq, limit) {
    const range = IDBKeyRange.bound([conversationId, 0], [conversationId, beforeSeq], false, true);
    const request = this.begin(['messages'], 'readonly').objectStore('messages').openCursor(range, 'prev');
    /** @type {LocalMessage[]} */
    const rows = [];
    return new Promise((/** @type {(rows: LocalMessage[]) => void} */ resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (cursor) rows.push(cursor.value);
        if (cursor && rows.length < limit) cursor.continue();
        else resolve(rows.reverse());
      };
    });
  }

  /** @param {OutboxEntry} entry */
  async addToOutbox(entry) {
    const transaction = this.begin(['outbox'], 'readwrite', { durability: 'strict' });
    const end = finished(transaction);
    const { position: _, ...fresh } = entry;
    const position = await answer(transaction.objectStore('outbox').add(fresh));
    await end;
    return { ...fresh, position: Number(position) };
  }

  /** @returns {Promise<OutboxEntry[]>} */
  async outbox() {
    return answer(this.begin(['outbox'], 'readonly').objectStore('outbox').getAll());
  }

  /**
   * @param {string} clientMessageId
   * @param {(entry: OutboxEntry) => OutboxEntry|null} change
   */
  async changeOutbox(clientMessageId, change) {
    const transaction = this.begin(['outbox'], 'readwrite', { durability: 'strict' });
    const end = finished(transaction);
    const table = transaction.objectStore('outbox');
    /** @type {OutboxEntry|undefined} */
    const known = await answer(table.index('client_message_id').get(clientMessageId));
    if (known) {
      const next = change(known);
      if (next) table.put(next);
      else table.delete(/** @type {number} */ (known.position));
    }
    await end;
    return known ?? null;
  }

  /**
   * @param {string} conversationId
   * @param {number} limit
   */
  async claimOutbox(conversationId, limit) {
    const transaction = this.begin(['outbox'], 'readwrite', { durability: 'strict' });
    const end = finished(transaction);
    const table = transaction.objectStore('outbox');
    /** @type {OutboxEntry[]} */
    const all = await answer(table.getAll());
    const claimed = sendable(all, conversationId).slice(0, limit);
    for (const entry of claimed) if (!entry.tried) table.put({ ...entry, tried: true });
    await end;
    return claimed;
  }

  async close() {
    this.database?.close();
    this.database = null;
  }

  async destroy() {
    await this.close();
    if (!this.name) return;
    const request = indexedDB.deleteDatabase(this.name);
    await new Promise((resolve) => {
      request.onsuccess = request.onerror = request.onblocked = () => resolve(undefined);
    });
  }
}

/**
 * Storage that lives as long as the page, for tests and for browsers that refuse IndexedDB.
 * @implements {Storage}
 */
export class MemoryStorage {
  constructor() {
    this.clear();
    /** @type {OutboxEntry[]} */
    this.queue = [];
    this.generation = 0;
    this.position = 0;
    this.deviceId = '';
    /** @type {Map<string, LocalProfile>} */
    this.profiles = new Map();
  }

  clear() {
    /** @type {Map<string, LocalHead>} */
    this.heads = new Map();
    /** @type {Map<string, Map<number, LocalMessage>>} */
    this.messages = new Map();
    /** @type {Map<string, string>} */
    this.cursors = new Map();
  }

  /** @param {{userId: string, deviceId: string, slot: string}} account */
  async open({ deviceId, slot }) {
    if (this.deviceId && this.deviceId !== deviceId) this.clear();
    this.deviceId = deviceId;
    return structuredClone({
      heads: [...this.heads.values()],
      profiles: [...this.profiles.values()],
      outbox: this.queue,
      cursor: this.cursors.get(slot),
      generation: this.generation,
    });
  }

  /** @param {Batch} batch */
  async commit(batch) {
    const { messages = [], reactions = [], heads = [], profiles = [], sent = [], left = [], cursor } = structuredClone(batch);
    for (const message of messages) {
      const table = this.messages.get(message.conversation_id) ?? new Map();
      this.messages.set(message.conversation_id, table);
      table.set(message.seq, mergeMessage(table.get(message.seq), message));
    }
    for (const change of reactions) {
      for (const table of this.messages.values()) {
        for (const [seq, known] of table) {
          if (known.message_id !== change.message_id) continue;
          table.set(seq, { ...known, reactions: mergeReactions(known.reactions, change.reactions) });
        }
      }
    }
    for (const head of heads) {
      const merged = mergeHead(this.heads.get(head.conversation_id), head);
      if (batch.confirmedReads?.includes(head.conversation_id)) delete merged.pending_read;
      this.heads.set(head.conversation_id, merged);
    }
    for (const profile of profiles) this.profiles.set(profile.user_id, profile);
    this.queue = this.queue.filter((entry) => !sent.includes(entry.client_message_id));
    for (const id of left) {
      this.heads.delete(id);
      this.messages.delete(id);
    }
    if (cursor && cursor.generation === this.generation) this.cursors.set(cursor.slot, cursor.cursor);
  }

  /** @param {string} _slot */
  async forget(_slot) {
    this.clear();
    this.generation += 1;
    return this.generation;
  }

  /**
   * @param {string} conversationId
   * @param {number} beforeSeq
   * @param {number} limit
   */
  async messagesBefore(conversationId, beforeSeq, limit) {
    const rows = [...(this.messages.get(conversationId)?.values() ?? [])];
    const below = rows.filter((row) => row.seq < beforeSeq).sort((a, b) => a.seq - b.seq);
    return structuredClone(below.slice(-limit));
  }

  /** @param {OutboxEntry} entry */
  async addToOutbox(entry) {
    this.position += 1;
    const stored = { ...structuredClone(entry), position: this.position };
    this.queue.push(stored);
    return structuredClone(stored);
  }

  async outbox() {
    return structuredClone(this.queue);
  }

  /**
   * @param {string} clientMessageId
   * @param {(entry: OutboxEntry) => OutboxEntry|null} change
   */
  async changeOutbox(clientMessageId, change) {
    const index = this.queue.findIndex((entry) => entry.client_message_id === clientMessageId);
    if (index < 0) return null;
    const known = structuredClone(this.queue[index]);
    const next = change(structuredClone(known));
    if (next) this.queue[index] = next;
    else this.queue.splice(index, 1);
    return known;
  }

  /**
   * @param {string} conversationId
   * @param {number} limit
   */
  async claimOutbox(conversationId, limit) {
    const claimed = structuredClone(sendable(this.queue, conversationId).slice(0, limit));
    const ids = new Set(claimed.map((entry) => entry.client_message_id));
    this.queue = this.queue.map((entry) => (ids.has(entry.client_message_id) ? { ...entry, tried: true } : entry));
    return claimed;
  }

  async close() {}

  async destroy() {
    this.clear();
    this.queue = [];
    this.profiles.clear();
  }
}
