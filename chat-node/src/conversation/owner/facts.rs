//! Fetches what decisions lack. The conversation waits meanwhile, others go on.

use chat_protocol::message::Message;
use chat_protocol::{ConversationId, MessageId};
use chat_store::{DuplicateRow, Store};

use super::super::command::Action;
use super::super::decide::Need;
use super::super::state::{Loaded, State};
use super::{Owner, Work, store_unavailable};

/// What came back, with the command that waits for it.
pub(super) struct Fetched {
    work: Work,
    fact: Result<Fact, chat_store::Error>,
}

enum Fact {
    Conversation(Box<Loaded>),
    Duplicate(Option<DuplicateRow>),
    Message(Box<Option<Message>>),
    Blocked(bool),
}

impl Owner {
    /// Reads a conversation that this command is the first to want.
    pub(super) fn fetch_conversation(&mut self, work: Work) {
        let store = self.shared.store.clone();
        self.fetching.push(Box::pin(async move {
            let loaded = load(&*store, work.command.conversation_id).await;
            Fetched { work, fact: loaded.map(|loaded| Fact::Conversation(Box::new(loaded))) }
        }));
    }

    /// Reads one fact for this command.
    pub(super) fn fetch_fact(&mut self, work: Work, need: Need) {
        let store = self.shared.store.clone();
        self.fetching.push(Box::pin(async move {
            let fact = read(&*store, &work, need).await;
            Fetched { work, fact }
        }));
    }

    /// The command is decided next; it still holds its conversation.
    pub(super) fn fetched(&mut self, fetched: Fetched) {
        let Fetched { mut work, fact } = fetched;
        work.resumed = true;
        let id = work.command.conversation_id;
        let elapsed = self.shared.clock.elapsed();
        match fact {
            Ok(Fact::Conversation(loaded)) => {
                self.slots.get(id, elapsed).state = Some(State::new(id, *loaded));
            }
            Ok(Fact::Duplicate(row)) => work.facts.duplicate = Some(row),
            Ok(Fact::Message(message)) => work.facts.message = Some(*message),
            Ok(Fact::Blocked(blocked)) => {
                self.slots.get(id, elapsed).remember_blocked(blocked, elapsed);
                work.facts.blocked = Some(blocked);
            }
            Err(error) => {
                tracing::debug!(partition = %self.partition, %error, "the store has no answer for a command");
                // Those behind it would ask the same store: they are told now instead of one after the other.
                let slot = self.slots.get(id, elapsed);
                for behind in std::mem::take(&mut slot.blocked) {
                    behind.answer(Err(store_unavailable()));
                }
                return self.answered(work, Err(store_unavailable()));
            }
        }
        self.ready.push_front(work);
    }
}

/// A conversation as the store has it.
pub(super) async fn load(
    store: &dyn Store,
    id: ConversationId,
) -> Result<Loaded, chat_store::Error> {
    let (row, members, marks, newest) = tokio::try_join!(
        store.conversation(id),
        store.members(id),
        store.marks(id),
        store.history_before(id, MessageId(u64::MAX >> 1), 1),
    )?;
    let last_seq = newest.first().map_or(0, |message| message.seq);
    Ok(Loaded { row, members, marks, last_seq })
}

async fn read(store: &dyn Store, work: &Work, need: Need) -> Result<Fact, chat_store::Error> {
    let command = &work.command;
    Ok(match need {
        Need::Duplicate => {
            let Action::Send(draft) = &command.action else {
                return Err(chat_store::Error::Refused("only sends have duplicates".to_owned()));
            };
            let key = draft.client_message_id;
            Fact::Duplicate(store.duplicate(command.conversation_id, command.caller, key).await?)
        }
        Need::Message(id) => {
            Fact::Message(Box::new(store.message(command.conversation_id, id).await?))
        }
        Need::Blocked(one, other) => Fact::Blocked(store.is_blocked(one, other).await?),
    })
}
