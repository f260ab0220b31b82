import assert from 'node:assert/strict';
import { test } from 'node:test';
import { applyMark, backoffMs, closeAction, compareIds, mergeConversation, mergeHead, mergeMessage, MemoryStorage, Timeline } from '../../../web/sdk/index.js';
import { contiguousTail, linkPage } from '../../../web/sdk/timeline.js';

const message = (seq, more = {}) => ({ conversation_id: 'g_x', message_id: String(1000 + seq), version: String(1000 + seq), seq, sender_id: 'a', client_message_id: `c${seq}`, type: 'text', body: { text: `m${seq}` }, created_at: seq, ...more });

/** Every order of a few things. */
function* orders(items) {
  if (items.length <= 1) yield items;
  for (let i = 0; i < items.length; i += 1) {
    for (const rest of orders([...items.slice(0, i), ...items.slice(i + 1)])) yield [items[i], ...rest];
  }
}

test('ids beyond 2^53 are ordered as numbers', () => {
  assert.ok(compareIds('9', '10') < 0);
  assert.ok(compareIds('211106232532992001', '211106232532992000') > 0);
  assert.equal(compareIds('18446744073709551615', '18446744073709551615'), 0);
});

test('copies of a message converge whatever order they arrive in', () => {
  const reactions = (version, count) => ({ version, items: [{ emoji: '👍', user_ids: Array.from({ length: count }, (_, i) => `u${i}`) }] });
  const copies = [
    message(1, { provisional: true }),
    message(1),
    message(1, { version: '2000', body: { text: 'edited' }, edited_at: 5, reactions: reactions('1500', 1) }),
    message(1, { reactions: reactions('3000', 2) }),
    message(1, { version: '2500', type: '', body: null, deleted: true }),
  ];
  const results = new Set();
  for (const order of orders(copies)) results.add(JSON.stringify(Object.entries(order.reduce((known, next) => mergeMessage(known, next), undefined)).sort()));
  assert.equal(results.size, 1);
  const [end] = results;
  assert.match(end, /"deleted",true/);
  assert.match(end, /"3000"/);
  assert.doesNotMatch(end, /provisional/);
});

test('a conversation takes the higher version and no mark goes back', () => {
  const conversation = (version, name, read, delivered) => ({ conversation_id: 'g_x', kind: 'group', version, name, created_at: 0, members: [{ user_id: 'a', role: 'member', joined_id: '1', read_seq: read, delivered_seq: delivered }] });
  for (const [one, other] of [[conversation('5', 'old', 9, 9), conversation('6', 'new', 3, 4)], [conversation('6', 'new', 3, 4), conversation('5', 'old', 9, 9)]]) {
    const merged = mergeConversation(one, other);
    assert.equal(merged.name, 'new');
    assert.equal(merged.members[0].read_seq, 9);
  }
  const marked = applyMark(conversation('5', 'x', 3, 3), 'read', { user_id: 'a', seq: 7 });
  assert.deepEqual([marked.members[0].read_seq, marked.members[0].delivered_seq], [7, 7]);
  const same = conversation('5', 'x', 3, 3);
  assert.equal(applyMark(same, 'read', { user_id: 'a', seq: 2 }), same);
});

test('two copies of a head keep the newest of everything', () => {
  const head = (last, read) => ({ conversation_id: 'g_x', conversation: { conversation_id: 'g_x', kind: 'group', version: '1', created_at: 0, members: [] }, last_message: message(last), last_seq: last, read_seq: read });
  for (const merged of [mergeHead(head(5, 1), head(4, 3)), mergeHead(head(4, 3), head(5, 1))]) {
    assert.deepEqual([merged.last_seq, merged.read_seq, merged.last_message.seq], [5, 3, 5]);
  }
});

test('holes show, and a page of history says which of them are none', () => {
  const timeline = new Timeline();
  for (const seq of [7, 3, 4, 9]) timeline.put(message(seq));
  assert.deepEqual(timeline.holes().map(({ after, before }) => [after.seq, before.seq]), [[4, 7], [7, 9]]);
  for (const row of linkPage([message(3), message(4), message(7)], { linked: true, before: 0 })) timeline.put(row);
  assert.deepEqual(timeline.holes().map(({ after, before }) => [after.seq, before.seq]), [[7, 9]]);
  assert.equal(timeline.complete, true);
  assert.deepEqual(contiguousTail(timeline.rows).map((row) => row.seq), [9]);
  timeline.put(message(8));
  assert.deepEqual(contiguousTail(timeline.rows).map((row) => row.seq), [3, 4, 7, 8, 9]);
});

test('a page whose newest messages may be missing proves nothing about holes', () => {
  assert.equal(linkPage([message(3), message(7)], { linked: false })[1].prev_seq, undefined);
});

test('waits grow, are spread over their whole range and end', () => {
  for (let attempt = 0; attempt < 40; attempt += 1) {
    assert.equal(backoffMs(attempt, () => 0), 0);
    assert.ok(backoffMs(attempt, () => 0.999999) <= 30_000);
  }
  assert.ok(backoffMs(3, () => 0.999999) > backoffMs(1, () => 0.999999));
});

test('close codes say whether to come back', () => {
  const expected = { 1006: 'reconnect', 1012: 'reconnect', 3000: 'reconnect', 3003: 'reconnect', 3004: 'replaced', 3499: 'reconnect', 3500: 'stop', 3501: 'refresh', 3502: 'logged_out', 3503: 'stop', 3999: 'stop' };
  for (const [code, action] of Object.entries(expected)) assert.equal(closeAction(Number(code)), action, code);
});

test('a cursor from before the local copy was forgotten is not stored', async () => {
  const storage = new MemoryStorage();
  const { generation } = await storage.open({ userId: 'a', deviceId: 'd', slot: '0' });
  await storage.commit({ cursor: { slot: '0', cursor: 'one', generation } });
  await storage.forget('0');
  await storage.commit({ cursor: { slot: '0', cursor: 'two', generation } });
  assert.equal((await storage.open({ userId: 'a', deviceId: 'd', slot: '0' })).cursor, undefined);
});
