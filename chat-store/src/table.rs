//! Whole tables, row by row: how everything that one store remembers gets into another, and how the two are compared.
//!
//! A [`Row`] means the same in every backend, however it is kept there: what two stores show alike gives the same rows.

use async_trait::async_trait;
use chat_protocol::frame::Friendship;
use chat_protocol::limits::{DUPLICATE_DAYS, INBOX_DAYS};
use chat_protocol::record::role_number;
use chat_protocol::{Body, ClientMessageId, ConversationId, MessageId, Millis, UserId};
use sha2::{Digest as _, Sha256};

use crate::row::*;
use crate::store::{Error, Store};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// A table, as the contract knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Accounts with their handles.
    Accounts,
    /// Devices with their refresh tokens.
    Devices,
    /// What devices have confirmed.
    Confirmed,
    /// Settings.
    Settings,
    /// How pairs of people stand.
    Friendships,
    /// Who has blocked whom.
    Blocks,
    /// Presence as last written.
    Presences,
    /// Conversations' own columns.
    Conversations,
    /// Membership intervals.
    Members,
    /// Read and delivery marks.
    Marks,
    /// Messages.
    Messages,
    /// Edits and deletions.
    Revisions,
    /// Reactions, those taken back included.
    Reactions,
    /// Answers to repeated sends.
    Duplicates,
    /// Inboxes.
    Inboxes,
    /// Entries that were set aside.
    Quarantine,
}

impl Table {
    /// Every table, in an order in which they can be imported: what names a row comes after it.
    pub const ALL: [Table; 16] = [
        Table::Accounts,
        Table::Devices,
        Table::Confirmed,
        Table::Settings,
        Table::Friendships,
        Table::Blocks,
        Table::Presences,
        Table::Conversations,
        Table::Members,
        Table::Marks,
        Table::Messages,
        Table::Revisions,
        Table::Reactions,
        Table::Duplicates,
        Table::Inboxes,
        Table::Quarantine,
    ];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Table::Accounts => "accounts",
            Table::Devices => "devices",
            Table::Confirmed => "confirmed cursors",
            Table::Settings => "settings",
            Table::Friendships => "friendships",
            Table::Blocks => "blocks",
            Table::Presences => "presences",
            Table::Conversations => "conversations",
            Table::Members => "memberships",
            Table::Marks => "marks",
            Table::Messages => "messages",
            Table::Revisions => "edits and deletions",
            Table::Reactions => "reactions",
            Table::Duplicates => "answers to repeated sends",
            Table::Inboxes => "inbox rows",
            Table::Quarantine => "quarantined entries",
        }
    }
}

/// One row of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// Of [`Table::Accounts`].
    Account(Account),
    /// Of [`Table::Devices`].
    Device(DeviceRow),
    /// Of [`Table::Confirmed`].
    Confirmed(ConfirmedRow),
    /// Of [`Table::Settings`].
    Settings {
        /// Whose.
        user_id: UserId,
        /// As JSON text.
        json: String,
    },
    /// Of [`Table::Friendships`]: one row for each pair that stands in some way.
    Friendship(FriendshipRow),
    /// Of [`Table::Blocks`].
    Block {
        /// Who has blocked.
        user_id: UserId,
        /// Whom.
        other: UserId,
    },
    /// Of [`Table::Presences`].
    Presence(PresenceRow),
    /// Of [`Table::Conversations`].
    Conversation(ConversationRow),
    /// Of [`Table::Members`].
    Member(MemberRow),
    /// Of [`Table::Marks`].
    Marks(MarksRow),
    /// Of [`Table::Messages`].
    Message(MessageNow),
    /// Of [`Table::Revisions`].
    Revision(RevisionRow),
    /// Of [`Table::Reactions`].
    Reaction(ReactionNow),
    /// Of [`Table::Duplicates`].
    Duplicate(DuplicateRow),
    /// Of [`Table::Inboxes`]: one packed row of one user.
    Inbox {
        /// Whose.
        user_id: UserId,
        /// What the pointers are about.
        conversation_id: ConversationId,
        /// By increasing id, as they were packed.
        pointers: Vec<Pointer>,
    },
    /// Of [`Table::Quarantine`].
    Quarantine(QuarantineRow),
}

/// How a pair of people stands, from the side of the lower id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FriendshipRow {
    /// The lower id.
    pub user_id: UserId,
    /// The higher id.
    pub other: UserId,
    /// Never `None`.
    pub friendship: Friendship,
    /// Since when.
    pub since: Millis,
}

/// Both marks of a user in a conversation; 0 for none, but never both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarksRow {
    /// Where.
    pub conversation_id: ConversationId,
    /// Whose.
    pub user_id: UserId,
    /// Read up to this message.
    pub read_seq: u64,
    /// Received up to this message.
    pub delivered_seq: u64,
}

/// A message with the content it has now. Backends may forget what an edit replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageNow {
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Its id.
    pub message_id: MessageId,
    /// Dense number.
    pub seq: u64,
    /// Who sent it.
    pub sender_id: UserId,
    /// The id its client chose.
    pub client_message_id: ClientMessageId,
    /// Type; empty if it was deleted.
    pub kind: String,
    /// Content; `None`: it was deleted, as its revision says.
    pub body: Option<Body>,
    /// The message it answers.
    pub reply_to: Option<MessageId>,
    /// Who is mentioned.
    pub mentions: Vec<UserId>,
}

/// A reaction as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ReactionNow {
    /// Its latest change.
    pub row: ReactionRow,
    /// The lowest entry with this emoji on this message, by anyone: emoji are shown in the order of these.
    pub emoji_first: MessageId,
}

impl Row {
    /// Whether its time is over: such a row is imported by nobody, and databases remove it when they like.
    pub fn is_over(&self, now: Millis) -> bool {
        let over = |id: MessageId, days: u64| now.since(id.created_at()) >= days * DAY_MS;
        match self {
            Row::Duplicate(row) => over(row.message_id, DUPLICATE_DAYS),
            Row::Inbox { pointers, .. } => {
                pointers.first().is_none_or(|first| over(first.id, INBOX_DAYS))
            }
            _ => false,
        }
    }

    /// The writes that bring a row made from the log into a store; `None`: it is not made from the log.
    pub(crate) fn writes(&self) -> Option<Vec<Write>> {
        Some(match self {
            Row::Conversation(row) => vec![Write::Conversation(row.clone())],
            Row::Member(row) => vec![Write::Member(row.clone())],
            Row::Marks(row) => {
                let mark = |seq| MarkRow {
                    conversation_id: row.conversation_id,
                    user_id: row.user_id,
                    seq,
                };
                let read = (row.read_seq > 0).then(|| Write::Read(mark(row.read_seq)));
                let delivered = row.delivered_seq;
                let delivered = (delivered > 0).then(|| Write::Delivered(mark(delivered)));
                read.into_iter().chain(delivered).collect()
            }
            Row::Message(row) => vec![Write::Message(row.as_sent())],
            Row::Revision(row) => vec![Write::Revision(row.clone())],
            Row::Reaction(row) => row.writes(),
            Row::Duplicate(row) => vec![Write::Duplicate(row.clone())],
            Row::Inbox { user_id, conversation_id, pointers } => vec![Write::Inbox(InboxRow {
                users: [*user_id].into(),
                conversation_id: *conversation_id,
                pointers: pointers.clone(),
            })],
            Row::Account(_)
            | Row::Device(_)
            | Row::Confirmed(_)
            | Row::Settings { .. }
            | Row::Friendship(_)
            | Row::Block { .. }
            | Row::Presence(_)
            | Row::Quarantine(_) => return None,
        })
    }
}

impl MessageNow {
    /// What was deleted gets an empty body until its revision comes.
    fn as_sent(&self) -> MessageRow {
        MessageRow {
            conversation_id: self.conversation_id,
            message_id: self.message_id,
            seq: self.seq,
            sender_id: self.sender_id,
            client_message_id: self.client_message_id,
            kind: self.kind.clone(),
            body: self.body.clone().unwrap_or_else(|| Body::text("")),
            reply_to: self.reply_to,
            mentions: self.mentions.clone(),
        }
    }
}

impl ReactionNow {
    /// The emoji's first appearance, and what became of it.
    fn writes(&self) -> Vec<Write> {
        let first = ReactionRow { version: self.emoji_first, removed: false, ..self.row.clone() };
        let is_later = self.emoji_first < self.row.version;
        let first = is_later.then_some(Write::Reaction(first));
        first.into_iter().chain([Write::Reaction(self.row.clone())]).collect()
    }
}

/// A page of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Rows; may be fewer than asked for, and none, also before the end.
    pub rows: Vec<Row>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<Vec<u8>>,
}

/// Everything that a store remembers, but its epoch and its checkpoints.
///
/// - `scan` visits each row that was there when the scan began, and is there when it ends, exactly once. In which order is
///   the backend's matter; a position is good as long as the table is not changed, also for another start of the program,
///   and only in the store that gave it.
/// - `import` writes rows as `scan` gave them, in any store. Importing the same row again changes nothing. An error may
///   leave any part of it written. Messages show what was edited and deleted once [`Table::Revisions`] is imported too.
///   Rows of a table that name others are imported after those, in the order of
///   [`Table::ALL`]; rows whose time is over may be left out.
#[async_trait]
pub trait Tables: Store {
    /// A page of at most `rows_max` rows, and of a few megabytes, from a position on; empty: from the start.
    async fn scan(&self, table: Table, from: Vec<u8>, rows_max: usize) -> Result<Page, Error>;

    /// Writes rows. Refused if one contradicts what is there, such as an account whose handle another one has.
    async fn import(&self, rows: Vec<Row>) -> Result<(), Error>;
}

/// Which rows a table has, whatever their order: their number, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many rows.
    pub rows: u64,
    sums: [u64; 4],
}

impl Digest {
    /// Adds a row.
    pub fn add(&mut self, row: &Row) {
        let mut encoded = Encoder::default();
        encoded.row(row);
        let hash: [u8; 32] = Sha256::digest(&encoded.bytes).into();
        self.rows += 1;
        for (sum, part) in self.sums.iter_mut().zip(hash.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*part));
        }
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.sums.iter().try_for_each(|sum| write!(f, "{sum:016x}"))
    }
}

/// Rows as bytes, different for different rows.
#[derive(Default)]
struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    fn number(&mut self, number: u64) {
        self.bytes.extend(number.to_le_bytes());
    }

    fn fixed(&mut self, bytes: &[u8; 16]) {
        self.bytes.extend(bytes);
    }

    fn text(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.number(bytes.len() as u64);
        self.bytes.extend(bytes);
    }

    fn optional(&mut self, text: Option<&str>) {
        self.bytes.push(u8::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn users(&mut self, users: &[UserId]) {
        self.number(users.len() as u64);
        users.iter().for_each(|user| self.fixed(user.as_bytes()));
    }

    fn row(&mut self, row: &Row) {
        match row {
            Row::Account(row) => self.account(row),
            Row::Device(row) => self.device(row),
            Row::Confirmed(row) => {
                self.fixed(row.user_id.as_bytes());
                self.fixed(row.device_id.as_bytes());
                self.number(row.safe.0);
            }
            Row::Settings { user_id, json } => {
                self.fixed(user_id.as_bytes());
                self.text(json);
            }
            Row::Friendship(row) => {
                self.fixed(row.user_id.as_bytes());
                self.fixed(row.other.as_bytes());
                self.bytes.push(row.friendship as u8);
                self.number(row.since.0);
            }
            Row::Block { user_id, other } => {
                self.fixed(user_id.as_bytes());
                self.fixed(other.as_bytes());
            }
            Row::Presence(row) => {
                self.fixed(row.user_id.as_bytes());
                self.number(row.sessions.len() as u64);
                row.sessions.iter().for_each(|session| self.fixed(session.as_bytes()));
                self.number(row.last_active_at.unwrap_or_default().0);
            }
            Row::Conversation(row) => {
                self.fixed(row.conversation_id.as_bytes());
                self.number(row.created_id.0);
                self.number(row.version.0);
                self.fixed(row.creator_id.as_bytes());
                self.optional(row.name.as_deref());
                self.optional(row.picture.as_deref());
            }
            Row::Member(row) => {
                self.fixed(row.conversation_id.as_bytes());
                self.fixed(row.user_id.as_bytes());
                self.number(row.joined_id.0);
                self.number(row.left_id.unwrap_or_default().0);
                self.number(role_number(row.role).into());
                self.number(row.version.0);
            }
            Row::Marks(row) => {
                self.fixed(row.conversation_id.as_bytes());
                self.fixed(row.user_id.as_bytes());
                self.number(row.read_seq);
                self.number(row.delivered_seq);
            }
            Row::Message(row) => self.message(row),
            Row::Revision(row) => self.revision(row),
            Row::Reaction(row) => self.reaction(row),
            Row::Duplicate(row) => {
                self.fixed(row.conversation_id.as_bytes());
                self.fixed(row.sender_id.as_bytes());
                self.fixed(row.client_message_id.as_bytes());
                self.number(row.message_id.0);
                self.number(row.seq);
            }
            Row::Inbox { user_id, conversation_id, pointers } => {
                self.fixed(user_id.as_bytes());
                self.fixed(conversation_id.as_bytes());
                for pointer in pointers {
                    self.number(pointer.id.0);
                    self.bytes.push(pointer.kind as u8);
                    self.number(pointer.target.0);
                }
            }
            Row::Quarantine(row) => {
                self.number(row.partition.0.into());
                self.number(row.id.0);
                self.text(&row.entry);
                self.text(&row.reason);
            }
        }
    }

    fn account(&mut self, row: &Account) {
        self.fixed(row.profile.user_id.as_bytes());
        self.text(&row.profile.handle);
        self.text(&row.profile.name);
        self.optional(row.profile.picture.as_deref());
        self.optional(row.profile.status.as_deref());
        self.text(&row.password_hash);
        self.number(row.created_at.0);
    }

    fn device(&mut self, row: &DeviceRow) {
        self.fixed(row.user_id.as_bytes());
        self.fixed(row.device.device_id.as_bytes());
        self.text(&row.device.name);
        self.number(row.device.created_at.0);
        self.number(row.device.last_seen_at.0);
        self.text(row.refresh_digest);
        self.number(row.refresh_expires_at.0);
    }

    fn message(&mut self, row: &MessageNow) {
        self.fixed(row.conversation_id.as_bytes());
        self.number(row.message_id.0);
        self.number(row.seq);
        self.fixed(row.sender_id.as_bytes());
        self.fixed(row.client_message_id.as_bytes());
        self.text(&row.kind);
        self.optional(row.body.as_ref().map(Body::as_json));
        self.number(row.reply_to.unwrap_or_default().0);
        self.users(&row.mentions);
    }

    fn revision(&mut self, row: &RevisionRow) {
        self.fixed(row.conversation_id.as_bytes());
        self.number(row.message_id.0);
        self.number(row.version.0);
        self.optional(row.content.as_ref().map(|(body, _)| body.as_json()));
        self.users(row.content.as_ref().map_or(&[][..], |(_, mentions)| mentions));
    }

    fn reaction(&mut self, row: &ReactionNow) {
        self.fixed(row.row.conversation_id.as_bytes());
        self.number(row.row.message_id.0);
        self.fixed(row.row.user_id.as_bytes());
        self.text(&row.row.emoji);
        self.number(row.row.version.0);
        self.bytes.push(u8::from(row.row.removed));
        self.number(row.emoji_first.0);
    }
}
