// @ts-check
import { asChatError, ChatError } from './errors.js';
import { exclusively } from './environment.js';

/** @typedef {import('./types.js').Tokens} Tokens */

const KEY = 'chat.session';
/** A token is renewed when it has less than this left, or a fifth of its life if that is shorter. */
const RENEW_BEFORE_MS = 60_000;

/**
 * The tokens of this device, shared by all tabs. A refresh token works once, so only one tab at a time renews, and it
 * first looks whether another one already has.
 *
 * Events: `changed` (logged in or out, here or in another tab), `ended` with `detail.reason` when the server refuses
 * the device for good.
 */
export class Session extends EventTarget {
  /** @param {import('./environment.js').Environment} environment */
  constructor(environment) {
    super();
    this.environment = environment;
    /** Server clock minus ours. */
    this.clockOffsetMs = 0;
    /** @type {(refreshToken: string) => Promise<Tokens>} */
    this.exchange = async () => { throw new ChatError('client', 'The session has no API.'); };
    /** @type {Promise<string>|null} */
    this.renewing = null;
    this.tokens = this.read();
    environment.events?.addEventListener('storage', (event) => {
      if (/** @type {StorageEvent} */ (event).key === KEY) this.adopt();
    });
  }

  /** Takes over what another tab wrote. */
  adopt() {
    const before = this.tokens;
    this.tokens = this.read();
    const same = before?.user_id === this.tokens?.user_id && before?.device_id === this.tokens?.device_id;
    if (!same) this.dispatchEvent(new Event('changed'));
  }

  /** @returns {Tokens & {lifetime_ms?: number}|null} */
  read() {
    try {
      return JSON.parse(this.environment.local.getItem(KEY) ?? 'null');
    } catch {
      return null;
    }
  }

  /** @param {Tokens|null} tokens */
  write(tokens) {
    const changed = this.tokens?.device_id !== tokens?.device_id;
    if (tokens) {
      const lifetime = tokens.access_expires_at - this.now();
      this.tokens = { ...tokens, lifetime_ms: lifetime };
      this.environment.local.setItem(KEY, JSON.stringify(this.tokens));
    } else {
      this.tokens = null;
      this.environment.local.removeItem(KEY);
    }
    if (changed) this.dispatchEvent(new Event('changed'));
  }

  /** The server's clock, as well as it is known. */
  now() {
    return this.environment.now() + this.clockOffsetMs;
  }

  /** Milliseconds until the token should be renewed. */
  renewInMs() {
    if (!this.tokens) return Infinity;
    const lifetime = this.tokens.lifetime_ms ?? RENEW_BEFORE_MS * 5;
    const margin = Math.min(RENEW_BEFORE_MS, Math.max(lifetime, 0) / 5);
    return this.tokens.access_expires_at - margin - this.now();
  }

  /** A token that is good for a while. @returns {Promise<string>} */
  async accessToken() {
    if (!this.tokens) throw new ChatError('unauthenticated', 'You are not logged in.', { status: 401 });
    if (this.renewInMs() > 0) return this.tokens.access_token;
    try {
      return await this.renew(this.tokens.access_token);
    } catch (error) {
      const failure = asChatError(error);
      // The old one may still be good for a moment.
      if (failure.retryable && this.tokens && this.tokens.access_expires_at > this.now()) return this.tokens.access_token;
      throw failure;
    }
  }

  /**
   * Renews the token, unless that has happened since `stale` was in use.
   * @param {string} stale the access token that is no longer wanted
   * @returns {Promise<string>}
   */
  renew(stale) {
    this.renewing ??= exclusively(this.environment, 'chat-refresh', () => this.renewNow(stale))
      .finally(() => { this.renewing = null; });
    return this.renewing;
  }

  /** @param {string} stale */
  async renewNow(stale) {
    const stored = this.read();
    if (!stored) {
      this.adopt();
      throw new ChatError('unauthenticated', 'You are not logged in.', { status: 401 });
    }
    if (stored.access_token !== stale) {
      this.tokens = stored;
      return stored.access_token;
    }
    try {
      const tokens = await this.exchange(stored.refresh_token);
      this.write(tokens);
      return tokens.access_token;
    } catch (error) {
      const failure = asChatError(error);
      if (failure.status === 401 || failure.status === 403) this.end('expired');
      throw failure;
    }
  }

  /**
   * The server refuses this device: forget the tokens and say so.
   * @param {'expired'|'logged_out'} reason
   */
  end(reason) {
    if (!this.tokens) return;
    this.write(null);
    this.dispatchEvent(new CustomEvent('ended', { detail: { reason } }));
  }
}
