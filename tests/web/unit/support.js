/** An SDK client in Node, against the stand-in server, with its own storage. */
import { WebSocket } from 'ws';
import { browserEnvironment, ChatClient, memoryLocal, MemoryStorage } from '../../../web/sdk/index.js';

/** An environment whose waits are short, so that a test of backoff does not take minutes. */
export function environment(changes = {}) {
  return {
    ...browserEnvironment(),
    WebSocket,
    events: new EventTarget(),
    local: memoryLocal(),
    locks: null,
    channel: () => null,
    random: () => 0.05,
    online: () => true,
    ...changes,
  };
}

export function client(server, { storage = new MemoryStorage(), discover = false, ...changes } = {}) {
  const chat = new ChatClient({ baseUrl: server.url, discover, environment: environment(changes), storage: () => storage });
  return Object.assign(chat, { kept: storage });
}

let people = 0;

export async function person(server, changes) {
  const chat = client(server, changes);
  people += 1;
  await chat.signUp({ handle: `person${people}`, password: 'long enough', name: `Person ${people}` });
  await live(chat);
  return chat;
}

export async function until(check, what, timeoutMs = 8_000) {
  const deadline = Date.now() + timeoutMs;
  while (!(await check())) {
    if (Date.now() > deadline) throw new Error(`did not happen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export function live(chat) {
  return until(() => chat.connection?.state === 'live', 'a live connection');
}

export function texts(chat, id) {
  return (chat.timeline(id)?.rows ?? []).filter((row) => row.type === 'text').map((row) => row.body.text);
}
