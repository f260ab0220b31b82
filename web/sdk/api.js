// @ts-check
import { ChatError } from './errors.js';

/**
 * @typedef {import('./types.js').Tokens} Tokens
 * @typedef {import('./types.js').Profile} Profile
 * @typedef {import('./types.js').Conversation} Conversation
 * @typedef {import('./types.js').ConversationHead} ConversationHead
 * @typedef {import('./types.js').Role} Role
 */

const REQUEST_TIMEOUT_MS = 30_000;

/**
 * @typedef {object} RequestOptions
 * @property {any} [body]
 * @property {Record<string, string|number|undefined>} [query]
 * @property {boolean} [anonymous] goes without a token
 * @property {number} [timeoutMs]
 * @property {AbortSignal} [signal]
 */

/** The HTTP API, one method per operation. Every failure is a `ChatError`. */
export class Api {
  /**
   * @param {object} options
   * @param {string} options.baseUrl without a slash at the end; empty for the page's own origin
   * @param {import('./environment.js').Environment} options.environment
   * @param {import('./session.js').Session} [options.session] gives and renews the token
   */
  constructor({ baseUrl, environment, session }) {
    this.baseUrl = baseUrl;
    this.environment = environment;
    this.session = session;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {RequestOptions} [options]
   * @returns {Promise<any>}
   */
  async request(method, path, options = {}) {
    const token = options.anonymous ? null : await this.session?.accessToken();
    try {
      return await this.attempt(method, path, options, token ?? null);
    } catch (error) {
      // A wrong password is answered with 401, too, and says nothing about the token.
      const expired = error instanceof ChatError && error.status === 401 && error.code !== 'wrong_credentials' && token;
      if (!expired || !this.session) throw error;
      // The clock may be off, or the token was replaced: renew it once and ask again.
      const renewed = await this.session.renew(token);
      return this.attempt(method, path, options, renewed);
    }
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {RequestOptions} options
   * @param {string|null} token
   */
  async attempt(method, path, options, token) {
    const { environment } = this;
    const abort = new AbortController();
    const timer = environment.setTimeout(() => abort.abort(), options.timeoutMs ?? REQUEST_TIMEOUT_MS);
    const stop = () => abort.abort();
    options.signal?.addEventListener('abort', stop);
    /** @type {Record<string, string>} */
    const headers = { accept: 'application/json' };
    if (token) headers.authorization = `Bearer ${token}`;
    if (options.body !== undefined) headers['content-type'] = 'application/json';
    try {
      const response = await environment.fetch(this.baseUrl + path + queryText(options.query), {
        method,
        headers,
        body: options.body === undefined ? undefined : JSON.stringify(options.body),
        signal: abort.signal,
        cache: 'no-store',
        credentials: 'omit',
      });
      const text = await response.text();
      if (!response.ok) throw problem(response, text);
      return text ? JSON.parse(text) : null;
    } catch (error) {
      if (error instanceof ChatError) throw error;
      if (options.signal?.aborted) throw new ChatError('connection_lost', 'The request was given up.');
      if (abort.signal.aborted) throw new ChatError('timeout', 'The server did not answer in time.');
      throw new ChatError('network', 'The server cannot be reached.');
    } finally {
      environment.clearTimeout(timer);
      options.signal?.removeEventListener('abort', stop);
    }
  }

  /** Which node to connect to. @param {number} timeoutMs @returns {Promise<import('./types.js').Discovery>} */
  discovery(timeoutMs) { return this.request('GET', '/v1/discovery', { anonymous: true, timeoutMs }); }

  // Accounts and sessions.

  /** @param {{handle: string, password: string, name?: string, device_name?: string}} account @returns {Promise<Tokens>} */
  signUp(account) { return this.request('POST', '/v1/accounts', { body: account, anonymous: true }); }

  /** @param {{handle: string, password: string, device_name?: string}} login @returns {Promise<Tokens>} */
  logIn(login) { return this.request('POST', '/v1/sessions', { body: login, anonymous: true }); }

  /** @param {string} refreshToken @returns {Promise<Tokens>} */
  refresh(refreshToken) {
    return this.request('POST', '/v1/sessions/refresh', { body: { refresh_token: refreshToken }, anonymous: true });
  }

  logOut() { return this.request('DELETE', '/v1/sessions/current', { timeoutMs: 5_000 }); }

  logOutEverywhere() { return this.request('DELETE', '/v1/sessions'); }

  /** @returns {Promise<Profile>} */
  me() { return this.request('GET', '/v1/me'); }

  /** @param {{name?: string, picture?: string, status?: string}} change @returns {Promise<Profile>} */
  changeProfile(change) { return this.request('PATCH', '/v1/me', { body: change }); }

  /** @returns {Promise<{settings: Record<string, any>}>} */
  settings() { return this.request('GET', '/v1/me/settings'); }

  /** @param {Record<string, any>} settings */
  saveSettings(settings) { return this.request('PUT', '/v1/me/settings', { body: { settings } }); }

  /** @param {string} oldPassword @param {string} newPassword */
  changePassword(oldPassword, newPassword) {
    return this.request('PUT', '/v1/me/password', { body: { old_password: oldPassword, new_password: newPassword } });
  }

  /** @returns {Promise<import('./types.js').Page<import('./types.js').Device>>} */
  devices() { return this.request('GET', '/v1/devices', { query: { limit: 200 } }); }

  /** @param {string} id @param {string} name */
  renameDevice(id, name) { return this.request('PATCH', `/v1/devices/${part(id)}`, { body: { name } }); }

  /** @param {string} id */
  revokeDevice(id) { return this.request('DELETE', `/v1/devices/${part(id)}`); }

  // People.

  /** @param {string} handle @returns {Promise<{items: Profile[]}>} */
  searchUsers(handle) { return this.request('GET', '/v1/users', { query: { handle } }); }

  /** @param {string} id @returns {Promise<Profile>} */
  user(id) { return this.request('GET', `/v1/users/${part(id)}`); }

  /** @returns {Promise<import('./types.js').Friend[]>} */
  friends() { return this.all('/v1/friends'); }

  /** @param {string} id @returns {Promise<{user_id: string, friendship: import('./types.js').Friendship}>} */
  befriend(id) { return this.request('PUT', `/v1/friends/${part(id)}`); }

  /** @param {string} id @returns {Promise<{user_id: string, friendship: import('./types.js').Friendship}>} */
  unfriend(id) { return this.request('DELETE', `/v1/friends/${part(id)}`); }

  /** @returns {Promise<Profile[]>} */
  blocks() { return this.all('/v1/blocks'); }

  /** @param {string} id */
  block(id) { return this.request('PUT', `/v1/blocks/${part(id)}`); }

  /** @param {string} id */
  unblock(id) { return this.request('DELETE', `/v1/blocks/${part(id)}`); }

  /** @returns {Promise<{users: import('./types.js').Presence[]}>} */
  presence() { return this.request('GET', '/v1/presence'); }

  // Conversations.

  /** @returns {Promise<ConversationHead[]>} */
  conversations() { return this.all('/v1/conversations'); }

  /** @param {any} conversation @returns {Promise<Conversation>} */
  createConversation(conversation) { return this.request('POST', '/v1/conversations', { body: conversation }); }

  /** @param {string} id @returns {Promise<ConversationHead>} */
  conversation(id) { return this.request('GET', `/v1/conversations/${part(id)}`); }

  /** @param {string} id @param {{name?: string, picture?: string}} change */
  changeConversation(id, change) { return this.request('PATCH', `/v1/conversations/${part(id)}`, { body: change }); }

  /** @param {string} id @param {string[]} userIds */
  invite(id, userIds) { return this.request('POST', `/v1/conversations/${part(id)}/members`, { body: { user_ids: userIds } }); }

  /** @param {string} id @param {string} userId */
  removeMember(id, userId) { return this.request('DELETE', `/v1/conversations/${part(id)}/members/${part(userId)}`); }

  /** @param {string} id @param {string} userId @param {Role} role */
  changeRole(id, userId, role) {
    return this.request('PATCH', `/v1/conversations/${part(id)}/members/${part(userId)}`, { body: { role } });
  }

  /** @returns {Promise<Conversation[]>} */
  rooms() { return this.all('/v1/rooms'); }

  // Messages.

  /**
   * @param {string} id
   * @param {{before?: string, after?: string, limit?: number}} [page]
   * @returns {Promise<import('./types.js').History>}
   */
  messages(id, page = {}) { return this.request('GET', `/v1/conversations/${part(id)}/messages`, { query: page }); }

  /** @param {string} id @param {any} message @returns {Promise<import('./types.js').Sent>} */
  sendMessage(id, message) { return this.request('POST', `/v1/conversations/${part(id)}/messages`, { body: message }); }

  /** @param {string} id @param {string} messageId @param {{body: any, mentions?: string[]}} change */
  editMessage(id, messageId, change) {
    return this.request('PATCH', `/v1/conversations/${part(id)}/messages/${part(messageId)}`, { body: change });
  }

  /** @param {string} id @param {string} messageId */
  deleteMessage(id, messageId) { return this.request('DELETE', `/v1/conversations/${part(id)}/messages/${part(messageId)}`); }

  /** @param {string} id @param {string} messageId @param {string} emoji @param {boolean} remove */
  react(id, messageId, emoji, remove) {
    const path = `/v1/conversations/${part(id)}/messages/${part(messageId)}/reactions/${part(emoji)}`;
    return this.request(remove ? 'DELETE' : 'PUT', path);
  }

  /** @param {'read'|'delivered'} kind @param {string} id @param {number} seq */
  mark(kind, id, seq) { return this.request('PUT', `/v1/conversations/${part(id)}/${kind}`, { body: { seq } }); }

  /** @param {string} id @param {boolean} active */
  typing(id, active) { return this.request('POST', `/v1/conversations/${part(id)}/typing`, { body: { active } }); }

  /**
   * @param {{cursor?: string, wait_ms: number, room?: string}} query
   * @param {AbortSignal} signal
   * @returns {Promise<import('./types.js').Sync>}
   */
  sync(query, signal) {
    return this.request('GET', '/v1/sync', { query, signal, timeoutMs: query.wait_ms + REQUEST_TIMEOUT_MS });
  }

  /**
   * Every row of a paged list.
   * @param {string} path
   * @returns {Promise<any[]>}
   */
  async all(path) {
    /** @type {any[]} */
    const rows = [];
    /** @type {string|undefined} */
    let after;
    do {
      const page = await this.request('GET', path, { query: { after, limit: 200 } });
      rows.push(...page.items);
      // A page may be empty and still have a next one, but never the same again.
      after = page.next !== after ? page.next : undefined;
    } while (after);
    return rows;
  }
}

/** @param {string} text */
function part(text) {
  return encodeURIComponent(text);
}

/** @param {RequestOptions['query']} query */
function queryText(query) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined) params.append(name, String(value));
  }
  const text = params.toString();
  return text ? `?${text}` : '';
}

/**
 * The refusal in a response (RFC 9457), or one made from its status when a proxy answered instead of the service.
 * @param {Response} response
 * @param {string} text
 */
function problem(response, text) {
  /** @type {any} */
  let body = null;
  try { body = JSON.parse(text); } catch { /* not from the service */ }
  const seconds = Number(response.headers.get('retry-after'));
  const retryAfterMs = body?.retry_after_ms ?? (seconds > 0 ? seconds * 1000 : undefined);
  return new ChatError(
    typeof body?.code === 'string' ? body.code : 'http',
    typeof body?.detail === 'string' ? body.detail : `The server answered with status ${response.status}.`,
    { status: response.status, retryAfterMs, requestId: body?.request_id },
  );
}
