import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually, launch, options, Person, quit, url } from './support.js';

before(launch);
after(quit);

let shared;
let greetings = 0;

/**
 * Two people who have a conversation open with each other, and a greeting that only this test has. They keep their
 * accounts from test to test, because a node limits sign-ups.
 */
async function pair() {
  if (shared) {
    await Promise.all(shared.map((person) => person.home()));
  } else {
    shared = await Promise.all([Person.signUp('Ada'), Person.signUp('Grace')]);
    for (const person of shared) person.shared = true;
  }
  const [ada, grace] = shared;
  await ada.openChatWith(grace);
  greetings += 1;
  const hello = `Hello number ${greetings}!`;
  await ada.say(hello);
  await grace.openFromList('Ada');
  await grace.sees(hello);
  return [ada, grace, hello];
}

test('two people find each other and chat both ways', options, async () => {
  const [ada, grace] = await Promise.all([Person.signUp('Ada'), Person.signUp('Grace')]);
  await ada.openChatWith(grace);
  await ada.say('Hi Grace, <b>this</b> is & stays text');
  // Unread on the other side until it is opened.
  const row = grace.row('Ada');
  await row.locator('.badge', { hasText: '1' }).waitFor();
  await grace.openFromList('Ada');
  await grace.sees('Hi Grace, <b>this</b> is & stays text');
  await row.locator('.badge').waitFor({ state: 'detached' });
  await ada.sees_state('Hi Grace', 'read');
  await grace.say('Hi Ada!');
  await ada.sees('Hi Ada!');

  // Typing is seen, and goes away.
  await grace.composer().pressSequentially('I am wri');
  await ada.page.locator('.typing-line', { hasText: 'Grace is typing' }).waitFor();
  await grace.composer().fill('');
  await ada.page.locator('.typing-line', { hasText: 'typing' }).waitFor({ state: 'detached' }).catch(() => {});
  await eventually(async () => (await ada.page.locator('.typing-line').textContent()) === '', 'the typing line empties');
  await ada.picture('desktop-direct');
  await ada.leave();
  await grace.leave();
});

test('messages can be reacted to, answered, edited and deleted', options, async () => {
  const [ada, grace, hello] = await pair();
  await grace.menu(hello, /👍/);
  const reaction = ada.message(hello).locator('.reaction', { hasText: '👍' });
  await reaction.waitFor();
  await reaction.click();
  await grace.message(hello).locator('.reaction', { hasText: '2' }).waitFor();
  await reaction.click();
  await grace.message(hello).locator('.reaction', { hasText: '1' }).waitFor();

  await grace.menu(hello, 'Reply');
  await grace.say('An answer');
  await ada.message('An answer').locator('.quote', { hasText: hello }).waitFor();

  await grace.menu('An answer', 'Edit');
  await grace.say('A better answer');
  await ada.sees('A better answer');
  await ada.message('A better answer').locator('.meta', { hasText: 'edited' }).waitFor();
  assert.equal(await ada.message('An answer').count(), 0);

  await grace.menu('A better answer', 'Delete for everyone');
  await grace.picture('dialog-delete');
  await grace.page.locator('dialog .danger').click();
  await ada.message('This message was deleted.').last().waitFor();
  assert.equal(await ada.message('A better answer').count(), 0);
  await ada.leave();
  await grace.leave();
});

test('a message written offline survives a reload and arrives exactly once', options, async () => {
  const [ada, grace, hello] = await pair();
  await ada.page.evaluate(() => navigator.serviceWorker.ready.then(() => new Promise((resolve) => setTimeout(resolve, 500))));
  await ada.setOffline(true);
  await ada.page.locator('.banner', { hasText: 'You are offline' }).waitFor();
  await ada.say('Written in a tunnel');
  await ada.say('And another');
  await ada.sees_state('Written in a tunnel', 'queued');
  await ada.picture('desktop-offline');

  // The page opens without a network, too.
  await ada.page.reload();
  await ada.page.locator('.banner', { hasText: 'You are offline' }).waitFor();
  await ada.sees(hello);
  await ada.sees_state('Written in a tunnel', 'queued');
  await ada.sees_state('And another', 'queued');
  assert.equal(await grace.message('Written in a tunnel').count(), 0);
  await ada.setOffline(false);
  await ada.page.locator('.banner').waitFor({ state: 'hidden' });
  await grace.sees('Written in a tunnel');
  await grace.sees('And another');
  await grace.say('Got both');
  await grace.sees('Got both');
  await grace.page.reload();
  // What she wrote stands there from the outbox at once; the rest may still be on its way.
  for (const text of ['Written in a tunnel', 'And another', 'Got both']) await grace.sees(text);
  await grace.message('Got both').locator('.delivery:not([data-state=queued])').waitFor();
  const texts = await grace.texts();
  assert.deepEqual(texts.slice(texts.indexOf(hello)), [hello, 'Written in a tunnel', 'And another', 'Got both']);
  await ada.leave();
  await grace.leave();
});

test('a reload keeps the history, and shows it before the server has answered', options, async () => {
  const [ada, grace, hello] = await pair();
  await grace.say('Remember this');
  await ada.sees('Remember this');
  await ada.page.waitForTimeout(600);
  ada.tolerated.push(/ERR_FAILED|Failed to load resource|WebSocket/);
  await ada.context.route(/\/v1\//, (route) => route.abort());
  await ada.page.reload();
  await ada.sees('Remember this');
  await ada.leave();
  await grace.leave();
});

test('history is endless upwards', options, async () => {
  const [ada, grace, hello] = await pair();
  const id = new URL(ada.page.url()).hash.split('/')[2];
  const count = 150;
  await ada.page.evaluate(async ({ conversation, total }) => {
    for (let i = 1; i <= total; i += 1) await globalThis.chat.sendText(conversation, `Line ${i} of many`);
  }, { conversation: id, total: count });
  await grace.sees(`Line ${count} of many`);
  await grace.page.reload();
  await grace.sees(`Line ${count} of many`);
  const scroller = grace.page.locator('.scroller');
  await scroller.hover();
  for (let steps = 0; steps < 300 && await grace.message(hello).count() === 0; steps += 1) {
    await scroller.evaluate((element) => element.scrollBy(0, -700));
    await grace.page.waitForTimeout(30);
  }
  await grace.sees(hello);
  // What was in view stays in view when older messages come in above it: the numbers around it are without a hole.
  const shown = (await grace.texts()).filter((text) => text.startsWith('Line')).map((text) => Number(text.split(' ')[1]));
  assert.deepEqual(shown, shown.map((_, index) => shown[0] + index), 'messages in order, none missing or doubled');
  assert.equal(shown[0], 1);
  // From the very top, the furthest from where the end was.
  await scroller.evaluate((element) => { element.scrollTop = 0; });
  await grace.page.waitForTimeout(100);
  await grace.page.getByRole('button', { name: /Jump to the newest/ }).click();
  await grace.sees(`Line ${count} of many`);
  await grace.page.getByRole('button', { name: /Jump to the newest/ }).waitFor({ state: 'hidden' });
  await ada.leave();
  await grace.leave();
});

test('the place in the history stays put while older messages load above it', options, async () => {
  const [ada, grace, hello] = await pair();
  const id = new URL(ada.page.url()).hash.split('/')[2];
  await ada.page.evaluate(async (conversation) => {
    for (let i = 1; i <= 130; i += 1) await globalThis.chat.sendText(conversation, `Row ${i}`);
  }, id);
  await grace.sees('Row 130');
  await grace.page.reload();
  await grace.sees('Row 130');
  const moved = await grace.page.evaluate(async () => {
    const scroller = document.querySelector('.scroller');
    scroller.scrollTop = 400;
    const top = scroller.getBoundingClientRect().top;
    const row = [...document.querySelectorAll('.message')].find((one) => one.getBoundingClientRect().bottom > top);
    const before = row.getBoundingClientRect().top;
    const count = document.querySelectorAll('.message').length;
    const text = row.querySelector('.text').textContent;
    const deadline = Date.now() + 5_000;
    while (document.querySelectorAll('.message').length === count && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
    const after = [...document.querySelectorAll('.message')].find((one) => one.querySelector('.text').textContent === text);
    return { by: after.getBoundingClientRect().top - before, grew: document.querySelectorAll('.message').length - count };
  });
  assert.ok(moved.grew > 0, 'older messages were loaded');
  assert.ok(Math.abs(moved.by) <= 2, `the message in view moved by ${moved.by}px`);
  await ada.leave();
  await grace.leave();
});

test('three people form a group, mention each other, and one leaves', options, async () => {
  const [[ada, grace], alan] = [await pair(), await Person.signUp('Alan')];
  const { page } = ada;
  await page.getByRole('button', { name: 'New chat' }).first().click();
  await page.locator('dialog').getByRole('button', { name: 'New group' }).click();
  await page.getByLabel('Group name').fill('Engine crew');
  for (const one of [grace, alan]) {
    await page.locator('dialog input[type=search]').fill(one.handle);
    await page.locator('dialog .people-search .person', { hasText: one.handle }).getByRole('button').click();
  }
  await ada.picture('dialog-group');
  await page.locator('dialog').getByRole('button', { name: 'Create', exact: true }).click();
  await ada.header('Engine crew');
  await ada.say('Welcome, both');
  for (const one of [grace, alan]) {
    await one.openFromList('Engine crew');
    await one.sees('Welcome, both');
  }
  await ada.sees_state('Welcome, both', 'read');

  await grace.composer().pressSequentially('Look, @al');
  await grace.page.locator('.suggestions li', { hasText: 'Alan' }).waitFor();
  await grace.composer().press('Enter');
  await grace.composer().pressSequentially('here');
  await grace.composer().press('Enter');
  await alan.page.locator('.message.mentioned .mention', { hasText: alan.handle }).waitFor();
  await alan.say('I am here');
  await ada.sees('I am here');
  await ada.picture('desktop-group');

  await alan.page.getByRole('button', { name: 'Info', exact: true }).click();
  await alan.page.locator('dialog').getByRole('button', { name: 'Leave group' }).click();
  await alan.page.locator('dialog .danger').last().click();
  await alan.page.locator('.conversation', { hasText: 'Engine crew' }).waitFor({ state: 'detached' });
  await ada.page.locator('.log-note', { hasText: 'Alan left' }).waitFor();
  await page.getByRole('button', { name: 'Info', exact: true }).click();
  await page.locator('dialog .person').nth(1).waitFor();
  await eventually(async () => (await page.locator('dialog .person').count()) === 2, 'two members remain');
  await ada.picture('dialog-info');
  await page.locator('dialog').getByRole('button', { name: 'Rename' }).click();
  await page.locator('dialog').last().getByLabel('Group name').fill('Difference engine');
  await page.locator('dialog').last().getByRole('button', { name: 'Save' }).click();
  await grace.header('Difference engine');
  await Promise.all([ada, grace, alan].map((one) => one.leave()));
});

test('friends ask, accept, and see each other come and go', options, async () => {
  const [ada, grace] = await Promise.all([Person.signUp('Ada'), Person.signUp('Grace')]);
  await ada.page.getByRole('link', { name: /Friends/ }).click();
  await ada.page.locator('.sidebar input[type=search]').fill(grace.handle);
  await ada.page.locator('.sidebar .people-search .person', { hasText: grace.handle }).getByRole('button', { name: 'Add friend' }).click();
  await grace.page.getByRole('link', { name: /Friends/ }).locator('.badge', { hasText: '1' }).waitFor();
  await grace.page.getByRole('link', { name: /Friends/ }).click();
  await grace.page.getByRole('region', { name: 'Requests' }).getByRole('button', { name: 'Accept' }).click();
  const dot = ada.page.getByRole('region', { name: 'Friends' }).locator('.presence.online');
  await dot.waitFor();
  await grace.picture('desktop-friends');
  await grace.leave();
  // A closed socket is noticed at once or, at the latest, when heartbeats have been missing for a while.
  await dot.waitFor({ state: 'detached', timeout: 60_000 });
  await ada.leave();
});

test('a live room is created, joined and chatted in', options, async () => {
  const [ada, grace] = await pair();
  const name = `Launch ${Date.now().toString(36)}`;
  await ada.page.getByRole('link', { name: /Rooms/ }).click();
  await ada.page.getByRole('button', { name: 'New room' }).click();
  await ada.page.getByLabel('Room name').fill(name);
  await ada.page.locator('dialog').getByRole('button', { name: 'Save' }).click();
  await ada.header(name);
  await grace.page.getByRole('link', { name: /Rooms/ }).click();
  await grace.openFromList(name);
  await grace.composer().waitFor();
  await ada.say('Ten, nine, eight');
  await grace.sees('Ten, nine, eight');
  await grace.say('Lift-off');
  await ada.sees('Lift-off');
  await grace.page.getByRole('button', { name: 'Leave room' }).click();
  await grace.leave();
  await ada.leave();
});

test('two tabs of one person both stay live, and what is read in one is read in the other', options, async () => {
  const [ada, grace, hello] = await pair();
  const tab = await ada.open();
  await ada.row('Grace', tab).waitFor();
  await grace.say('To both tabs');
  await tab.locator('.conversation', { hasText: 'To both tabs' }).waitFor();
  await ada.page.bringToFront();
  await ada.sees('To both tabs');
  await tab.locator('.conversation .badge').waitFor({ state: 'detached' });
  await ada.say('From the first tab');
  await tab.locator('.conversation', { hasText: 'From the first tab' }).waitFor();
  assert.equal(await ada.message('From the first tab').count(), 1);
  await ada.leave();
  await grace.leave();
});

test('another device shows the same history, and can be logged out from afar', options, async () => {
  const [ada, grace, hello] = await pair();
  const phone = await Person.visit('Ada');
  Object.assign(phone, { handle: ada.handle });
  await phone.page.locator('[name=handle]').fill(ada.handle);
  await phone.page.locator('[name=password]').fill(ada.password);
  await phone.page.locator('button[type=submit]').click();
  await phone.openFromList('Grace');
  await phone.sees(hello);
  await phone.say('From the other device');
  await ada.sees('From the other device');
  await ada.page.getByRole('button', { name: 'Settings' }).click();
  await ada.page.getByRole('region', { name: 'Devices' }).getByRole('button', { name: /^Log out/ }).first().click();
  await ada.page.locator('dialog .danger').click();
  phone.tolerated.push(/401/);
  await phone.page.locator('.auth').waitFor();
  await phone.page.locator('.notice').waitFor();
  await phone.leave();
  await ada.leave();
  await grace.leave();
});

test('a wrong password and a taken handle are explained', options, async () => {
  const [ada] = await pair();
  const other = await Person.visit('Mallory');
  other.tolerated.push(/status of 4\d\d/);
  await other.page.locator('[name=handle]').fill(ada.handle);
  await other.page.locator('[name=password]').fill('not the password');
  await other.page.locator('button[type=submit]').click();
  await other.page.locator('.problem', { hasText: 'Handle or password is wrong' }).waitFor();
  await other.page.getByRole('button', { name: 'Sign up' }).click();
  await other.page.locator('[name=handle]').fill(ada.handle);
  await other.page.locator('[name=password]').fill('another long password');
  await other.page.locator('button[type=submit]').click();
  await other.page.locator('.problem', { hasText: 'belongs to somebody else' }).waitFor();
  await other.picture('sign-up');
  await other.leave();
  await ada.leave();
});

export { url };
