// @ts-check
import { asChatError } from './errors.js';
import { ClientState } from './state.js';

/** @typedef {import('./types.js').LocalProfile} LocalProfile */

/** A profile older than this is asked for again. */
const PROFILE_AGE_MS_MAX = 600_000;
/** What failed and may succeed later is tried again after this. */
export const RELOAD_DELAY_MS = 5_000;

/** People: profiles, friends, blocks, presence, and the own account. */
export class People extends ClientState {
  /**
   * A person, as far as is known; asks the server in the background when that is nothing or old.
   * @param {string} id
   * @returns {LocalProfile|null}
   */
  person(id) {
    const known = this.profiles.get(id) ?? null;
    const fresh = known?.fetched_at && this.environment.now() - known.fetched_at < PROFILE_AGE_MS_MAX;
    if (!fresh && id) this.want(id);
    return known;
  }

  /** @param {string} id */
  want(id) {
    if (this.wantedProfiles.has(id) || !this.store || this.connection?.state !== 'live') return;
    const { store } = this;
    this.wantedProfiles.add(id);
    this.profileQueue = (this.profileQueue ?? Promise.resolve()).then(async () => {
      if (store !== this.store) return;
      try {
        this.learn([await this.api.user(id)]);
        this.wantedProfiles.delete(id);
      } catch (error) {
        // Asked again when the page asks again, but not at once.
        this.environment.setTimeout(() => this.wantedProfiles.delete(id), asChatError(error).retryable ? RELOAD_DELAY_MS : PROFILE_AGE_MS_MAX);
      }
    });
  }

  /** Remembers people. @param {import('./types.js').Profile[]} profiles */
  learn(profiles) {
    if (profiles.length === 0) return;
    for (const profile of profiles) {
      const known = { ...profile, fetched_at: this.environment.now() };
      this.profiles.set(profile.user_id, known);
      this.store?.batch.profiles.push(known);
    }
    this.store?.commitSoon();
    this.emit('people');
  }

  /** @param {string} handle beginning of a handle */
  async searchUsers(handle) {
    const page = await this.api.searchUsers(handle);
    this.learn(page.items);
    return page.items;
  }

  async loadFriends() {
    const friends = await this.api.friends();
    if (!this.store) return;
    this.friends = new Map(friends.map(({ profile, friendship, since }) => [profile.user_id, { friendship, since }]));
    this.learn(friends.map((friend) => friend.profile));
    this.emit('people');
  }

  async loadBlocks() {
    const blocks = await this.api.blocks();
    if (!this.store) return;
    this.blocked = new Set(blocks.map((profile) => profile.user_id));
    this.learn(blocks);
    this.emit('people');
  }

  async loadPresence() {
    const presence = this.connection?.writable ? await this.connection.request('presence') : await this.api.presence();
    if (!this.store) return;
    this.presence.clear();
    this.receivePresence(presence.users);
  }

  /** @param {import('./types.js').Presence[]} users */
  receivePresence(users) {
    for (const user of users) this.presence.set(user.user_id, user);
    this.emit('people');
  }

  async loadAccount() {
    const [me, { settings }] = await Promise.all([this.api.me(), this.api.settings()]);
    if (!this.store) return;
    this.me = me;
    this.settings = settings;
    this.learn([me]);
    this.emit('account');
  }

  /** Asks someone to be friends, or accepts. @param {string} id */
  async befriend(id) {
    await this.api.befriend(id);
    await this.loadFriends();
    void this.loadPresence().catch(() => {});
  }

  /** Refuses, cancels or ends a friendship. @param {string} id */
  async unfriend(id) {
    await this.api.unfriend(id);
    this.presence.delete(id);
    await this.loadFriends();
  }

  /** @param {string} id @param {boolean} blocked */
  async setBlocked(id, blocked) {
    await (blocked ? this.api.block(id) : this.api.unblock(id));
    await Promise.all([this.loadBlocks(), this.loadFriends()]);
  }

  /** @param {{name?: string, picture?: string, status?: string}} change */
  async changeProfile(change) {
    await this.api.changeProfile(change);
    await this.loadAccount();
  }

  /** Changes some settings and keeps the others. @param {Record<string, any>} change */
  async changeSettings(change) {
    const { settings } = await this.api.settings();
    await this.api.saveSettings({ ...settings, ...change });
    await this.loadAccount();
  }
}
