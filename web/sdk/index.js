// @ts-check
/** The SDK of the chat service. Start with `ChatClient`; the rest is for those who want only a part of it. */
export { ChatClient } from './client.js';
export { Api } from './api.js';
export { Session } from './session.js';
export { Connection } from './connection.js';
export { Store } from './store.js';
export { Timeline, previousSeq } from './timeline.js';
export { Outbox } from './outbox.js';
export { IndexedDbStorage, MemoryStorage } from './storage.js';
export { ChatError, asChatError } from './errors.js';
export { browserEnvironment, memoryLocal, uuid } from './environment.js';
export { backoffMs, closeAction } from './backoff.js';
export * from './merge.js';
