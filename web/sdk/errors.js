// @ts-check

/** Codes after which the same request may succeed later without anyone doing anything. */
const RETRYABLE = new Set([
  'rate_limited', 'internal', 'moved', 'overloaded', 'storage_full', 'store_unavailable', 'deadline_exceeded', 'draining',
  // Made on this side, not by the server.
  'network', 'timeout', 'connection_lost',
]);

/** Codes that say something about how the request was transported, never about what was asked. */
const TRANSPORT = new Set(['network', 'timeout', 'connection_lost']);

/** A refusal by the server, or a request that got no answer. */
export class ChatError extends Error {
  /**
   * @param {string} code stable code of the service, or `network`, `timeout`, `connection_lost`
   * @param {string} detail a plain sentence
   * @param {{status?: number, retryAfterMs?: number, requestId?: string}} [more]
   */
  constructor(code, detail, more = {}) {
    super(detail);
    this.name = 'ChatError';
    this.code = code;
    this.detail = detail;
    /** HTTP status, 0 if there was none. */
    this.status = more.status ?? 0;
    /** @type {number|undefined} */
    this.retryAfterMs = more.retryAfterMs;
    /** Id of the request in the server's log. */
    this.requestId = more.requestId;
  }

  /** Whether the same request may succeed later. A code that this SDK does not know is judged by its HTTP status. */
  get retryable() {
    return RETRYABLE.has(this.code) || this.status === 429 || this.status >= 500;
  }

  /** Whether no answer arrived at all. */
  get transport() {
    return TRANSPORT.has(this.code);
  }
}

/**
 * Any thrown value as a ChatError.
 * @param {unknown} error
 * @returns {ChatError}
 */
export function asChatError(error) {
  if (error instanceof ChatError) return error;
  return new ChatError('client', error instanceof Error ? error.message : String(error));
}
