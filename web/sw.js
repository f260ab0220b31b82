// @ts-check
/**
 * Keeps a copy of the page's own files, so that the page opens without a network and unsent messages are at hand. The
 * network always comes first: an update of the node is an update of the page. The service's API is never touched.
 */
const worker = /** @type {any} */ (self);
const CACHE = 'chat-page-1';

worker.addEventListener('install', () => worker.skipWaiting());
worker.addEventListener('activate', (/** @type {any} */ event) => event.waitUntil(worker.clients.claim()));

// The files that the page had loaded before this worker was there.
worker.addEventListener('message', (/** @type {any} */ event) => {
  if (!Array.isArray(event.data?.files)) return;
  event.waitUntil(caches.open(CACHE).then((cache) => Promise.all(event.data.files.filter(isOwn).map((/** @type {string} */ file) => cache.add(file).catch(() => {})))));
});

worker.addEventListener('fetch', (/** @type {any} */ event) => {
  if (event.request.method === 'GET' && isOwn(event.request.url)) event.respondWith(answer(event.request));
});

/** @param {string} address */
function isOwn(address) {
  const url = new URL(address, location.href);
  return url.origin === location.origin && !url.pathname.startsWith('/v1/') && /^\/(index\.html|style\.css|icon\.svg|app\/.*|sdk\/.*)?$/.test(url.pathname);
}

/** @param {Request} request */
async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}
