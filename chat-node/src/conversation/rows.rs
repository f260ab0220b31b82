//! What an entry means for the store and for messages already read: the same whether it was decided a moment ago or is
//! replayed from the log.

use std::sync::Arc;

use chat_protocol::api::Sent;
use chat_protocol::message::{Message, Reaction, Reactions};
use chat_protocol::record::{self, Change, Entry, MemberChange, MessageSent, Unreadable};
use chat_protocol::{Body, ClientMessageId, ConversationId, ConversationKind, MessageId, UserId};
use chat_store::{
    DuplicateRow, INBOX_SPAN_MS, InboxRow, MarkRow, MemberRow, MessageRow, Pointer, PointerKind,
    ReactionRow, RevisionRow, Write,
};

use super::state::State;

/// The rows of one entry. The inbox pointer is apart, because pointers of several entries are stored together.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryRows {
    /// The entry.
    pub id: MessageId,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Rows that do not depend on other entries.
    pub writes: Vec<Write>,
    /// Who gets a pointer, and which.
    pub inbox: Option<(Arc<[UserId]>, Pointer)>,
}

/// The rows of an entry. `before` and `after` are the conversation's states on its two sides.
pub fn rows(before: &State, after: &State, entry: &Entry) -> Result<EntryRows, Unreadable> {
    let id = entry.message_id();
    let change = entry.change.as_ref().ok_or_else(|| Unreadable(format!("entry {}", entry.id)))?;
    let point = |kind, target| Some((after.audience.clone(), Pointer { id, kind, target }));
    let conversation_id = after.id;
    let (writes, inbox) = match change {
        Change::Message(sent) => {
            (message_rows(conversation_id, id, sent)?, point(PointerKind::Message, id))
        }
        Change::Edit(edit) => {
            let content = Some((body(&edit.body)?, users(&edit.mentions)?));
            (
                revision(conversation_id, edit.target, id, content),
                point(PointerKind::Revision, MessageId(edit.target)),
            )
        }
        Change::Delete(delete) => (
            revision(conversation_id, delete.target, id, None),
            point(PointerKind::Revision, MessageId(delete.target)),
        ),
        Change::Reaction(change) => {
            let row = ReactionRow {
                conversation_id,
                message_id: MessageId(change.target),
                user_id: record::user_id(&change.user)?,
                emoji: change.emoji.clone(),
                version: id,
                removed: change.removed,
            };
            (vec![Write::Reaction(row)], point(PointerKind::Reaction, MessageId(change.target)))
        }
        Change::Created(_) => {
            let members = after.members.keys().filter_map(|user| member_row(after, *user, None));
            let writes = conversation_row(after).into_iter().chain(members).collect();
            (writes, point(PointerKind::Conversation, MessageId::ZERO))
        }
        Change::Properties(_) => (
            conversation_row(after).into_iter().collect(),
            point(PointerKind::Conversation, MessageId::ZERO),
        ),
        Change::Member(change) => {
            let user = record::user_id(&change.user)?;
            let left = change.change == MemberChange::Left as i32;
            // The record of a leave also goes to the one who left.
            let (side, left_id) = if left { (before, Some(id)) } else { (after, None) };
            let audience = if left { before.audience.clone() } else { after.audience.clone() };
            let pointer = Pointer { id, kind: PointerKind::Conversation, target: MessageId::ZERO };
            (member_row(side, user, left_id).into_iter().collect(), Some((audience, pointer)))
        }
        Change::Read(mark) => {
            let user_id = record::user_id(&mark.user)?;
            let row = MarkRow { conversation_id, user_id, seq: mark.seq };
            let pointer = Pointer { id, kind: PointerKind::Read, target: MessageId::ZERO };
            (vec![Write::Read(row)], Some(([user_id].into(), pointer)))
        }
    };
    // A live room has no inboxes.
    let inbox =
        inbox.filter(|(users, _)| after.kind() != ConversationKind::Room && !users.is_empty());
    Ok(EntryRows { id, conversation_id, writes, inbox })
}

fn message_rows(
    conversation_id: ConversationId,
    id: MessageId,
    sent: &MessageSent,
) -> Result<Vec<Write>, Unreadable> {
    let message = message_row(conversation_id, id, sent)?;
    let duplicate = DuplicateRow {
        conversation_id,
        sender_id: message.sender_id,
        client_message_id: message.client_message_id,
        message_id: id,
        seq: sent.seq,
    };
    Ok(vec![Write::Message(message), Write::Duplicate(duplicate)])
}

fn message_row(
    conversation_id: ConversationId,
    id: MessageId,
    sent: &MessageSent,
) -> Result<MessageRow, Unreadable> {
    Ok(MessageRow {
        conversation_id,
        message_id: id,
        seq: sent.seq,
        sender_id: record::user_id(&sent.sender)?,
        client_message_id: client_message_id(sent)?,
        kind: sent.kind.clone(),
        body: body(&sent.body)?,
        reply_to: (sent.reply_to != 0).then_some(MessageId(sent.reply_to)),
        mentions: users(&sent.mentions)?,
    })
}

fn revision(
    conversation_id: ConversationId,
    target: u64,
    version: MessageId,
    content: Option<(Body, Vec<UserId>)>,
) -> Vec<Write> {
    let message_id = MessageId(target);
    vec![Write::Revision(RevisionRow { conversation_id, message_id, version, content })]
}

fn conversation_row(state: &State) -> Option<Write> {
    state.row.as_ref().map(|row| Write::Conversation((**row).clone()))
}

fn member_row(state: &State, user_id: UserId, left_id: Option<MessageId>) -> Option<Write> {
    let membership = state.members.get(&user_id)?;
    Some(Write::Member(MemberRow {
        conversation_id: state.id,
        user_id,
        joined_id: membership.joined_id,
        left_id,
        role: membership.role,
        version: left_id.unwrap_or(membership.version),
    }))
}

/// The writes of several entries in log order, with pointers that go to the same people packed together.
pub fn pack(entries: Vec<EntryRows>) -> Vec<Write> {
    let mut writes = Vec::with_capacity(entries.len() * 3);
    // Packs still open, newest last; a pack is of one conversation and one audience.
    let mut packs: Vec<InboxRow> = Vec::new();
    let mut latest: std::collections::HashMap<ConversationId, usize> = Default::default();
    for entry in entries {
        writes.extend(entry.writes);
        let Some((users, pointer)) = entry.inbox else { continue };
        let open =
            latest.get(&entry.conversation_id).map(|index| &mut packs[*index]).filter(|pack| {
                let first = pack.pointers[0].id.created_at();
                same_people(&pack.users, &users)
                    && pointer.id.created_at().since(first) < INBOX_SPAN_MS
            });
        match open {
            Some(pack) => pack.pointers.push(pointer),
            None => {
                latest.insert(entry.conversation_id, packs.len());
                let conversation_id = entry.conversation_id;
                packs.push(InboxRow { users, conversation_id, pointers: vec![pointer] });
            }
        }
    }
    writes.extend(packs.into_iter().map(Write::Inbox));
    writes
}

fn same_people(one: &Arc<[UserId]>, other: &Arc<[UserId]>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// A message as it was sent.
pub fn message(
    conversation_id: ConversationId,
    entry: &Entry,
    sent: &MessageSent,
) -> Result<Message, Unreadable> {
    let id = entry.message_id();
    let row = message_row(conversation_id, id, sent)?;
    Ok(Message {
        conversation_id,
        message_id: id,
        version: id,
        seq: row.seq,
        sender_id: row.sender_id,
        client_message_id: row.client_message_id,
        kind: row.kind,
        body: Some(row.body),
        created_at: id.created_at(),
        edited_at: None,
        deleted: false,
        reply_to: row.reply_to,
        mentions: row.mentions,
        reactions: Reactions::default(),
    })
}

/// Applies a later entry to a message: what the store will say once the entry is written.
pub fn overlay(message: &mut Message, entry: &Entry) -> Result<(), Unreadable> {
    let id = entry.message_id();
    match &entry.change {
        Some(Change::Edit(edit))
            if edit.target == message.message_id.0 && id > message.version && !message.deleted =>
        {
            message.version = id;
            message.body = Some(body(&edit.body)?);
            message.mentions = users(&edit.mentions)?;
            message.edited_at = Some(id.created_at());
        }
        Some(Change::Delete(delete)) if delete.target == message.message_id.0 => {
            if id > message.version {
                message.version = id;
            }
            message.deleted = true;
            message.kind = String::new();
            message.body = None;
            message.mentions = vec![];
            message.edited_at = None;
            message.reactions.items = vec![];
        }
        Some(Change::Reaction(change))
            if change.target == message.message_id.0 && id > message.reactions.version =>
        {
            let user = record::user_id(&change.user)?;
            react(&mut message.reactions, user, &change.emoji, change.removed);
            message.reactions.version = id;
        }
        _ => {}
    }
    Ok(())
}

fn react(reactions: &mut Reactions, user: UserId, emoji: &str, removed: bool) {
    let found = reactions.items.iter_mut().find(|item| item.emoji == emoji);
    match (found, removed) {
        (Some(item), true) => item.user_ids.retain(|id| *id != user),
        (Some(item), false) if !item.user_ids.contains(&user) => item.user_ids.push(user),
        (None, false) => {
            reactions.items.push(Reaction { emoji: emoji.to_owned(), user_ids: vec![user] });
        }
        _ => {}
    }
    reactions.items.retain(|item| !item.user_ids.is_empty());
}

/// What a committed send is answered with.
pub fn sent(id: MessageId, seq: u64) -> Sent {
    Sent { message_id: id, seq, created_at: id.created_at() }
}

/// The client's id in a record.
pub fn client_message_id(sent: &MessageSent) -> Result<ClientMessageId, Unreadable> {
    ClientMessageId::from_bytes(&sent.client_message_id).map_err(|e| Unreadable(e.to_string()))
}

fn body(json: &str) -> Result<Body, Unreadable> {
    Body::from_json(json.to_owned()).map_err(|e| Unreadable(e.to_string()))
}

fn users(list: &[Vec<u8>]) -> Result<Vec<UserId>, Unreadable> {
    list.iter().map(|bytes| record::user_id(bytes)).collect()
}
