//! Whole tables: pages by the primary key, and rows of another store.

use chat_protocol::api::{Device, Profile};
use chat_protocol::frame::Friendship;
use chat_protocol::record::role_from;
use chat_protocol::{
    Body, ClientMessageId, ConversationId, DeviceId, MessageId, Millis, Partition, SessionId,
    UserId,
};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row as SqlRow, params_from_iter};

use super::column::{blob, conversation_id, from_bits, message_id, unpack_users, user_id};
use super::error::Failure;
use super::{accounts, devices, friends, meta, presence as presences};
use crate::packing::unpack;
use crate::row::*;
use crate::table::{FriendshipRow, MarksRow, MessageNow, Page, ReactionNow, Row, Table};

/// A page is cut here: bodies may be long.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// How a table is read. The key's columns come first in every row.
struct Scan {
    key: &'static [&'static str],
    columns: &'static str,
    from: &'static str,
    filter: &'static str,
    row: fn(&SqlRow) -> Result<Row, Failure>,
}

impl Scan {
    fn of(table: Table) -> Scan {
        let scan = |key, columns, from, row| Scan { key, columns, from, filter: "1", row };
        match table {
            Table::Accounts => scan(
                &["user"],
                "handle, name, picture, status, password_hash, created_at",
                "account",
                account,
            ),
            Table::Devices => scan(
                &["user", "device"],
                "name, created_at, last_seen_at, refresh_digest, refresh_expires_at",
                "device",
                device,
            ),
            Table::Confirmed => scan(&["user", "device"], "safe", "confirmed", confirmed),
            Table::Settings => scan(&["user"], "json", "settings", settings),
            Table::Friendships => Scan {
                filter: "user < other",
                ..scan(&["user", "other"], "friendship, since", "friend", friendship)
            },
            Table::Blocks => scan(&["user", "other"], "NULL", "block", block),
            Table::Presences => scan(&["user"], "sessions, last_active_at", "presence", presence),
            Table::Conversations => scan(
                &["conversation"],
                "created_id, version_id, creator, name, picture",
                "conversation",
                conversation,
            ),
            Table::Members => scan(
                &["conversation", "user", "joined_id"],
                "left_id, role, version_id",
                "member",
                member,
            ),
            Table::Marks => Scan {
                filter: "read_seq > 0 OR delivered_seq > 0",
                ..scan(&["conversation", "user"], "read_seq, delivered_seq", "mark", marks)
            },
            Table::Messages => scan(
                &["m.conversation", "m.message_id"],
                "seq, sender, client_message_id, iif(r.deleted, '', kind), reply_to, r.deleted,
                 iif(r.body IS NULL, m.body, r.body), iif(r.body IS NULL, m.mentions, r.mentions)",
                "message m LEFT JOIN revision r
                 ON r.conversation = m.conversation AND r.message_id = m.message_id",
                message,
            ),
            Table::Revisions => scan(
                &["conversation", "message_id"],
                "version_id, deleted, body, mentions",
                "revision",
                revision,
            ),
            Table::Reactions => scan(
                &["r.conversation", "r.message_id", "r.user", "r.emoji"],
                "version_id, removed,
                 (SELECT min(first_version) FROM reaction f
                  WHERE f.conversation = r.conversation AND f.message_id = r.message_id AND f.emoji = r.emoji)",
                "reaction r",
                reaction,
            ),
            Table::Duplicates => scan(
                &["day", "conversation", "sender", "client_message_id"],
                "message_id, seq",
                "duplicate",
                duplicate,
            ),
            Table::Inboxes => scan(
                &["week", "user", "first_id", "conversation", "pointers"],
                "NULL",
                "inbox",
                inbox_row,
            ),
            Table::Quarantine => scan(&["partition", "id"], "entry, reason", "quarantine", quarantine),
        }
    }

    fn sql(&self, from_start: bool) -> String {
        let key = self.key.join(", ");
        let Scan { columns, from, filter, .. } = self;
        let places: Vec<String> = (2..self.key.len() + 2).map(|n| format!("?{n}")).collect();
        let above = match from_start {
            true => "1".to_owned(),
            false => format!("({key}) > ({})", places.join(", ")),
        };
        format!(
            "SELECT {key}, {columns} FROM {from} WHERE {above} AND ({filter}) ORDER BY {key} LIMIT ?1"
        )
    }
}

/// The rows above the key that `from` names.
pub(super) fn scan(
    connection: &Connection,
    table: Table,
    from: &[u8],
    rows_max: usize,
) -> Result<Page, Failure> {
    let scan = Scan::of(table);
    let mut values = vec![Value::Integer(super::column::rows(rows_max.max(1)))];
    if !from.is_empty() {
        values.extend(read_position(from, scan.key.len())?);
    }
    let mut statement = connection.prepare_cached(&scan.sql(from.is_empty()))?;
    let mut found = statement.query(params_from_iter(values))?;
    let (mut rows, mut next, mut bytes) = (Vec::new(), None, 0);
    while let Some(row) = found.next()? {
        rows.push((scan.row)(row)?);
        bytes += row_bytes(row);
        if rows.len() == rows_max.max(1) || bytes > PAGE_BYTES_MAX {
            next = Some(write_position(row, scan.key.len())?);
            break;
        }
    }
    Ok(Page { rows, next })
}

fn row_bytes(row: &SqlRow) -> usize {
    let columns = (0..).map_while(|index| row.get_ref(index).ok());
    let bytes = columns.map(|column| match column {
        ValueRef::Text(text) => text.len(),
        ValueRef::Blob(blob) => blob.len(),
        _ => 8,
    });
    bytes.sum()
}

const NUMBER: u8 = 0;
const BLOB: u8 = 1;
const TEXT: u8 = 2;

/// A key's columns: a byte for the type, then 8 bytes of a number, or 8 bytes of length and the content.
fn write_position(row: &SqlRow, columns: usize) -> Result<Vec<u8>, Failure> {
    let mut position = Vec::new();
    for index in 0..columns {
        let (tag, bytes) = match row.get_ref(index)? {
            ValueRef::Integer(number) => {
                position.push(NUMBER);
                position.extend(number.to_be_bytes());
                continue;
            }
            ValueRef::Blob(bytes) => (BLOB, bytes),
            ValueRef::Text(bytes) => (TEXT, bytes),
            _ => return Err(Failure::Damaged("a key without a value".into())),
        };
        position.push(tag);
        position.extend((bytes.len() as u64).to_be_bytes());
        position.extend(bytes);
    }
    Ok(position)
}

fn read_position(mut position: &[u8], columns: usize) -> Result<Vec<Value>, Failure> {
    let wrong = || Failure::Refused("this is no position of a scan of this table".into());
    let mut values = Vec::with_capacity(columns);
    while let Some((tag, rest)) = position.split_first() {
        let (number, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
        position = rest;
        if *tag == NUMBER {
            values.push(Value::Integer(i64::from_be_bytes(*number)));
            continue;
        }
        let length = usize::try_from(u64::from_be_bytes(*number)).map_err(|_| wrong())?;
        let (bytes, rest) = position.split_at_checked(length).ok_or_else(wrong)?;
        position = rest;
        values.push(match *tag {
            BLOB => Value::Blob(bytes.to_vec()),
            TEXT => Value::Text(String::from_utf8(bytes.to_vec()).map_err(|_| wrong())?),
            _ => return Err(wrong()),
        });
    }
    if values.len() == columns { Ok(values) } else { Err(wrong()) }
}

fn account(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Account(Account {
        profile: Profile {
            user_id: user_id(row, 0)?,
            handle: row.get(1)?,
            name: row.get(2)?,
            picture: row.get(3)?,
            status: row.get(4)?,
        },
        password_hash: row.get(5)?,
        created_at: Millis(from_bits(row.get(6)?)),
    }))
}

fn device(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Device(DeviceRow {
        user_id: user_id(row, 0)?,
        device: Device {
            device_id: DeviceId::from_bytes(blob(row, 1)?)?,
            name: row.get(2)?,
            created_at: Millis(from_bits(row.get(3)?)),
            last_seen_at: Millis(from_bits(row.get(4)?)),
            received_until: None,
            current: false,
        },
        refresh_digest: row.get(5)?,
        refresh_expires_at: Millis(from_bits(row.get(6)?)),
    }))
}

fn confirmed(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Confirmed(ConfirmedRow {
        user_id: user_id(row, 0)?,
        device_id: DeviceId::from_bytes(blob(row, 1)?)?,
        safe: message_id(row.get(2)?),
    }))
}

fn settings(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Settings { user_id: user_id(row, 0)?, json: row.get(1)? })
}

fn friendship(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Friendship(FriendshipRow {
        user_id: user_id(row, 0)?,
        other: user_id(row, 1)?,
        friendship: friends::from_number(row.get(2)?)?,
        since: Millis(from_bits(row.get(3)?)),
    }))
}

fn block(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Block { user_id: user_id(row, 0)?, other: user_id(row, 1)? })
}

fn presence(row: &SqlRow) -> Result<Row, Failure> {
    let sessions = optional_blob(row, 1)?.unwrap_or_default().chunks(16).map(SessionId::from_bytes);
    Ok(Row::Presence(PresenceRow {
        user_id: user_id(row, 0)?,
        sessions: sessions.collect::<Result<_, _>>()?,
        last_active_at: row.get::<_, Option<i64>>(2)?.map(|at| Millis(from_bits(at))),
    }))
}

fn conversation(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Conversation(ConversationRow {
        conversation_id: conversation_id(row, 0)?,
        created_id: message_id(row.get(1)?),
        version: message_id(row.get(2)?),
        creator_id: user_id(row, 3)?,
        name: row.get(4)?,
        picture: row.get(5)?,
    }))
}

fn member(row: &SqlRow) -> Result<Row, Failure> {
    let role = role_from(row.get(4)?).map_err(|error| Failure::Damaged(error.to_string()))?;
    Ok(Row::Member(MemberRow {
        conversation_id: conversation_id(row, 0)?,
        user_id: user_id(row, 1)?,
        joined_id: message_id(row.get(2)?),
        left_id: row.get::<_, Option<i64>>(3)?.map(message_id),
        role,
        version: message_id(row.get(5)?),
    }))
}

fn marks(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Marks(MarksRow {
        conversation_id: conversation_id(row, 0)?,
        user_id: user_id(row, 1)?,
        read_seq: from_bits(row.get(2)?),
        delivered_seq: from_bits(row.get(3)?),
    }))
}

fn message(row: &SqlRow) -> Result<Row, Failure> {
    let deleted = row.get::<_, Option<bool>>(7)?.unwrap_or(false);
    let body: String = row.get(8)?;
    Ok(Row::Message(MessageNow {
        conversation_id: conversation_id(row, 0)?,
        message_id: message_id(row.get(1)?),
        seq: from_bits(row.get(2)?),
        sender_id: user_id(row, 3)?,
        client_message_id: ClientMessageId::from_bytes(blob(row, 4)?)?,
        kind: row.get(5)?,
        body: if deleted { None } else { Some(parse_body(body)?) },
        reply_to: row.get::<_, Option<i64>>(6)?.map(message_id),
        mentions: if deleted { Vec::new() } else { unpack_users(optional_blob(row, 9)?)? },
    }))
}

fn revision(row: &SqlRow) -> Result<Row, Failure> {
    let content = match row.get::<_, bool>(3)? {
        true => None,
        false => Some((parse_body(row.get(4)?)?, unpack_users(optional_blob(row, 5)?)?)),
    };
    Ok(Row::Revision(RevisionRow {
        conversation_id: conversation_id(row, 0)?,
        message_id: message_id(row.get(1)?),
        version: message_id(row.get(2)?),
        content,
    }))
}

fn reaction(row: &SqlRow) -> Result<Row, Failure> {
    let conversation_id = conversation_id(row, 0)?;
    Ok(Row::Reaction(ReactionNow {
        row: ReactionRow {
            conversation_id,
            message_id: message_id(row.get(1)?),
            user_id: user_id(row, 2)?,
            emoji: row.get(3)?,
            version: message_id(row.get(4)?),
            removed: row.get(5)?,
        },
        emoji_first: entry_id(conversation_id, from_bits(row.get(6)?)),
    }))
}

/// The entry of a conversation that has this row version.
fn entry_id(conversation: ConversationId, row_version: u64) -> MessageId {
    const SEQUENCE_BITS: u32 = 12;
    let time = Millis::from_2025(row_version >> SEQUENCE_BITS);
    let first = MessageId::first_of(time, conversation.partition());
    MessageId(first.0 | row_version & ((1 << SEQUENCE_BITS) - 1))
}

fn duplicate(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Duplicate(DuplicateRow {
        conversation_id: conversation_id(row, 1)?,
        sender_id: user_id(row, 2)?,
        client_message_id: ClientMessageId::from_bytes(blob(row, 3)?)?,
        message_id: message_id(row.get(4)?),
        seq: from_bits(row.get(5)?),
    }))
}

fn inbox_row(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Inbox {
        user_id: user_id(row, 1)?,
        conversation_id: conversation_id(row, 3)?,
        pointers: unpack(message_id(row.get(2)?), blob(row, 4)?)?,
    })
}

fn quarantine(row: &SqlRow) -> Result<Row, Failure> {
    Ok(Row::Quarantine(QuarantineRow {
        partition: Partition(row.get(0)?),
        id: message_id(row.get(1)?),
        entry: row.get(2)?,
        reason: row.get(3)?,
    }))
}

fn optional_blob<'row>(row: &'row SqlRow, index: usize) -> Result<Option<&'row [u8]>, Failure> {
    row.get_ref(index)?.as_blob_or_null().map_err(|error| Failure::Damaged(error.to_string()))
}

fn parse_body(json: String) -> Result<Body, Failure> {
    Body::from_json(json).map_err(|error| Failure::Damaged(format!("a message body: {error}")))
}

/// Writes rows of another store.
pub(super) fn import(connection: &Connection, rows: &[Row]) -> Result<(), Failure> {
    rows.iter().try_for_each(|row| import_row(connection, row))
}

fn import_row(connection: &Connection, row: &Row) -> Result<(), Failure> {
    if let Some(writes) = row.writes() {
        return writes.iter().try_for_each(|write| super::service::put(connection, write));
    }
    match row {
        Row::Account(row) => import_account(connection, row),
        Row::Device(row) => devices::add(connection, row),
        Row::Confirmed(row) => devices::put_confirmed(connection, row),
        Row::Settings { user_id, json } => accounts::put_settings(connection, *user_id, json),
        Row::Friendship(row) => import_friendship(connection, row),
        Row::Block { user_id, other } => friends::set_block(connection, *user_id, *other, true),
        Row::Presence(row) => presences::put(connection, row),
        Row::Quarantine(row) => meta::quarantine(connection, row),
        _ => Ok(()),
    }
}

fn import_account(connection: &Connection, row: &Account) -> Result<(), Failure> {
    match accounts::insert(connection, row)? {
        true => Ok(()),
        false => Err(Failure::Refused(format!("the handle {} is taken", row.profile.handle))),
    }
}

fn import_friendship(connection: &Connection, row: &FriendshipRow) -> Result<(), Failure> {
    let pair = (row.user_id, row.other);
    let present = friends::set(connection, pair, Friendship::None, row.friendship, row.since)?;
    match present == row.friendship {
        true => Ok(()),
        false => Err(contradiction(row.user_id, row.other)),
    }
}

fn contradiction(user: UserId, other: UserId) -> Failure {
    Failure::Refused(format!("{user} and {other} stand otherwise to each other here"))
}
