// @ts-check
import { arrowKeys, h, icon, iconButton, reconcile } from './dom.js';
import { shortTime, t } from './i18n.js';
import { describe } from './messages.js';
import { conversationAvatar, FriendsView, nameOf, newChatDialog, newRoomDialog, personAvatar, titleOf } from './people.js';
import { attempt } from './dialogs.js';
import { draftOf } from './composer.js';

/**
 * @typedef {import('../sdk/index.js').ChatClient} ChatClient
 * @typedef {import('../sdk/types.js').Conversation} Conversation
 * @typedef {'chats'|'friends'|'rooms'} Section
 */

/** The list pane: conversations, friends or live rooms. */
export class Sidebar {
  /** @param {ChatClient} client @param {(hash: string) => void} go */
  constructor(client, go) {
    this.client = client;
    this.go = go;
    /** @type {Section} */
    this.section = 'chats';
    this.selected = '';
    /** @type {Conversation[]} */
    this.rooms = [];
    this.title = h('h1');
    this.me = h('button', { type: 'button', class: 'me-button', on: { click: () => go('#/settings') } });
    this.add = iconButton('plus', '', () => this.addSomething(), { class: 'icon-button prominent' });
    this.list = h('ul', { class: 'conversations' });
    this.empty = h('div', { class: 'empty', hidden: true });
    this.chats = h('div', { class: 'pane-scroll' }, this.list, this.empty);
    this.friends = new FriendsView(client, go);
    this.roomList = h('ul', { class: 'conversations' });
    this.roomsEmpty = h('p', { class: 'muted padded' });
    this.roomsPane = h('div', { class: 'pane-scroll' }, this.roomList, this.roomsEmpty);
    this.tabs = h('nav', { class: 'tabs' });
    this.element = h('aside', { class: 'sidebar' },
      h('header', { class: 'pane-header' }, this.title, this.add, this.me),
      this.chats, this.friends.element, this.roomsPane, this.tabs);
    arrowKeys(this.list, 'a');
    arrowKeys(this.roomList, 'a');
  }

  addSomething() {
    if (this.section === 'rooms') newRoomDialog(this.client, this.go);
    else newChatDialog(this.client, this.go);
  }

  /** @param {Section} section @param {string} selected */
  show(section, selected) {
    const entered = section !== this.section;
    this.section = section;
    this.selected = selected;
    if (section === 'rooms' && entered) void attempt(() => this.loadRooms());
    this.update();
  }

  async loadRooms() {
    this.rooms = await this.client.api.rooms();
    this.update();
  }

  update() {
    const { client, section } = this;
    this.element.setAttribute('aria-label', t('sidebar_label'));
    this.title.textContent = t(section);
    const label = t(section === 'rooms' ? 'new_room' : 'new_chat');
    this.add.setAttribute('aria-label', label);
    this.add.title = label;
    this.me.setAttribute('aria-label', t('settings'));
    this.me.title = t('settings');
    this.me.replaceChildren(personAvatar(client, client.userId ?? ''));
    this.chats.hidden = section !== 'chats';
    this.friends.element.hidden = section !== 'friends';
    this.roomsPane.hidden = section !== 'rooms';
    this.updateTabs();
    if (section === 'chats') this.updateChats();
    else if (section === 'friends') this.friends.update();
    else this.updateRooms();
  }

  updateTabs() {
    this.tabs.setAttribute('aria-label', t('sections_label'));
    const waiting = [...this.client.friends.values()].filter((one) => one.friendship === 'received').length;
    const unread = this.client.conversations().reduce((sum, head) => sum + this.client.unread(head.conversation_id), 0);
    const badges = { chats: unread, friends: waiting, rooms: 0 };
    reconcile(this.tabs, /** @type {Section[]} */ (['chats', 'friends', 'rooms']).map((name) => ({
      key: name,
      signature: JSON.stringify([t(name), name === this.section, badges[name]]),
      build: () => h('a', { href: `#/${name}`, 'aria-current': name === this.section ? 'page' : null },
        icon(name), h('span', { text: t(name) }), badges[name] > 0 ? h('span', { class: 'badge', text: badge(badges[name]) }) : null),
    })));
  }

  updateChats() {
    const { client } = this;
    const heads = client.conversations();
    reconcile(this.list, heads.map((head) => {
      const { conversation } = head;
      const id = head.conversation_id;
      const peer = conversation.kind === 'direct' ? client.peer(conversation) : '';
      const title = titleOf(client, conversation);
      const unread = client.unread(id);
      const typing = client.typingIn(id).length > 0;
      const selected = this.selected === id;
      const preview = this.preview(head, typing);
      const waiting = client.outbox?.of(id).length ?? 0;
      const time = head.last_message?.created_at ?? conversation.created_at;
      return {
        key: id,
        signature: JSON.stringify([title, unread, preview, selected, time, waiting, client.presence.get(peer)?.online, conversation.picture, client.profiles.get(peer)?.picture, shortTime(time)]),
        build: () => h('li', null, h('a', { href: `#/c/${id}`, class: unread > 0 ? 'conversation unread' : 'conversation', 'aria-current': selected ? 'true' : null },
          conversationAvatar(client, conversation),
          h('span', { class: 'conversation-text' },
            h('span', { class: 'conversation-line' },
              h('span', { class: 'conversation-title', text: title }),
              h('time', { class: 'muted small', text: shortTime(time) })),
            h('span', { class: 'conversation-line' },
              h('span', { class: typing ? 'preview typing' : 'preview', text: preview }),
              waiting > 0 ? h('span', { class: 'waiting', title: t('status_queued') }, icon('clock')) : null,
              unread > 0 ? h('span', { class: 'badge', 'aria-label': t('unread_count', { count: unread }), text: badge(unread) }) : null)))),
      };
    }));
    const nothing = heads.length === 0;
    this.empty.hidden = !nothing;
    if (nothing) this.showEmpty();
  }

  showEmpty() {
    if (!this.client.accountLoaded && this.client.connection?.state !== 'offline') {
      this.empty.replaceChildren(h('p', { class: 'muted', text: t('loading') }));
      return;
    }
    reconcile(this.empty, [{
      key: 'empty',
      signature: t('no_chats_title'),
      build: () => h('div', null, h('h2', { text: t('no_chats_title') }), h('p', { class: 'muted', text: t('no_chats_text') }),
        h('button', { type: 'button', class: 'button primary', text: t('new_chat'), on: { click: () => this.addSomething() } })),
    }]);
  }

  /** @param {import('../sdk/types.js').LocalHead} head @param {boolean} typing */
  preview(head, typing) {
    const { client } = this;
    const id = head.conversation_id;
    if (typing) return t('typing_one', { name: nameOf(client, client.typingIn(id)[0]) });
    const draft = draftOf(id);
    if (draft && this.selected !== id) return `${t('draft')} ${draft}`;
    const last = head.last_message;
    const waiting = client.outbox?.of(id).at(-1);
    if (waiting) return `${t('you')}: ${waiting.body?.text ?? waiting.type}`;
    if (!last) return t('no_messages');
    const text = describe(client, last);
    if (last.type === 'system') return text;
    if (last.sender_id === client.userId) return `${t('you')}: ${text}`;
    return head.conversation.kind === 'direct' ? text : `${nameOf(client, last.sender_id)}: ${text}`;
  }

  updateRooms() {
    const { client } = this;
    const known = new Map([...client.rooms.values(), ...this.rooms].map((room) => [room.conversation_id, room]));
    const rooms = [...known.values()].sort((a, b) => b.created_at - a.created_at);
    reconcile(this.roomList, rooms.map((room) => {
      const id = room.conversation_id;
      const joined = client.rooms.has(id);
      return {
        key: id,
        signature: JSON.stringify([room.name, joined, this.selected === id, t('live_room')]),
        build: () => h('li', null, h('a', { href: `#/r/${id}`, class: 'conversation', 'aria-current': this.selected === id ? 'true' : null },
          conversationAvatar(client, room),
          h('span', { class: 'conversation-text' },
            h('span', { class: 'conversation-title', text: room.name ?? '' }),
            h('span', { class: 'preview', text: t('live_room') })))),
      };
    }));
    this.roomsEmpty.hidden = rooms.length > 0;
    this.roomsEmpty.textContent = t('no_rooms');
  }
}

/** @param {number} count */
function badge(count) {
  return count > 99 ? '99+' : String(count);
}
