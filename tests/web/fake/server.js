/**
 * A stand-in for a node, in memory, for tests of the SDK against faults that a healthy node does not show on request:
 * close codes, lost answers, refused sockets, reset cursors, slow requests. It follows the wire contract but keeps none of
 * the promises behind it (durability, watermarks), so a test that passes here says something about the client only.
 */
import { createHash, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { WebSocketServer } from 'ws';

const WEB = fileURLToPath(new URL('../../../web/', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.svg': 'image/svg+xml' };
const CSP = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: https:; style-src 'self'; script-src 'self'";

class Refusal extends Error {
  constructor(code, status, detail, retryAfterMs) {
    super(detail);
    Object.assign(this, { code, status, detail, retryAfterMs });
  }
}

const short = (text) => createHash('sha256').update(text).digest('base64url').slice(0, 20);

export class FakeServer {
  constructor() {
    this.users = new Map();
    this.devices = new Map();
    this.access = new Map();
    this.refresh = new Map();
    this.conversations = new Map();
    this.friends = new Map();
    this.blocks = new Map();
    this.sockets = new Set();
    this.polls = new Set();
    this.inbox = new Map();
    this.counter = 0;
    this.epoch = randomUUID().slice(0, 8);
    /** Faults a test may set. */
    this.faults = { refuseSockets: false, dropAck: 0, silent: false, swallowed: 0, refuseSend: null, beforeSend: null, refreshes: 0, hideFrames: false };
    this.heartbeatMs = 5000;
    this.accessMs = 900_000;
    this.log = [];
    /** What service discovery answers, and how often it was asked. */
    this.discovery = null;
    this.discoveries = 0;
    /** Every `hello`, and the cursors in heartbeats. */
    this.hellos = [];
    this.confirmed = [];
  }

  async listen(port = 0) {
    this.http = createServer((request, response) => void this.serve(request, response));
    this.ws = new WebSocketServer({ noServer: true, handleProtocols: () => 'chat.v1.json' });
    this.http.on('upgrade', (request, socket, head) => {
      if (this.faults.refuseSockets || !request.url.startsWith('/v1/socket')) return socket.destroy();
      this.ws.handleUpgrade(request, socket, head, (ws) => this.connected(ws));
    });
    await new Promise((resolve) => this.http.listen(port, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${this.http.address().port}`;
    return this.url;
  }

  async close() {
    for (const socket of this.sockets) socket.ws.terminate();
    for (const poll of [...this.polls]) poll.finish();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  nextId() {
    const ms = BigInt(Date.now() - 1_735_689_600_000);
    const last = this.lastId ?? 0n;
    const candidate = ms << 22n;
    this.lastId = candidate > last ? candidate : last + 1n;
    return String(this.lastId);
  }

  // HTTP.

  async serve(request, response) {
    const url = new URL(request.url, 'http://x');
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const reply = (status, body) => {
      const problem = status >= 400;
      response.writeHead(status, { 'content-type': problem ? 'application/problem+json' : 'application/json' });
      response.end(body === undefined ? '' : JSON.stringify(body));
    };
    if (!url.pathname.startsWith('/v1/')) return this.file(url.pathname, response);
    try {
      const body = chunks.length ? JSON.parse(Buffer.concat(chunks)) : {};
      const answer = await this.route(request, url, body);
      reply(answer === undefined ? 204 : 200, answer);
    } catch (error) {
      if (!(error instanceof Refusal)) console.error(error);
      const { code = 'internal', status = 500, detail = String(error), retryAfterMs } = error;
      reply(status, { type: `/problems/${code}`, title: code, status, detail, code, retry_after_ms: retryAfterMs });
    }
  }

  async file(name, response) {
    try {
      const file = path.join(WEB, name === '/' ? 'index.html' : path.normalize(name));
      const bytes = await readFile(file);
      response.writeHead(200, { 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream', 'content-security-policy': CSP, 'cache-control': 'no-store' });
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  }

  who(token) {
    const known = this.access.get(token);
    if (!known || !this.devices.has(known.device_id)) throw new Refusal('unauthenticated', 401, 'The token is not valid.');
    if (known.expires < Date.now()) throw new Refusal('token_expired', 401, 'The token has expired.');
    return known;
  }

  tokens(user_id, device_id) {
    const access_token = randomUUID();
    const refresh_token = randomUUID();
    const expires = Date.now() + this.accessMs;
    this.access.set(access_token, { user_id, device_id, expires });
    this.refresh.set(refresh_token, { user_id, device_id, used: false });
    return { user_id, device_id, access_token, access_expires_at: expires, refresh_token };
  }

  newDevice(user_id, name = 'Device') {
    const device_id = randomUUID();
    this.devices.set(device_id, { device_id, user_id, name, created_at: Date.now(), last_seen_at: Date.now() });
    return this.tokens(user_id, device_id);
  }

  async route(request, url, body) {
    const method = request.method;
    const [, , area, id, sub, subId, last, lastId] = url.pathname.split('/').map(decodeURIComponent);
    const key = `${method} ${area}`;
    if (key === 'GET discovery') {
      this.discoveries += 1;
      if (!this.discovery) throw new Refusal('draining', 503, 'Every node is leaving.');
      return this.discovery;
    }
    if (key === 'POST accounts') return this.signUp(body);
    if (key === 'POST sessions' && id === 'refresh') return this.renew(body);
    if (key === 'POST sessions') return this.logIn(body);
    const token = (request.headers.authorization ?? '').replace('Bearer ', '');
    const { user_id: me, device_id: device } = this.who(token);
    const user = this.users.get(me);
    switch (key) {
      case 'DELETE sessions': {
        for (const one of [...this.devices.values()]) {
          if (one.user_id === me && (id !== 'current' || one.device_id === device)) this.revoke(one.device_id);
        }
        return undefined;
      }
      case 'GET me': return id === 'settings' ? { settings: user.settings } : user.profile;
      case 'PATCH me': Object.assign(user.profile, body); return user.profile;
      case 'PUT me': if (id === 'settings') user.settings = body.settings; return { settings: user.settings };
      case 'GET devices': return { items: [...this.devices.values()].filter((d) => d.user_id === me).map(({ user_id: _, ...d }) => ({ ...d, current: d.device_id === device })) };
      case 'PATCH devices': Object.assign(this.devices.get(id), body); return undefined;
      case 'DELETE devices': this.revoke(id); return undefined;
      case 'GET users': {
        if (id) return this.profile(id);
        const prefix = url.searchParams.get('handle').toLowerCase();
        return { items: [...this.users.values()].map((u) => u.profile).filter((p) => p.handle.startsWith(prefix)).slice(0, 20) };
      }
      case 'GET friends': return { items: [...this.friends.entries()].filter(([k]) => k.startsWith(`${me} `)).map(([k, v]) => ({ profile: this.profile(k.split(' ')[1]), friendship: v, since: Date.now() })) };
      case 'PUT friends': return this.befriend(me, id);
      case 'DELETE friends': {
        for (const [a, b] of [[me, id], [id, me]]) {
          this.friends.delete(`${a} ${b}`);
          this.publish(a, { friend: { user_id: b, friendship: 'none' } });
        }
        return { user_id: id, friendship: 'none' };
      }
      case 'GET blocks': return { items: [...(this.blocks.get(me) ?? [])].map((one) => this.profile(one)) };
      case 'PUT blocks': this.blocks.set(me, new Set([...(this.blocks.get(me) ?? []), id])); return undefined;
      case 'DELETE blocks': this.blocks.get(me)?.delete(id); return undefined;
      case 'GET presence': return { users: this.presenceFor(me) };
      case 'GET rooms': return { items: [...this.conversations.values()].filter((c) => c.data.kind === 'room').map((c) => c.data) };
      case 'GET sync': return this.sync(me, url);
      case 'POST conversations':
        if (!id) return this.create(me, body);
        break;
      case 'GET conversations':
        if (!id) return { items: [...this.conversations.values()].filter((c) => c.data.kind !== 'room' && this.member(c, me)).map((c) => this.headOf(c, me)) };
        break;
      default:
    }
    if (area !== 'conversations') throw new Refusal('not_found', 404, 'No such address.');
    const conversation = this.conversations.get(id);
    if (!conversation || (conversation.data.kind !== 'room' && !this.member(conversation, me))) throw new Refusal('not_found', 404, 'There is no such conversation.');
    const target = { conversation_id: id, message_id: subId };
    switch (`${method} ${sub ?? ''}`) {
      case 'GET ': return this.headOf(conversation, me);
      case 'PATCH ': Object.assign(conversation.data, body); this.changed(conversation, me, { event: 'renamed', name: body.name }); return conversation.data;
      case 'POST members': for (const one of body.user_ids) this.join(conversation, one, me); return conversation.data;
      case 'DELETE members': {
        const everyone = conversation.data.members;
        conversation.data.members = everyone.filter((m) => m.user_id !== subId);
        this.changed(conversation, me, { event: subId === me ? 'left' : 'removed', user_id: subId }, everyone);
        return undefined;
      }
      case 'PATCH members': this.member(conversation, subId).role = body.role; this.changed(conversation, me, { event: 'role_changed', user_id: subId, role: body.role }); return conversation.data;
      case 'GET messages': return this.history(conversation, me, url);
      case 'POST messages': return this.send(me, { conversation_id: id, ...body });
      case 'PATCH messages': return { version: this.edit(me, { ...target, ...body }) };
      case 'DELETE messages': return { version: last ? this.react(me, { ...target, emoji: lastId, remove: true }) : this.remove(me, target) };
      case 'PUT messages': return { version: this.react(me, { ...target, emoji: lastId }) };
      case 'PUT read': this.mark('read', me, { conversation_id: id, seq: body.seq }); return undefined;
      case 'PUT delivered': this.mark('delivered', me, { conversation_id: id, seq: body.seq }); return undefined;
      case 'POST typing': this.typing(me, { conversation_id: id, ...body }); return undefined;
      default: throw new Refusal('not_found', 404, 'No such address.');
    }
  }

  signUp({ handle, password, name, device_name }) {
    const folded = handle.toLowerCase();
    if (!/^[a-z0-9_.]{3,32}$/.test(folded)) throw new Refusal('invalid_field', 400, 'The handle must be 3 to 32 of a-z, 0-9, _ and dots.');
    if (password.length < 8) throw new Refusal('invalid_field', 400, 'The password must have at least 8 characters.');
    if ([...this.users.values()].some((u) => u.profile.handle === folded)) throw new Refusal('handle_taken', 409, 'That handle belongs to somebody else. Choose another one.');
    const user_id = randomUUID();
    this.users.set(user_id, { profile: { user_id, handle: folded, name: name || folded }, password, settings: {} });
    return this.newDevice(user_id, device_name);
  }

  logIn({ handle, password, device_name }) {
    const user = [...this.users.values()].find((u) => u.profile.handle === handle.toLowerCase());
    if (!user || user.password !== password) throw new Refusal('wrong_credentials', 401, 'Handle or password is wrong.');
    return this.newDevice(user.profile.user_id, device_name);
  }

  renew({ refresh_token }) {
    this.faults.refreshes += 1;
    const known = this.refresh.get(refresh_token);
    if (!known || known.used || !this.devices.has(known.device_id)) {
      if (known) this.revoke(known.device_id);
      throw new Refusal('unauthenticated', 401, 'Log in again.');
    }
    known.used = true;
    return this.tokens(known.user_id, known.device_id);
  }

  revoke(device_id) {
    this.devices.delete(device_id);
    for (const socket of this.sockets) if (socket.device_id === device_id) socket.ws.close(3502, 'logged out');
  }

  profile(id) {
    const user = this.users.get(id);
    if (!user) throw new Refusal('not_found', 404, 'There is no such person.');
    return user.profile;
  }

  befriend(a, b) {
    const state = this.friends.get(`${a} ${b}`);
    const next = state === 'received' || state === 'friends' ? ['friends', 'friends'] : ['requested', 'received'];
    this.friends.set(`${a} ${b}`, next[0]);
    this.friends.set(`${b} ${a}`, next[1]);
    this.publish(a, { friend: { user_id: b, friendship: next[0] } });
    this.publish(b, { friend: { user_id: a, friendship: next[1] } });
    if (next[0] === 'friends') for (const [x, y] of [[a, b], [b, a]]) this.publish(x, { presence: this.presenceOf(y) });
    return { user_id: b, friendship: next[0] };
  }

  presenceOf(user_id) {
    return { user_id, online: [...this.sockets].some((s) => s.user_id === user_id), last_active_at: Date.now() };
  }

  presenceFor(me) {
    return [...this.friends].filter(([k, v]) => k.startsWith(`${me} `) && v === 'friends').map(([k]) => this.presenceOf(k.split(' ')[1]));
  }

  // Conversations.

  member(conversation, user_id) {
    return conversation.data.members.find((m) => m.user_id === user_id);
  }

  create(me, body) {
    const pair = [me, body.user_id].sort().join();
    const id = `${body.kind[0]}_${short(body.kind === 'direct' ? pair : me + body.request_id)}`;
    const known = this.conversations.get(id);
    if (known) return known.data;
    if (body.kind === 'direct') this.profile(body.user_id);
    const version = this.nextId();
    const member = (user_id, role) => ({ user_id, role, joined_id: version, read_seq: 0, delivered_seq: 0 });
    const others = body.kind === 'direct' ? [body.user_id] : body.members ?? [];
    const members = [member(me, body.kind === 'direct' ? 'member' : 'owner'), ...others.map((one) => member(one, 'member'))];
    const data = { conversation_id: id, kind: body.kind, version, ...(body.name ? { name: body.name } : {}), created_at: Date.now(), members };
    const conversation = { data, messages: [], duplicates: new Map() };
    this.conversations.set(id, conversation);
    this.toMembers(conversation, { conversation: data });
    if (body.kind === 'group') this.append(conversation, me, 'system', { event: 'created' }, randomUUID());
    return data;
  }

  headOf(conversation, me) {
    const messages = this.visible(conversation, me);
    const last = messages[messages.length - 1];
    const last_seq = last?.seq ?? 0;
    const read_seq = this.member(conversation, me)?.read_seq ?? 0;
    return { conversation: conversation.data, ...(last ? { last_message: last } : {}), last_seq, read_seq, unread: last_seq - read_seq };
  }

  visible(conversation, me) {
    const joined = BigInt(this.member(conversation, me)?.joined_id ?? 0);
    return conversation.messages.filter((m) => BigInt(m.message_id) >= joined);
  }

  join(conversation, user_id, by) {
    if (this.member(conversation, user_id)) return;
    conversation.data.members.push({ user_id, role: 'member', joined_id: this.nextId(), read_seq: conversation.messages.length, delivered_seq: 0 });
    this.changed(conversation, by, { event: 'joined', user_id });
  }

  changed(conversation, by, event, audience) {
    conversation.data = { ...conversation.data, version: this.nextId() };
    for (const { user_id } of audience ?? conversation.data.members) this.publish(user_id, { conversation: conversation.data });
    this.append(conversation, by, 'system', event, randomUUID());
  }

  history(conversation, me, url) {
    const limit = Number(url.searchParams.get('limit') ?? 50);
    const rows = this.visible(conversation, me);
    const after = url.searchParams.get('after');
    const before = url.searchParams.get('before');
    if (after) {
      const found = rows.filter((m) => BigInt(m.message_id) > BigInt(after));
      return { messages: found.slice(0, limit), more: found.length > limit };
    }
    const found = rows.filter((m) => !before || BigInt(m.message_id) < BigInt(before)).reverse();
    return { messages: found.slice(0, limit), more: found.length > limit };
  }

  append(conversation, sender_id, type, body, client_message_id, more = {}) {
    const message_id = this.nextId();
    const message = { conversation_id: conversation.data.conversation_id, message_id, version: message_id, seq: conversation.messages.length + 1, sender_id, client_message_id, type, body, created_at: Date.now(), ...more };
    conversation.messages.push(message);
    if (conversation.data.kind === 'room') this.toRoom(conversation, message);
    else this.toMembers(conversation, { message });
    return message;
  }

  toRoom(conversation, message) {
    for (const socket of this.sockets) {
      if (socket.rooms.has(message.conversation_id)) this.write(socket, { room: { room_id: message.conversation_id, messages: [message], skipped: 0 } });
    }
  }

  toMembers(conversation, frame) {
    for (const { user_id } of conversation.data.members) this.publish(user_id, frame);
  }

  send(me, frame) {
    if (this.faults.refuseSend) throw this.faults.refuseSend;
    this.log.push({ retry: frame.retry, client_message_id: frame.client_message_id, text: frame.body?.text });
    const conversation = this.conversations.get(frame.conversation_id);
    if (!conversation) throw new Refusal('not_found', 404, 'There is no such conversation.');
    const key = `${me} ${frame.client_message_id}`;
    const known = conversation.duplicates.get(key);
    const { message_id, seq, created_at } = known ?? this.append(conversation, me, frame.type, frame.body, frame.client_message_id, {
      ...(frame.reply_to ? { reply_to: frame.reply_to } : {}), ...(frame.mentions ? { mentions: frame.mentions } : {}),
    });
    conversation.duplicates.set(key, { message_id, seq, created_at });
    return { message_id, seq, created_at };
  }

  change(me, { conversation_id, message_id }, apply) {
    const conversation = this.conversations.get(conversation_id);
    const index = conversation?.messages.findIndex((m) => m.message_id === message_id) ?? -1;
    if (index < 0) throw new Refusal('not_found', 404, 'There is no such message.');
    const next = apply(conversation.messages[index]);
    conversation.messages[index] = next;
    return [conversation, next];
  }

  edit(me, frame) {
    const [conversation, message] = this.change(me, frame, (old) => ({ ...old, version: this.nextId(), body: frame.body, edited_at: Date.now(), mentions: frame.mentions ?? [] }));
    this.toMembers(conversation, { message });
    return message.version;
  }

  remove(me, frame) {
    const [conversation, message] = this.change(me, frame, (old) => ({ ...old, version: this.nextId(), type: '', body: null, deleted: true }));
    this.toMembers(conversation, { message });
    return message.version;
  }

  react(me, { emoji, remove, ...target }) {
    const version = this.nextId();
    const [conversation, message] = this.change(me, target, (old) => {
      const items = (old.reactions?.items ?? []).map((item) => ({ ...item, user_ids: item.user_ids.filter((one) => item.emoji !== emoji || one !== me) }));
      if (!remove) {
        const item = items.find((one) => one.emoji === emoji);
        if (item) item.user_ids.push(me);
        else items.push({ emoji, user_ids: [me] });
      }
      return { ...old, reactions: { version, items: items.filter((item) => item.user_ids.length > 0) } };
    });
    this.toMembers(conversation, { reactions: { ...target, reactions: message.reactions } });
    return version;
  }

  mark(kind, me, { conversation_id, seq }) {
    const conversation = this.conversations.get(conversation_id);
    const member = conversation && this.member(conversation, me);
    if (!member) throw new Refusal('not_found', 404, 'There is no such conversation.');
    member[`${kind}_seq`] = Math.max(member[`${kind}_seq`], seq);
    this.toMembers(conversation, { [kind]: { conversation_id, user_id: me, seq } });
  }

  typing(me, { conversation_id, active }) {
    const conversation = this.conversations.get(conversation_id);
    for (const { user_id } of conversation?.data.members ?? []) {
      if (user_id !== me) this.publish(user_id, { typing: { conversation_id, user_id: me, active } }, true);
    }
  }

  // Delivery.

  publish(user_id, frame, fleeting = false) {
    const copy = structuredClone(frame);
    if (this.faults.hideFrames) fleeting = false;
    if (!fleeting) {
      const rows = this.inbox.get(user_id) ?? [];
      this.inbox.set(user_id, [...rows, copy]);
    }
    if (this.faults.hideFrames) return;
    for (const socket of this.sockets) {
      if (socket.user_id !== user_id) continue;
      this.write(socket, copy);
      if (!fleeting) this.write(socket, { cursor: { cursor: this.cursor(socket), catching_up: false } });
    }
    for (const poll of [...this.polls]) if (poll.user_id === user_id) poll.finish();
  }

  cursor({ user_id, session_id }) {
    return `${this.epoch}.${session_id}.${this.inbox.get(user_id)?.length ?? 0}`;
  }

  parse(cursor) {
    if (!cursor) return { outcome: 'new', session_id: randomUUID() };
    const [epoch, session_id, position] = cursor.split('.');
    if (epoch !== this.epoch) return { outcome: 'reset', session_id: randomUUID() };
    return { outcome: 'resumed', session_id, position: Number(position) };
  }

  write(socket, frame) {
    if (socket.ws.readyState === 1) socket.ws.send(JSON.stringify(frame));
  }

  async sync(user_id, url) {
    const { outcome, session_id, position } = this.parse(url.searchParams.get('cursor'));
    const wait = Number(url.searchParams.get('wait_ms') ?? 0);
    const from = position ?? this.inbox.get(user_id)?.length ?? 0;
    const answer = () => ({ outcome, session_id, frames: (this.inbox.get(user_id) ?? []).slice(from), cursor: this.cursor({ user_id, session_id }), catching_up: false, retry_after_ms: 0 });
    if (wait === 0 || answer().frames.length > 0) return answer();
    await new Promise((resolve) => {
      const poll = { user_id, finish: () => { clearTimeout(timer); this.polls.delete(poll); resolve(); } };
      const timer = setTimeout(poll.finish, wait);
      this.polls.add(poll);
    });
    return answer();
  }

  connected(ws) {
    const socket = { ws, user_id: null, rooms: new Set() };
    ws.on('error', () => {});
    ws.on('message', (data) => {
      if (this.faults.silent) {
        if (String(data).startsWith('{"send"')) this.faults.swallowed += 1;
        return;
      }
      this.frame(socket, JSON.parse(data));
    });
    ws.on('close', () => {
      this.sockets.delete(socket);
      if (socket.user_id) this.tellPresence(socket.user_id);
    });
  }

  tellPresence(user_id) {
    for (const [k, v] of this.friends) {
      if (k.startsWith(`${user_id} `) && v === 'friends') this.publish(k.split(' ')[1], { presence: this.presenceOf(user_id) }, true);
    }
  }

  hello(socket, hello) {
    socket.hello = hello;
    let known;
    this.hellos.push(hello);
    if (this.faults.wrongNode) {
      this.faults.wrongNode();
      return socket.ws.close(3006, 'another node was picked');
    }
    try { known = this.who(hello.token); } catch { return socket.ws.close(3501, 'not authenticated, log in again'); }
    const { outcome, session_id, position } = this.parse(hello.cursor);
    for (const other of this.sockets) if (other.session_id === session_id) other.ws.close(3004, 'resumed by another connection');
    Object.assign(socket, known, { session_id });
    this.sockets.add(socket);
    this.write(socket, { welcome: { version: 1, session_id, ...known, outcome, heartbeat_interval_ms: this.heartbeatMs, offline_after_ms: 30000, server_time: Date.now(), limits: { text_chars: 100000, body_bytes: 458752, frame_bytes: 1400000 } } });
    if (position !== undefined) for (const frame of (this.inbox.get(known.user_id) ?? []).slice(position)) this.write(socket, frame);
    this.write(socket, { cursor: { cursor: this.cursor(socket), catching_up: false } });
    this.tellPresence(known.user_id);
    return undefined;
  }

  frame(socket, frame) {
    const [[type, fields]] = Object.entries(frame);
    if (type === 'hello') return this.hello(socket, fields);
    const me = socket.user_id;
    if (!me) return socket.ws.close(3500, 'protocol error');
    const { request_id } = fields;
    try {
      const answer = { request_id };
      if (type === 'heartbeat' && fields.cursor) this.confirmed.push(fields.cursor);
      if (type === 'heartbeat') return this.write(socket, { heartbeat: { server_time: Date.now() } });
      if (type === 'typing') return this.typing(me, fields);
      if (type === 'presence') return this.write(socket, { presence_snapshot: { request_id, users: this.presenceFor(me) } });
      if (type === 'send') {
        Object.assign(answer, this.send(me, fields));
        if (this.faults.dropAck > 0) {
          this.faults.dropAck -= 1;
          return socket.ws.terminate();
        }
      } else if (type === 'edit') answer.message_id = this.edit(me, fields);
      else if (type === 'delete') answer.message_id = this.remove(me, fields);
      else if (type === 'react') answer.message_id = this.react(me, fields);
      else if (type === 'read' || type === 'delivered') this.mark(type, me, fields);
      else if (type === 'join_room') socket.rooms.add(fields.room_id);
      else if (type === 'leave_room') socket.rooms.delete(fields.room_id);
      return this.write(socket, { ack: answer });
    } catch (error) {
      if (!(error instanceof Refusal)) console.error(error);
      return this.write(socket, { error: { request_id, code: error.code ?? 'internal', detail: error.detail ?? String(error), retry_after_ms: error.retryAfterMs } });
    }
  }

  /** Refusals for tests. */
  static refusal(...parts) {
    return new Refusal(...parts);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = new FakeServer();
  console.log(await server.listen(Number(process.argv[2] ?? 0)));
}
