//! What a poll brings: a read of the inbox whose cursor also says what was sent above the safe watermark.

use chat_protocol::frame::ServerFrame;
use chat_protocol::limits::CURSOR_EXTRA_IDS_MAX;
use chat_protocol::{MessageId, UserId};
use chat_store::{Error, InboxEntry, Store};

use super::hello::Start;
use super::inbox;
pub(crate) use super::room::missed;

const PAGE_ENTRIES: usize = 200;
const CHUNK_ENTRIES: usize = 32;
/// An answer is cut about here.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Above every id.
const END: MessageId = MessageId(u64::MAX >> 1);

/// An answer's frames, and its cursor.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) frames: Vec<ServerFrame>,
    /// The new safe id.
    pub(crate) position: MessageId,
    /// Ids above it that were sent, now or before.
    pub(crate) extra: Vec<MessageId>,
    /// There is more at once.
    pub(crate) more: bool,
}

/// What to send of a page: pure.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Entries to send, by increasing id.
    send: Vec<InboxEntry>,
    /// The new safe id, if all of them are sent.
    position: MessageId,
    /// The page ends before the watermark.
    more: bool,
}

/// `safe` was taken before the page was read above `position`.
fn plan(
    entries: &[InboxEntry],
    is_cut: bool,
    position: MessageId,
    extra: &[MessageId],
    safe: MessageId,
) -> Plan {
    let safe = safe.max(position);
    let page_end = match entries.last() {
        Some(last) if is_cut => last.pointer.id.min(safe),
        _ => safe,
    };
    let sent_above = extra.iter().filter(|id| **id > page_end).count();
    let early_max = CURSOR_EXTRA_IDS_MAX.saturating_sub(sent_above);
    let unsent = entries.iter().filter(|entry| !extra.contains(&entry.pointer.id));
    let (below, above): (Vec<InboxEntry>, Vec<InboxEntry>) =
        unsent.partition(|entry| entry.pointer.id <= page_end);
    // What the cursor could not list would come again at once: it waits for the next poll.
    let send = below.into_iter().chain(above.into_iter().take(early_max)).collect();
    Plan { send, position: page_end, more: is_cut && page_end < safe }
}

/// Reads the inbox above the cursor.
pub(crate) async fn pull(
    store: &dyn Store,
    user: UserId,
    position: MessageId,
    extra: &[MessageId],
    safe: MessageId,
) -> Result<Pulled, Error> {
    let page = store.inbox(user, position, END, PAGE_ENTRIES).await?;
    let plan = plan(&page.entries, page.more, position, extra, safe);
    let mut pulled =
        Pulled { frames: Vec::new(), position: plan.position, extra: Vec::new(), more: plan.more };
    let mut sent: Vec<MessageId> = extra.to_vec();
    let mut bytes_left = ANSWER_BYTES_MAX;
    for chunk in plan.send.chunks(CHUNK_ENTRIES) {
        let resolved = inbox::resolve(store, user, chunk).await?;
        let (kept, cut_at) = inbox::cut(resolved, chunk, bytes_left);
        let bytes = kept.iter().map(|one| one.bytes).sum();
        bytes_left = bytes_left.saturating_sub(bytes);
        pulled.frames.extend(kept.into_iter().map(|one| one.frame));
        let covered = cut_at.unwrap_or(END);
        sent.extend(chunk.iter().map(|entry| entry.pointer.id).filter(|id| *id <= covered));
        let next = plan.send.iter().find(|entry| !sent.contains(&entry.pointer.id));
        if cut_at.is_some() || bytes_left == 0 {
            // Up to before the first entry that is left.
            if let Some(next) = next {
                let before = MessageId(next.pointer.id.0 - 1);
                pulled.position = pulled.position.min(before).max(position);
                pulled.more = true;
            }
            break;
        }
    }
    sent.retain(|id| *id > pulled.position);
    sent.sort();
    sent.dedup();
    sent.truncate(CURSOR_EXTRA_IDS_MAX);
    pulled.extra = sent;
    Ok(pulled)
}

/// Notes that a message above the cursor was sent live. `false`: the cursor says already that it was. If the cursor has no
/// room for the id, it comes once more when the watermark has passed it.
pub(crate) fn note_sent(start: &mut Start, id: MessageId) -> bool {
    if id <= start.position || start.extra.contains(&id) {
        return id == MessageId::ZERO;
    }
    if start.extra.len() < CURSOR_EXTRA_IDS_MAX {
        start.extra.push(id);
        start.extra.sort();
    }
    true
}
