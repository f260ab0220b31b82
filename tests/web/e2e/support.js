/** Browsers and people for the end-to-end tests. */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

export const url = process.env.CHAT_TEST_URL?.replace(/\/$/, '');
const required = process.env.CHAT_TEST_REQUIRE?.split(',').includes('web');
if (!url && required) throw new Error('CHAT_TEST_URL must name a running node, because CHAT_TEST_REQUIRE asks for the web tests');
if (!url) console.error('SKIPPED: the end-to-end web tests need a running node; set CHAT_TEST_URL=http://host:port');

/** What to hand to `test()` so that it is skipped, and says so, without a node. */
export const options = { skip: url ? false : 'CHAT_TEST_URL is not set', timeout: 240_000 };

const pictures = fileURLToPath(new URL('../../../target/web/', import.meta.url));
mkdirSync(pictures, { recursive: true });

let browser;

export async function launch() {
  if (!url) return;
  browser = await chromium.launch({
    executablePath: process.env.CHAT_TEST_CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}

export async function quit() {
  await browser?.close();
}

const suffix = Date.now().toString(36);
let people = 0;

/** Someone with a browser of their own, signed up and looking at the page. */
export class Person {
  static async signUp(name, contextOptions = {}) {
    const person = await Person.visit(name, contextOptions);
    const { page } = person;
    await page.getByRole('button', { name: /^(Sign up|가입하기)$/ }).click();
    await page.locator('[name=handle]').fill(person.handle);
    await page.locator('[name=name]').fill(name);
    await page.locator('[name=password]').fill(person.password);
    await person.submitSignUp();
    return person;
  }

  /** A node limits sign-ups per address; a test waits like a person would. */
  async submitSignUp() {
    const { page } = this;
    this.tolerated.push(/status of 429/);
    for (let tries = 0; tries < 4; tries += 1) {
      await page.locator('button[type=submit]').click();
      await page.locator('.sidebar, .problem:not([hidden])').first().waitFor();
      if (await page.locator('.sidebar').count() > 0) return;
      const problem = await page.locator('.problem').textContent();
      assert.match(problem, /too fast|너무 빠릅니다/);
      await page.waitForTimeout(31_000);
    }
    assert.fail('the node goes on refusing sign-ups');
  }

  /** At the login page, with no account yet. */
  static async visit(name, contextOptions = {}) {
    const person = new Person();
    people += 1;
    Object.assign(person, { name, handle: `${name.toLowerCase().replace(/[^a-z]/g, '') || 'kim'}.${suffix}${people}`, password: 'correct horse battery', problems: [], tolerated: [], sockets: [] });
    person.context = await browser.newContext({ viewport: { width: 1180, height: 800 }, locale: 'en-GB', ...contextOptions });
    person.page = await person.open();
    return person;
  }

  /** Another tab of the same browser. */
  async open() {
    const page = await this.context.newPage();
    page.setDefaultTimeout(30_000);
    const note = (text) => { if (!this.tolerated.some((pattern) => pattern.test(text))) this.problems.push(text); };
    page.on('console', (message) => { if (message.type() === 'error' || /Content Security Policy/.test(message.text())) note(`${message.text()} ${message.location().url}`); });
    page.on('websocket', (socket) => this.sockets.push(socket.url()));
    page.on('pageerror', (error) => note(String(error.stack)));
    await page.goto(url);
    return page;
  }

  /** While offline the browser itself reports refused requests. */
  async setOffline(offline) {
    this.tolerated.push(/net::ERR_INTERNET_DISCONNECTED|WebSocket connection to .* failed/);
    await this.context.setOffline(offline);
  }

  async openChatWith(other) {
    const { page } = this;
    await page.locator('.tabs a').first().click();
    await page.getByRole('button', { name: /^(New chat|새 대화)$/ }).first().click();
    await page.locator('dialog input[type=search]').fill(other.handle);
    await page.locator('dialog .person', { hasText: other.handle }).getByRole('button').first().click();
    await this.header(other.name);
  }

  async header(text) {
    await this.page.locator('.header-title', { hasText: text }).waitFor();
  }

  async openFromList(title) {
    await this.row(title).click();
    await this.header(title);
  }

  /** A conversation in the list, by its title alone. */
  row(title, page = this.page) {
    return page.locator('.conversation', { has: page.locator('.conversation-title', { hasText: title }) });
  }

  composer() {
    return this.page.locator('#composer');
  }

  async say(text) {
    await this.composer().fill(text);
    await this.composer().press('Enter');
  }

  /** The message with this text. */
  message(text) {
    return this.page.locator('.message', { has: this.page.locator('.text', { hasText: text }) });
  }

  async sees(text) {
    await this.message(text).first().waitFor();
  }

  /** Waits until the own message has got this far. */
  async sees_state(text, state) {
    await this.message(text).locator(`.delivery[data-state=${state}]`).first().waitFor();
  }

  async menu(text, item) {
    await this.message(text).hover();
    await this.message(text).locator('.message-more').click();
    await this.page.getByRole('menuitem', { name: item }).click();
  }

  async picture(name) {
    await this.page.screenshot({ path: `${pictures}${name}.png` });
  }

  async texts() {
    return this.page.locator('.message .text').allTextContents();
  }

  /** Back to where every test begins; the account and the browser stay. */
  async home() {
    await this.context.unrouteAll({ behavior: 'ignoreErrors' });
    await this.context.setOffline(false);
    for (const page of this.context.pages()) if (page !== this.page) await page.close();
    await this.page.goto(`${url}/#/chats`);
    // Only the part after `#` may have changed: a reload closes whatever was left open.
    await this.page.reload();
    await this.page.locator('.sidebar').waitFor();
    this.tolerated = [];
  }

  /** Ends a test: no errors may be left; a browser that other tests go on with stays. */
  async leave() {
    const problems = this.problems.splice(0);
    if (!this.shared) await this.context.close();
    assert.deepEqual(problems, [], `errors in ${this.name}'s console`);
  }
}

/** Waits until `check` holds. */
export async function eventually(check, what, timeoutMs = 30_000) {
  const deadline = Date.now() + timeoutMs;
  let last;
  do {
    last = await check();
    if (last === true) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  } while (Date.now() < deadline);
  assert.fail(`${what}: ${JSON.stringify(last)}`);
}
