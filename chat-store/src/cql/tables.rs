//! Whole tables: pages as the database cuts them, and rows of another store.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chat_protocol::api::{Device, Profile};
use chat_protocol::frame::Friendship;
use chat_protocol::record::role_from;
use chat_protocol::{ClientMessageId, ConversationId, DeviceId, MessageId, Millis, Partition};
use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::deserialize::row::DeserializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::Inner;
use super::column::{conversation_id, from_bits, message_id, rows, unpack_users, user_id};
use super::error::Failure;
use super::friends::from_number;
use super::messages::{parse_body, reaction_key};
use super::presence::presence_row;
use crate::packing::unpack;
use crate::row::*;
use crate::table::{FriendshipRow, MarksRow, MessageNow, Page, ReactionNow, Row, Table};

/// Rows of one page where each may have half a megabyte.
const LONG_ROWS_MAX: usize = 64;

/// Rows of the API service that are written at once, and accounts that are looked at: these are lightweight
/// transactions, which cost the database several rounds each.
const CONCURRENCY: usize = 32;

/// Statements that read whole tables, prepared when they are first needed: nodes do not scan.
#[derive(Default)]
pub(super) struct Scans {
    prepared: Mutex<HashMap<Table, PreparedStatement>>,
}

impl Scans {
    fn find(&self, table: Table) -> Option<PreparedStatement> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(&table).cloned()
    }

    fn keep(&self, table: Table, statement: &PreparedStatement) {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.insert(table, statement.clone());
    }
}

/// The columns of each table, in the order of its type below.
fn query(table: Table) -> &'static str {
    match table {
        Table::Accounts => {
            "SELECT user, handle, name, picture, status, password_hash, created_at FROM account"
        }
        Table::Devices => {
            "SELECT user, device, name, created_at, last_seen_at, refresh_digest, refresh_expires_at FROM device"
        }
        Table::Confirmed => "SELECT user, device, safe FROM confirmed",
        Table::Settings => "SELECT user, json FROM settings",
        Table::Friendships => "SELECT low, high, friendship, since FROM friend_pair",
        Table::Blocks => "SELECT user, other FROM block",
        Table::Presences => "SELECT user, sessions, last_active_at FROM presence",
        Table::Conversations => {
            "SELECT conversation, created_id, version, creator, name, picture FROM conversation"
        }
        Table::Members => {
            "SELECT conversation, user, joined_id, left_id, role, version FROM member"
        }
        Table::Marks => "SELECT conversation, user, read_seq, delivered_seq FROM mark",
        Table::Messages => {
            "SELECT conversation, message_id, seq, sender, client_message_id, kind, body, reply_to, mentions, deleted
             FROM message"
        }
        Table::Revisions => {
            "SELECT conversation, message_id, edited, deleted, body, mentions FROM message"
        }
        Table::Reactions => {
            "SELECT conversation, message_id, reactions, first_reactions FROM message"
        }
        Table::Duplicates => {
            "SELECT conversation, sender, client_message_id, message_id, seq FROM duplicate"
        }
        Table::Inboxes => "SELECT user, first_id, conversation, pointers FROM inbox",
        Table::Quarantine => "SELECT partition, id, entry, reason FROM quarantine",
    }
}

/// The message that a row is of; `None`: the row holds only what its whole bucket shares.
type MessageKey = (Vec<u8>, Option<i64>);

#[derive(scylla::DeserializeRow)]
struct MessageColumns {
    conversation: Vec<u8>,
    message_id: Option<i64>,
    seq: Option<i64>,
    sender: Option<Vec<u8>>,
    client_message_id: Option<Vec<u8>>,
    kind: Option<String>,
    body: Option<String>,
    reply_to: Option<i64>,
    mentions: Option<Vec<u8>>,
    deleted: Option<i64>,
}

impl Inner {
    pub(super) async fn scan(
        &self,
        table: Table,
        from: Vec<u8>,
        rows_max: usize,
    ) -> Result<Page, Failure> {
        match table {
            Table::Accounts => self.scan_accounts(from, rows_max).await,
            Table::Devices => self.scan_rows(table, from, rows_max, device).await,
            Table::Confirmed => self.scan_rows(table, from, rows_max, confirmed).await,
            Table::Settings => {
                let row = |(user, json): (Vec<u8>, String)| {
                    Ok(Some(Row::Settings { user_id: user_id(&user)?, json }))
                };
                self.scan_rows(table, from, rows_max, row).await
            }
            Table::Friendships => self.scan_rows(table, from, rows_max, friendship).await,
            Table::Blocks => {
                let row = |(user, other): (Vec<u8>, Vec<u8>)| {
                    Ok(Some(Row::Block { user_id: user_id(&user)?, other: user_id(&other)? }))
                };
                self.scan_rows(table, from, rows_max, row).await
            }
            Table::Presences => {
                let row = |(user, sessions, active): (Vec<u8>, Vec<u8>, i64)| {
                    Ok(Some(Row::Presence(presence_row(user_id(&user)?, &sessions, active)?)))
                };
                self.scan_rows(table, from, rows_max, row).await
            }
            Table::Conversations => self.scan_rows(table, from, rows_max, conversation).await,
            Table::Members => self.scan_rows(table, from, rows_max, member).await,
            Table::Marks => self.scan_rows(table, from, rows_max, marks).await,
            Table::Messages => self.scan_rows(table, from, rows_max, message).await,
            Table::Revisions => self.scan_rows(table, from, rows_max, revision).await,
            Table::Reactions => self.scan_reactions(from, rows_max).await,
            Table::Duplicates => self.scan_rows(table, from, rows_max, duplicate).await,
            Table::Inboxes => self.scan_rows(table, from, rows_max, inbox).await,
            Table::Quarantine => self.scan_rows(table, from, rows_max, quarantine).await,
        }
    }

    async fn columns<T>(
        &self,
        table: Table,
        from: Vec<u8>,
        rows_max: usize,
    ) -> Result<(Vec<T>, Option<Vec<u8>>), Failure>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let statement = match self.scans.find(table) {
            Some(statement) => statement,
            None => {
                let statement = self.executor.prepare(query(table)).await?;
                self.scans.keep(table, &statement);
                statement
            }
        };
        let is_long = matches!(
            table,
            Table::Messages | Table::Revisions | Table::Reactions | Table::Quarantine
        );
        let rows_max = if is_long { rows_max.min(LONG_ROWS_MAX) } else { rows_max };
        self.executor.page(statement, from, rows(rows_max)).await
    }

    async fn scan_rows<T>(
        &self,
        table: Table,
        from: Vec<u8>,
        rows_max: usize,
        row: impl Fn(T) -> Result<Option<Row>, Failure>,
    ) -> Result<Page, Failure>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let (columns, next) = self.columns::<T>(table, from, rows_max).await?;
        let rows = columns.into_iter().filter_map(|columns| row(columns).transpose());
        Ok(Page { rows: rows.collect::<Result<_, _>>()?, next })
    }

    /// What a sign-up that was not finished left behind is nobody's account.
    async fn scan_accounts(&self, from: Vec<u8>, rows_max: usize) -> Result<Page, Failure> {
        type Columns = (Vec<u8>, String, String, Option<String>, Option<String>, String, i64);
        let (columns, next) = self.columns::<Columns>(Table::Accounts, from, rows_max).await?;
        let found: Vec<Option<Row>> = stream::iter(columns)
            .map(|(user, handle, name, picture, status, password_hash, created_at)| async move {
                let user_id = user_id(&user)?;
                let is_whole = self.holder(&handle).await? == Some(user_id);
                let profile = Profile { user_id, handle, name, picture, status };
                let created_at = Millis(from_bits(created_at));
                let account = Account { profile, password_hash, created_at };
                Ok::<_, Failure>(is_whole.then_some(Row::Account(account)))
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        Ok(Page { rows: found.into_iter().flatten().collect(), next })
    }

    async fn scan_reactions(&self, from: Vec<u8>, rows_max: usize) -> Result<Page, Failure> {
        type Columns =
            (Vec<u8>, Option<i64>, Option<HashMap<Vec<u8>, i64>>, Option<HashMap<String, i64>>);
        let (columns, next) = self.columns::<Columns>(Table::Reactions, from, rows_max).await?;
        let mut rows = Vec::new();
        for (conversation, id, changes, firsts) in columns {
            let Some((conversation_id, id)) = message_key(&(conversation, id))? else { continue };
            let firsts = firsts.unwrap_or_default();
            for (key, change) in changes.unwrap_or_default() {
                let (user_id, emoji) = reaction_key(&key)?;
                let version = message_id(change.abs());
                let emoji_first = firsts.get(&emoji).copied().map_or(version, message_id);
                let row = ReactionRow {
                    conversation_id,
                    message_id: id,
                    user_id,
                    emoji,
                    version,
                    removed: change < 0,
                };
                rows.push(Row::Reaction(ReactionNow { row, emoji_first }));
            }
        }
        Ok(Page { rows, next })
    }

    pub(super) async fn import(&self, rows: Vec<Row>) -> Result<(), Failure> {
        let mut writes = Vec::new();
        let mut others = Vec::new();
        for row in rows {
            match row.writes() {
                Some(of_row) => writes.extend(of_row),
                None => others.push(row),
            }
        }
        stream::iter(others.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |row| Box::pin(self.import_row(row)))
            .await?;
        // No checkpoint is written: the partition says nothing.
        Box::pin(self.apply(Partition(0), &writes, None)).await
    }

    async fn import_row(&self, row: Row) -> Result<(), Failure> {
        match row {
            Row::Account(row) => self.import_account(&row).await,
            Row::Device(row) => self.add_device(&row).await,
            Row::Confirmed(row) => self.put_confirmed(vec![row]).await,
            Row::Settings { user_id, json } => self.put_settings(user_id, &json).await,
            Row::Friendship(row) => self.import_friendship(&row).await,
            Row::Block { user_id, other } => self.set_block(user_id, other, true).await,
            Row::Presence(row) => self.put_presence(vec![row]).await,
            Row::Quarantine(row) => self.quarantine(row).await,
            _ => Ok(()),
        }
    }

    async fn import_account(&self, row: &Account) -> Result<(), Failure> {
        let profile = &row.profile;
        let is_free = match self.holder(&profile.handle).await? {
            Some(holder) => holder == profile.user_id,
            None => {
                self.make_account(row).await?;
                self.take_handle(profile).await?
            }
        };
        match is_free {
            true => Ok(()),
            false => Err(Failure::Refused(format!("the handle {} is taken", profile.handle))),
        }
    }

    async fn import_friendship(&self, row: &FriendshipRow) -> Result<(), Failure> {
        let (user, other) = (row.user_id, row.other);
        let present =
            self.set_friendship(user, other, Friendship::None, row.friendship, row.since).await?;
        match present == row.friendship {
            true => Ok(()),
            false => Err(Failure::Refused(format!(
                "{user} and {other} stand otherwise to each other here"
            ))),
        }
    }
}

fn message_key(
    (conversation, id): &MessageKey,
) -> Result<Option<(ConversationId, MessageId)>, Failure> {
    let Some(id) = id else { return Ok(None) };
    Ok(Some((conversation_id(conversation)?, message_id(*id))))
}

type DeviceColumns = (Vec<u8>, Vec<u8>, String, i64, i64, Vec<u8>, i64);

fn device(columns: DeviceColumns) -> Result<Option<Row>, Failure> {
    let (user, device, name, created_at, seen_at, digest, expires_at) = columns;
    let device = Device {
        device_id: DeviceId::from_bytes(&device)?,
        name,
        created_at: Millis(from_bits(created_at)),
        last_seen_at: Millis(from_bits(seen_at)),
        received_until: None,
        current: false,
    };
    let damaged = |_| Failure::Damaged("the digest of a refresh token".into());
    Ok(Some(Row::Device(DeviceRow {
        user_id: user_id(&user)?,
        device,
        refresh_digest: digest.try_into().map_err(damaged)?,
        refresh_expires_at: Millis(from_bits(expires_at)),
    })))
}

fn confirmed((user, device, safe): (Vec<u8>, Vec<u8>, i64)) -> Result<Option<Row>, Failure> {
    let (user_id, device_id) = (user_id(&user)?, DeviceId::from_bytes(&device)?);
    Ok(Some(Row::Confirmed(ConfirmedRow { user_id, device_id, safe: message_id(safe) })))
}

fn friendship(columns: (Vec<u8>, Vec<u8>, i16, i64)) -> Result<Option<Row>, Failure> {
    let (low, high, friendship, since) = columns;
    let friendship = from_number(i64::from(friendship))?;
    // A pair that does not stand in any way any more keeps its row.
    if friendship == Friendship::None {
        return Ok(None);
    }
    Ok(Some(Row::Friendship(FriendshipRow {
        user_id: user_id(&low)?,
        other: user_id(&high)?,
        friendship,
        since: Millis(from_bits(since)),
    })))
}

type ConversationColumns = (Vec<u8>, i64, i64, Vec<u8>, Option<String>, Option<String>);

fn conversation(columns: ConversationColumns) -> Result<Option<Row>, Failure> {
    let (conversation, created_id, version, creator, name, picture) = columns;
    Ok(Some(Row::Conversation(ConversationRow {
        conversation_id: conversation_id(&conversation)?,
        created_id: message_id(created_id),
        version: message_id(version),
        creator_id: user_id(&creator)?,
        name,
        picture,
    })))
}

fn member(columns: (Vec<u8>, Vec<u8>, i64, i64, i32, i64)) -> Result<Option<Row>, Failure> {
    let (conversation, user, joined_id, left_id, role, version) = columns;
    let role = role_from(role as u32).map_err(|error| Failure::Damaged(error.to_string()))?;
    Ok(Some(Row::Member(MemberRow {
        conversation_id: conversation_id(&conversation)?,
        user_id: user_id(&user)?,
        joined_id: message_id(joined_id),
        left_id: (left_id != 0).then(|| message_id(left_id)),
        role,
        version: message_id(version),
    })))
}

type MarksColumns = (Vec<u8>, Vec<u8>, Option<i64>, Option<i64>);

fn marks((conversation, user, read, delivered): MarksColumns) -> Result<Option<Row>, Failure> {
    let (read_seq, delivered_seq) =
        (from_bits(read.unwrap_or(0)), from_bits(delivered.unwrap_or(0)));
    if (read_seq, delivered_seq) == (0, 0) {
        return Ok(None);
    }
    let (conversation_id, user_id) = (conversation_id(&conversation)?, user_id(&user)?);
    Ok(Some(Row::Marks(MarksRow { conversation_id, user_id, read_seq, delivered_seq })))
}

fn message(columns: MessageColumns) -> Result<Option<Row>, Failure> {
    let key = (columns.conversation, columns.message_id);
    let (Some((conversation_id, message_id_)), Some(seq), Some(sender), Some(client)) =
        (message_key(&key)?, columns.seq, columns.sender, columns.client_message_id)
    else {
        // Only what came before the message is there.
        return Ok(None);
    };
    let mut message = MessageNow {
        conversation_id,
        message_id: message_id_,
        seq: from_bits(seq),
        sender_id: user_id(&sender)?,
        client_message_id: ClientMessageId::from_bytes(&client)?,
        kind: String::new(),
        body: None,
        reply_to: columns.reply_to.filter(|id| *id != 0).map(message_id),
        mentions: Vec::new(),
    };
    if columns.deleted.is_none() {
        message.kind = columns.kind.unwrap_or_default();
        message.body = Some(parse_body(columns.body.unwrap_or_default())?);
        message.mentions = unpack_users(columns.mentions.as_deref().unwrap_or_default())?;
    }
    Ok(Some(Row::Message(message)))
}

type RevisionColumns =
    (Vec<u8>, Option<i64>, Option<i64>, Option<i64>, Option<String>, Option<Vec<u8>>);

fn revision(columns: RevisionColumns) -> Result<Option<Row>, Failure> {
    let (conversation, id, edited, deleted, body, mentions) = columns;
    let Some((conversation_id, id)) = message_key(&(conversation, id))? else { return Ok(None) };
    let (version, content) = match (deleted, edited) {
        (Some(deleted), _) => (deleted, None),
        (None, Some(edited)) => {
            let mentions = unpack_users(mentions.as_deref().unwrap_or_default())?;
            (edited, Some((parse_body(body.unwrap_or_default())?, mentions)))
        }
        (None, None) => return Ok(None),
    };
    let (message_id, version) = (id, message_id(version));
    Ok(Some(Row::Revision(RevisionRow { conversation_id, message_id, version, content })))
}

type DuplicateColumns = (Vec<u8>, Vec<u8>, Vec<u8>, i64, i64);

fn duplicate(columns: DuplicateColumns) -> Result<Option<Row>, Failure> {
    let (conversation, sender, client, id, seq) = columns;
    Ok(Some(Row::Duplicate(DuplicateRow {
        conversation_id: conversation_id(&conversation)?,
        sender_id: user_id(&sender)?,
        client_message_id: ClientMessageId::from_bytes(&client)?,
        message_id: message_id(id),
        seq: from_bits(seq),
    })))
}

fn inbox(columns: (Vec<u8>, i64, Vec<u8>, Vec<u8>)) -> Result<Option<Row>, Failure> {
    let (user, first_id, conversation, pointers) = columns;
    Ok(Some(Row::Inbox {
        user_id: user_id(&user)?,
        conversation_id: conversation_id(&conversation)?,
        pointers: unpack(message_id(first_id), &pointers)?,
    }))
}

fn quarantine(columns: (i16, i64, Vec<u8>, String)) -> Result<Option<Row>, Failure> {
    let (partition, id, entry, reason) = columns;
    let (partition, id) = (Partition(partition as u16), message_id(id));
    Ok(Some(Row::Quarantine(QuarantineRow { partition, id, entry, reason })))
}
