// @ts-check
import { field, form } from './dialogs.js';
import { h } from './dom.js';
import { t } from './i18n.js';

/**
 * Sign-up and login.
 * @param {import('../sdk/index.js').ChatClient} client
 * @param {string} notice why the person is here, if that needs saying
 */
export function authView(client, notice) {
  const place = h('main', { class: 'auth' });
  const show = (/** @type {boolean} */ signUp) => {
    const handle = h('input', { name: 'handle', required: true, minlength: 3, maxlength: 32, pattern: '[A-Za-z0-9_.]+', autocomplete: 'username', autocapitalize: 'none', spellcheck: 'false' });
    const password = h('input', { name: 'password', type: 'password', required: true, minlength: signUp ? 8 : 1, maxlength: 256, autocomplete: signUp ? 'new-password' : 'current-password' });
    const name = h('input', { name: 'name', maxlength: 80, autocomplete: 'name' });
    const send = async () => {
      const login = { handle: handle.value.trim(), password: password.value, device_name: deviceName() };
      if (signUp) await client.signUp({ ...login, ...(name.value.trim() ? { name: name.value.trim() } : {}) });
      else await client.logIn(login);
    };
    const other = h('button', { type: 'button', class: 'link', text: t(signUp ? 'log_in' : 'sign_up'), on: { click: () => { show(!signUp); } } });
    place.replaceChildren(
      h('div', { class: 'auth-card' },
        h('img', { src: '/icon.svg', alt: '', class: 'logo', width: 56, height: 56 }),
        h('h1', { text: t(signUp ? 'create_account' : 'app_name') }),
        h('p', { class: 'muted', text: t('tagline') }),
        notice ? h('p', { class: 'notice', role: 'status', text: notice }) : null,
        form(t(signUp ? 'create_account' : 'log_in'), send,
          field(t('handle'), handle, signUp ? t('handle_hint') : undefined),
          signUp && field(`${t('your_name')} (${t('optional')})`, name),
          field(t('password'), password, signUp ? t('password_hint') : undefined)),
        h('p', { class: 'muted switch' }, `${t(signUp ? 'have_account' : 'no_account')} `, other)),
    );
    handle.focus();
  };
  queueMicrotask(() => show(false));
  return place;
}

/** A name for the device list, such as "Firefox on Linux". */
function deviceName() {
  const agent = navigator.userAgent;
  const browser = ['Edg', 'OPR', 'Firefox', 'Chrome', 'Safari'].find((one) => agent.includes(`${one}/`)) ?? 'Browser';
  const system = [['Android', 'Android'], ['iPhone', 'iPhone'], ['iPad', 'iPad'], ['Windows', 'Windows'], ['Mac OS', 'macOS'], ['CrOS', 'ChromeOS'], ['Linux', 'Linux']]
    .find(([mark]) => agent.includes(mark))?.[1];
  const names = /** @type {Record<string, string>} */ ({ Edg: 'Edge', OPR: 'Opera' });
  return [names[browser] ?? browser, system].filter(Boolean).join(' · ');
}
