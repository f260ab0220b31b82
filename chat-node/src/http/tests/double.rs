//! Stand-ins for the parts below the API: they note what they are asked and answer plausibly.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chat_protocol::api::{Changed, ConversationHead, History, Sent};
use chat_protocol::error::Refusal;
use chat_protocol::frame::Presence;
use chat_protocol::message::{Conversation, Member, Role};
use chat_protocol::{Code, ConversationId, MessageId, Millis, Partition, SessionId, UserId};

use crate::conversation::{self, Action, Command, Reply};
use crate::presence::{self, Attendance};

/// Before, after, and how many.
type AskedHistory = (Option<MessageId>, Option<MessageId>, usize);

#[derive(Default)]
pub(super) struct Conversations {
    pub(super) made: Mutex<BTreeMap<ConversationId, Conversation>>,
    pub(super) commands: Mutex<Vec<Command>>,
    pub(super) refusal: Mutex<Option<Refusal>>,
    pub(super) asked_history: Mutex<Vec<AskedHistory>>,
}

impl Conversations {
    pub(super) fn last_action(&self) -> Action {
        self.commands.lock().unwrap().last().unwrap().action.clone()
    }

    fn check(&self) -> Result<(), Refusal> {
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn found(&self, id: ConversationId) -> Result<Conversation, Refusal> {
        let missing = || Refusal::new(Code::NotFound, "There is no such conversation.");
        self.made.lock().unwrap().get(&id).cloned().ok_or_else(missing)
    }
}

pub(super) fn conversation(
    id: ConversationId,
    name: Option<String>,
    members: &[UserId],
    created_at: Millis,
) -> Conversation {
    let joined_id = MessageId::first_of(created_at, Partition(0));
    let member = |user_id: &UserId| Member {
        user_id: *user_id,
        role: Role::Member,
        joined_id,
        read_seq: 0,
        delivered_seq: 0,
    };
    Conversation {
        conversation_id: id,
        kind: id.kind(),
        version: joined_id,
        name,
        picture: None,
        created_at,
        members: members.iter().map(member).collect(),
    }
}

#[async_trait]
impl conversation::Conversations for Conversations {
    async fn command(&self, command: Command) -> Result<Reply, Refusal> {
        self.check()?;
        self.commands.lock().unwrap().push(command.clone());
        let message_id = MessageId(42);
        match command.action {
            Action::Send(draft) if draft.kind == "panic" => panic!("asked to"),
            Action::Send(_) => {
                Ok(Reply::Sent(Sent { message_id, seq: 7, created_at: command.received_at }))
            }
            Action::Edit { .. } | Action::Delete { .. } | Action::React { .. } => {
                Ok(Reply::Changed(Changed { version: message_id }))
            }
            Action::Create { name, mut members } => {
                members.insert(0, command.caller);
                let id = command.conversation_id;
                let made = conversation(id, name, &members, command.received_at);
                self.made.lock().unwrap().insert(id, made.clone());
                Ok(Reply::Conversation(made))
            }
            Action::Change { .. }
            | Action::Invite { .. }
            | Action::Remove { .. }
            | Action::SetRole { .. } => {
                Ok(Reply::Conversation(self.found(command.conversation_id)?))
            }
            _ => Ok(Reply::Done),
        }
    }

    async fn head(&self, _: UserId, id: ConversationId) -> Result<ConversationHead, Refusal> {
        self.check()?;
        Ok(head(self.found(id)?))
    }

    async fn list(
        &self,
        _: UserId,
        after: Option<ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationHead>, Refusal> {
        let made = self.made.lock().unwrap();
        let later = made.values().filter(|one| after.is_none_or(|id| one.conversation_id > id));
        Ok(later.take(limit).cloned().map(head).collect())
    }

    async fn history_before(
        &self,
        _: UserId,
        _: ConversationId,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<History, Refusal> {
        self.asked_history.lock().unwrap().push((before, None, limit));
        Ok(History { messages: Vec::new(), more: false, tail_missing: true })
    }

    async fn history_after(
        &self,
        _: UserId,
        _: ConversationId,
        after: MessageId,
        limit: usize,
    ) -> Result<History, Refusal> {
        self.asked_history.lock().unwrap().push((None, Some(after), limit));
        Ok(History { messages: Vec::new(), more: false, tail_missing: false })
    }

    async fn rooms(
        &self,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Conversation>, Refusal> {
        let made = self.made.lock().unwrap();
        let mut rooms: Vec<Conversation> = made.values().cloned().collect();
        rooms.sort_by_key(|room| std::cmp::Reverse((room.created_at, room.conversation_id)));
        let first = |room: &Conversation| MessageId::first_of(room.created_at, Partition(256));
        rooms.retain(|room| before.is_none_or(|before| first(room) < before));
        rooms.truncate(limit);
        Ok(rooms)
    }
}

fn head(conversation: Conversation) -> ConversationHead {
    ConversationHead { conversation, last_message: None, last_seq: 0, read_seq: 0, unread: 0 }
}

#[derive(Default)]
pub(super) struct Presences {
    pub(super) asked: Mutex<Vec<Vec<UserId>>>,
}

#[async_trait]
impl presence::Presences for Presences {
    fn arrive(&self, user: UserId, connection: SessionId) -> Arc<Attendance> {
        Arc::new(Attendance::new(user, connection, Duration::ZERO))
    }

    async fn snapshot(&self, users: Vec<UserId>) -> Result<Vec<Presence>, Refusal> {
        self.asked.lock().unwrap().push(users.clone());
        let online = |user_id| Presence { user_id, online: true, last_active_at: Some(super::NOW) };
        Ok(users.into_iter().map(online).collect())
    }
}
