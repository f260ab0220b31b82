// @ts-check
import { Api } from './api.js';
import { browserEnvironment } from './environment.js';
import { Session } from './session.js';
import { IndexedDbStorage, MemoryStorage } from './storage.js';

/**
 * @typedef {import('./types.js').LocalProfile} LocalProfile
 * @typedef {import('./types.js').Conversation} Conversation
 * @typedef {import('./types.js').Friendship} Friendship
 * @typedef {import('./connection.js').Connection} Connection
 * @typedef {import('./marks.js').Marks} Marks
 * @typedef {import('./outbox.js').Outbox} Outbox
 * @typedef {import('./store.js').Store} Store
 */

/** What a client holds, and how it tells of changes. */
export class ClientState extends EventTarget {
  /**
   * @param {object} [options]
   * @param {string} [options.baseUrl] address of the service without a slash at the end; the page's own origin if absent
   * @param {string} [options.name] name and version of the program, for the server's log
   * @param {boolean} [options.discover] ask the service which node to connect to
   * @param {import('./environment.js').Environment} [options.environment]
   * @param {() => import('./storage.js').Storage} [options.storage]
   */
  constructor({ baseUrl = '', name = 'chat-sdk/1', discover = false, environment, storage } = {}) {
    super();
    this.environment = environment ?? browserEnvironment();
    this.baseUrl = baseUrl;
    this.name = name;
    this.discover = discover;
    this.makeStorage = storage ?? (() => (globalThis.indexedDB ? new IndexedDbStorage() : new MemoryStorage()));
    this.session = new Session(this.environment);
    this.api = new Api({ baseUrl, environment: this.environment, session: this.session });
    this.session.exchange = (refreshToken) => this.api.refresh(refreshToken);
    this.reset();
  }

  reset() {
    /** @type {LocalProfile|null} */
    this.me = null;
    /** @type {Record<string, any>} */
    this.settings = {};
    /** @type {Map<string, LocalProfile>} */
    this.profiles = new Map();
    /** @type {Map<string, {friendship: Friendship, since: number}>} */
    this.friends = new Map();
    /** @type {Set<string>} */
    this.blocked = new Set();
    /** @type {Map<string, import('./types.js').Presence>} */
    this.presence = new Map();
    /** Who is typing: conversation, person, timer. @type {Map<string, Map<string, any>>} */
    this.typing = new Map();
    /** @type {Map<string, {sentAt: number, active: boolean}>} */
    this.ownTyping = new Map();
    /** Live rooms that this client is in. @type {Map<string, Conversation>} */
    this.rooms = new Map();
    /** @type {Set<string>} */
    this.wantedProfiles = new Set();
    this.accountLoaded = false;
    /** @type {Store|null} */
    this.store = null;
    /** @type {Outbox|null} */
    this.outbox = null;
    /** @type {Marks|null} */
    this.marks = null;
    /** @type {Connection|null} */
    this.connection = null;
    /** @type {import('./storage.js').Storage|null} */
    this.storage = null;
    /** @type {() => void} */
    this.releaseSlot = () => {};
  }

  /**
   * @param {string} type
   * @param {Record<string, any>} [detail]
   */
  emit(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // Session.

  /** Own user id; null when logged out. */
  get userId() {
    return this.session.tokens?.user_id ?? null;
  }
}
