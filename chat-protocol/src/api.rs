//! Bodies of the HTTP API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::frame::{Friendship, Outcome, Presence, ServerFrame};
use crate::message::{Conversation, Message, Role};
use crate::{Body, ClientMessageId, Code, DeviceId, MessageId, Millis, SessionId, UserId};

/// An error (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URI reference naming the kind of problem: `/problems/{code}`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A plain sentence: what happened, what to do.
    pub detail: String,
    /// The stable code.
    pub code: Code,
    /// Id of the request, also in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// When the same request may be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// A new account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SignUp {
    /// 3 to 32 of `a-z`, `0-9`, `_`, `.`; capitals are folded. Unique on the platform.
    pub handle: String,
    /// At least 8 characters.
    pub password: String,
    /// Name shown to others; the handle if absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Name of this device, shown in the device list.
    #[serde(default)]
    pub device_name: Option<String>,
}

/// A login.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogIn {
    /// The account's handle.
    pub handle: String,
    /// Its password.
    pub password: String,
    /// Name of this device, shown in the device list.
    #[serde(default)]
    pub device_name: Option<String>,
}

/// A refresh token, to be exchanged.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Refresh {
    /// The newest refresh token of this device. Each works once; a second use logs the device out.
    pub refresh_token: String,
}

/// Tokens of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    /// Who.
    pub user_id: UserId,
    /// The device that these belong to.
    pub device_id: DeviceId,
    /// For the `Authorization: Bearer` header and `hello`.
    pub access_token: String,
    /// When the access token expires.
    pub access_expires_at: Millis,
    /// For `POST /v1/sessions/refresh`.
    pub refresh_token: String,
}

/// A password to change. Every other device is logged out.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangePassword {
    /// The password now.
    pub old_password: String,
    /// At least 8 characters.
    pub new_password: String,
}

/// A person as others see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Profile {
    /// Who.
    pub user_id: UserId,
    /// Unique handle.
    pub handle: String,
    /// Name.
    pub name: String,
    /// Reference to a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// Status text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// Changes to the own profile; absent fields stay, empty strings clear.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ProfileChange {
    /// Name.
    #[serde(default)]
    pub name: Option<String>,
    /// Reference to a picture.
    #[serde(default)]
    pub picture: Option<String>,
    /// Status text.
    #[serde(default)]
    pub status: Option<String>,
}

/// Settings that all devices of a user share: any JSON object up to 16 KiB.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    /// The settings.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// Its id.
    pub device_id: DeviceId,
    /// Its name.
    pub name: String,
    /// When it logged in.
    pub created_at: Millis,
    /// When it last refreshed its token.
    pub last_seen_at: Millis,
    /// What happened up to then has reached the device, by the last cursor that it showed, some minutes late; absent
    /// before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_until: Option<Millis>,
    /// It is the one that asks.
    pub current: bool,
}

/// A new name for a device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeviceChange {
    /// The name.
    pub name: String,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Pass as `after` for the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A friend, or someone who asked or was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Friend {
    /// The other person.
    pub profile: Profile,
    /// How they stand.
    pub friendship: Friendship,
    /// Since when.
    pub since: Millis,
}

/// A conversation to create.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NewConversation {
    /// The one conversation with this person; the same however often it is asked for.
    Direct {
        /// The other person.
        user_id: UserId,
    },
    /// A group.
    Group {
        /// Chosen by the client; the same on a repeat.
        request_id: Uuid,
        /// Its name.
        name: String,
        /// The other first members.
        #[serde(default)]
        members: Vec<UserId>,
    },
    /// A live room.
    Room {
        /// Chosen by the client; the same on a repeat.
        request_id: Uuid,
        /// Its name.
        name: String,
    },
}

/// Changes to a group or room; absent fields stay, an empty picture clears.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ConversationChange {
    /// Name.
    #[serde(default)]
    pub name: Option<String>,
    /// Reference to a picture.
    #[serde(default)]
    pub picture: Option<String>,
}

/// People to invite.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Invite {
    /// Who; those who are members already are passed over.
    pub user_ids: Vec<UserId>,
}

/// A member's new role. `owner` hands the ownership over.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RoleChange {
    /// The role.
    pub role: Role,
}

/// A conversation in the list: what a client shows before it is opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConversationHead {
    /// The conversation.
    pub conversation: Conversation,
    /// Its newest message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message: Option<Message>,
    /// The newest message's seq, 0 if there is none.
    pub last_seq: u64,
    /// Own read mark.
    pub read_seq: u64,
    /// Messages after the own read mark: `last_seq - read_seq`.
    pub unread: u64,
}

/// A message to send over HTTP.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewMessage {
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
    /// People it mentions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<UserId>,
}

/// A sent message, committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sent {
    /// Its id.
    pub message_id: MessageId,
    /// Its seq.
    pub seq: u64,
    /// When it was committed.
    pub created_at: Millis,
}

/// A change of a message, committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// Id of the change.
    pub version: MessageId,
}

/// A new body of a message.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageChange {
    /// The new content, of the same type.
    pub body: Body,
    /// People it mentions now.
    #[serde(default)]
    pub mentions: Vec<UserId>,
}

/// A position in a conversation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Position {
    /// Up to this message.
    pub seq: u64,
}

/// Typing, or no longer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TypingState {
    /// Typing now.
    pub active: bool,
}

/// A page of a conversation's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Newest first when paged by `before`, oldest first when paged by `after`.
    pub messages: Vec<Message>,
    /// There is more in that direction.
    pub more: bool,
    /// Messages may be missing at this moment: nobody owns the conversation, or the database was away and gets again what
    /// it lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tail_missing: bool,
}

/// Answer to a poll or long poll.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sync {
    /// What became of the cursor in the request.
    pub outcome: Outcome,
    /// The session's lineage.
    pub session_id: SessionId,
    /// What happened, in order; the same frames that a WebSocket carries.
    pub frames: Vec<ServerFrame>,
    /// Store together with what the frames say, and pass in the next request.
    pub cursor: String,
    /// Something from before the first request may still be on its way.
    pub catching_up: bool,
    /// Wait this long before the next request; 0 for at once.
    pub retry_after_ms: u64,
}

/// Presence of all friends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presences {
    /// One entry per friend.
    pub users: Vec<Presence>,
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Discovery {
    /// Base address for HTTP, without a slash at the end.
    pub url: String,
    /// Address of the WebSocket.
    pub websocket_url: String,
    /// The node picked.
    pub node: String,
    /// Its region, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Proves the pick for five minutes: send it in `hello`. None where there is nothing to pick from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_token: Option<String>,
    /// Ask again after this time, or when connecting fails.
    pub valid_for_ms: u64,
}
