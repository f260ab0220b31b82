// @ts-check

/** Longest wait between two attempts. */
export const BACKOFF_MS_MAX = 30_000;

/**
 * How long to wait before an attempt: exponential with full jitter, so that many clients do not come back at once.
 * @param {number} attempt 0 for the first repeat
 * @param {() => number} random a number in [0, 1)
 * @param {{baseMs?: number, maxMs?: number}} [limits]
 * @returns {number} milliseconds
 */
export function backoffMs(attempt, random, { baseMs = 500, maxMs = BACKOFF_MS_MAX } = {}) {
  const ceiling = Math.min(maxMs, baseMs * 2 ** Math.min(attempt, 16));
  return Math.round(random() * ceiling);
}

/**
 * What to do after a WebSocket was closed with this number.
 * @param {number} code
 * @returns {'reconnect'|'refresh'|'logged_out'|'replaced'|'stop'}
 */
export function closeAction(code) {
  if (code === 3501) return 'refresh';
  if (code === 3502) return 'logged_out';
  if (code === 3004) return 'replaced';
  return code >= 3500 && code < 4000 ? 'stop' : 'reconnect';
}
