//! Limits that client and server must agree on. Each has its reason; the node's own limits are in the node.

/// Longest text of a `text` message, in Unicode scalar values.
pub const TEXT_CHARS_MAX: usize = 100_000;

/// Largest JSON body of one message, in bytes of UTF-8. 100,000 scalar values are at most 400,000 bytes; the rest is for
/// JSON escapes. One command must fit a log record (512 KB).
pub const BODY_BYTES_MAX: usize = 448 * 1024;

/// Largest frame a client may send. A JSON string may escape every character (`\u00e9`), so a frame may be longer than
/// the body it carries.
pub const CLIENT_FRAME_BYTES_MAX: usize = 1_400_000;

/// A record of the log is cut here: JetStream's default `max_payload` is 1 MiB.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;

/// Members of a group. Larger audiences are live rooms.
pub const GROUP_MEMBERS_MAX: usize = 100;

/// Mentions in one message: at most every member.
pub const MENTIONS_MAX: usize = 100;

/// Different emoji on one message.
pub const REACTION_KINDS_MAX: usize = 32;

/// Longest reaction, in bytes: one emoji with its modifiers and joiners.
pub const REACTION_BYTES_MAX: usize = 64;

/// Longest message type, in bytes: a name such as `text` or `com.example.poll`.
pub const MESSAGE_TYPE_BYTES_MAX: usize = 64;

/// Name of a person, group, room or device, in Unicode scalar values.
pub const NAME_CHARS_MAX: usize = 80;

/// Status text of a profile, in Unicode scalar values.
pub const STATUS_CHARS_MAX: usize = 200;

/// Reference to a picture, in bytes of a URL.
pub const PICTURE_BYTES_MAX: usize = 1_000;

/// Settings of a user, in bytes of JSON.
pub const SETTINGS_BYTES_MAX: usize = 16 * 1024;

/// Handle of a user, in ASCII characters.
pub const HANDLE_CHARS_MIN: usize = 3;
/// See [`HANDLE_CHARS_MIN`].
pub const HANDLE_CHARS_MAX: usize = 32;

/// Shortest password, in Unicode scalar values (NIST SP 800-63B, 5.1.1.2).
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Longest password, in bytes: hashing cost must not depend on what a stranger sends.
pub const PASSWORD_BYTES_MAX: usize = 256;

/// Rows of one page of any list.
pub const PAGE_ROWS_MAX: usize = 200;

/// Longest a long poll waits.
pub const POLL_WAIT_MS_MAX: u64 = 55_000;

/// Length of a cursor in characters.
pub const CURSOR_CHARS_MAX: usize = 400;

/// Ids above the safe one that a cursor lists as already delivered.
pub const CURSOR_EXTRA_IDS_MAX: usize = 12;

/// Live rooms whose position a cursor holds.
pub const CURSOR_ROOMS_MAX: usize = 4;

/// Inbox rows live this long.
pub const INBOX_DAYS: u64 = 60;

/// An older cursor is reset, well before the rows it would need are gone.
pub const CURSOR_DAYS_MAX: u64 = 45;

/// Days a client may repeat a send and get the first answer.
pub const DUPLICATE_DAYS: u64 = 7;

const _: () = assert!(CURSOR_DAYS_MAX < INBOX_DAYS, "a valid cursor must find its inbox rows");
const _: () = assert!(TEXT_CHARS_MAX * 4 < BODY_BYTES_MAX, "the longest text must fit a body");
const _: () = assert!(BODY_BYTES_MAX < RECORD_BYTES_MAX, "the largest body must fit a record");
