// @ts-check

/**
 * What the SDK needs of the outside world: time, chance, and the browser's services. Tests pass their own.
 * @typedef {object} Environment
 * @property {() => number} now milliseconds since 1970
 * @property {() => number} random a number in [0, 1)
 * @property {(run: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {typeof fetch} fetch
 * @property {any} WebSocket
 * @property {() => boolean} online
 * @property {EventTarget|null} events where `online`, `offline`, `visibilitychange` and `storage` arrive
 * @property {{getItem(key: string): string|null, setItem(key: string, value: string): void, removeItem(key: string): void}} local shared by all tabs
 * @property {any} locks `navigator.locks`, or null
 * @property {(name: string) => any} channel a BroadcastChannel, or null
 */

/** @returns {Environment} */
export function browserEnvironment() {
  const scope = /** @type {any} */ (globalThis);
  return {
    now: () => Date.now(),
    random: () => Math.random(),
    setTimeout: (run, ms) => scope.setTimeout(run, ms),
    clearTimeout: (timer) => scope.clearTimeout(timer),
    fetch: (...request) => scope.fetch(...request),
    WebSocket: scope.WebSocket,
    online: () => scope.navigator?.onLine !== false,
    events: scope.window ?? null,
    local: scope.localStorage ?? memoryLocal(),
    locks: scope.navigator?.locks ?? null,
    channel: (name) => (scope.BroadcastChannel ? new scope.BroadcastChannel(name) : null),
  };
}

/** A stand-in for localStorage where there is none. */
export function memoryLocal() {
  /** @type {Map<string, string>} */
  const values = new Map();
  return {
    getItem: (/** @type {string} */ key) => values.get(key) ?? null,
    setItem: (/** @type {string} */ key, /** @type {string} */ value) => void values.set(key, value),
    removeItem: (/** @type {string} */ key) => void values.delete(key),
  };
}

/**
 * A random UUID (RFC 9562, version 4). `crypto.randomUUID` exists only on secure origins, and a node is often tried at a
 * plain http address of the local network.
 * @returns {string}
 */
export function uuid() {
  const crypto = globalThis.crypto;
  if (typeof crypto.randomUUID === 'function') return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/**
 * Runs `work` while no other tab runs anything under the same name. Where the browser has no locks, only this tab's own
 * calls wait for each other.
 * @template T
 * @param {Environment} environment
 * @param {string} name
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function exclusively(environment, name, work) {
  if (environment.locks) return environment.locks.request(name, work);
  const before = queues.get(name) ?? Promise.resolve();
  const mine = before.then(work, work);
  const settled = mine.then(() => {}, () => {});
  queues.set(name, settled);
  void settled.then(() => { if (queues.get(name) === settled) queues.delete(name); });
  return mine;
}

/** @type {Map<string, Promise<void>>} */
const queues = new Map();
