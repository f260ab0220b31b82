//! Marks of what was read or delivered.

use std::collections::BTreeMap;

use chat_protocol::ConversationId;
use chat_protocol::frame::Mark;

/// Marks that only rise, one per conversation.
#[derive(Default)]
pub(crate) struct Marks(BTreeMap<ConversationId, Raised>);

struct Raised {
    seq: u64,
    /// The request it is under way in, and the seq that request carries.
    under_way: Option<(u64, u64)>,
}

impl Marks {
    pub(crate) fn raise(&mut self, conversation_id: ConversationId, seq: u64) {
        let mark = self.0.entry(conversation_id).or_insert(Raised { seq: 0, under_way: None });
        mark.seq = mark.seq.max(seq);
    }

    pub(crate) fn take(&mut self, mut request_id: impl FnMut() -> u64) -> Vec<Mark> {
        let idle = self.0.iter_mut().filter(|(_, mark)| mark.under_way.is_none());
        idle.map(|(conversation_id, mark)| {
            let request_id = request_id();
            mark.under_way = Some((request_id, mark.seq));
            Mark { request_id, conversation_id: *conversation_id, seq: mark.seq }
        })
        .collect()
    }

    /// Answered, either way: a mark that was refused is not worth repeating.
    pub(crate) fn done(&mut self, request_id: u64) {
        self.0.retain(|_, mark| match mark.under_way {
            Some((request, seq)) if request == request_id => {
                mark.under_way = None;
                mark.seq > seq
            }
            _ => true,
        });
    }

    pub(crate) fn disconnected(&mut self) {
        self.0.values_mut().for_each(|mark| mark.under_way = None);
    }
}
