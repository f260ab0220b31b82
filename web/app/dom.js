// @ts-check

/**
 * An element. `class`, `text`, `on` (listeners) and `data` are special; `true` sets an empty attribute, `false` and
 * `null` leave it out; everything else becomes an attribute. Text is only ever set as text, never as markup.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>|null} [props]
 * @param {...(Node|string|null|false|undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'text') element.textContent = value;
    else if (name === 'class') element.className = value;
    else if (name === 'value') /** @type {any} */ (element).value = value;
    else if (name === 'on') for (const [type, run] of Object.entries(value)) element.addEventListener(type, /** @type {any} */ (run));
    else if (name === 'data') Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

const SHAPES = {
  back: 'M15 5l-7 7 7 7',
  plus: 'M12 5v14M5 12h14',
  close: 'M6 6l12 12M18 6L6 18',
  more: 'M5 12h.01M12 12h.01M19 12h.01',
  send: 'M5 12h13M12 5l7 7-7 7',
  chats: 'M5 5h14a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2h-7l-5 4v-4H5a2 2 0 0 1-2-2V7a2 2 0 0 1 2-2z',
  friends: 'M16 20v-1a4 4 0 0 0-4-4H7a4 4 0 0 0-4 4v1M9.5 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM21 20v-1a4 4 0 0 0-3-3.8M15.5 4.2a3.5 3.5 0 0 1 0 6.7',
  rooms: 'M4.5 18.5a10 10 0 0 1 0-13M19.5 5.5a10 10 0 0 1 0 13M7.8 15.5a5.5 5.5 0 0 1 0-7M16.2 8.5a5.5 5.5 0 0 1 0 7M12 12h.01',
  settings: 'M4 7h9M19 7h1M4 17h1M11 17h9M16 10a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM8 20a3 3 0 1 0 0-6 3 3 0 0 0 0 6z',
  info: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 11v5M12 8h.01',
  clock: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7.5V12l3 2',
  check: 'M5 13l4.5 4.5L19 8',
  checks: 'M2 13l4.5 4.5L15 9M11 16.5l1 1L21.5 8',
  alert: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7.5v5.5M12 16.5h.01',
  down: 'M12 5v14M5 12l7 7 7-7',
  reply: 'M9 7L4 12l5 5M4 12h10a6 6 0 0 1 6 6v1',
  smile: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM8.5 14.5a4.5 4.5 0 0 0 7 0M9 9.5h.01M15 9.5h.01',
  edit: 'M4 20h4L19 9a2.1 2.1 0 0 0-3-3L5 16.5z',
  trash: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13',
  copy: 'M9 9h10v11H9zM5 15V4h10',
  group: 'M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4 20a8 8 0 0 1 16 0M19 6v6M22 9h-6',
  search: 'M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM20 20l-4-4',
};

/** A picture of lines that only decorates. @param {keyof typeof SHAPES} name */
export function icon(name) {
  const space = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(space, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', `icon icon-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(space, 'path');
  path.setAttribute('d', SHAPES[name]);
  svg.append(path);
  return svg;
}

/**
 * A button that shows an icon.
 * @param {keyof typeof SHAPES} shape
 * @param {string} label
 * @param {(event: MouseEvent) => void} run
 * @param {Record<string, any>} [props]
 */
export function iconButton(shape, label, run, props = {}) {
  return h('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, on: { click: run }, ...props }, icon(shape));
}

/**
 * @param {string} text
 * @param {(event: MouseEvent) => void} run
 * @param {string} [kind]
 */
export function button(text, run, kind = '') {
  return h('button', { type: 'button', class: `button ${kind}`, text, on: { click: run } });
}

/**
 * A picture of a person or group: their own, or initials on a colour made from the id.
 * @param {{id: string, name: string, picture?: string, online?: boolean|null, shape?: 'round'|'square'}} whom
 */
export function avatar({ id, name, picture, online = null, shape = 'round' }) {
  const letters = [...name.trim()].slice(0, /[가-힣]/.test(name) ? 2 : 1).join('').toUpperCase() || '?';
  const element = h('span', { class: `avatar ${shape} tint-${hash(id) % 8}`, 'aria-hidden': 'true' }, h('span', { text: letters }));
  if (picture && /^https:\/\//.test(picture)) {
    const image = h('img', { src: picture, alt: '', loading: 'lazy', referrerpolicy: 'no-referrer' });
    image.addEventListener('error', () => image.remove());
    element.append(image);
  }
  if (online !== null) element.append(h('span', { class: `presence ${online ? 'online' : ''}` }));
  return element;
}

/** @param {string} text */
function hash(text) {
  let sum = 0;
  for (const character of text) sum = (sum * 31 + character.charCodeAt(0)) >>> 0;
  return sum;
}

/**
 * Makes the children of `parent` those items, in order; keeps the element of an item whose signature has not changed, and
 * the focus inside one that was made again.
 * @param {HTMLElement} parent
 * @param {{key: string, signature: string, build: () => HTMLElement}[]} items
 */
export function reconcile(parent, items) {
  const known = new Map([...parent.children].map((child) => [/** @type {HTMLElement} */ (child).dataset.key ?? '', /** @type {HTMLElement} */ (child)]));
  const focused = document.activeElement;
  const wanted = new Set(items.map((item) => item.key));
  for (const [key, element] of known) {
    if (!wanted.has(key)) element.remove();
  }
  /** @type {ChildNode|null} */
  let next = parent.firstChild;
  for (const item of items) {
    let element = known.get(item.key);
    if (element && signatures.get(element) !== item.signature) {
      const fresh = prepare(item);
      const path = focused && element.contains(focused) ? focusPath(element, focused) : null;
      if (next === element) next = element.nextSibling;
      element.replaceWith(fresh);
      if (path) restoreFocus(fresh, path);
      element = fresh;
    } else {
      element ??= prepare(item);
    }
    if (element === next) next = element.nextSibling;
    else if (element.nextSibling !== next || element.parentNode !== parent) parent.insertBefore(element, next);
  }
}

/** @type {WeakMap<Element, string>} */
const signatures = new WeakMap();

/** @param {{key: string, signature: string, build: () => HTMLElement}} item */
function prepare(item) {
  const element = item.build();
  element.dataset.key = item.key;
  signatures.set(element, item.signature);
  return element;
}

/** @param {Element} root @param {Element} focused */
function focusPath(root, focused) {
  return root === focused ? -1 : [...root.querySelectorAll('a, button, input, select, textarea')].indexOf(focused);
}

/** @param {HTMLElement} root @param {number} path */
function restoreFocus(root, path) {
  const target = path < 0 ? root : root.querySelectorAll('a, button, input, select, textarea')[path];
  /** @type {HTMLElement|undefined} */ (target)?.focus({ preventScroll: true });
}

/**
 * Lets the arrow keys move between elements of a list.
 * @param {HTMLElement} list
 * @param {string} selector
 */
export function arrowKeys(list, selector) {
  list.addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const ends = event.key === 'Home' || event.key === 'End';
    const target = /** @type {HTMLElement} */ (event.target);
    if ((!step && !ends) || target.matches('input, textarea, select')) return;
    const all = /** @type {HTMLElement[]} */ ([...list.querySelectorAll(selector)]);
    const here = all.findIndex((one) => one === target || one.contains(target));
    if (here < 0) return;
    const next = ends ? (event.key === 'Home' ? 0 : all.length - 1) : here + (step ?? 0);
    if (all[next]) {
      event.preventDefault();
      all[next].focus();
    }
  });
}

/** Runs `work` once before the next frame, however often it is asked for. @param {() => void} work */
export function onNextFrame(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    // Frames stop in a hidden page; it must not fall behind.
    const run = () => { if (asked) { asked = false; work(); } };
    if (document.hidden) setTimeout(run, 50);
    else requestAnimationFrame(run);
  };
}
