//! Fetches what decisions lack. The conversation waits meanwhile, others go on.

use std::collections::VecDeque;

use chat_protocol::message::Message;
use chat_protocol::{ConversationId, MessageId};
use chat_store::{DuplicateRow, Store};
use futures_util::future::join_all;

use super::super::command::Action;
use super::super::decide::Need;
use super::super::state::{Loaded, State};
use super::blocks::{self, Block, Known};
use super::{Owner, Work, store_unavailable};

/// Commands of one conversation whose rows are read together.
const SENDS_TOGETHER_MAX: usize = 256;
/// How far into the queue they are looked for.
const QUEUE_LOOKED_AT_MAX: usize = 1_024;

/// What came back, with the command that waits for it.
pub(super) struct Fetched {
    work: Work,
    /// Sends behind it in the same conversation, which have their facts too now.
    behind: Vec<Work>,
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
            let fact = loaded.map(|loaded| Fact::Conversation(Box::new(loaded)));
            Fetched { work, behind: Vec::new(), fact }
        }));
    }

    /// Reads one fact for this command, and with a duplicate row those for the sends behind it: one after the other, a
    /// busy conversation would get no further than a send per read while a fresh owner has to look each of them up.
    pub(super) fn fetch_fact(&mut self, work: Work, need: Need) {
        let store = self.shared.store.clone();
        // Those that wait for the conversation came before what is in the queue.
        let slot = self.slots.find(&work.command.conversation_id);
        let is_next = slot.as_ref().is_none_or(|slot| slot.blocked.is_empty());
        let elapsed = self.shared.clock.elapsed();
        let known = slot.and_then(|slot| slot.block).map(|block| block.known(elapsed));
        let behind = match need {
            Need::Duplicate if is_next => self.take_sends_behind(&work),
            Need::Duplicate | Need::Message(_) | Need::Blocked(..) => Vec::new(),
        };
        self.fetching.push(Box::pin(async move {
            let (fact, behind) = tokio::join!(
                read(&*store, &work, need, known),
                join_all(behind.into_iter().map(|work| with_duplicate(&*store, work)))
            );
            Fetched { work, behind, fact }
        }));
    }

    /// Takes the next commands of the same conversation out of the queue, up to the first that is no send.
    fn take_sends_behind(&mut self, work: &Work) -> Vec<Work> {
        let conversation = work.command.conversation_id;
        let (mut sends, mut others) = (Vec::new(), VecDeque::new());
        let mut looked_at = 0;
        while looked_at < QUEUE_LOOKED_AT_MAX
            && sends.len() < SENDS_TOGETHER_MAX
            && let Some(next) = self.ready.pop_front()
        {
            looked_at += 1;
            if next.command.conversation_id != conversation {
                others.push_back(next);
            } else if matches!(next.command.action, Action::Send(_)) {
                sends.push(next);
            } else {
                others.push_back(next);
                break;
            }
        }
        others.append(&mut self.ready);
        self.ready = others;
        sends
    }

    /// The command is decided next; it still holds its conversation.
    pub(super) fn fetched(&mut self, fetched: Fetched) {
        let Fetched { mut work, behind, fact } = fetched;
        work.resumed = true;
        let id = work.command.conversation_id;
        let elapsed = self.shared.clock.elapsed();
        let slot = self.slots.get(id, elapsed);
        // They go on when this one lets go of the conversation, before those that came later.
        behind.into_iter().rev().for_each(|work| slot.blocked.push_front(work));
        match fact {
            Ok(Fact::Conversation(loaded)) => {
                let mut state = State::new(id, *loaded);
                let slot = self.slots.get(id, elapsed);
                if let Some(inherited) = &slot.inherited {
                    inherited.apply(&mut state);
                }
                slot.state = Some(state);
            }
            Ok(Fact::Duplicate(row)) => work.facts.duplicate = Some(row),
            Ok(Fact::Message(message)) => work.facts.message = Some(*message),
            Ok(Fact::Blocked(blocked)) => {
                self.slots.get(id, elapsed).block = Some(Block::new(blocked, elapsed));
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

/// A send that finds no row in its way; without an answer it asks again when it is its turn.
async fn with_duplicate(store: &dyn Store, mut work: Work) -> Work {
    if let Ok(Fact::Duplicate(row)) = read(store, &work, Need::Duplicate, None).await {
        work.facts.duplicate = Some(row);
    }
    work
}

async fn read(
    store: &dyn Store,
    work: &Work,
    need: Need,
    known: Option<Known>,
) -> Result<Fact, chat_store::Error> {
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
        Need::Blocked(one, other) => Fact::Blocked(blocks::read(store, (one, other), known).await?),
    })
}
