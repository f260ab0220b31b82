// @ts-check

/** Discovery is a preference: a connection does not wait for it longer than this. */
const DISCOVERY_TIMEOUT_MS = 3_000;

/**
 * Where the WebSocket goes: to the node that service discovery picked, else to the given address. HTTP requests stay at
 * the given address.
 */
export class Place {
  /**
   * @param {object} options
   * @param {string} options.url of the WebSocket, where discovery has nothing to pick from, or cannot be asked
   * @param {boolean} options.discover ask at all
   * @param {import('./api.js').Api} options.api
   * @param {import('./environment.js').Environment} options.environment
   */
  constructor({ url, discover, api, environment }) {
    this.url = url;
    this.discover = discover;
    this.api = api;
    this.environment = environment;
    /** The attempt under way goes to a node that was picked. */
    this.picked = false;
    /** The next attempt goes to the given address: the node that was picked cannot be reached. */
    this.passOver = false;
    /** Until then every node has the given address, so there is nothing to ask. */
    this.sharedUntil = 0;
  }

  /** Where the next attempt goes. @returns {Promise<{url: string, discoveryToken?: string}>} */
  async locate() {
    const given = { url: this.url };
    const passOver = this.passOver;
    this.passOver = false;
    this.picked = false;
    if (!this.discover || passOver || this.environment.now() < this.sharedUntil) return given;
    try {
      const answer = await this.api.discovery(DISCOVERY_TIMEOUT_MS);
      if (answer.discovery_token) {
        this.picked = true;
        return { url: answer.websocket_url, discoveryToken: answer.discovery_token };
      }
      this.sharedUntil = this.environment.now() + answer.valid_for_ms;
    } catch { /* the given address will do */ }
    return given;
  }

  /**
   * An attempt, or the connection that it became, ended.
   * @param {boolean} reached a node has answered
   */
  ended(reached) {
    this.passOver = this.picked && !reached;
    this.picked = false;
  }
}
