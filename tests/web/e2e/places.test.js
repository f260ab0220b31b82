import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually, launch, Person, quit, url } from './support.js';

/**
 * Nodes that service discovery picks from: `host:port=process id`, separated by commas. The page comes from another one,
 * which takes no connections. The tests of the node start them (`chat-node/tests/it/places.rs`).
 */
const places = new Map((process.env.CHAT_TEST_PLACES ?? '').split(',').filter(Boolean).map((place) => /** @type {[string, string]} */ (place.split('='))));
const options = { skip: url && places.size > 1 ? false : 'CHAT_TEST_PLACES names no nodes', timeout: 240_000 };

before(launch);
after(quit);

/** Where the newest WebSocket of somebody's page goes. */
const place = (person) => new URL(person.sockets.at(-1)).host;

test('a browser connects to the node that is picked, and elsewhere when that one dies', options, async () => {
  const [ada, grace] = await Promise.all([Person.signUp('Ada'), Person.signUp('Grace')]);
  await ada.openChatWith(grace);
  await ada.say('from one node');
  await grace.openFromList('Ada');
  await grace.sees('from one node');
  for (const person of [ada, grace]) {
    assert.ok(places.has(place(person)), `${place(person)} is a node of its own, and not ${url}`);
    person.tolerated.push(/WebSocket connection to .* failed/);
  }

  // Until the others know that the node is gone it is picked again, and waits between attempts become longer.
  for (const person of [ada, grace]) person.page.setDefaultTimeout(100_000);
  const lost = place(ada);
  const killedAt = Date.now();
  process.kill(Number(places.get(lost)), 'SIGKILL');
  await ada.say('from another node');
  await grace.sees('from another node');
  console.log(`the message came ${Date.now() - killedAt} ms after the end of its sender's node`);
  await grace.say('I am still here');
  await ada.sees('I am still here');
  for (const person of [ada, grace]) {
    await eventually(() => places.has(place(person)) && place(person) !== lost || person.sockets, 'a connection to the other node');
  }
  await ada.leave();
  await grace.leave();
});
