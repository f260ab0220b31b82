// @ts-check
/**
 * The shapes on the wire, as in the service's own documentation. Nothing here runs.
 *
 * @typedef {'direct'|'group'|'room'} ConversationKind
 * @typedef {'member'|'admin'|'owner'} Role
 * @typedef {'none'|'requested'|'received'|'friends'} Friendship
 * @typedef {'new'|'resumed'|'reset'} Outcome
 *
 * @typedef {object} Reaction
 * @property {string} emoji
 * @property {string[]} user_ids
 *
 * @typedef {object} Reactions
 * @property {string} version
 * @property {Reaction[]} items
 *
 * @typedef {object} Message
 * @property {string} conversation_id
 * @property {string} message_id
 * @property {string} version
 * @property {number} seq
 * @property {string} sender_id
 * @property {string} client_message_id
 * @property {string} type
 * @property {any} body
 * @property {number} created_at
 * @property {number} [edited_at]
 * @property {boolean} [deleted]
 * @property {string} [reply_to]
 * @property {string[]} [mentions]
 * @property {Reactions} [reactions]
 *
 * What a device keeps of a message: the wire's fields and two of its own.
 * @typedef {object} LocalFields
 * @property {number} [prev_seq] seq of the visible message before it; `seq - 1` when absent, 0 at the beginning
 * @property {boolean} [provisional] made from an acknowledgement, before the message itself arrived
 * @property {number} [skipped] in a live room: how many messages before it were not sent to this client
 * @typedef {Message & LocalFields} LocalMessage
 *
 * @typedef {object} Member
 * @property {string} user_id
 * @property {Role} role
 * @property {string} joined_id
 * @property {number} read_seq
 * @property {number} delivered_seq
 *
 * @typedef {object} Conversation
 * @property {string} conversation_id
 * @property {ConversationKind} kind
 * @property {string} version
 * @property {string} [name]
 * @property {string} [picture]
 * @property {number} created_at
 * @property {Member[]} members
 *
 * @typedef {object} ConversationHead
 * @property {Conversation} conversation
 * @property {Message} [last_message]
 * @property {number} last_seq
 * @property {number} read_seq
 * @property {number} unread
 *
 * What a device keeps of a conversation.
 * @typedef {object} LocalHead
 * @property {string} conversation_id
 * @property {Conversation} conversation
 * @property {LocalMessage} [last_message]
 * @property {number} last_seq
 * @property {number} read_seq
 * @property {number} [pending_read] an own read mark that the server has not confirmed yet
 *
 * @typedef {object} Profile
 * @property {string} user_id
 * @property {string} handle
 * @property {string} name
 * @property {string} [picture]
 * @property {string} [status]
 *
 * @typedef {Profile & {fetched_at?: number}} LocalProfile
 *
 * @typedef {object} Tokens
 * @property {string} user_id
 * @property {string} device_id
 * @property {string} access_token
 * @property {number} access_expires_at
 * @property {string} refresh_token
 *
 * @typedef {object} Friend
 * @property {Profile} profile
 * @property {Friendship} friendship
 * @property {number} since
 *
 * @typedef {object} Presence
 * @property {string} user_id
 * @property {boolean} online
 * @property {number} [last_active_at]
 *
 * @typedef {object} Discovery
 * @property {string} url
 * @property {string} websocket_url
 * @property {string} node
 * @property {string} [region]
 * @property {string} [discovery_token]
 * @property {number} valid_for_ms
 *
 * @typedef {object} Device
 * @property {string} device_id
 * @property {string} name
 * @property {number} created_at
 * @property {number} last_seen_at
 * @property {number} [received_until]
 * @property {boolean} current
 *
 * @typedef {object} History
 * @property {Message[]} messages
 * @property {boolean} more
 * @property {boolean} [tail_missing]
 *
 * @typedef {object} Sent
 * @property {string} message_id
 * @property {number} seq
 * @property {number} created_at
 *
 * @typedef {object} Sync
 * @property {Outcome} outcome
 * @property {string} session_id
 * @property {ServerFrame[]} frames
 * @property {string} cursor
 * @property {boolean} catching_up
 * @property {number} retry_after_ms
 *
 * @typedef {object} Welcome
 * @property {number} version
 * @property {string} session_id
 * @property {string} user_id
 * @property {string} device_id
 * @property {Outcome} outcome
 * @property {number} heartbeat_interval_ms
 * @property {number} offline_after_ms
 * @property {number} server_time
 * @property {{text_chars: number, body_bytes: number, frame_bytes: number}} limits
 *
 * One object with one key, the frame's type.
 * @typedef {Record<string, any>} ServerFrame
 *
 * A message that the server has not acknowledged yet.
 * @typedef {object} OutboxEntry
 * @property {number} [position] order of writing; given by the storage
 * @property {string} client_message_id
 * @property {string} conversation_id
 * @property {number} created_at
 * @property {string} type
 * @property {any} body
 * @property {string} [reply_to]
 * @property {string[]} [mentions]
 * @property {boolean} tried it was sent at least once, so every further attempt says `retry`
 * @property {{code: string, detail: string}|null} failed why the server refused it for good
 */

/**
 * @template T
 * @typedef {{items: T[], next?: string}} Page
 */

export {};
