// @ts-check
import { avatar, button, h, iconButton, reconcile } from './dom.js';
import { ask, askText, attempt, field, form, openDialog, toast } from './dialogs.js';
import { shortTime, t } from './i18n.js';
import { uuid } from '../sdk/index.js';

/**
 * @typedef {import('../sdk/index.js').ChatClient} ChatClient
 * @typedef {import('../sdk/types.js').Profile} Profile
 */

const SEARCH_DELAY_MS = 250;

/** @param {ChatClient} client @param {string} id */
export function nameOf(client, id) {
  if (id === client.userId) return client.me?.name ?? t('you');
  return client.person(id)?.name ?? t('unknown_person');
}

/** @param {ChatClient} client @param {string} id @param {boolean} [withPresence] */
export function personAvatar(client, id, withPresence = false) {
  const person = client.person(id);
  const online = withPresence && client.friends.get(id)?.friendship === 'friends' ? !!client.presence.get(id)?.online : null;
  return avatar({ id, name: person?.name ?? '', picture: person?.picture, online });
}

/** A friend's presence in words; empty for others. @param {ChatClient} client @param {string} id */
export function presenceText(client, id) {
  if (client.friends.get(id)?.friendship !== 'friends') return '';
  const presence = client.presence.get(id);
  if (presence?.online) return t('online');
  return presence?.last_active_at ? t('last_active', { time: shortTime(presence.last_active_at) }) : t('offline');
}

/** Name of a conversation for this person. @param {ChatClient} client @param {import('../sdk/types.js').Conversation} conversation */
export function titleOf(client, conversation) {
  if (conversation.kind === 'direct') return nameOf(client, client.peer(conversation));
  return conversation.name ?? t('unknown_person');
}

/** @param {ChatClient} client @param {import('../sdk/types.js').Conversation} conversation */
export function conversationAvatar(client, conversation) {
  if (conversation.kind === 'direct') return personAvatar(client, client.peer(conversation), true);
  return avatar({ id: conversation.conversation_id, name: conversation.name ?? '', picture: conversation.picture, shape: 'square' });
}

/**
 * One person in a list.
 * @param {ChatClient} client
 * @param {Profile|null} profile
 * @param {...(Node|null|false)} actions
 */
export function personRow(client, profile, ...actions) {
  const id = profile?.user_id ?? '';
  const name = profile?.name ?? t('unknown_person');
  return h('li', { class: 'person' },
    personAvatar(client, id, true),
    h('div', { class: 'person-text' },
      h('span', { class: 'person-name', text: id === client.userId ? `${name} (${t('you')})` : name }),
      h('span', { class: 'muted small', text: profile ? `@${profile.handle}${profile.status ? ` · ${profile.status}` : ''}` : '' })),
    h('div', { class: 'person-actions' }, ...actions));
}

/**
 * A search field for people and its results.
 * @param {ChatClient} client
 * @param {(profile: Profile) => Node[]} actions
 * @param {{autofocus?: boolean, exclude?: () => Set<string>}} [options]
 */
export function peopleSearch(client, actions, { autofocus = false, exclude } = {}) {
  const input = h('input', { type: 'search', autofocus, autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' });
  const list = h('ul', { class: 'people' });
  const note = h('p', { class: 'muted small', role: 'status' });
  let timer = 0;
  let asked = 0;
  const search = async () => {
    asked += 1;
    const mine = asked;
    const handle = input.value.trim().replace(/^@/, '').toLowerCase();
    // Anything else cannot be the beginning of a handle.
    const possible = /^[a-z0-9_.]{1,32}$/.test(handle);
    const found = possible ? await attempt(() => client.searchUsers(handle)) : [];
    if (mine !== asked) return;
    const hidden = exclude?.() ?? new Set();
    const people = (found ?? []).filter((/** @type {Profile} */ one) => one.user_id !== client.userId && !hidden.has(one.user_id));
    list.replaceChildren(...people.map((/** @type {Profile} */ one) => personRow(client, one, .../** @type {any} */ (actions(one)))));
    note.textContent = handle && found && people.length === 0 ? t('nobody_found') : '';
  };
  input.addEventListener('input', () => {
    clearTimeout(timer);
    timer = window.setTimeout(() => void search(), SEARCH_DELAY_MS);
  });
  const element = h('div', { class: 'people-search' }, field(t('find_people'), input), note, list);
  const clear = () => { input.value = ''; };
  return { element, again: search, clear };
}

/**
 * Picks people to add to something.
 * @param {ChatClient} client
 * @param {() => Set<string>} [exclude]
 */
export function peoplePicker(client, exclude) {
  /** @type {Map<string, Profile>} */
  const chosen = new Map();
  const chips = h('ul', { class: 'chips', 'aria-label': t('selected_people') });
  const show = () => {
    chips.replaceChildren(...[...chosen.values()].map((profile) => h('li', { class: 'chip' },
      profile.name, iconButton('close', t('remove_person', { name: profile.name }), () => { chosen.delete(profile.user_id); show(); }))));
    friends();
  };
  const add = (/** @type {Profile} */ profile) => {
    chosen.set(profile.user_id, profile);
    search.clear();
    show();
    void search.again();
  };
  const hidden = () => new Set([...chosen.keys(), ...(exclude?.() ?? [])]);
  const addButton = (/** @type {Profile} */ profile) => {
    const one = iconButton('plus', `${t('add_members')}: ${profile.name}`, () => add(profile));
    return one;
  };
  const search = peopleSearch(client, (profile) => [addButton(profile)], { exclude: hidden });
  const list = h('ul', { class: 'people' });
  const friends = () => {
    const known = [...client.friends].filter(([id, { friendship }]) => friendship === 'friends' && !hidden().has(id));
    list.replaceChildren(...known.flatMap(([id]) => {
      const profile = client.person(id);
      return profile ? [personRow(client, profile, addButton(profile))] : [];
    }));
  };
  friends();
  return { element: h('div', null, chips, search.element, list), chosen };
}

/** @param {ChatClient} client @param {(hash: string) => void} go */
export function newChatDialog(client, go) {
  openDialog(t('new_chat'), ({ close }) => {
    const open = (/** @type {Profile} */ profile) => attempt(async () => {
      const id = await client.openDirect(profile.user_id);
      close();
      go(`#/c/${id}`);
    });
    const search = peopleSearch(client, (profile) => [button(t('message'), () => void open(profile), 'primary small')], { autofocus: true });
    const group = button(t('new_group'), () => { close(); newGroupDialog(client, go); });
    return [search.element, h('div', { class: 'dialog-actions start' }, group)];
  });
}

/** @param {ChatClient} client @param {(hash: string) => void} go */
export function newGroupDialog(client, go) {
  // Made once, so that pressing the button again after a failure does not make a second group.
  const requestId = uuid();
  openDialog(t('new_group'), ({ close }) => {
    const name = h('input', { required: true, maxlength: 80, autofocus: true, autocomplete: 'off' });
    const picker = peoplePicker(client);
    const create = async () => {
      const id = await client.createGroup(name.value.trim(), [...picker.chosen.keys()], requestId);
      close();
      go(`#/c/${id}`);
    };
    return [form(t('create'), create, field(t('group_name'), name), h('h3', { text: t('add_members') }), picker.element)];
  });
}

/** @param {ChatClient} client @param {(hash: string) => void} go */
export function newRoomDialog(client, go) {
  askText(t('new_room'), t('room_name'), '', async (name) => {
    const id = await client.createRoom(name);
    go(`#/r/${id}`);
  });
}

/** The friends part of the sidebar. */
export class FriendsView {
  /** @param {ChatClient} client @param {(hash: string) => void} go */
  constructor(client, go) {
    this.client = client;
    this.go = go;
    this.search = peopleSearch(client, (profile) => this.actions(profile.user_id));
    this.lists = h('div');
    this.element = h('div', { class: 'pane-scroll padded' }, this.search.element, this.lists);
  }

  /** @param {string} id */
  async message(id) {
    await attempt(async () => this.go(`#/c/${await this.client.openDirect(id)}`));
  }

  /** @param {string} id @returns {HTMLElement[]} */
  actions(id) {
    const { client } = this;
    const run = (/** @type {() => Promise<any>} */ work) => () => void attempt(work).then(() => this.search.again());
    const message = button(t('message'), () => void this.message(id), 'small');
    switch (client.friends.get(id)?.friendship) {
      case 'received':
        return [button(t('accept'), run(() => client.befriend(id)), 'primary small'), button(t('refuse'), run(() => client.unfriend(id)), 'small')];
      case 'requested':
        return [button(t('cancel_request'), run(() => client.unfriend(id)), 'small')];
      case 'friends':
        return [message, this.menu(id)];
      default: {
        const add = async () => { await client.befriend(id); toast(t('request_sent')); };
        return [message, button(t('add_friend'), run(add), 'primary small')];
      }
    }
  }

  /** What is done rarely with a friend. @param {string} id */
  menu(id) {
    return iconButton('more', `${t('settings')}: ${nameOf(this.client, id)}`, () => personDialog(this.client, id, this.go));
  }

  update() {
    const { client } = this;
    const groups = /** @type {[string, string][]} */ ([['received', t('requests_received')], ['friends', t('friends')], ['requested', t('requests_sent')]]);
    const items = groups.flatMap(([friendship, title]) => {
      const ids = [...client.friends].filter(([, one]) => one.friendship === friendship).map(([id]) => id);
      if (ids.length === 0) return [];
      const rows = ids.map((id) => ({ id, profile: client.person(id), presence: client.presence.get(id)?.online ?? false }));
      return [{
        key: friendship,
        signature: JSON.stringify([title, rows]),
        build: () => h('section', { 'aria-label': title }, h('h3', { text: title }),
          h('ul', { class: 'people' }, ...rows.map(({ id, profile }) => personRow(client, profile, ...this.actions(id))))),
      }];
    });
    if (items.length === 0) items.push({ key: 'none', signature: t('no_friends'), build: () => h('section', null, h('p', { class: 'muted', text: t('no_friends') })) });
    reconcile(this.lists, items);
  }
}

/** A person, and what can be done about them. @param {ChatClient} client @param {string} id @param {(hash: string) => void} go */
export function personDialog(client, id, go) {
  const profile = client.person(id);
  const name = nameOf(client, id);
  openDialog(name, ({ close }) => {
    const run = (/** @type {() => Promise<any>} */ work) => () => void attempt(work).then(close);
    const friend = client.friends.get(id)?.friendship;
    const blocked = client.blocked.has(id);
    const block = async () => { if (await ask(t('block_question', { name }), t('block'))) await client.setBlocked(id, true); };
    return [
      h('div', { class: 'profile-card' }, personAvatar(client, id, true),
        h('p', { text: profile ? `@${profile.handle}` : '' }),
        profile?.status ? h('p', { text: profile.status }) : null,
        h('p', { class: 'muted', text: presenceText(client, id) })),
      h('div', { class: 'dialog-actions wrap' },
        button(t('message'), run(async () => go(`#/c/${await client.openDirect(id)}`)), 'primary'),
        friend === 'friends' ? button(t('remove_friend'), run(() => client.unfriend(id))) : null,
        !friend ? button(t('add_friend'), run(async () => { await client.befriend(id); toast(t('request_sent')); })) : null,
        blocked ? button(t('unblock'), run(() => client.setBlocked(id, false))) : button(t('block'), run(block), 'danger')),
    ];
  }, { narrow: true });
}
