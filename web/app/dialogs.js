// @ts-check
import { button, h, iconButton } from './dom.js';
import { explain, t } from './i18n.js';

/**
 * Opens a dialog over the page. Escape and the close button end it, and the focus goes back to where it was.
 * @param {string} title
 * @param {(dialog: {close: () => void, element: HTMLDialogElement}) => (Node|null|false)[]} build
 * @param {{onClose?: () => void, narrow?: boolean}} [options]
 */
export function openDialog(title, build, { onClose, narrow = false } = {}) {
  const before = /** @type {HTMLElement|null} */ (document.activeElement);
  const heading = h('h2', { id: 'dialog-title', text: title });
  const element = h('dialog', { class: narrow ? 'dialog narrow' : 'dialog', 'aria-labelledby': 'dialog-title' });
  const close = () => element.close();
  element.append(
    h('header', { class: 'dialog-header' }, heading, iconButton('close', t('close'), close)),
    h('div', { class: 'dialog-body' }, ...build({ close, element }).filter((one) => !!one)),
  );
  element.addEventListener('close', () => {
    element.remove();
    onClose?.();
    if (before?.isConnected) before.focus();
  });
  // A press on the shade, not on the dialog.
  element.addEventListener('pointerdown', (event) => { if (event.target === element) close(); });
  document.body.append(element);
  element.showModal();
  const first = /** @type {HTMLElement|null} */ (element.querySelector('[autofocus]'));
  first?.focus();
  return { element, close };
}

/**
 * Asks a question.
 * @param {string} question
 * @param {string} yes what the confirming button says
 * @returns {Promise<boolean>}
 */
export function ask(question, yes) {
  return new Promise((resolve) => {
    let answer = false;
    openDialog(yes, ({ close }) => [
      h('p', { text: question }),
      h('div', { class: 'dialog-actions' }, button(t('cancel'), close), button(yes, () => { answer = true; close(); }, 'danger')),
    ], { narrow: true, onClose: () => resolve(answer) });
  });
}

/**
 * Asks for a line of text.
 * @param {string} title
 * @param {string} label
 * @param {string} value
 * @param {(text: string) => Promise<any>} save
 */
export function askText(title, label, value, save) {
  openDialog(title, ({ close }) => {
    const input = h('input', { type: 'text', value, maxlength: 80, required: true, autofocus: true, autocomplete: 'off' });
    return [form(t('save'), async () => { await save(input.value.trim()); close(); }, field(label, input))];
  }, { narrow: true });
}

/**
 * An input with its label and, perhaps, a hint.
 * @param {string} label
 * @param {HTMLInputElement|HTMLSelectElement|HTMLTextAreaElement} input
 * @param {string} [hint]
 */
export function field(label, input, hint) {
  counter += 1;
  const id = `field-${counter}`;
  input.id ||= id;
  const note = hint ? h('span', { class: 'hint', id: `${id}-hint`, text: hint }) : null;
  if (note) input.setAttribute('aria-describedby', note.id);
  return h('div', { class: 'field' }, h('label', { for: input.id, text: label }), input, note);
}

let counter = 0;

/**
 * A form that runs `work`, shows its failure in words and cannot be sent twice at once.
 * @param {string} action text of the button
 * @param {() => Promise<any>} work
 * @param {...(Node|null|false)} children
 */
export function form(action, work, ...children) {
  const problem = h('p', { class: 'problem', role: 'alert', hidden: true });
  const submit = h('button', { type: 'submit', class: 'button primary', text: action });
  const element = h('form', { class: 'form' }, ...children, problem, h('div', { class: 'dialog-actions' }, submit));
  element.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (submit.disabled) return;
    submit.disabled = true;
    problem.hidden = true;
    try {
      await work();
    } catch (error) {
      problem.textContent = explain(error);
      problem.hidden = false;
    } finally {
      submit.disabled = false;
    }
  });
  return element;
}

let toastTimer = 0;

/** Says something for a moment, also to a screen reader. @param {string} text */
export function toast(text) {
  const region = document.getElementById('toast');
  if (!region) return;
  region.textContent = text;
  region.classList.add('shown');
  clearTimeout(toastTimer);
  toastTimer = window.setTimeout(() => {
    region.classList.remove('shown');
    region.textContent = '';
  }, 5_000);
}

/** Runs something a person asked for and says so if it fails. @param {() => Promise<any>} work */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    toast(explain(error));
    return undefined;
  }
}
