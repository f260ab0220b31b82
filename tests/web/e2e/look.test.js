import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually, launch, options, Person, quit } from './support.js';

before(launch);
after(quit);

/** Looks over the page the way a checker for screen readers would; answers what it would complain about. */
async function complaints(page) {
  return page.evaluate(() => {
    const found = [];
    const visible = (element) => element.checkVisibility({ visibilityProperty: true });
    const name = (element) => {
      const by = element.getAttribute('aria-labelledby');
      return element.getAttribute('aria-label') || (by && document.getElementById(by)?.textContent) || element.textContent?.trim()
        || element.labels?.[0]?.textContent || element.getAttribute('alt') || '';
    };
    for (const control of document.querySelectorAll('button, a[href], input, textarea, select, dialog, [role=menuitem]')) {
      if (visible(control) && !name(control)) found.push(`no name: ${control.outerHTML.slice(0, 120)}`);
    }
    for (const image of document.querySelectorAll('img')) if (!image.hasAttribute('alt')) found.push('an image without alt');
    const mains = [...document.querySelectorAll('main')];
    if (mains.length !== 1) found.push(`${mains.length} main landmarks`);
    const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
    for (const id of new Set(ids)) if (ids.filter((one) => one === id).length > 1) found.push(`id twice: ${id}`);
    for (const region of document.querySelectorAll('aside, nav, section[aria-labelledby], [role=log]')) {
      if (visible(region) && !region.getAttribute('aria-label') && !region.getAttribute('aria-labelledby')) found.push(`a region without a name: ${region.className}`);
    }
    for (const reference of document.querySelectorAll('[aria-labelledby], [aria-controls], [aria-describedby]')) {
      for (const attribute of ['aria-labelledby', 'aria-controls', 'aria-describedby']) {
        const id = reference.getAttribute(attribute);
        if (id && !document.getElementById(id)) found.push(`${attribute} names nothing: ${id}`);
      }
    }
    const headings = [...document.querySelectorAll('h1')].filter(visible);
    if (headings.length > 1) found.push('more than one h1');
    if (!document.documentElement.lang) found.push('the page has no language');
    for (const styled of document.querySelectorAll('[style]:not([style=""], textarea, .menu)')) found.push(`an inline style: ${styled.outerHTML.slice(0, 120)}`);
    return found;
  });
}

/** The lowest contrast of text on the page that is not decoration. */
async function lowContrast(page) {
  return page.evaluate(() => {
    const parse = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => {
      const [x, y, z] = [r, g, b].map((one) => (one / 255 <= 0.03928 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const colour = parse(getComputedStyle(at).backgroundColor);
        if (colour.length === 3 || colour[3] === 1) return colour;
      }
      return [255, 255, 255];
    };
    const found = [];
    for (const element of document.querySelectorAll('.conversation-title, .preview, time, .text, .meta, .muted, .header-subtitle, .tabs a, .day span, .button, label, .typing-line')) {
      if (!element.checkVisibility() || !element.textContent.trim() || element.closest('.queued')) continue;
      const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < 4.5) found.push(`${element.className || element.tagName} ${ratio.toFixed(2)}`);
    }
    return [...new Set(found)];
  });
}

async function conversation(options1, options2) {
  const [ada, grace] = await Promise.all([Person.signUp('Ada Lovelace', options1), Person.signUp('Grace Hopper', options2)]);
  await ada.openChatWith(grace);
  await ada.say('Have you seen the notes on the engine?');
  await grace.openFromList('Ada Lovelace');
  await grace.say('Yes! Note G is my favourite.');
  await grace.say('The table at https://example.org/note-g is worth a look.');
  await ada.sees('worth a look');
  if (options1.hasTouch) {
    // On a touch screen a tap on the bubble opens the menu.
    await ada.message('Note G').locator('.bubble').tap();
    await ada.page.getByRole('menuitem', { name: /❤️/ }).tap();
  } else {
    await ada.menu('Note G', /❤️/);
  }
  await ada.message('Note G').locator('.reaction').waitFor();
  return [ada, grace];
}

test('landmarks, names and contrast hold in light and dark', options, async () => {
  const [ada, grace] = await conversation({ colorScheme: 'light', reducedMotion: 'reduce' }, { colorScheme: 'dark', reducedMotion: 'reduce' });
  for (const one of [ada, grace]) {
    assert.deepEqual(await complaints(one.page), []);
    assert.deepEqual(await lowContrast(one.page), []);
    assert.equal(await one.page.locator('main').count(), 1);
    assert.equal(await one.page.getByRole('log').count(), 1);
    assert.equal(await one.page.getByRole('navigation').count(), 1);
    assert.equal(await one.page.getByRole('complementary').count(), 1);
  }
  await ada.picture('desktop-light');
  await grace.picture('desktop-dark');
  assert.notEqual(await ada.page.evaluate(() => getComputedStyle(document.body).backgroundColor), await grace.page.evaluate(() => getComputedStyle(document.body).backgroundColor));

  await ada.page.getByRole('button', { name: 'Settings' }).click();
  await ada.page.getByLabel('Theme').selectOption('dark');
  assert.equal(await ada.page.evaluate(() => document.documentElement.dataset.theme), 'dark');
  assert.deepEqual(await complaints(ada.page), []);
  assert.deepEqual(await lowContrast(ada.page), []);
  await ada.picture('desktop-settings-dark');
  await ada.leave();
  await grace.leave();
});

test('a phone shows one pane at a time', options, async () => {
  const phone = { viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };
  const [ada, grace] = await conversation(phone, {});
  await ada.picture('phone-chat');
  assert.equal(await ada.page.locator('.sidebar').isVisible(), false);
  const wide = await ada.page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  assert.equal(wide, false, 'nothing sticks out sideways');
  assert.deepEqual(await complaints(ada.page), []);
  await ada.page.getByRole('button', { name: 'Back' }).click();
  await ada.page.locator('.sidebar').waitFor();
  assert.equal(await ada.page.locator('.main').isVisible(), false);
  await ada.picture('phone-list');
  await ada.page.getByRole('link', { name: /Friends/ }).click();
  await ada.picture('phone-friends');
  await ada.leave();
  await grace.leave();
});

test('Korean from the first page on, and switchable', options, async () => {
  const kim = await Person.signUp('김민지', { locale: 'ko-KR' });
  const ada = await Person.signUp('Ada');
  assert.equal(await kim.page.evaluate(() => document.documentElement.lang), 'ko');
  await kim.page.getByRole('heading', { name: '대화', exact: true }).waitFor();
  await kim.openChatWith(ada);
  await kim.say('안녕하세요, 에이다! 만나서 반갑습니다.');
  await ada.openFromList('김민지');
  await ada.sees('안녕하세요');
  await ada.say('Hello 민지!');
  await kim.sees('Hello 민지!');
  await kim.picture('desktop-korean');
  await kim.page.getByRole('button', { name: '설정' }).click();
  await kim.page.getByLabel('언어').selectOption('en');
  await kim.page.getByRole('heading', { name: 'Settings' }).waitFor();
  assert.equal(await kim.page.evaluate(() => document.documentElement.lang), 'en');
  await kim.leave();
  await ada.leave();
});

test('everything needed for a chat works from the keyboard', options, async () => {
  const [ada, grace] = await Promise.all([Person.visit('Ada'), Person.signUp('Grace')]);
  const { keyboard } = ada.page;
  const focusOn = async (selector, step = 'Tab') => {
    for (let i = 0; i < 40; i += 1) {
      if (await ada.page.evaluate((wanted) => document.activeElement?.matches(wanted), selector)) return;
      await keyboard.press(step);
    }
    assert.fail(`the keyboard does not reach ${selector}`);
  };
  // The first field has the focus already.
  await focusOn('.link');
  await keyboard.press('Enter');
  await focusOn('[name=handle]', 'Shift+Tab');
  await keyboard.type(ada.handle);
  await focusOn('[name=password]');
  await keyboard.type(ada.password);
  await keyboard.press('Enter');
  await ada.page.locator('.sidebar').waitFor();
  await focusOn('.icon-button.prominent');
  await keyboard.press('Enter');
  await keyboard.type(grace.handle);
  await ada.page.locator('dialog .person').waitFor();
  await focusOn('dialog .person button');
  await keyboard.press('Enter');
  await ada.header('Grace');
  await focusOn('#composer');
  await keyboard.type('One line');
  await keyboard.press('Shift+Enter');
  await keyboard.type('and a second');
  await keyboard.press('Enter');
  await grace.openFromList(ada.handle);
  await grace.sees('One line\nand a second');
  // Into the log with the arrows, react through the menu, and back out with Escape.
  await focusOn('.messages', 'Shift+Tab');
  await keyboard.press('ArrowUp');
  await keyboard.press('Enter');
  await ada.page.getByRole('menu').waitFor();
  const ring = await ada.page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.notEqual(ring, 'none', 'the focus is visible');
  await keyboard.press('Escape');
  await ada.page.getByRole('menu').waitFor({ state: 'detached' });
  await keyboard.press('Enter');
  await keyboard.press('Enter');
  await grace.message('One line').locator('.reaction').waitFor();
  await keyboard.press('Escape');
  await eventually(() => ada.page.evaluate(() => document.activeElement?.classList.contains('conversation') ?? false), 'Escape goes to the list');
  await ada.leave();
  await grace.leave();
});
