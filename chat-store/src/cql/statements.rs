//! Every statement, prepared once when the store is opened.

use futures_util::future::try_join_all;
use scylla::client::session::Session;
use scylla::errors::PrepareError;
use scylla::statement::prepared::PreparedStatement;

/// How a statement may be repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Repeating it changes nothing: the driver tries again on another node.
    Repeatable,
    /// The same, and its rows may be long: fewer of them in one answer.
    Long,
    /// A lightweight transaction: the caller looks at what came of it before trying again.
    Compare,
}

/// Rows of one answer; a reader that needs more gets them page by page.
const PAGE_ROWS: i32 = 1_000;

/// The same where each row may have half a megabyte.
const LONG_PAGE_ROWS: i32 = 32;

macro_rules! statements {
    ($($name:ident: $kind:ident $cql:expr;)*) => {
        /// The statements by name.
        pub(super) struct Statements {
            $(pub(super) $name: PreparedStatement,)*
        }

        impl Statements {
            /// Prepares them all.
            pub(super) async fn prepare(session: &Session) -> Result<Statements, PrepareError> {
                let all = [$((Kind::$kind, $cql),)*];
                let prepared = all.map(|(kind, cql)| prepare(session, kind, cql));
                let mut prepared = try_join_all(prepared).await?.into_iter();
                Ok(Statements {
                    $($name: prepared.next().expect("as many are prepared as there are names"),)*
                })
            }
        }
    };
}

async fn prepare(
    session: &Session,
    kind: Kind,
    cql: &'static str,
) -> Result<PreparedStatement, PrepareError> {
    let mut statement = session.prepare(cql).await?;
    statement.set_is_idempotent(kind != Kind::Compare);
    statement.set_page_size(if kind == Kind::Long { LONG_PAGE_ROWS } else { PAGE_ROWS });
    Ok(statement)
}

statements! {
    make_epoch: Compare "INSERT INTO meta (one, epoch) VALUES (?, ?) IF NOT EXISTS";
    set_epoch: Compare "UPDATE meta SET epoch = ? WHERE one = ? IF epoch = ?";
    epoch: Repeatable "SELECT epoch FROM meta WHERE one = ?";
    put_checkpoint: Repeatable
        "INSERT INTO checkpoint (store_epoch, partition, epoch, sequence, reserved_until)
         VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?";
    checkpoint: Repeatable
        "SELECT sequence, reserved_until, epoch FROM checkpoint WHERE store_epoch = ? AND partition = ? LIMIT 1";
    quarantine: Repeatable
        "INSERT INTO quarantine (partition, id, entry, reason) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    quarantined: Long "SELECT id, entry, reason FROM quarantine WHERE partition = ? LIMIT ?";

    put_message: Repeatable
        "INSERT INTO message (conversation, bucket, message_id, seq, sender, client_message_id, kind, body, reply_to,
             mentions)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    edit_message: Repeatable
        "UPDATE message USING TIMESTAMP ? SET edited = ?, body = ?, mentions = ?
         WHERE conversation = ? AND bucket = ? AND message_id = ?";
    // What was deleted for everyone is not kept either.
    delete_message: Repeatable
        "UPDATE message USING TIMESTAMP ? SET deleted = ?, kind = '', body = '', mentions = 0x
         WHERE conversation = ? AND bucket = ? AND message_id = ?";
    react: Repeatable
        "UPDATE message USING TIMESTAMP ? SET reactions[?] = ?
         WHERE conversation = ? AND bucket = ? AND message_id = ?";
    react_first: Repeatable
        "UPDATE message USING TIMESTAMP ? SET first_reactions[?] = ?
         WHERE conversation = ? AND bucket = ? AND message_id = ?";
    messages_before: Long
        "SELECT message_id, seq, sender, client_message_id, kind, body, reply_to, mentions, edited, deleted, reactions,
             first_reactions, rolled
         FROM message WHERE conversation = ? AND bucket = ? AND message_id > ? AND message_id < ?
         ORDER BY message_id DESC LIMIT ?";
    messages_after: Long
        "SELECT message_id, seq, sender, client_message_id, kind, body, reply_to, mentions, edited, deleted, reactions,
             first_reactions, rolled
         FROM message WHERE conversation = ? AND bucket = ? AND message_id > ? AND message_id < ?
         ORDER BY message_id ASC LIMIT ?";
    messages_in: Long
        "SELECT message_id, seq, sender, client_message_id, kind, body, reply_to, mentions, edited, deleted, reactions,
             first_reactions, rolled
         FROM message WHERE conversation = ? AND bucket = ? AND message_id IN ?";
    put_rolled: Repeatable
        "UPDATE message USING TIMESTAMP ? SET rolled = true WHERE conversation = ? AND bucket = ?";
    put_bucket: Repeatable
        "INSERT INTO message_bucket (conversation, first_id, bucket) VALUES (?, ?, ?) USING TIMESTAMP ?";
    buckets_down: Repeatable
        "SELECT first_id, bucket FROM message_bucket WHERE conversation = ? AND first_id <= ?
         ORDER BY first_id DESC LIMIT ?";
    buckets_up: Repeatable
        "SELECT first_id, bucket FROM message_bucket WHERE conversation = ? AND first_id > ?
         ORDER BY first_id ASC LIMIT ?";

    put_duplicate: Repeatable
        "INSERT INTO duplicate (conversation, sender, client_message_id, message_id, seq) VALUES (?, ?, ?, ?, ?)
         USING TIMESTAMP ? AND TTL ?";
    duplicate: Repeatable
        "SELECT message_id, seq FROM duplicate WHERE conversation = ? AND sender = ? AND client_message_id = ?";
    put_inbox: Repeatable
        "INSERT INTO inbox (user, week, first_id, conversation, pointers) VALUES (?, ?, ?, ?, ?)
         USING TIMESTAMP ? AND TTL ?";
    inbox: Repeatable
        "SELECT first_id, conversation, pointers FROM inbox
         WHERE user = ? AND week = ? AND first_id >= ? AND first_id <= ?";

    put_conversation: Repeatable
        "INSERT INTO conversation (conversation, created_id, version, creator, name, picture) VALUES (?, ?, ?, ?, ?, ?)
         USING TIMESTAMP ?";
    conversation: Repeatable
        "SELECT created_id, version, creator, name, picture FROM conversation WHERE conversation = ?";
    put_room_month: Repeatable "INSERT INTO room_month (one, month) VALUES (?, ?) USING TIMESTAMP ?";
    put_room: Repeatable "INSERT INTO room (month, created_id, conversation) VALUES (?, ?, ?) USING TIMESTAMP ?";
    room_months: Repeatable "SELECT month FROM room_month WHERE one = ? AND month <= ?";
    rooms: Repeatable "SELECT conversation FROM room WHERE month = ? AND created_id < ? LIMIT ?";
    put_member: Repeatable
        "INSERT INTO member (conversation, user, joined_id, left_id, role, version) VALUES (?, ?, ?, ?, ?, ?)
         USING TIMESTAMP ?";
    put_membership: Repeatable
        "INSERT INTO membership (user, conversation, joined_id, left_id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    members: Repeatable
        "SELECT user, joined_id, left_id, role, version FROM member WHERE conversation = ?";
    memberships: Repeatable "SELECT conversation, left_id FROM membership WHERE user = ? AND conversation > ?";
    put_read: Repeatable "UPDATE mark USING TIMESTAMP ? SET read_seq = ? WHERE conversation = ? AND user = ?";
    put_delivered: Repeatable "UPDATE mark USING TIMESTAMP ? SET delivered_seq = ? WHERE conversation = ? AND user = ?";
    marks: Repeatable "SELECT user, read_seq, delivered_seq FROM mark WHERE conversation = ?";

    make_account: Compare
        "INSERT INTO account (user, handle, name, picture, status, password_hash, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS";
    remove_account: Compare "DELETE FROM account WHERE user = ? IF EXISTS";
    account: Repeatable
        "SELECT handle, name, picture, status, password_hash, created_at FROM account WHERE user = ?";
    change_profile: Compare "UPDATE account SET name = ?, picture = ?, status = ? WHERE user = ? IF EXISTS";
    change_password: Compare "UPDATE account SET password_hash = ? WHERE user = ? IF EXISTS";
    take_handle: Compare "INSERT INTO account_handle (handle, user) VALUES (?, ?) IF NOT EXISTS";
    holder: Repeatable "SELECT user FROM account_handle WHERE handle = ?";
    put_handle: Repeatable "INSERT INTO handle (beginning, handle) VALUES (?, ?)";
    handles: Repeatable
        "SELECT handle FROM handle WHERE beginning = ? AND handle > ? AND handle < ? LIMIT ?";
    put_beginning: Repeatable "INSERT INTO handle_beginning (one, beginning) VALUES (?, ?)";
    beginnings: Repeatable "SELECT beginning FROM handle_beginning WHERE one = ? AND beginning >= ? AND beginning < ?";
    put_settings: Repeatable "INSERT INTO settings (user, json) VALUES (?, ?)";
    settings: Repeatable "SELECT json FROM settings WHERE user = ?";

    add_device: Compare
        "INSERT INTO device (user, device, name, created_at, last_seen_at, refresh_digest, refresh_expires_at)
         VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS";
    devices: Repeatable
        "SELECT device, name, created_at, last_seen_at, refresh_digest, refresh_expires_at FROM device WHERE user = ?";
    rename_device: Compare "UPDATE device SET name = ? WHERE user = ? AND device = ? IF EXISTS";
    remove_device: Compare "DELETE FROM device WHERE user = ? AND device = ? IF EXISTS";
    rotate_refresh: Compare
        "UPDATE device SET refresh_digest = ?, last_seen_at = ?, refresh_expires_at = ?
         WHERE user = ? AND device = ? IF refresh_digest = ? AND refresh_expires_at > ?";

    put_confirmed: Repeatable "INSERT INTO confirmed (user, device, safe) VALUES (?, ?, ?) USING TIMESTAMP ?";
    remove_confirmed: Repeatable "DELETE FROM confirmed WHERE user = ? AND device = ?";
    confirmed: Repeatable "SELECT device, safe FROM confirmed WHERE user = ?";

    friend_pair: Repeatable
        "SELECT friendship, since, turn, change FROM friend_pair WHERE low = ? AND high = ?";
    make_friend_pair: Compare
        "INSERT INTO friend_pair (low, high, friendship, since, turn, change) VALUES (?, ?, ?, ?, ?, ?) IF NOT EXISTS";
    change_friend_pair: Compare
        "UPDATE friend_pair SET friendship = ?, since = ?, turn = ?, change = ? WHERE low = ? AND high = ? IF turn = ?";
    announce_friend: Repeatable
        "UPDATE friend USING TIMESTAMP ? SET pending = true WHERE user = ? AND other = ?";
    put_friend: Repeatable
        "UPDATE friend USING TIMESTAMP ? SET friendship = ?, since = ?, pending = false WHERE user = ? AND other = ?";
    friends: Repeatable
        "SELECT other, friendship, since, pending FROM friend WHERE user = ? AND other > ? LIMIT ?";
    put_block: Repeatable "INSERT INTO block (user, other) VALUES (?, ?)";
    remove_block: Repeatable "DELETE FROM block WHERE user = ? AND other = ?";
    blocks: Repeatable "SELECT other FROM block WHERE user = ?";
    block: Repeatable "SELECT other FROM block WHERE user = ? AND other = ?";

    put_presence: Repeatable "INSERT INTO presence (user, sessions, last_active_at) VALUES (?, ?, ?)";
    put_presence_of_partition: Repeatable
        "INSERT INTO presence_of_partition (partition, user, sessions, last_active_at) VALUES (?, ?, ?, ?)";
    presence: Repeatable "SELECT sessions, last_active_at FROM presence WHERE user = ?";
    presence_of_partition: Repeatable
        "SELECT user, sessions, last_active_at FROM presence_of_partition WHERE partition = ?";
}
