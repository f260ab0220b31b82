//! What becomes of a `hello`: pure decisions.

use chat_protocol::cursor::Cursor;
use chat_protocol::error::{Code, Refusal};
use chat_protocol::frame::{Outcome, VERSIONS};
use chat_protocol::limits::CURSOR_DAYS_MAX;
use chat_protocol::{ConversationId, MessageId, Millis, SessionId};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How far back a new session reads if this node has heard no watermark yet. Entries may wait this long for the store
/// without a new device missing one; older ones it loads over HTTP.
const UNKNOWN_WATERMARK_REACH_MS: u64 = 60 * 60 * 1000;

/// Where a session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What the client is told.
    pub outcome: Outcome,
    /// Inbox entries above this are to be sent.
    pub position: MessageId,
    /// Ids above it that the client has.
    pub extra: Vec<MessageId>,
    /// Rooms to receive, and the last id the client has of each.
    pub rooms: Vec<(ConversationId, MessageId)>,
    /// The lineage.
    pub lineage: SessionId,
}

/// The best version that both speak.
pub fn negotiate(offered: &[u16]) -> Result<u16, Refusal> {
    let spoken = VERSIONS.iter().copied().find(|version| offered.contains(version));
    spoken.ok_or_else(|| {
        let detail = format!(
            "This server speaks protocol versions {VERSIONS:?}, the client offered {offered:?}. Update the client."
        );
        Refusal::new(Code::UnsupportedVersion, detail)
    })
}

/// Where a session with this cursor begins. `safe` is the safe watermark at this moment, `lineage` a new random id.
///
/// A new device loads conversations over HTTP after `welcome`, so it needs what is not in the store by now: what is above
/// the safe watermark.
pub fn start(
    cursor: Option<&str>,
    store_epoch: u64,
    now: Millis,
    safe: MessageId,
    lineage: SessionId,
) -> Result<Start, Refusal> {
    let from_now = match safe {
        MessageId::ZERO => {
            MessageId::last_of(Millis(now.0.saturating_sub(UNKNOWN_WATERMARK_REACH_MS)))
        }
        heard => heard,
    };
    let fresh = |outcome, lineage| Start {
        outcome,
        position: from_now,
        extra: Vec::new(),
        rooms: Vec::new(),
        lineage,
    };
    let Some(text) = cursor else { return Ok(fresh(Outcome::New, lineage)) };
    let cursor = Cursor::decode(text).map_err(|_| {
        Refusal::new(
            Code::InvalidCursor,
            "The cursor was not made by this platform. Connect without one and load as if new.",
        )
    })?;
    let is_old = now.since(cursor.safe.created_at()) > CURSOR_DAYS_MAX * DAY_MS;
    if cursor.store_epoch != store_epoch || is_old {
        return Ok(fresh(Outcome::Reset, cursor.session));
    }
    Ok(Start {
        outcome: Outcome::Resumed,
        position: cursor.safe,
        extra: cursor.extra,
        rooms: cursor.rooms,
        lineage: cursor.session,
    })
}

#[cfg(test)]
mod tests {
    use chat_protocol::UserId;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    fn id_days_ago(days: u64) -> MessageId {
        MessageId::last_of(Millis(NOW.0 - days * DAY_MS))
    }

    fn cursor(safe: MessageId) -> Cursor {
        let room = ConversationId::room(UserId(Uuid::nil()), Uuid::nil());
        Cursor {
            store_epoch: 7,
            safe,
            extra: vec![MessageId(safe.0 + 5)],
            rooms: vec![(room, MessageId(9))],
            session: SessionId::random(),
        }
    }

    #[test]
    fn the_best_common_version_is_spoken_and_none_is_refused() {
        assert_eq!(negotiate(&[9, 1]), Ok(1));
        assert_eq!(negotiate(&[2]).unwrap_err().code, Code::UnsupportedVersion);
        assert_eq!(negotiate(&[]).unwrap_err().code, Code::UnsupportedVersion);
    }

    #[test]
    fn without_a_cursor_a_session_begins_at_the_safe_watermark() {
        let lineage = SessionId::random();
        let start = start(None, 7, NOW, MessageId(1 << 50), lineage).unwrap();
        assert_eq!((start.outcome, start.position), (Outcome::New, MessageId(1 << 50)));
        assert_eq!(start.lineage, lineage);
    }

    #[test]
    fn without_a_watermark_it_begins_an_hour_ago() {
        let start = start(None, 7, NOW, MessageId::ZERO, SessionId::random()).unwrap();
        assert_eq!(NOW.since(start.position.created_at()), UNKNOWN_WATERMARK_REACH_MS);
    }

    #[test]
    fn a_valid_cursor_is_resumed_with_its_lineage_rooms_and_extra_ids() {
        let cursor = cursor(id_days_ago(44));
        let text = cursor.encode();
        let start = start(Some(&text), 7, NOW, id_days_ago(0), SessionId::random()).unwrap();
        assert_eq!(start.outcome, Outcome::Resumed);
        assert_eq!((start.position, start.lineage), (cursor.safe, cursor.session));
        assert_eq!((start.extra, start.rooms), (cursor.extra, cursor.rooms));
    }

    #[test]
    fn a_cursor_of_another_store_or_older_than_45_days_is_reset_and_keeps_its_lineage() {
        for (epoch, days) in [(8, 1), (7, 46)] {
            let cursor = cursor(id_days_ago(days));
            let text = cursor.encode();
            let start = start(Some(&text), epoch, NOW, id_days_ago(0), SessionId::random()).unwrap();
            assert_eq!((start.outcome, start.position), (Outcome::Reset, id_days_ago(0)));
            assert_eq!(start.lineage, cursor.session);
            assert!(start.extra.is_empty() && start.rooms.is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_other_text_is_refused_as_an_invalid_cursor(text in ".{0,500}") {
            prop_assume!(Cursor::decode(&text).is_err());
            let refused = start(Some(&text), 7, NOW, MessageId(1), SessionId::random());
            prop_assert_eq!(refused.unwrap_err().code, Code::InvalidCursor);
        }
    }
}
