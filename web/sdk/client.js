// @ts-check
import { Connection } from './connection.js';
import { uuid } from './environment.js';
import { asChatError, ChatError } from './errors.js';
import { Marks } from './marks.js';
import { unread } from './merge.js';
import { Outbox } from './outbox.js';
import { People, RELOAD_DELAY_MS } from './people.js';
import { Place } from './place.js';
import { ClientState } from './state.js';
import { MemoryStorage } from './storage.js';
import { Store } from './store.js';

/**
 * @typedef {import('./types.js').LocalMessage} LocalMessage
 * @typedef {import('./types.js').LocalHead} LocalHead
 * @typedef {import('./types.js').LocalProfile} LocalProfile
 * @typedef {import('./types.js').Conversation} Conversation
 * @typedef {import('./types.js').OutboxEntry} OutboxEntry
 * @typedef {import('./types.js').Friendship} Friendship
 */

/** An own typing state is repeated this often. */
const TYPING_REPEAT_MS = 3_000;
/** Someone's typing state is shown at most this long. */
const TYPING_SHOWN_MS = 6_000;
const SLOTS_MAX = 64;
/** A cursor holds the positions of so many live rooms; a connection receives no more. */
const ROOMS_MAX = 4;

/**
 * One account on one device: conversations, messages, people, and the connection that keeps them up to date.
 *
 * Events, all without content unless said otherwise; read the state from the client afterwards:
 * `session` (logged in or out; `detail.reason` if the server ended it), `connection`, `conversations`, `messages`,
 * `outbox`, `typing`, `left` (`detail.conversationId`), `people` (profiles, friends, blocks, presence), `account`
 * (own profile, settings), `devices`, `storage-failed`.
 */
export class ChatClient extends People {
  /** @param {ConstructorParameters<typeof ClientState>[0]} [options] */
  constructor(options) {
    super(options);
    this.session.addEventListener('changed', () => void this.follow());
    this.session.addEventListener('ended', (event) => {
      this.emit('session', { reason: /** @type {CustomEvent} */ (event).detail.reason });
    });
  }

  /** Goes on with the session of this device, if there is one. */
  async start() {
    if (this.session.tokens && !this.store) await this.follow();
  }

  /** @param {{handle: string, password: string, name?: string, device_name?: string}} account */
  async signUp(account) {
    this.session.write(await this.api.signUp(account));
    await this.following;
  }

  /** @param {{handle: string, password: string, device_name?: string}} login */
  async logIn(login) {
    this.session.write(await this.api.logIn(login));
    await this.following;
  }

  /** Ends this device's session, or all of them, and removes what this device stored. @param {{everywhere?: boolean}} [options] */
  async logOut({ everywhere = false } = {}) {
    try {
      if (everywhere) await this.api.logOutEverywhere();
      else await this.api.logOut();
    } catch (error) {
      // Without a server the tokens are still forgotten here; "everywhere" must not pretend.
      if (everywhere) throw error;
    }
    await this.end(true);
    this.session.write(null);
  }

  /** Brings the client in line with the session: opens or closes everything. */
  follow() {
    this.following = (this.following ?? Promise.resolve()).then(() => this.followNow());
    return this.following;
  }

  async followNow() {
    if (this.store) await this.end(false);
    const { tokens } = this.session;
    if (tokens) await this.begin(tokens);
    this.emit('session');
  }

  /** @param {boolean} destroy */
  async end(destroy) {
    const { storage, connection, store, outbox, marks } = this;
    connection?.stop();
    outbox?.close();
    marks?.close();
    if (store && !destroy) await store.commit();
    store?.close();
    await store?.commits;
    for (const people of this.typing.values()) for (const timer of people.values()) this.environment.clearTimeout(timer);
    this.environment.clearTimeout(this.renewTimer);
    this.environment.clearTimeout(this.reloadTimer);
    this.releaseSlot();
    this.reset();
    if (destroy) await storage?.destroy();
    else await storage?.close();
  }

  /** @param {import('./types.js').Tokens} tokens */
  async begin(tokens) {
    const { environment, api } = this;
    const userId = tokens.user_id;
    const slot = await this.claimSlot(userId);
    let storage = this.makeStorage();
    /** @type {import('./storage.js').Loaded} */
    let loaded;
    try {
      loaded = await storage.open({ userId, deviceId: tokens.device_id, slot });
    } catch {
      // A private window may refuse IndexedDB: chat on without a local copy.
      storage = new MemoryStorage();
      loaded = await storage.open({ userId, deviceId: tokens.device_id, slot });
      this.emit('storage-failed');
    }
    this.storage = storage;
    const store = new Store({ userId, api, storage, environment, settled: (id) => this.outbox?.settle(id) ?? false });
    const ready = () => this.connection?.state === 'live';
    const outbox = new Outbox({
      userId, storage, environment, ready,
      send: (entry, retry) => this.transmit(entry, retry),
      sent: (entry, sent) => this.acknowledged(entry, sent),
    });
    const marks = new Marks({
      environment, ready,
      send: (kind, id, seq) => this.call(kind, { conversation_id: id, seq }, () => api.mark(kind, id, seq)),
      confirmed: (id, seq) => store.readConfirmed(id, seq),
    });
    Object.assign(this, { store, outbox, marks });
    this.relay(store, outbox);
    this.profiles = new Map(loaded.profiles.map((profile) => [profile.user_id, profile]));
    this.me = this.profiles.get(userId) ?? null;
    outbox.load(loaded.outbox);
    store.load(loaded, slot);
    await this.openConnection();
    this.watchToken();
  }

  /**
   * @param {Store} store
   * @param {Outbox} outbox
   */
  relay(store, outbox) {
    for (const type of ['conversations', 'messages', 'left', 'storage-failed']) {
      store.addEventListener(type, (event) => this.emit(type, /** @type {CustomEvent} */ (event).detail ?? {}));
    }
    outbox.addEventListener('changed', (event) => this.emit('outbox', /** @type {CustomEvent} */ (event).detail));
  }

  /**
   * A place for this tab's cursor. Two connections must not resume the same one, so a tab holds its place while it lives.
   * @param {string} userId
   * @returns {Promise<string>}
   */
  async claimSlot(userId) {
    const { locks } = this.environment;
    if (!locks) return '0';
    for (let slot = 0; slot < SLOTS_MAX; slot += 1) {
      const claimed = await new Promise((resolve) => {
        void locks.request(`chat-slot-${userId}-${slot}`, { ifAvailable: true }, (/** @type {any} */ lock) => {
          resolve(!!lock);
          if (!lock) return undefined;
          return new Promise((release) => { this.releaseSlot = () => release(undefined); });
        });
      });
      if (claimed) return String(slot);
    }
    return uuid();
  }

  async openConnection() {
    const { store } = this;
    if (!store) return;
    const { api, environment, discover } = this;
    const connection = new Connection({
      place: new Place({ url: socketUrl(this.baseUrl), discover, api, environment }),
      api,
      environment,
      client: this.name,
      handler: {
        accessToken: () => this.session.accessToken(),
        renewToken: (stale) => this.session.renew(stale),
        cursor: () => store.cursor,
        storedCursor: () => store.storedCursor,
        rooms: () => [...this.rooms.keys()],
        start: (outcome) => this.connected(outcome),
        frame: (frame) => this.receive(frame),
        reached: (cursor) => store.reached(cursor),
        cursorRefused: () => store.forget(),
        replaced: () => this.takeNewSlot(),
        loggedOut: (reason) => void this.ended(reason),
      },
    });
    connection.addEventListener('state', () => this.emit('connection'));
    this.connection = connection;
    connection.start();
  }

  /** Another tab resumed the same session, which happens only where the browser has no locks: become one of its own. */
  takeNewSlot() {
    if (!this.store) return;
    this.store.slot = uuid();
    this.store.cursor = undefined;
    this.store.storedCursor = undefined;
  }

  /** @param {'expired'|'logged_out'} reason */
  async ended(reason) {
    // A revoked device keeps nothing. After a mere expiry the unsent messages wait for the next login.
    if (reason === 'logged_out') await this.end(true);
    this.session.end(reason);
  }

  /** Renews the token ahead of its expiry, so that no request has to wait for it. */
  watchToken() {
    this.environment.clearTimeout(this.renewTimer);
    const wait = Math.min(Math.max(this.session.renewInMs(), 1_000), 2 ** 30);
    this.renewTimer = this.environment.setTimeout(() => {
      if (!this.store) return;
      const online = this.environment.online() && this.session.renewInMs() <= 0;
      void (online ? this.session.accessToken().catch(() => {}) : Promise.resolve()).then(() => this.watchToken());
    }, wait);
  }

  // Connection.

  /**
   * Sends a request on the socket, or over HTTP while polling.
   * @param {string} type
   * @param {Record<string, any>} fields
   * @param {() => Promise<any>} http
   */
  call(type, fields, http) {
    if (this.connection?.writable) return this.connection.request(type, fields);
    if (this.connection?.state === 'live') return http();
    return Promise.reject(new ChatError('connection_lost', 'There is no connection at the moment.'));
  }

  /** @param {import('./types.js').Outcome} outcome */
  async connected(outcome) {
    const { store } = this;
    if (!store) return;
    const { welcome } = /** @type {Connection} */ (this.connection);
    if (welcome) this.session.clockOffsetMs = welcome.server_time - this.environment.now();
    if (outcome === 'reset') void store.forget();
    await Promise.resolve();
    if (store !== this.store) return;
    this.outbox?.flushAll();
    for (const head of store.heads.values()) {
      if (head.pending_read) this.marks?.note('read', head.conversation_id, head.pending_read);
    }
    this.marks?.flushAll();
    for (const id of this.rooms.keys()) void this.enterRoom(id).catch(() => {});
    store.refreshOpened();
    void this.reload();
  }

  /** Loads what frames do not carry over an absence: marks of others, friends, presence, the own account. */
  async reload() {
    const { store } = this;
    if (!store) return;
    this.environment.clearTimeout(this.reloadTimer);
    const results = await Promise.allSettled([
      store.loadHeads(), this.loadFriends(), this.loadBlocks(), this.loadPresence(), this.loadAccount(),
    ]);
    if (store !== this.store) return;
    this.accountLoaded = true;
    this.emit('conversations');
    const failed = results.some((result) => result.status === 'rejected' && asChatError(result.reason).retryable);
    if (failed && this.connection?.state === 'live') {
      this.reloadTimer = this.environment.setTimeout(() => void this.reload(), RELOAD_DELAY_MS);
    }
  }

  /** @param {import('./types.js').ServerFrame} frame */
  receive(frame) {
    const { store } = this;
    if (!store) return;
    if (frame.message) this.receiveMessage(frame.message);
    else if (frame.reactions) store.applyReactions(frame.reactions);
    else if (frame.conversation) this.receiveConversation(frame.conversation);
    else if (frame.read) store.applyReceipt('read', frame.read);
    else if (frame.delivered) store.applyReceipt('delivered', frame.delivered);
    else if (frame.typing) this.receiveTyping(frame.typing);
    else if (frame.presence) this.receivePresence([frame.presence]);
    else if (frame.friend) this.receiveFriend(frame.friend);
    else if (frame.account) this.receiveAccount(frame.account.part);
    else if (frame.room) this.receiveRoom(frame.room);
    // Anything else is of a later version of the service.
  }

  /** @param {{user_id: string, friendship: Friendship}} change */
  receiveFriend({ user_id: id, friendship }) {
    void this.loadFriends().catch(() => {});
    // Presence is told when somebody comes or goes; who has been here all along must be asked for.
    if (friendship === 'friends') void this.loadPresence().catch(() => {});
    else this.presence.delete(id);
  }

  /** @param {LocalMessage} message */
  receiveMessage(message) {
    this.store?.applyMessage(message);
    if (message.sender_id === this.userId) return;
    this.stopShowingTyping(message.conversation_id, message.sender_id);
    if (!message.conversation_id.startsWith('r_')) this.marks?.note('delivered', message.conversation_id, message.seq);
  }

  /** @param {Conversation} conversation */
  receiveConversation(conversation) {
    const id = conversation.conversation_id;
    if (this.rooms.has(id)) {
      this.rooms.set(id, conversation);
      this.emit('conversations');
    }
    this.store?.applyConversation(conversation);
  }

  /** @param {'profile'|'settings'|'devices'|'blocks'} part */
  receiveAccount(part) {
    if (part === 'blocks') void this.loadBlocks().catch(() => {});
    else if (part === 'devices') this.emit('devices');
    else void this.loadAccount().catch(() => {});
  }

  // Conversations.

  /** Conversations for a list, those with the newest message first. */
  conversations() {
    const heads = [...(this.store?.heads.values() ?? [])].filter((head) => head.conversation.kind !== 'room');
    const time = (/** @type {LocalHead} */ head) => head.last_message?.created_at ?? head.conversation.created_at;
    return heads.sort((a, b) => time(b) - time(a) || (a.conversation_id < b.conversation_id ? -1 : 1));
  }

  /** @param {string} id */
  head(id) {
    return this.store?.heads.get(id) ?? null;
  }

  /** @param {string} id @returns {Conversation|null} */
  conversation(id) {
    return this.store?.heads.get(id)?.conversation ?? this.rooms.get(id) ?? null;
  }

  /** @param {string} id */
  unread(id) {
    const head = this.head(id);
    return head ? unread(head) : 0;
  }

  /** The other person of a direct conversation. @param {Conversation} conversation */
  peer(conversation) {
    return conversation.members.find((member) => member.user_id !== this.userId)?.user_id ?? this.userId ?? '';
  }

  /** The messages of a conversation; loads them when they are not in memory. @param {string} id */
  timeline(id) {
    return this.store?.open(id) ?? null;
  }

  /** @param {string} id */
  async loadOlder(id) {
    return (await this.store?.loadOlder(id)) ?? false;
  }

  /** @param {string} userId @returns {Promise<string>} id of the conversation with this person */
  async openDirect(userId) {
    return this.created(await this.api.createConversation({ kind: 'direct', user_id: userId }));
  }

  /** @param {string} name @param {string[]} members @param {string} [requestId] the same on a repeat */
  async createGroup(name, members, requestId = uuid()) {
    return this.created(await this.api.createConversation({ kind: 'group', request_id: requestId, name, members }));
  }

  /** @param {string} name @param {string} [requestId] the same on a repeat */
  async createRoom(name, requestId = uuid()) {
    const room = await this.api.createConversation({ kind: 'room', request_id: requestId, name });
    return room.conversation_id;
  }

  /** @param {Conversation} conversation */
  async created(conversation) {
    this.store?.applyConversation(conversation);
    await this.store?.loadHead(conversation.conversation_id);
    return conversation.conversation_id;
  }

  // Messages.

  /**
   * Queues a message; it is sent as soon as there is a connection.
   * @param {string} conversationId
   * @param {string} text
   * @param {{replyTo?: string, mentions?: string[]}} [more]
   */
  async sendText(conversationId, text, { replyTo, mentions } = {}) {
    return this.send(conversationId, 'text', { text }, { replyTo, mentions });
  }

  /**
   * Queues a message of any type.
   * @param {string} conversationId
   * @param {string} type
   * @param {any} body
   * @param {{replyTo?: string, mentions?: string[]}} [more]
   */
  async send(conversationId, type, body, { replyTo, mentions = [] } = {}) {
    if (!this.outbox) throw new ChatError('unauthenticated', 'You are not logged in.');
    this.ownTyping.delete(conversationId);
    return this.outbox.add({
      conversation_id: conversationId,
      type,
      body,
      ...(replyTo ? { reply_to: replyTo } : {}),
      ...(mentions.length > 0 ? { mentions } : {}),
    });
  }

  /**
   * @param {OutboxEntry} entry
   * @param {boolean} retry
   */
  transmit(entry, retry) {
    const message = {
      client_message_id: entry.client_message_id,
      retry,
      type: entry.type,
      body: entry.body,
      ...(entry.reply_to ? { reply_to: entry.reply_to } : {}),
      ...(entry.mentions?.length ? { mentions: entry.mentions } : {}),
    };
    const id = entry.conversation_id;
    return this.call('send', { conversation_id: id, ...message }, () => this.api.sendMessage(id, message));
  }

  /**
   * @param {OutboxEntry} entry
   * @param {import('./types.js').Sent} sent
   */
  async acknowledged(entry, sent) {
    const { store } = this;
    if (!store || !this.userId) return;
    store.batch.sent.push(entry.client_message_id);
    store.applyMessage({
      conversation_id: entry.conversation_id,
      message_id: sent.message_id,
      version: sent.message_id,
      seq: sent.seq,
      sender_id: this.userId,
      client_message_id: entry.client_message_id,
      type: entry.type,
      body: entry.body,
      created_at: sent.created_at,
      ...(entry.reply_to ? { reply_to: entry.reply_to } : {}),
      ...(entry.mentions?.length ? { mentions: entry.mentions } : {}),
      provisional: true,
    });
    this.markRead(entry.conversation_id, sent.seq);
    await store.commit();
  }

  /** @param {LocalMessage} message @param {string} text @param {string[]} [mentions] */
  editText(message, text, mentions = []) {
    const fields = { conversation_id: message.conversation_id, message_id: message.message_id, body: { text }, mentions };
    return this.call('edit', fields, () => this.api.editMessage(message.conversation_id, message.message_id, { body: { text }, mentions }));
  }

  /** Deletes a message for everyone. @param {LocalMessage} message */
  deleteMessage(message) {
    const fields = { conversation_id: message.conversation_id, message_id: message.message_id };
    return this.call('delete', fields, () => this.api.deleteMessage(message.conversation_id, message.message_id));
  }

  /** @param {LocalMessage} message @param {string} emoji @param {boolean} remove */
  react(message, emoji, remove) {
    const fields = { conversation_id: message.conversation_id, message_id: message.message_id, emoji, remove };
    return this.call('react', fields, () => this.api.react(message.conversation_id, message.message_id, emoji, remove));
  }

  /** Notes that everything up to this message was read. @param {string} id @param {number} seq */
  markRead(id, seq) {
    if (id.startsWith('r_')) return;
    if (this.store?.markRead(id, seq)) this.marks?.note('read', id, seq);
  }

  // Typing.

  /** Call at every keystroke, and with `false` when the text is gone. @param {string} id @param {boolean} active */
  setTyping(id, active) {
    const now = this.environment.now();
    const own = this.ownTyping.get(id);
    if (active ? own?.active && now - own.sentAt < TYPING_REPEAT_MS : !own?.active) return;
    this.ownTyping.set(id, { sentAt: now, active });
    if (this.connection?.writable) this.connection.notify('typing', { conversation_id: id, active });
    else if (this.connection?.state === 'live') void this.api.typing(id, active).catch(() => {});
  }

  /** @param {{conversation_id: string, user_id: string, active: boolean}} typing */
  receiveTyping({ conversation_id: id, user_id: userId, active }) {
    if (userId === this.userId) return;
    this.stopShowingTyping(id, userId);
    if (!active) return;
    const people = this.typing.get(id) ?? new Map();
    this.typing.set(id, people);
    people.set(userId, this.environment.setTimeout(() => this.stopShowingTyping(id, userId), TYPING_SHOWN_MS));
    this.emit('typing', { conversationId: id });
  }

  /** @param {string} id @param {string} userId */
  stopShowingTyping(id, userId) {
    const people = this.typing.get(id);
    if (!people?.has(userId)) return;
    this.environment.clearTimeout(people.get(userId));
    people.delete(userId);
    this.emit('typing', { conversationId: id });
  }

  /** People typing in a conversation. @param {string} id */
  typingIn(id) {
    return [...(this.typing.get(id)?.keys() ?? [])];
  }

  // Live rooms.

  /** Starts receiving a live room; the longest-held one makes way for a fifth. @param {Conversation} room */
  async joinRoom(room) {
    const [oldest] = this.rooms.keys();
    if (!this.rooms.has(room.conversation_id) && this.rooms.size >= ROOMS_MAX) await this.leaveRoom(oldest);
    this.rooms.set(room.conversation_id, room);
    this.emit('conversations');
    await this.enterRoom(room.conversation_id);
  }

  /** @param {string} id */
  async enterRoom(id) {
    if (this.connection?.writable) await this.connection.request('join_room', { room_id: id });
    this.store?.open(id);
    void this.store?.loadNewest(id);
  }

  /** Stops receiving a live room. @param {string} id */
  async leaveRoom(id) {
    this.rooms.delete(id);
    this.store?.timelines.delete(id);
    this.emit('conversations');
    if (this.connection?.writable) await this.connection.request('leave_room', { room_id: id });
  }

  /** @param {{room_id: string, messages: LocalMessage[], skipped?: number}} batch */
  receiveRoom({ room_id: id, messages, skipped = 0 }) {
    const known = this.store?.timelines.get(id)?.last;
    messages.forEach((message, index) => {
      const left = index === 0 && skipped > 0 ? { skipped, prev_seq: Math.min(known?.seq ?? 0, message.seq - 1) } : {};
      this.receiveMessage({ ...message, ...left });
    });
  }
}

/**
 * Address of the WebSocket at a base address.
 * @param {string} baseUrl
 */
function socketUrl(baseUrl) {
  const base = new URL(baseUrl || '/', globalThis.location?.href ?? baseUrl);
  base.protocol = base.protocol === 'https:' ? 'wss:' : 'ws:';
  return `${base.href.replace(/\/$/, '')}/v1/socket`;
}
