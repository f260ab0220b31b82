//! How far a session has read its inbox: pure decisions, and a contract. A cursor rises only by reading the store.

use chat_protocol::MessageId;

use crate::watermark::Ticket;

/// What a session has read, and what it is waiting for.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Every inbox entry up to here is queued on the transport, or was sent before.
    position: MessageId,
    /// Taken once the session had subscribed.
    ticket: Ticket,
    /// Highest id issued before the ticket, as first answered.
    settled: Option<MessageId>,
    /// A read has covered everything issued before the session subscribed.
    is_complete: bool,
    /// The last cursor queued.
    told: Option<(MessageId, bool)>,
}

/// What one read is to cover. Taken before the store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The safe watermark.
    pub safe: MessageId,
    /// Reading to its end completes the session.
    completes: bool,
}

impl Progress {
    /// A session that has everything up to `position` and subscribed before it took `ticket`.
    pub fn new(position: MessageId, ticket: Ticket) -> Progress {
        Progress { position, ticket, settled: None, is_complete: false, told: None }
    }

    /// Entries above this were not read yet.
    pub fn position(&self) -> MessageId {
        self.position
    }

    /// Whether everything from before the session has been read.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The ticket, to be asked for until it is settled.
    pub fn unsettled(&self) -> Option<Ticket> {
        self.settled.is_none().then_some(self.ticket)
    }

    /// What the next read is to cover, by the safe watermark and the ticket's answer of this moment.
    pub fn goal(&mut self, safe: MessageId, settled: Option<MessageId>) -> Goal {
        self.settled = self.settled.or(settled);
        Goal { safe, completes: self.settled.is_some_and(|settled| safe >= settled) }
    }

    /// Everything up to `read_to`, which the read reached, is queued. Returns the cursor to queue behind it, unless the
    /// last one said the same.
    pub fn advance(&mut self, goal: Goal, read_to: MessageId) -> Option<(MessageId, bool)> {
        self.position = self.position.max(read_to.min(goal.safe));
        if goal.completes && read_to >= goal.safe {
            self.is_complete = true;
        }
        // Without a watermark nothing is known: no cursor yet.
        if goal.safe == MessageId::ZERO {
            return None;
        }
        let cursor = (self.position, !self.is_complete);
        (self.told.replace(cursor) != Some(cursor)).then_some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use chat_protocol::NodeId;

    use super::*;
    use crate::watermark::Watermarks;

    fn progress(position: u64) -> Progress {
        Progress::new(MessageId(position), Watermarks::new(NodeId::random()).ticket())
    }

    #[test]
    fn a_read_to_the_end_raises_the_cursor_to_the_safe_watermark() {
        let mut progress = progress(10);
        let goal = progress.goal(MessageId(50), None);
        assert_eq!(progress.advance(goal, goal.safe), Some((MessageId(50), true)));
        assert_eq!(progress.advance(goal, goal.safe), None, "said already");
    }

    #[test]
    fn a_cut_page_ends_the_cursor_at_its_last_row() {
        let mut progress = progress(10);
        let goal = progress.goal(MessageId(50), Some(MessageId(40)));
        assert_eq!(progress.advance(goal, MessageId(30)), Some((MessageId(30), true)));
        assert!(!progress.is_complete());
        assert_eq!(progress.advance(goal, goal.safe), Some((MessageId(50), false)));
    }

    #[test]
    fn entries_read_above_the_safe_watermark_do_not_raise_the_cursor() {
        let mut progress = progress(10);
        let goal = progress.goal(MessageId(50), None);
        assert_eq!(progress.advance(goal, MessageId(90)), Some((MessageId(50), true)));
    }

    #[test]
    fn it_is_complete_by_a_read_that_began_after_the_watermark_passed_what_was_issued_before() {
        let mut progress = progress(10);
        let early = progress.goal(MessageId(50), Some(MessageId(60)));
        progress.advance(early, early.safe);
        assert!(!progress.is_complete(), "the watermark had not passed it");
        let late = progress.goal(MessageId(60), Some(MessageId(99)));
        assert!(!progress.is_complete(), "nothing was read since");
        assert_eq!(progress.advance(late, late.safe), Some((MessageId(60), false)));
        assert!(progress.is_complete(), "the first answer counts, not the later 99");
    }

    #[test]
    fn there_is_no_cursor_while_no_watermark_is_known() {
        let mut progress = progress(10);
        let goal = progress.goal(MessageId::ZERO, Some(MessageId::ZERO));
        assert_eq!(progress.advance(goal, goal.safe), None);
        assert_eq!(progress.position(), MessageId(10));
    }

    #[test]
    fn a_watermark_behind_the_cursor_does_not_lower_it() {
        let mut progress = progress(70);
        let goal = progress.goal(MessageId(50), None);
        progress.advance(goal, goal.safe);
        assert_eq!(progress.position(), MessageId(70));
    }
}
