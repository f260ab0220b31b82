// @ts-check
import { Composer } from './composer.js';
import { ask, askText, attempt, form, openDialog } from './dialogs.js';
import { button, h, iconButton } from './dom.js';
import { t } from './i18n.js';
import { MessageLog } from './messages.js';
import { conversationAvatar, nameOf, peoplePicker, personDialog, personRow, presenceText, titleOf } from './people.js';

/**
 * @typedef {import('../sdk/index.js').ChatClient} ChatClient
 * @typedef {import('../sdk/types.js').Conversation} Conversation
 * @typedef {import('../sdk/types.js').Member} Member
 */

/** One conversation or live room: who is there, what was said, and where to write. */
export class ConversationView {
  /** @param {ChatClient} client @param {string} id @param {(hash: string) => void} go */
  constructor(client, id, go) {
    this.client = client;
    this.id = id;
    this.go = go;
    this.isRoom = id.startsWith('r_');
    this.failed = '';
    this.avatar = h('span', { class: 'header-avatar' });
    this.title = h('h2', { class: 'header-title', id: 'conversation-title' });
    this.subtitle = h('span', { class: 'header-subtitle' });
    this.back = iconButton('back', t('back'), () => go(this.isRoom ? '#/rooms' : '#/chats'), { class: 'icon-button back' });
    this.who = h('button', { type: 'button', class: 'header-who', on: { click: () => this.showInfo() } },
      this.avatar, h('span', { class: 'header-text' }, this.title, this.subtitle));
    this.action = h('div', { class: 'header-actions' });
    this.log = new MessageLog(client, id, { reply: (message) => this.composer.reply(message), edit: (message) => this.composer.edit(message) });
    this.composer = new Composer(client, id, () => this.log.toNewest());
    this.typing = h('p', { class: 'typing-line', 'aria-live': 'polite' });
    this.notice = h('p', { class: 'composer-notice', hidden: true });
    this.element = h('section', { class: 'conversation-view', 'aria-labelledby': 'conversation-title' },
      h('header', { class: 'pane-header' }, this.back, this.who, this.action),
      this.log.element, this.typing, this.notice, this.composer.element);
    void this.begin();
  }

  async begin() {
    if (this.isRoom) {
      await attempt(async () => this.client.joinRoom(await this.findRoom()));
    } else if (!this.client.head(this.id)) {
      await this.client.store?.loadHead(this.id);
      if (!this.client.head(this.id)) this.failed = t('not_found_conversation');
    }
    this.update();
    if (matchMedia('(hover: hover)').matches) this.composer.focus();
  }

  async findRoom() {
    const known = this.client.rooms.get(this.id);
    if (known) return known;
    const head = await this.client.api.conversation(this.id);
    return head.conversation;
  }

  get conversation() {
    return this.client.conversation(this.id);
  }

  update() {
    const { client, conversation } = this;
    this.log.refresh();
    this.composer.label();
    this.composer.people();
    this.back.setAttribute('aria-label', t('back'));
    this.notice.hidden = true;
    this.composer.element.hidden = !conversation;
    if (!conversation) {
      this.title.textContent = this.failed ? '' : t('loading');
      this.notice.hidden = !this.failed;
      this.notice.textContent = this.failed;
      return;
    }
    this.title.textContent = titleOf(client, conversation);
    this.avatar.replaceChildren(conversationAvatar(client, conversation));
    this.subtitle.textContent = this.describe(conversation);
    const peer = conversation.kind === 'direct' ? client.peer(conversation) : '';
    if (peer && client.blocked.has(peer)) {
      this.notice.hidden = false;
      this.notice.textContent = t('blocked_person');
      this.composer.element.hidden = true;
    }
    this.updateActions();
    this.updateTyping();
  }

  updateActions() {
    const key = [t('leave_room'), this.isRoom].join();
    if (this.action.dataset.key === key) return;
    this.action.dataset.key = key;
    this.action.replaceChildren(this.isRoom
      ? button(t('leave_room'), () => void this.leaveRoom(), 'small')
      : iconButton('info', t('conversation_info'), () => this.showInfo()));
  }

  /** @param {Conversation} conversation */
  describe(conversation) {
    if (conversation.kind === 'room') return t('live_room');
    if (conversation.kind === 'group') return t('members_count', { count: conversation.members.length });
    const peer = this.client.peer(conversation);
    return presenceText(this.client, peer) || `@${this.client.person(peer)?.handle ?? ''}`;
  }

  updateTyping() {
    const names = this.client.typingIn(this.id).map((id) => nameOf(this.client, id));
    const [name, other] = names;
    const text = names.length === 0 ? '' : names.length === 1 ? t('typing_one', { name }) : names.length === 2 ? t('typing_two', { name, other }) : t('typing_many');
    if (this.typing.textContent !== text) this.typing.textContent = text;
  }

  async leaveRoom() {
    // First the way out: by the time the server has answered the person may be elsewhere.
    this.go('#/rooms');
    await attempt(() => this.client.leaveRoom(this.id));
  }

  showInfo() {
    const { conversation, client } = this;
    if (!conversation) return;
    if (conversation.kind === 'direct') personDialog(client, client.peer(conversation), this.go);
    else new GroupInfo(client, this.id, this.go).open();
  }

  close() {
    this.composer.close();
    this.log.close();
  }
}

/** A group's members and what may be done with them. */
class GroupInfo {
  /** @param {ChatClient} client @param {string} id @param {(hash: string) => void} go */
  constructor(client, id, go) {
    this.client = client;
    this.id = id;
    this.go = go;
    this.body = h('div');
    this.signature = '';
    this.close = () => {};
  }

  open() {
    const refresh = () => this.update();
    for (const type of ['conversations', 'people']) this.client.addEventListener(type, refresh);
    const onClose = () => { for (const type of ['conversations', 'people']) this.client.removeEventListener(type, refresh); };
    ({ close: this.close } = openDialog(t('conversation_info'), () => [this.body], { onClose }));
    this.update();
  }

  update() {
    const { client } = this;
    const conversation = client.conversation(this.id);
    if (!conversation) return this.close();
    const members = conversation.members.map((member) => [member.user_id, member.role, client.person(member.user_id)?.name, client.presence.get(member.user_id)?.online]);
    const signature = JSON.stringify([conversation.name, members]);
    if (this.signature === signature) return undefined;
    this.signature = signature;
    const own = conversation.members.find((member) => member.user_id === client.userId)?.role ?? 'member';
    const manages = own !== 'member';
    const room = conversation.kind === 'room';
    const rank = { owner: 0, admin: 1, member: 2 };
    const sorted = [...conversation.members].sort((a, b) => rank[a.role] - rank[b.role]);
    this.body.replaceChildren(
      h('div', { class: 'profile-card' }, conversationAvatar(client, conversation), h('p', { class: 'group-title', text: conversation.name ?? '' })),
      h('div', { class: 'dialog-actions wrap' },
        manages ? button(t('rename'), () => this.rename(conversation)) : '',
        room ? '' : button(t('invite'), () => this.invite()),
        room ? '' : button(t('leave_group'), () => void this.leave(), 'danger')),
      h('h3', { text: `${t('group_members')} · ${conversation.members.length}` }),
      h('ul', { class: 'people' }, ...sorted.map((member) => this.memberRow(member, own))));
    return undefined;
  }

  /** @param {Member} member @param {import('../sdk/types.js').Role} own */
  memberRow(member, own) {
    const { client } = this;
    const id = member.user_id;
    const name = nameOf(client, id);
    const roles = /** @type {const} */ ({ owner: t('role_owner'), admin: t('role_admin'), member: t('role_member') });
    const self = id === client.userId;
    const role = own === 'owner' && !self ? h('select', { 'aria-label': t('role_of', { name }), on: { change: (/** @type {Event} */ event) => void this.changeRole(event, member) } },
      ...Object.entries(roles).map(([value, text]) => h('option', { value, text, selected: value === member.role })))
      : h('span', { class: `role ${member.role}`, text: member.role === 'member' ? '' : roles[member.role] });
    const removable = !self && (own === 'owner' || (own === 'admin' && member.role === 'member'));
    const remove = async () => {
      if (await ask(t('remove_member_question', { name }), t('remove_person', { name }))) await attempt(() => client.api.removeMember(this.id, id));
    };
    return personRow(client, client.person(id), role, removable ? iconButton('close', t('remove_person', { name }), () => void remove()) : null);
  }

  /** @param {Event} event @param {Member} member */
  async changeRole(event, member) {
    const select = /** @type {HTMLSelectElement} */ (event.target);
    const role = /** @type {import('../sdk/types.js').Role} */ (select.value);
    const name = nameOf(this.client, member.user_id);
    const sure = role !== 'owner' || await ask(t('hand_over_question', { name }), t('role_owner'));
    const done = sure && await attempt(async () => { await this.client.api.changeRole(this.id, member.user_id, role); return true; });
    if (!done) select.value = member.role;
  }

  /** @param {Conversation} conversation */
  rename(conversation) {
    askText(t('rename'), t(conversation.kind === 'room' ? 'room_name' : 'group_name'), conversation.name ?? '', (name) => this.client.api.changeConversation(this.id, { name }));
  }

  invite() {
    openDialog(t('add_members'), ({ close }) => {
      const present = () => new Set(this.client.conversation(this.id)?.members.map((member) => member.user_id));
      const picker = peoplePicker(this.client, present);
      const send = async () => {
        if (picker.chosen.size > 0) await this.client.api.invite(this.id, [...picker.chosen.keys()]);
        close();
      };
      return [form(t('invite'), send, picker.element)];
    });
  }

  async leave() {
    if (!await ask(t('leave_group_question'), t('leave_group'))) return;
    const done = await attempt(async () => { await this.client.api.removeMember(this.id, this.client.userId ?? ''); return true; });
    if (!done) return;
    this.close();
    this.go('#/chats');
  }
}
