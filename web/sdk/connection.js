// @ts-check
import { backoffMs, closeAction } from './backoff.js';
import { asChatError, ChatError } from './errors.js';

/**
 * @typedef {import('./types.js').ServerFrame} ServerFrame
 * @typedef {import('./types.js').Welcome} Welcome
 *
 * @typedef {'stopped'|'offline'|'connecting'|'waiting'|'live'} State
 * @typedef {'websocket'|'poll'} Transport
 *
 * What the connection asks of its owner.
 * @typedef {object} Handler
 * @property {() => Promise<string>} accessToken
 * @property {(stale: string) => Promise<string>} renewToken
 * @property {() => string|undefined} cursor the cursor to go on from
 * @property {() => string|undefined} storedCursor the last one that is stored
 * @property {() => string[]} rooms live rooms to poll
 * @property {(outcome: import('./types.js').Outcome) => Promise<void>} start called before the first frame of a connection
 * @property {(frame: ServerFrame) => void} frame
 * @property {(cursor: string, catchingUp: boolean) => void} reached everything before it on this connection was handed over
 * @property {() => Promise<void>} cursorRefused the server does not know the cursor: forget the local copy
 * @property {() => void} replaced another connection resumed the same session
 * @property {(reason: 'expired'|'logged_out') => void} loggedOut
 */

const SUBPROTOCOL = 'chat.v1.json';
const WELCOME_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 20_000;
/** A connection that lasted this long starts the backoff from the beginning. */
const STABLE_MS = 10_000;
/** After so many failures to open a WebSocket in a row, long polling takes over. */
const WEBSOCKET_FAILURES_MAX = 3;
/** While polling, a WebSocket is tried again this often. */
const WEBSOCKET_RETRY_MS = 60_000;
const POLL_WAIT_MS = 25_000;
/** A stored cursor is told to the server this often at most. */
const CONFIRM_EVERY_MS = 5 * 60_000;
/** The node is not the one that discovery picked. */
const WRONG_NODE = 3006;

/**
 * Keeps one connection to the service: WebSocket, or long polling where that cannot be opened.
 *
 * Events: `state` after any change of `state`, `transport`, `catchingUp`, `retryAt` or `stopReason`.
 */
export class Connection extends EventTarget {
  /**
   * @param {object} options
   * @param {import('./place.js').Place} options.place where the WebSocket goes
   * @param {import('./api.js').Api} options.api
   * @param {import('./environment.js').Environment} options.environment
   * @param {Handler} options.handler
   * @param {string} [options.client] name and version for the server's log
   */
  constructor({ place, api, environment, handler, client }) {
    super();
    this.place = place;
    this.api = api;
    this.environment = environment;
    this.handler = handler;
    this.client = client;
    /** @type {State} */
    this.state = 'stopped';
    /** @type {Transport} */
    this.transport = 'websocket';
    /** Something from before this connection may still be on its way. */
    this.catchingUp = false;
    /** When the next attempt is due, while waiting. */
    this.retryAt = 0;
    /** Why it is stopped; empty when it was asked to. */
    this.stopReason = '';
    /** @type {Welcome|null} */
    this.welcome = null;
    this.attempt = 0;
    this.websocketFailures = 0;
    this.websocketTriedAt = 0;
    this.renewed = false;
    this.requestId = 0;
    /** @type {Map<number, {resolve: (answer: any) => void, reject: (error: ChatError) => void, timer: any}>} */
    this.pending = new Map();
    /** @type {any} */
    this.socket = null;
    /** Counts connections; what belongs to an older one is ignored. */
    this.epoch = 0;
    /** @type {Record<string, any>} */
    this.timers = {};
    /** @type {AbortController|null} */
    this.polling = null;
    /** Until when the node asked us to stay away. */
    this.notBefore = 0;
    /** On the way to another node, because this one asked for it: nothing has failed. */
    this.moving = false;
    /** What the node that asked wants the next one to be told. @type {string|undefined} */
    this.moveToken = undefined;
    /** When the heartbeat was sent that nothing has followed yet; 0 if none. */
    this.heartbeatSentAt = 0;
    /** The cursor that the server was shown last on this connection, and when. @type {string|undefined} */
    this.shownCursor = undefined;
    this.shownAt = 0;
    const listen = (/** @type {string} */ name, /** @type {() => void} */ run) => environment.events?.addEventListener(name, run);
    listen('online', () => this.wake());
    listen('offline', () => this.goOffline());
    listen('pageshow', () => this.wake());
    listen('focus', () => this.wake());
  }

  start() {
    if (this.state !== 'stopped') return;
    this.stopReason = '';
    this.attempt = 0;
    this.websocketFailures = 0;
    this.renewed = false;
    this.connect();
  }

  /** @param {string} [reason] */
  stop(reason = '') {
    this.stopReason = reason;
    this.drop();
    this.change('stopped');
  }

  /** Connects now instead of at the end of a wait. */
  wake() {
    if (this.state === 'offline' || this.state === 'waiting') {
      if (!this.environment.online()) return;
      if (this.environment.now() < this.notBefore) return;
      this.attempt = 0;
      this.connect();
    }
  }

  goOffline() {
    if (this.state === 'stopped') return;
    this.drop();
    this.change('offline');
  }

  /** @param {State} state */
  change(state) {
    this.state = state;
    this.dispatchEvent(new Event('state'));
  }

  /**
   * @param {string} name
   * @param {number} ms
   * @param {() => void} run
   */
  timer(name, ms, run) {
    this.environment.clearTimeout(this.timers[name]);
    this.timers[name] = this.environment.setTimeout(run, ms);
  }

  /** Ends the present connection without a word to anyone; whoever waits for an answer learns that it will not come. */
  drop() {
    this.epoch += 1;
    for (const timer of Object.values(this.timers)) this.environment.clearTimeout(timer);
    this.timers = {};
    this.polling?.abort();
    this.polling = null;
    const socket = this.socket;
    this.socket = null;
    if (socket) {
      try { socket.close(1000); } catch { /* it never opened */ }
    }
    const lost = new ChatError('connection_lost', 'The connection was lost before the server answered.');
    for (const request of this.pending.values()) {
      this.environment.clearTimeout(request.timer);
      request.reject(lost);
    }
    this.pending.clear();
    this.catchingUp = false;
    this.heartbeatSentAt = 0;
  }

  connect() {
    this.drop();
    if (!this.environment.online()) return this.change('offline');
    const polls = !this.environment.WebSocket || this.websocketFailures >= WEBSOCKET_FAILURES_MAX;
    const due = this.environment.now() - this.websocketTriedAt >= WEBSOCKET_RETRY_MS;
    this.change('connecting');
    if (polls && !(due && this.environment.WebSocket)) void this.poll(this.epoch);
    else void this.open(this.epoch);
  }

  /**
   * Waits, then connects.
   * @param {number} [least] milliseconds to wait at least
   */
  retry(least = 0) {
    this.drop();
    const hold = Math.max(least, this.notBefore - this.environment.now(), 0);
    // The node drew the delay of a move from its own window: adding to it would only lengthen the gap.
    const wait = this.moving ? hold : hold + backoffMs(this.attempt, this.environment.random);
    this.attempt += this.moving ? 0 : 1;
    this.retryAt = this.environment.now() + wait;
    this.change('waiting');
    this.timer('retry', wait, () => this.connect());
  }

  // WebSocket.

  /** @param {number} epoch */
  async open(epoch) {
    this.websocketTriedAt = this.environment.now();
    /** @type {string} */
    let token;
    try {
      token = await this.handler.accessToken();
    } catch (error) {
      if (epoch === this.epoch) this.tokenFailed(asChatError(error));
      return;
    }
    if (epoch !== this.epoch) return;
    const { url, discoveryToken = this.moveToken } = await this.place.locate();
    if (epoch !== this.epoch) return;
    const socket = new this.environment.WebSocket(url, [SUBPROTOCOL]);
    this.socket = socket;
    const link = { token, welcomed: false, openedAt: 0, invalidCursor: false };
    this.timer('welcome', WELCOME_TIMEOUT_MS, () => this.lost(epoch, link, 1006));
    socket.onopen = () => {
      if (epoch !== this.epoch) return;
      const cursor = this.handler.cursor();
      this.shownCursor = cursor;
      this.shownAt = this.environment.now();
      this.write({ hello: { versions: [1], token, ...(cursor ? { cursor } : {}), ...(discoveryToken ? { discovery_token: discoveryToken } : {}), ...(this.client ? { client: this.client } : {}) } });
    };
    socket.onmessage = (/** @type {MessageEvent} */ event) => {
      if (epoch === this.epoch) this.read(epoch, link, event.data);
    };
    socket.onclose = (/** @type {CloseEvent} */ event) => this.lost(epoch, link, event.code);
    socket.onerror = () => { /* a close event follows */ };
  }

  /** @param {ChatError} failure */
  tokenFailed(failure) {
    // The session has already told its owner when the device is no longer welcome.
    if (failure.status === 401 || failure.status === 403) this.stop('logged_out');
    else this.retry(failure.retryAfterMs);
  }

  /** @param {any} frame */
  write(frame) {
    this.socket?.send(JSON.stringify(frame));
  }

  /**
   * @param {number} epoch
   * @param {{token: string, welcomed: boolean, openedAt: number, invalidCursor: boolean}} link
   * @param {string} text
   */
  read(epoch, link, text) {
    this.heartbeatSentAt = 0;
    /** @type {ServerFrame} */
    let frame;
    try { frame = JSON.parse(text); } catch { return this.lost(epoch, link, 1006); }
    if (frame.welcome) return this.welcomed(epoch, link, frame.welcome);
    if (frame.ack) return this.settle(frame.ack.request_id, frame.ack);
    if (frame.presence_snapshot) return this.settle(frame.presence_snapshot.request_id, frame.presence_snapshot);
    if (frame.heartbeat) return undefined;
    if (frame.error) return this.refused(link, frame.error);
    if (frame.reconnect) return this.asked(epoch, frame.reconnect);
    this.deliver(frame);
    return undefined;
  }

  /** @param {ServerFrame} frame */
  deliver(frame) {
    if (frame.cursor) {
      this.handler.reached(frame.cursor.cursor, frame.cursor.catching_up);
      if (this.catchingUp !== frame.cursor.catching_up) {
        this.catchingUp = frame.cursor.catching_up;
        this.dispatchEvent(new Event('state'));
      }
    } else {
      this.handler.frame(frame);
    }
  }

  /**
   * @param {number} epoch
   * @param {{welcomed: boolean, openedAt: number}} link
   * @param {Welcome} welcome
   */
  welcomed(epoch, link, welcome) {
    link.welcomed = true;
    link.openedAt = this.environment.now();
    this.environment.clearTimeout(this.timers.welcome);
    this.welcome = welcome;
    this.websocketFailures = 0;
    this.transport = 'websocket';
    this.notBefore = 0;
    this.moving = false;
    this.moveToken = undefined;
    // Frames that come while the owner prepares are kept by the owner: it sees `start` before any of them.
    void this.handler.start(welcome.outcome);
    this.catchingUp = welcome.outcome === 'resumed';
    this.beat(epoch, welcome.heartbeat_interval_ms);
    this.change('live');
  }

  /**
   * Sends heartbeats, and takes a connection for dead that leaves one unanswered for two intervals.
   * @param {number} epoch
   * @param {number} intervalMs
   */
  beat(epoch, intervalMs) {
    this.timer('heartbeat', intervalMs, () => {
      if (epoch !== this.epoch) return;
      const now = this.environment.now();
      if (this.heartbeatSentAt && now - this.heartbeatSentAt >= 2 * intervalMs) {
        this.retry();
        return;
      }
      this.heartbeatSentAt ||= now;
      this.write({ heartbeat: this.confirmation(now) });
      this.beat(epoch, intervalMs);
    });
  }

  /**
   * Now and then a heartbeat shows the cursor that is stored.
   * @param {number} now
   */
  confirmation(now) {
    const cursor = this.handler.storedCursor();
    if (!cursor || cursor === this.shownCursor || now - this.shownAt < CONFIRM_EVERY_MS) return {};
    this.shownCursor = cursor;
    this.shownAt = now;
    return { cursor };
  }

  /**
   * @param {{invalidCursor: boolean}} link
   * @param {any} error
   */
  refused(link, error) {
    const failure = new ChatError(error.code, error.detail, { retryAfterMs: error.retry_after_ms });
    if (error.request_id !== undefined && error.request_id !== null) this.settle(error.request_id, null, failure);
    else if (error.code === 'invalid_cursor') link.invalidCursor = true;
  }

  /**
   * The node is leaving: go on using this connection until the delay is over, then take the next.
   * @param {number} epoch
   * @param {{cursor: string, delay_ms: number, token?: string}} reconnect
   */
  asked(epoch, reconnect) {
    this.handler.reached(reconnect.cursor, this.catchingUp);
    this.notBefore = this.environment.now() + reconnect.delay_ms;
    this.moving = true;
    this.moveToken = reconnect.token;
    this.timer('leave', reconnect.delay_ms, () => {
      if (epoch !== this.epoch) return;
      this.attempt = 0;
      this.connect();
    });
  }

  /**
   * The WebSocket is gone, or never was.
   * @param {number} epoch
   * @param {{token: string, welcomed: boolean, openedAt: number, invalidCursor: boolean}} link
   * @param {number} code
   */
  lost(epoch, link, code) {
    if (epoch !== this.epoch) return;
    this.socket = null;
    // 1006: nobody has closed it, so perhaps nobody is there.
    this.place.ended(link.welcomed || code !== 1006);
    // The next node was not reached: from here on it is an outage like any other.
    if (!link.welcomed) this.moving = false;
    if (link.welcomed && this.environment.now() - link.openedAt >= STABLE_MS) this.attempt = 0;
    if (link.welcomed && this.environment.now() - link.openedAt >= STABLE_MS) this.renewed = false;
    if (link.invalidCursor) {
      void this.handler.cursorRefused().then(() => { if (epoch === this.epoch) this.retry(); });
      return;
    }
    switch (closeAction(code)) {
      case 'refresh':
        void this.renewAndRetry(epoch, link.token);
        return;
      case 'logged_out':
        this.stop('logged_out');
        this.handler.loggedOut('logged_out');
        return;
      case 'stop':
        this.stop(`close_${code}`);
        return;
      case 'replaced':
        this.handler.replaced();
        this.retry();
        return;
      default:
        if (code === WRONG_NODE && this.attempt === 0) {
          // At once, but not in circles.
          this.attempt = 1;
          this.connect();
          return;
        }
        if (!link.welcomed) this.websocketFailures += 1;
        this.retry();
    }
  }

  /**
   * The server did not take the token: renew it once, then give up.
   * @param {number} epoch
   * @param {string} token
   */
  async renewAndRetry(epoch, token) {
    if (this.renewed) {
      this.stop('logged_out');
      this.handler.loggedOut('expired');
      return;
    }
    this.renewed = true;
    try {
      await this.handler.renewToken(token);
      if (epoch === this.epoch) this.retry();
    } catch (error) {
      const failure = asChatError(error);
      if (failure.retryable) this.renewed = false;
      if (epoch === this.epoch) this.tokenFailed(failure);
    }
  }

  // Requests.

  /** Whether frames can be written now. */
  get writable() {
    return this.state === 'live' && this.transport === 'websocket' && this.socket?.readyState === 1;
  }

  /**
   * Sends a frame and waits for its answer.
   * @param {string} type
   * @param {Record<string, any>} fields
   * @returns {Promise<any>}
   */
  request(type, fields = {}) {
    if (!this.writable) return Promise.reject(new ChatError('connection_lost', 'There is no connection at the moment.'));
    this.requestId += 1;
    const id = this.requestId;
    return new Promise((resolve, reject) => {
      const timer = this.environment.setTimeout(() => {
        this.settle(id, null, new ChatError('timeout', 'The server did not answer in time.'));
      }, REQUEST_TIMEOUT_MS);
      this.pending.set(id, { resolve, reject, timer });
      this.write({ [type]: { request_id: id, ...fields } });
    });
  }

  /**
   * Sends a frame that has no answer. Dropped when there is no connection.
   * @param {string} type
   * @param {Record<string, any>} fields
   */
  notify(type, fields) {
    if (this.writable) this.write({ [type]: fields });
  }

  /**
   * @param {number} id
   * @param {any} answer
   * @param {ChatError} [failure]
   */
  settle(id, answer, failure) {
    const request = this.pending.get(id);
    if (!request) return;
    this.pending.delete(id);
    this.environment.clearTimeout(request.timer);
    if (failure) request.reject(failure);
    else request.resolve(answer);
  }

  // Long polling.

  /** @param {number} epoch */
  async poll(epoch) {
    const abort = new AbortController();
    this.polling = abort;
    let first = true;
    while (epoch === this.epoch) {
      try {
        // The first answer comes at once, so that everyone sees where they stand.
        const query = { cursor: this.handler.cursor(), wait_ms: first ? 0 : POLL_WAIT_MS, room: this.handler.rooms().join(',') || undefined };
        const answer = await this.api.sync(query, abort.signal);
        if (epoch !== this.epoch) return;
        await this.polled(answer, first);
        first = false;
        if (this.environment.WebSocket && this.environment.now() - this.websocketTriedAt >= WEBSOCKET_RETRY_MS) {
          // One failure more brings it back here.
          this.websocketFailures = WEBSOCKET_FAILURES_MAX - 1;
          if (epoch === this.epoch) this.connect();
          return;
        }
        if (answer.retry_after_ms > 0) await this.sleep(answer.retry_after_ms);
      } catch (error) {
        if (epoch === this.epoch) await this.pollFailed(asChatError(error));
        return;
      }
    }
  }

  /**
   * @param {import('./types.js').Sync} answer
   * @param {boolean} first
   */
  async polled(answer, first) {
    const epoch = this.epoch;
    if (first || answer.outcome === 'reset') {
      void this.handler.start(answer.outcome);
      this.transport = 'poll';
      this.attempt = 0;
      this.change('live');
    }
    for (const frame of answer.frames) {
      if (epoch !== this.epoch) return;
      if (!frame.cursor) this.deliver(frame);
    }
    this.deliver({ cursor: { cursor: answer.cursor, catching_up: answer.catching_up } });
  }

  /** @param {ChatError} failure */
  async pollFailed(failure) {
    const epoch = this.epoch;
    if (failure.code === 'invalid_cursor') {
      await this.handler.cursorRefused();
      if (epoch === this.epoch) this.retry();
    } else if (failure.status === 401) {
      this.tokenFailed(failure);
    } else {
      // Perhaps everything is down, not just WebSockets: try both ways in turn.
      this.websocketTriedAt = 0;
      this.retry(failure.retryAfterMs);
    }
  }

  /** @param {number} ms */
  sleep(ms) {
    return new Promise((resolve) => this.timer('poll', ms, () => resolve(undefined)));
  }
}
