//! The frames of the chat service: one JSON object or MessagePack map with exactly one key, the frame's type.
//!
//! Unknown fields are ignored on both sides; a client ignores frames of a type it does not know.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::message::{Conversation, Message, Reactions, Role};
use crate::{
    Body, ClientMessageId, Code, ConversationId, DeviceId, MessageId, Millis, SessionId, UserId,
};

/// The protocol versions this code speaks, best first.
pub const VERSIONS: &[u16] = &[1];

/// WebSocket subprotocol with JSON in text frames; also what no subprotocol means.
pub const SUBPROTOCOL_JSON: &str = "chat.v1.json";
/// WebSocket subprotocol with MessagePack in binary frames.
pub const SUBPROTOCOL_MESSAGEPACK: &str = "chat.v1.msgpack";

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientFrame {
    /// First frame of a connection.
    Hello(Hello),
    /// Still here. Any other frame counts as well.
    Heartbeat(Heartbeat),
    /// A message.
    Send(Send),
    /// A new body for an own message.
    Edit(Edit),
    /// Deletes a message for everyone.
    Delete(Target),
    /// Adds or removes an own reaction.
    React(React),
    /// Has read everything up to a message.
    Read(Mark),
    /// Everything up to a message has reached this device.
    Delivered(Mark),
    /// Is typing, or has stopped.
    Typing(TypingNow),
    /// Starts receiving a live room.
    JoinRoom(JoinRoom),
    /// Stops receiving a live room.
    LeaveRoom(LeaveRoom),
    /// Asks for the presence of all friends.
    Presence(Request),
}

/// A sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The last cursor that the client has stored: now and then, and only if it rose. Others see by it how far this device
    /// has got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A request without further fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client; the answer carries it.
    pub request_id: u64,
}

/// Who connects, and from where it wants to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol versions the client speaks.
    pub versions: Vec<u16>,
    /// The access token.
    pub token: String,
    /// The last cursor it stored; none on a new device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The token that came with the node's address from service discovery, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_token: Option<String>,
    /// What it can do beyond version 1; unknown names are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Name and version of the client program, for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Send {
    /// Chosen by the client; the answer carries it. Ignored over HTTP.
    #[serde(default)]
    pub request_id: u64,
    /// Where to.
    pub conversation_id: ConversationId,
    /// Made once per message; the same on every repeat.
    pub client_message_id: ClientMessageId,
    /// `false` only the first time this id is ever sent.
    #[serde(default)]
    pub retry: bool,
    /// `text`, or a name of the application's.
    #[serde(rename = "type")]
    pub kind: String,
    /// The content.
    pub body: Body,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// People it mentions; members only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
}

/// A new body for a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Edit {
    /// Chosen by the client; the answer carries it. Ignored over HTTP.
    #[serde(default)]
    pub request_id: u64,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// The new content, of the same type.
    pub body: Body,
    /// People it mentions now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
}

/// A message that something is done to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Target {
    /// Chosen by the client; the answer carries it. Ignored over HTTP.
    #[serde(default)]
    pub request_id: u64,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
}

/// A reaction to add or remove.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct React {
    /// Chosen by the client; the answer carries it. Ignored over HTTP.
    #[serde(default)]
    pub request_id: u64,
    /// The message's conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// The emoji.
    pub emoji: String,
    /// Take it back instead.
    #[serde(default)]
    pub remove: bool,
}

/// A position in a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Mark {
    /// Chosen by the client; the answer carries it. Ignored over HTTP.
    #[serde(default)]
    pub request_id: u64,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The last message read or received; a mark never goes back.
    pub seq: u64,
}

/// Typing, or no longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypingNow {
    /// Where.
    pub conversation_id: ConversationId,
    /// Typing now; show it for at most 6 s unless it is repeated.
    pub active: bool,
}

/// A live room to receive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinRoom {
    /// Chosen by the client; the answer carries it.
    pub request_id: u64,
    /// The room.
    pub room_id: ConversationId,
}

/// A live room to stop receiving.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaveRoom {
    /// Chosen by the client; the answer carries it.
    pub request_id: u64,
    /// The room.
    pub room_id: ConversationId,
}

/// What the server sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerFrame {
    /// Answer to `hello`.
    #[schema(value_type = Object)]
    Welcome(Welcome),
    /// Answer to `heartbeat`.
    Heartbeat(ServerTime),
    /// A request was carried out; for a send: it is committed.
    Ack(Ack),
    /// A request was refused.
    Error(ErrorFrame),
    /// A message, new or changed.
    Message(Message),
    /// The reactions on a message changed.
    Reactions(ReactionsChanged),
    /// A conversation was created, or its name, picture, members or roles changed.
    Conversation(Conversation),
    /// Someone read up to a message; for the own user this also comes from their other devices.
    Read(Receipt),
    /// Messages up to this one reached a device of someone.
    Delivered(Receipt),
    /// Someone is typing, or stopped.
    Typing(Typing),
    /// A friend came or went.
    Presence(Presence),
    /// Answer to `presence`: all friends.
    PresenceSnapshot(PresenceSnapshot),
    /// A friendship or request changed.
    Friend(FriendChanged),
    /// The own profile, settings or devices changed on another device: fetch again.
    Account(AccountChanged),
    /// A batch of a live room.
    Room(RoomBatch),
    /// Everything up to here was sent on this connection: store the cursor together with it.
    Cursor(CursorFrame),
    /// The node is leaving: connect again after `delay_ms`.
    Reconnect(Reconnect),
}

/// The connection stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both speak from here on.
    pub version: u16,
    /// The session's lineage, kept through resumes.
    pub session_id: SessionId,
    /// Who the token names.
    pub user_id: UserId,
    /// The device the token names.
    pub device_id: DeviceId,
    /// What became of the cursor.
    pub outcome: Outcome,
    /// Send a heartbeat at least this often.
    pub heartbeat_interval_ms: u64,
    /// After this silence the server closes and, without another session, shows the user as offline.
    pub offline_after_ms: u64,
    /// The server's clock.
    pub server_time: Millis,
    /// Limits that this server may have set lower than the protocol's.
    pub limits: Limits,
}

/// What became of the cursor in `hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There was none: load conversations and history over HTTP; what happens from here on arrives here.
    New,
    /// Everything since the cursor follows.
    Resumed,
    /// The cursor is too old or of another store: forget the local copy and load as if new.
    Reset,
}

/// Limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Unicode scalar values in a text.
    pub text_chars: u64,
    /// Bytes of a JSON body.
    pub body_bytes: u64,
    /// Bytes of a frame.
    pub frame_bytes: u64,
}

/// The server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerTime {
    /// Now.
    pub server_time: Millis,
}

/// A request succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ack {
    /// The request.
    pub request_id: u64,
    /// For a send: the message's id. For edit, delete and react: the id of the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// For a send: the message's seq.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// For a send: when it was committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Millis>,
}

/// A request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorFrame {
    /// The request, if the frame that failed carried one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<u64>,
    /// The stable code.
    pub code: Code,
    /// A plain sentence.
    pub detail: String,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The reactions on a message as they are now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReactionsChanged {
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// All of them.
    pub reactions: Reactions,
}

/// A read or delivery mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Whose mark.
    pub user_id: UserId,
    /// Up to this message.
    pub seq: u64,
}

/// Someone's typing state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Typing {
    /// Where.
    pub conversation_id: ConversationId,
    /// Who.
    pub user_id: UserId,
    /// Typing now.
    pub active: bool,
}

/// A person's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presence {
    /// Who.
    pub user_id: UserId,
    /// At least one session is connected.
    pub online: bool,
    /// When they last connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active_at: Option<Millis>,
}

/// The presence of all friends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PresenceSnapshot {
    /// The request.
    pub request_id: u64,
    /// One entry per friend.
    pub users: Vec<Presence>,
}

/// How two people stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Friendship {
    /// Nothing between them.
    None,
    /// The own user asked; the other has not answered.
    Requested,
    /// The other asked; the own user has not answered.
    Received,
    /// Friends.
    Friends,
}

/// A friendship or request changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FriendChanged {
    /// The other person.
    pub user_id: UserId,
    /// How they stand now.
    pub friendship: Friendship,
}

/// What of the account changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccountPart {
    /// Name, picture or status.
    Profile,
    /// Settings.
    Settings,
    /// Devices.
    Devices,
    /// The block list.
    Blocks,
}

/// Something of the own account changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountChanged {
    /// What to fetch again.
    pub part: AccountPart,
}

/// Messages of a live room, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoomBatch {
    /// The room.
    pub room_id: ConversationId,
    /// New or changed messages.
    pub messages: Vec<Message>,
    /// How many messages before these this connection was not sent.
    #[serde(default)]
    pub skipped: u64,
}

/// How far this connection has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CursorFrame {
    /// Opaque, at most 400 characters.
    pub cursor: String,
    /// Something from before this connection may still be on its way.
    pub catching_up: bool,
}

/// The node is leaving.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reconnect {
    /// The cursor to come back with.
    pub cursor: String,
    /// Wait this long, and go on with this connection meanwhile. Then connect again.
    pub delay_ms: u64,
    /// Send it as `discovery_token` in the next `hello`: it says which nodes are the better ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A membership or role to change, as system messages tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SystemEvent {
    /// The conversation was created.
    Created,
    /// Someone was invited or joined.
    Joined {
        /// Who.
        user_id: UserId,
    },
    /// Someone left by themselves.
    Left {
        /// Who.
        user_id: UserId,
    },
    /// Someone was removed by the sender of the message.
    Removed {
        /// Who.
        user_id: UserId,
    },
    /// Someone's role changed.
    RoleChanged {
        /// Whose.
        user_id: UserId,
        /// The role they have now.
        role: Role,
    },
    /// The name changed.
    Renamed {
        /// The name it has now.
        name: String,
    },
    /// The picture changed.
    PictureChanged,
}
