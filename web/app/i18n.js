// @ts-check
import en from './strings/en.js';
import ko from './strings/ko.js';

/** @typedef {keyof typeof en} Key */

const TABLES = { en, ko };
const STORED = 'chat.language';

/** The language in use. */
export let language = choose();

/** @returns {'en'|'ko'} */
function choose() {
  const stored = globalThis.localStorage?.getItem(STORED);
  if (stored === 'en' || stored === 'ko') return stored;
  return navigator.languages.find((one) => /^(en|ko)\b/i.test(one))?.toLowerCase().startsWith('ko') ? 'ko' : 'en';
}

/** What was chosen: `auto`, `en` or `ko`. */
export function chosenLanguage() {
  return localStorage.getItem(STORED) ?? 'auto';
}

/** @param {string} choice */
export function setLanguage(choice) {
  if (choice === 'auto') localStorage.removeItem(STORED);
  else localStorage.setItem(STORED, choice);
  language = choose();
  document.documentElement.lang = language;
}

/**
 * The text for a key.
 * @param {Key} key
 * @param {any} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const text = /** @type {any} */ (TABLES[language][key] ?? en[key]);
  return typeof text === 'function' ? text(values) : text;
}

/**
 * A failure as a sentence in the language in use where there is one, otherwise as the server put it.
 * @param {unknown} error
 */
export function explain(error) {
  const failure = /** @type {{code?: string, detail?: string, message?: string}} */ (error);
  const key = /** @type {Key} */ (`error_${failure?.code}`);
  if (key in en) return t(key);
  return failure?.detail ?? failure?.message ?? String(error);
}

const DAY_MS = 86_400_000;

/** @param {number} ms */
export function clockTime(ms) {
  return format('clock', { hour: 'numeric', minute: '2-digit' }, ms);
}

/** @param {number} ms */
export function fullTime(ms) {
  return format('full', { dateStyle: 'full', timeStyle: 'short' }, ms);
}

/** A day as a heading. @param {number} ms */
export function dayName(ms) {
  const days = Math.round((startOfDay(Date.now()) - startOfDay(ms)) / DAY_MS);
  if (days === 0) return t('today');
  if (days === 1) return t('yesterday');
  const year = new Date(ms).getFullYear() === new Date().getFullYear();
  return format(`day${year}`, { weekday: 'long', month: 'long', day: 'numeric', ...(year ? {} : { year: 'numeric' }) }, ms);
}

/** A moment as short as a list needs it. @param {number} ms */
export function shortTime(ms) {
  const days = Math.round((startOfDay(Date.now()) - startOfDay(ms)) / DAY_MS);
  if (days === 0) return clockTime(ms);
  if (days === 1) return t('yesterday');
  if (days < 7) return format('weekday', { weekday: 'short' }, ms);
  return format('date', { month: 'numeric', day: 'numeric', year: '2-digit' }, ms);
}

/** @param {number} ms */
export function startOfDay(ms) {
  return new Date(ms).setHours(0, 0, 0, 0);
}

/** @type {Map<string, Intl.DateTimeFormat>} */
const formats = new Map();

/**
 * @param {string} name
 * @param {Intl.DateTimeFormatOptions} options
 * @param {number} ms
 */
function format(name, options, ms) {
  const key = `${language} ${name}`;
  // English has many ways to write a time: the browser knows which one.
  const locale = navigator.languages.find((one) => one.toLowerCase().startsWith(language)) ?? language;
  const known = formats.get(key) ?? new Intl.DateTimeFormat(locale, options);
  formats.set(key, known);
  return known.format(ms);
}
