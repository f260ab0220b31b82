// @ts-check
import { ask, askText, attempt, field, form, toast } from './dialogs.js';
import { button, h, iconButton } from './dom.js';
import { chosenLanguage, setLanguage, shortTime, t } from './i18n.js';
import { personAvatar, personRow } from './people.js';
import { chosenTheme, setTheme } from './theme.js';

/** @typedef {import('../sdk/index.js').ChatClient} ChatClient */

/** Profile, appearance, devices, blocks, password, logging out. */
export class SettingsView {
  /** @param {ChatClient} client @param {(hash: string) => void} go @param {() => void} restyled the language has changed */
  constructor(client, go, restyled) {
    this.client = client;
    this.go = go;
    this.restyled = restyled;
    this.devices = h('ul', { class: 'people' });
    this.blocks = h('ul', { class: 'people' });
    this.element = h('section', { class: 'settings', 'aria-labelledby': 'settings-title' });
    this.refresh = () => void this.showDevices();
    client.addEventListener('devices', this.refresh);
    this.build();
  }

  close() {
    this.client.removeEventListener('devices', this.refresh);
  }

  update() {
    // Forms keep what is being written; only the lists follow.
    const key = [...this.client.blocked].join();
    if (key !== this.blockedKey) this.showBlocks();
    if (!this.built && this.client.me) this.build();
  }

  build() {
    const { client } = this;
    this.built = !!client.me;
    this.element.replaceChildren(
      h('header', { class: 'pane-header' },
        iconButton('back', t('back'), () => this.go('#/chats'), { class: 'icon-button back' }),
        h('h2', { id: 'settings-title', text: t('settings') })),
      h('div', { class: 'settings-body' },
        card(t('profile'), this.profileForm()),
        card(t('appearance'), this.appearance()),
        card(t('devices'), this.devices),
        card(t('blocked_people'), this.blocks),
        card(t('change_password'), this.passwordForm()),
        h('div', { class: 'dialog-actions start wrap' },
          button(t('log_out'), () => void this.logOut(false)),
          button(t('log_out_everywhere'), () => void this.logOut(true), 'danger'))));
    void this.showDevices();
    this.showBlocks();
  }

  profileForm() {
    const { client } = this;
    const me = client.me;
    const name = h('input', { value: me?.name ?? '', maxlength: 80, required: true, autocomplete: 'name' });
    const status = h('input', { value: me?.status ?? '', maxlength: 200, autocomplete: 'off' });
    const picture = h('input', { type: 'url', value: me?.picture ?? '', maxlength: 1000, pattern: 'https://.*', autocomplete: 'off' });
    const save = async () => {
      await client.changeProfile({ name: name.value.trim(), status: status.value.trim(), picture: picture.value.trim() });
      toast(t('saved'));
    };
    return h('div', null,
      h('div', { class: 'profile-card' }, personAvatar(client, client.userId ?? ''), h('p', { text: me ? `@${me.handle}` : '' })),
      form(t('save'), save, field(t('name'), name), field(t('status'), status), field(t('picture'), picture)));
  }

  appearance() {
    const language = select({ auto: t('language_auto'), en: 'English', ko: '한국어' }, chosenLanguage(), (choice) => {
      setLanguage(choice);
      void attempt(() => this.client.changeSettings({ language: choice }));
      this.restyled();
    });
    const theme = select({ auto: t('theme_auto'), light: t('theme_light'), dark: t('theme_dark') }, chosenTheme(), (choice) => {
      setTheme(choice);
      void attempt(() => this.client.changeSettings({ theme: choice }));
    });
    return h('div', { class: 'form' }, field(t('language'), language), field(t('theme'), theme));
  }

  async showDevices() {
    if (this.client.connection?.state !== 'live') return;
    const page = await attempt(() => this.client.api.devices());
    if (!page) return;
    this.devices.replaceChildren(...page.items.map((/** @type {import('../sdk/types.js').Device} */ device) => this.deviceRow(device)));
  }

  /** @param {import('../sdk/types.js').Device} device */
  deviceRow(device) {
    const { client } = this;
    const { name } = device;
    const rename = () => askText(t('device_name'), t('device_name'), name, async (text) => {
      await client.api.renameDevice(device.device_id, text);
      await this.showDevices();
    });
    const revoke = async () => {
      if (!await ask(t('revoke_question', { name }), t('revoke'))) return;
      await attempt(() => client.api.revokeDevice(device.device_id));
      await this.showDevices();
    };
    return h('li', { class: 'person' },
      h('div', { class: 'person-text' }, h('span', { class: 'person-name', text: name }),
        h('span', { class: 'muted small', text: device.current ? t('this_device') : t('last_seen', { time: shortTime(device.last_seen_at) }) })),
      h('div', { class: 'person-actions' },
        iconButton('edit', t('rename_device', { name }), rename),
        device.current ? null : h('button', { type: 'button', class: 'button small danger', text: t('revoke'), 'aria-label': t('revoke_device', { name }), on: { click: () => void revoke() } })));
  }

  showBlocks() {
    const { client } = this;
    this.blockedKey = [...client.blocked].join();
    const rows = [...client.blocked].map((id) => personRow(client, client.person(id), button(t('unblock'), () => void attempt(() => client.setBlocked(id, false)), 'small')));
    this.blocks.replaceChildren(...(rows.length > 0 ? rows : [h('li', { class: 'muted', text: t('blocked_none') })]));
  }

  passwordForm() {
    const old = h('input', { type: 'password', required: true, autocomplete: 'current-password' });
    const fresh = h('input', { type: 'password', required: true, minlength: 8, maxlength: 256, autocomplete: 'new-password' });
    const save = async () => {
      await this.client.api.changePassword(old.value, fresh.value);
      old.value = '';
      fresh.value = '';
      toast(t('password_changed'));
    };
    return form(t('change_password'), save, field(t('old_password'), old), field(t('new_password'), fresh, t('password_hint')));
  }

  /** @param {boolean} everywhere */
  async logOut(everywhere) {
    const count = this.client.outbox?.entries.length ?? 0;
    const question = count > 0 ? t('log_out_unsent', { count }) : t(everywhere ? 'log_out_everywhere_question' : 'log_out_question');
    if (await ask(question, t(everywhere ? 'log_out_everywhere' : 'log_out'))) await attempt(() => this.client.logOut({ everywhere }));
  }
}

/** @param {string} title @param {Node} content */
function card(title, content) {
  return h('section', { class: 'card', 'aria-label': title }, h('h3', { text: title }), content);
}

/** @param {Record<string, string>} choices @param {string} chosen @param {(choice: string) => void} change */
function select(choices, chosen, change) {
  const element = h('select', null, ...Object.entries(choices).map(([value, text]) => h('option', { value, text, selected: value === chosen })));
  element.addEventListener('change', () => change(element.value));
  return element;
}
