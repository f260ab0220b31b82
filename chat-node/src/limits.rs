//! Limits of a node, with their reasons. Those that clients must know are in `chat_protocol::limits`.

/// Bytes of chat frames that wait for one socket. A reader that is a full megabyte behind on a live connection is better
/// served by a resume than by a longer queue.
pub const OUTBOX_BYTES_MAX: usize = 1 << 20;

/// Frames that may be lost (typing, presence) are dropped once this much waits: they would be stale on arrival.
pub const OUTBOX_EPHEMERAL_BYTES_MAX: usize = 64 * 1024;

/// Committed entries that wait for the store, in memory, per node. Beyond it the writer reads the log.
pub const UNWRITTEN_BYTES_MAX: usize = 64 << 20;

/// What a new owner remembers of entries that owners before have committed and that may not be in the store counts with the
/// same. Beyond this the bodies of messages are left in the log, until they are in the store.
pub const INHERITED_BODIES_BYTES_MAX: usize = UNWRITTEN_BYTES_MAX / 2;

/// Beyond this they are written before the owner answers anybody. The rest is for what is committed meanwhile.
pub const INHERITED_FACTS_BYTES_MAX: usize = UNWRITTEN_BYTES_MAX / 4 * 3;

/// The same, entries of one partition: half of the sends that it may have to remember.
pub const PARTITION_INHERITED_MAX: usize = PARTITION_DUPLICATES_UNWRITTEN_MAX / 2;

/// Bytes of entries that the owner adds to one answer of history. With more, history says that its tail is missing.
pub const TAIL_BYTES_MAX: usize = 256 * 1024;

/// Partitions of a node whose log is written to the store again at a time: what is sent now must get through beside it.
pub const REPLAYS_MAX: usize = 8;

/// Body of a message, in bytes of JSON, up to which it is published whole between nodes. The bus carries a copy for each
/// member; a larger one is published as a pointer, and each node fetches it once.
pub const PUBLISHED_BODY_BYTES_MAX: usize = 8 * 1024;

/// How long live frames wait for a message that is being fetched. An owner answers within milliseconds; a reader who waits
/// for longer than this is better served by the frames behind it.
pub const FETCH_DEADLINE_MS: u64 = 2_000;

/// Messages that a node fetches at the same time.
pub const FETCHES_CONCURRENT_MAX: usize = 16;

/// Messages that a node fetches or is to fetch. With the largest bodies that are 57 MB. What comes beyond is left out.
pub const FETCHES_MAX: usize = 128;

/// Bytes of live frames that wait behind messages that are being fetched, per node. What comes beyond is left out.
pub const FETCH_WAITING_BYTES_MAX: usize = 8 << 20;

/// Bytes of fetched messages that are kept for pointers of other users, which come a moment later.
pub const FETCHED_BYTES_MAX: usize = 8 << 20;

/// How long a node that starts tries to reach its broker and its store. Less than a supervisor gives a start.
pub const SERVERS_AWAITED_MS: u64 = 60_000;

/// Commands that wait for one partition's owner. What comes beyond is refused as `overloaded`.
pub const PARTITION_QUEUE_MAX: usize = 4_096;

/// Commands that wait for a fact from the store, per conversation.
pub const CONVERSATION_QUEUE_MAX: usize = 1_024;

/// Conversations that one partition's owner keeps in memory; idle ones go first.
pub const PARTITION_CONVERSATIONS_MAX: usize = 4_096;

/// Acknowledged sends that one partition's owner remembers for duplicates, besides those not yet in the store.
pub const PARTITION_DUPLICATES_MAX: usize = 4_096;

/// The same for those of the last seconds: a busy conversation has some thousand a second.
pub const PARTITION_RECENT_DUPLICATES_MAX: usize = 131_072;

/// The same, while the store takes nothing and none of them may be forgotten. Beyond it sends are refused.
pub const PARTITION_DUPLICATES_UNWRITTEN_MAX: usize = 262_144;

/// How long it remembers them at most. A command that its gateway received earlier counts as a repeat.
pub const DUPLICATE_MEMORY_MS: u64 = 60_000;

/// After an opening record every command counts as a repeat for this long: one sent to the previous owner may be late.
pub const FRESH_OWNER_MS: u64 = 60_000;

/// Devices whose confirmed cursor waits for the store: a row of each is some 100 bytes. What comes beyond is left out; the
/// device confirms again.
pub const CONFIRMED_DEVICES_MAX: usize = 65_536;

/// How long a leaving node goes on sending what waits for a socket.
pub const DRAIN_FLUSH_MS: u64 = 5_000;

/// How long after its delay a client that was asked to leave may go on before it is closed. With [`DRAIN_FLUSH_MS`] it is
/// closed 10 s after its delay at the latest.
pub const DRAIN_LEAVE_MS: u64 = 5_000;

/// Batches of a rollout that a node remembers. A rollout of more has forgotten its first ones long after they were settled.
pub const DRAIN_BATCHES_MAX: usize = 64;

/// Lineages that a node waits for, to see whether they come back: more than it has clients. Beyond it they are not
/// counted.
pub const DRAIN_LINEAGES_MAX: usize = 1 << 20;
