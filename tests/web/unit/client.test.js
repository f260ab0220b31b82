/** The SDK against a server that misbehaves on request. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { FakeServer } from '../fake/server.js';
import { client, live, person, texts, until } from './support.js';

let server;
let clients;
const options = { timeout: 30_000 };

beforeEach(async () => {
  server = new FakeServer();
  await server.listen();
  clients = [];
});

afterEach(async () => {
  for (const one of clients) await one.end(false);
  await server.close();
});

async function someone(changes) {
  const chat = await person(server, changes);
  clients.push(chat);
  return chat;
}

async function pair(changes) {
  const ada = await someone(changes);
  const grace = await someone();
  const id = await ada.openDirect(grace.userId);
  ada.timeline(id);
  grace.timeline(id);
  return { ada, grace, id };
}

const drop = (code) => { for (const socket of server.sockets) socket.ws.close(code, 'test'); };

test('messages arrive in the order of writing', options, async () => {
  const { ada, grace, id } = await pair();
  const written = Array.from({ length: 30 }, (_, i) => `m${i}`);
  await Promise.all(written.map((text) => ada.sendText(id, text)));
  await until(() => texts(grace, id).length === 30, 'all messages');
  assert.deepEqual(texts(grace, id), written);
  assert.ok(server.log.every((one) => one.retry === false), 'a first attempt never says retry');
});

test('a lost acknowledgement leads to a retry with the same id and one message', options, async () => {
  const { ada, grace, id } = await pair();
  server.faults.dropAck = 1;
  await ada.sendText(id, 'once');
  await ada.sendText(id, 'after');
  await until(() => texts(grace, id).includes('after') && ada.outbox.entries.length === 0, 'both messages');
  assert.deepEqual(texts(grace, id), ['once', 'after']);
  assert.deepEqual(texts(ada, id), ['once', 'after']);
  const tries = server.log.filter((one) => one.text === 'once');
  assert.equal(tries[0].retry, false);
  assert.ok(tries.slice(1).every((one) => one.retry && one.client_message_id === tries[0].client_message_id));
});

test('after a crash between sending and the answer the next attempt says retry', options, async () => {
  const { ada, id } = await pair();
  server.faults.silent = true;
  await ada.sendText(id, 'maybe sent');
  await until(() => server.faults.swallowed === 1, 'the send');
  assert.equal((await ada.kept.outbox())[0].tried, true);
  // The page is gone without a word; another one starts from the same disk.
  ada.connection.stop();
  ada.outbox.close();
  ada.store.close();
  server.faults.silent = false;
  const next = client(server, { storage: ada.kept, local: ada.environment.local });
  clients.push(next);
  await next.start();
  await until(() => server.log.length > 0 && next.outbox.entries.length === 0, 'the message');
  assert.equal(server.log[0].retry, true);
});

test('a refusal for good is shown and can be tried again or discarded; a passing one is not shown', options, async () => {
  const { ada, grace, id } = await pair();
  server.faults.refuseSend = FakeServer.refusal('overloaded', 503, 'Busy.', 20);
  await ada.sendText(id, 'patient');
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal(ada.outbox.of(id)[0].failed, null);
  server.faults.refuseSend = FakeServer.refusal('blocked', 403, 'You are blocked.');
  await until(() => ada.outbox.of(id)[0]?.failed, 'the refusal');
  assert.equal(ada.outbox.of(id)[0].failed.detail, 'You are blocked.');
  await ada.sendText(id, 'thrown away');
  await until(() => ada.outbox.of(id)[1]?.failed, 'the second refusal');
  server.faults.refuseSend = null;
  await ada.outbox.discard(ada.outbox.of(id)[1].client_message_id);
  await ada.outbox.retry(ada.outbox.of(id)[0].client_message_id);
  await until(() => texts(grace, id).length === 1, 'the message');
  assert.deepEqual(texts(grace, id), ['patient']);
  assert.deepEqual(ada.outbox.entries, []);
});

test('a dropped connection resumes from its cursor and misses nothing', options, async () => {
  const { ada, grace, id } = await pair();
  await ada.sendText(id, 'before');
  await until(() => texts(grace, id).length === 1, 'the first message');
  const reached = grace.store.cursor;
  grace.connection.goOffline();
  await ada.sendText(id, 'meanwhile');
  await until(() => ada.outbox.entries.length === 0, 'the acknowledgement');
  assert.equal(grace.store.cursor, reached);
  grace.connection.wake();
  await until(() => texts(grace, id).length === 2, 'the missed message');
  for (const code of [1012, 3000, 1006 + 2]) {
    drop(code);
    await until(() => grace.connection.state !== 'live', `closed with ${code}`);
    await live(grace);
  }
});

test('cursor and entries are stored together', options, async () => {
  const { ada, grace, id } = await pair();
  await ada.sendText(id, 'kept');
  await until(() => texts(grace, id).length === 1, 'the message');
  await grace.store.commits;
  const loaded = await grace.kept.open({ userId: grace.userId, deviceId: grace.session.tokens.device_id, slot: '0' });
  assert.equal(loaded.cursor, grace.store.cursor);
  assert.deepEqual((await grace.kept.messagesBefore(id, 1e9, 10)).map((row) => row.body.text), ['kept']);
});

test('after a reset the local copy is forgotten and loaded again', options, async () => {
  const { ada, grace, id } = await pair();
  await ada.sendText(id, 'still there');
  await until(() => texts(grace, id).length === 1, 'the message');
  await grace.kept.commit({ messages: [{ ...grace.timeline(id).rows[0], seq: 99, message_id: '9', client_message_id: 'ghost', body: { text: 'ghost' } }] });
  server.epoch = 'restored';
  drop(3002);
  await until(() => grace.store.generation === 1 && grace.connection.state === 'live', 'the reset');
  await until(() => texts(grace, id).join() === 'still there', 'the history');
  await grace.store.commit();
  assert.deepEqual((await grace.kept.messagesBefore(id, 1e9, 10)).map((row) => row.body.text), ['still there']);
  assert.match(grace.store.cursor, /^restored/);
});

test('a hole in a live conversation is filled', options, async () => {
  const { ada, grace, id } = await pair();
  await ada.sendText(id, 'one');
  await until(() => texts(grace, id).length === 1, 'the first message');
  server.faults.hideFrames = true;
  await ada.sendText(id, 'two');
  await until(() => ada.outbox.entries.length === 0, 'the acknowledgement');
  server.faults.hideFrames = false;
  await ada.sendText(id, 'three');
  await until(() => texts(grace, id).length === 3, 'the hole filled');
  assert.deepEqual(texts(grace, id), ['one', 'two', 'three']);
});

test('a connection that stops answering is given up and made again', options, async () => {
  server.heartbeatMs = 60;
  const ada = await someone();
  server.faults.silent = true;
  await until(() => ada.connection.state !== 'live', 'the silence is noticed');
  server.faults.silent = false;
  await live(ada);
});

test('where no WebSocket opens, long polling carries everything on the same cursor', options, async () => {
  const { ada, grace, id } = await pair();
  server.faults.refuseSockets = true;
  drop(1012);
  await until(() => grace.connection.transport === 'poll' && grace.connection.state === 'live', 'polling', 20_000);
  await until(() => ada.connection.transport === 'poll' && ada.connection.state === 'live', 'polling', 20_000);
  await ada.sendText(id, 'by poll');
  await until(() => texts(grace, id).includes('by poll'), 'the message');
  server.faults.refuseSockets = false;
  // An hour later, as far as the connection can tell.
  grace.connection.websocketTriedAt -= 3_600_000;
  await ada.sendText(id, 'and back');
  await until(() => texts(grace, id).includes('and back') && grace.connection.writable, 'a WebSocket again', 20_000);
  assert.deepEqual(texts(grace, id), ['by poll', 'and back']);
});

test('a token that is not taken is renewed once; a revoked device is logged out and keeps nothing', options, async () => {
  const ada = await someone();
  server.access.clear();
  drop(3501);
  await until(() => ada.connection.state !== 'live', 'the connection ends');
  await live(ada);
  assert.equal(server.faults.refreshes, 1);
  const reasons = [];
  ada.addEventListener('session', (event) => reasons.push(event.detail.reason));
  const { kept } = ada;
  server.revoke(ada.session.tokens.device_id);
  await until(() => ada.userId === null, 'the logout');
  assert.ok(reasons.includes('logged_out'));
  assert.equal(kept.heads.size, 0);
});

test('a token is renewed ahead of its expiry, by one request however many ask', options, async () => {
  const ada = await someone();
  ada.session.tokens.access_expires_at = Date.now() - 1;
  ada.environment.local.setItem('chat.session', JSON.stringify(ada.session.tokens));
  await Promise.all([ada.api.me(), ada.api.friends(), ada.api.devices(), ada.session.accessToken()]);
  assert.equal(server.faults.refreshes, 1);
});

test('the node asks to leave: the client comes back after the delay, with the cursor it was given', options, async () => {
  const ada = await someone();
  const [socket] = server.sockets;
  const before = Date.now();
  server.write(socket, { reconnect: { cursor: server.cursor(socket), delay_ms: 300 } });
  socket.ws.close(1012, 'restart');
  await until(() => ada.connection.state !== 'live', 'the connection ends');
  await live(ada);
  assert.ok(Date.now() - before >= 295, 'it waited');
  assert.equal(ada.store.generation, 0);
});

test('the node asks to leave and the client does so by itself, with the token, and without a failure', options, async () => {
  const ada = await someone();
  const [socket] = server.sockets;
  const states = [];
  server.write(socket, { reconnect: { cursor: server.cursor(socket), delay_ms: 300, token: 'to-green' } });
  await until(() => ada.connection.moving, 'the frame');
  assert.equal(ada.connection.state, 'live', 'it goes on until then');
  ada.connection.addEventListener('state', () => states.push(ada.connection.state));
  await until(() => server.sockets.size === 1 && ![...server.sockets].includes(socket), 'it is at another one');
  await live(ada);
  const [next] = server.sockets;
  assert.equal(next.hello?.discovery_token, 'to-green');
  assert.ok(!states.includes('waiting') && !ada.connection.moving, String(states));
});

test('two tabs without locks do not push each other off for ever', options, async () => {
  const ada = await someone();
  const other = client(server, { storage: ada.kept, local: ada.environment.local });
  clients.push(other);
  await other.start();
  await live(other);
  await new Promise((resolve) => setTimeout(resolve, 600));
  await Promise.all([live(ada), live(other)]);
  assert.equal([...server.sockets].filter((socket) => socket.user_id === ada.userId).length, 2);
  assert.notEqual(ada.store.slot, other.store.slot);
});

test('marks are coalesced: a burst of messages makes few of them', options, async () => {
  const { ada, grace, id } = await pair();
  let marks = 0;
  const mark = server.mark.bind(server);
  server.mark = (...all) => { marks += 1; mark(...all); };
  await Promise.all(Array.from({ length: 40 }, (_, i) => ada.sendText(id, `m${i}`)));
  await until(() => texts(grace, id).length === 40, 'the messages');
  grace.markRead(id, 40);
  await until(() => ada.conversation(id).members.find((one) => one.user_id === grace.userId).read_seq === 40, 'the read mark');
  assert.ok(marks < 20, `${marks} marks`);
});

test('someone typing is shown for six seconds at most', options, async () => {
  const { ada, grace, id } = await pair();
  ada.setTyping(id, true);
  await until(() => grace.typingIn(id).length === 1, 'typing');
  await until(() => grace.typingIn(id).length === 0, 'typing ends by itself', 8_000);
});

test('a cursor is told again once it is stored and some minutes have passed', options, async () => {
  server.heartbeatMs = 200;
  const { ada, grace, id } = await pair();
  await ada.sendText(id, 'one');
  await until(() => texts(grace, id).includes('one') && ada.kept.cursors.size > 0, 'the message and a stored cursor');
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.deepEqual(server.confirmed, [], 'not so soon after hello');
  // Five minutes later, as far as the connection can tell.
  ada.connection.shownAt -= 5 * 60_000;
  await until(() => server.confirmed.length > 0, 'a cursor in a heartbeat');
  assert.ok([...ada.kept.cursors.values()].includes(server.confirmed[0]), 'it is the stored one');
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(server.confirmed.length, 1, 'once');
});

/** Another node of the same platform: what it knows is what the first one knows. */
async function anotherNode() {
  const node = new FakeServer();
  await node.listen();
  for (const shared of ['users', 'devices', 'access', 'refresh', 'conversations', 'friends', 'blocks', 'inbox', 'epoch']) node[shared] = server[shared];
  return node;
}

const pick = (node, token) => ({ url: node.url, websocket_url: `${node.url.replace('http', 'ws')}/v1/socket`, node: 'one', valid_for_ms: 300_000, ...(token ? { discovery_token: token } : {}) });

test('the socket goes to the node that discovery picked, with its token, and elsewhere after its loss', options, async () => {
  const node = await anotherNode();
  try {
    server.discovery = pick(node, 'first');
    const ada = await someone({ discover: true });
    assert.deepEqual(node.hellos.map((one) => one.discovery_token), ['first']);
    assert.equal(server.hellos.length, 0);
    server.discovery = pick(server, 'second');
    for (const socket of node.sockets) socket.ws.close(1012, 'test');
    await until(() => server.hellos.length === 1, 'the other node');
    await live(ada);
    assert.equal(server.hellos[0].discovery_token, 'second');
  } finally {
    await node.close();
  }
});

test('a client that is sent on asks discovery again and goes there', options, async () => {
  const node = await anotherNode();
  try {
    server.discovery = pick(server, 'stale');
    server.faults.wrongNode = () => { server.discovery = pick(node, 'fresh'); };
    await someone({ discover: true });
    assert.deepEqual(server.hellos.map((one) => one.discovery_token), ['stale']);
    assert.deepEqual(node.hellos.map((one) => one.discovery_token), ['fresh']);
  } finally {
    await node.close();
  }
});

test('without an answer, and without the node that it names, the given address is used', options, async () => {
  const ada = await someone({ discover: true });
  assert.equal(server.hellos[0].discovery_token, undefined, 'discovery has no answer');
  server.discovery = pick({ url: 'http://127.0.0.1:1' }, 'dead');
  drop(1012);
  await until(() => server.hellos.length === 2, 'the given address');
  await live(ada);
  assert.equal(server.hellos[1].discovery_token, undefined, 'the node that was picked is away');
});

test('behind one address discovery is asked once', options, async () => {
  server.discovery = pick(server);
  const ada = await someone({ discover: true });
  for (const count of [2, 3]) {
    drop(1012);
    await until(() => server.hellos.length === count, 'another connection');
    await live(ada);
  }
  assert.equal(server.discoveries, 1);
});
