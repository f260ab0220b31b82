//! From inbox entries to frames: each entry leads to the current row, so that any order of replay converges.

use std::collections::HashMap;

use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{ReactionsChanged, Receipt, ServerFrame};
use chat_protocol::message::{Conversation, Member, Message};
use chat_protocol::{ConversationId, MessageId, UserId};
use chat_store::{ConversationRow, Error, InboxEntry, MemberRow, PointerKind, Store};

/// What has to be sent once, however many entries lead to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Goal {
    Message(ConversationId, MessageId),
    Reactions(ConversationId, MessageId),
    Conversation(ConversationId),
    Read(ConversationId),
}

/// A frame, and the first entry that it stands for. Entries below the first frame that is not sent are covered.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The first entry's id.
    pub first: MessageId,
    /// The last id of the message's log entry, to recognise it; zero for other kinds.
    pub id: MessageId,
    /// The frame.
    pub frame: ServerFrame,
    /// Its bytes as JSON; counted by [`cut`].
    pub bytes: usize,
}

/// One goal per thing that changed, in the order in which the entries first name it.
fn goals(entries: &[InboxEntry]) -> Vec<(MessageId, Goal)> {
    let mut seen = std::collections::HashSet::new();
    let goal = |entry: &InboxEntry| {
        let conversation = entry.conversation_id;
        match entry.pointer.kind {
            PointerKind::Message | PointerKind::Revision => {
                Goal::Message(conversation, entry.pointer.target)
            }
            PointerKind::Reaction => Goal::Reactions(conversation, entry.pointer.target),
            PointerKind::Conversation => Goal::Conversation(conversation),
            PointerKind::Read => Goal::Read(conversation),
        }
    };
    let named = entries.iter().map(|entry| (entry.pointer.id, goal(entry)));
    named.filter(|(_, goal)| seen.insert(*goal)).collect()
}

/// The frames that these entries of `user`'s inbox lead to, in the entries' order. Rows that do not exist (quarantined
/// ones) are passed over.
pub async fn resolve(
    store: &dyn Store,
    user: UserId,
    entries: &[InboxEntry],
) -> Result<Vec<Resolved>, Error> {
    let goals = goals(entries);
    let messages = messages(store, &goals).await?;
    let mut frames = Vec::with_capacity(goals.len());
    for (first, goal) in goals {
        let frame = match goal {
            Goal::Message(conversation, id) => {
                messages.get(&(conversation, id)).cloned().map(ServerFrame::Message)
            }
            Goal::Reactions(conversation, id) => {
                messages.get(&(conversation, id)).map(|message| {
                    ServerFrame::Reactions(ReactionsChanged {
                        conversation_id: conversation,
                        message_id: id,
                        reactions: message.reactions.clone(),
                    })
                })
            }
            Goal::Conversation(id) => conversation(store, user, id)
                .await?
                .map(ServerFrame::Conversation),
            Goal::Read(id) => read_mark(store, user, id).await?,
        };
        let id = match &frame {
            Some(ServerFrame::Message(message)) => message.version,
            _ => MessageId::ZERO,
        };
        frames.extend(frame.map(|frame| Resolved { first, id, frame, bytes: 0 }));
    }
    Ok(frames)
}

async fn messages(
    store: &dyn Store,
    goals: &[(MessageId, Goal)],
) -> Result<HashMap<(ConversationId, MessageId), Message>, Error> {
    let mut wanted: HashMap<ConversationId, Vec<MessageId>> = HashMap::new();
    for (_, goal) in goals {
        if let Goal::Message(conversation, id) | Goal::Reactions(conversation, id) = goal {
            let ids = wanted.entry(*conversation).or_default();
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
    }
    let mut found = HashMap::new();
    for (conversation, ids) in wanted {
        for message in store.messages(conversation, ids).await? {
            found.insert((conversation, message.message_id), message);
        }
    }
    Ok(found)
}

async fn read_mark(
    store: &dyn Store,
    user: UserId,
    conversation: ConversationId,
) -> Result<Option<ServerFrame>, Error> {
    let marks = store.marks(conversation).await?;
    Ok(marks.get(&user).map(|(read, _)| {
        ServerFrame::Read(Receipt { conversation_id: conversation, user_id: user, seq: *read })
    }))
}

async fn conversation(
    store: &dyn Store,
    user: UserId,
    id: ConversationId,
) -> Result<Option<Conversation>, Error> {
    let Some(row) = store.conversation(id).await? else { return Ok(None) };
    let members = store.members(id).await?;
    if !members.iter().any(|member| member.user_id == user && member.left_id.is_none()) {
        return Ok(as_left(row, &members, user));
    }
    let marks = store.marks(id).await?;
    Ok(Some(as_member(row, &members, &marks)))
}

/// The conversation as it is now.
fn as_member(
    row: ConversationRow,
    members: &[MemberRow],
    marks: &HashMap<UserId, (u64, u64)>,
) -> Conversation {
    let version = members.iter().map(|member| member.version).max().unwrap_or_default();
    let present = members.iter().filter(|member| member.left_id.is_none());
    Conversation {
        conversation_id: row.conversation_id,
        kind: row.kind(),
        version: row.version.max(version),
        name: row.name,
        picture: row.picture,
        created_at: row.created_id.created_at(),
        members: present
            .map(|row| member(row, marks.get(&row.user_id).copied().unwrap_or_default()))
            .collect(),
    }
}

/// The conversation as of the moment `user` left it: who left sees nothing of what came after.
fn as_left(row: ConversationRow, members: &[MemberRow], user: UserId) -> Option<Conversation> {
    let own = members.iter().filter(|member| member.user_id == user);
    let left = own.filter_map(|member| member.left_id).max()?;
    let stayed = |member: &&MemberRow| {
        member.user_id != user
            && member.joined_id < left
            && member.left_id.is_none_or(|left_id| left_id > left)
    };
    let is_older = row.version <= left;
    Some(Conversation {
        conversation_id: row.conversation_id,
        kind: row.kind(),
        version: left,
        name: row.name.filter(|_| is_older),
        picture: row.picture.filter(|_| is_older),
        created_at: row.created_id.created_at(),
        // Marks of others are no business of someone who left.
        members: members.iter().filter(stayed).map(|row| member(row, (0, 0))).collect(),
    })
}

fn member(row: &MemberRow, (read, delivered): (u64, u64)) -> Member {
    Member {
        user_id: row.user_id,
        role: row.role,
        joined_id: row.joined_id,
        read_seq: read,
        delivered_seq: delivered.max(read),
    }
}

/// As many of the frames as fit `bytes_max`, at least one, and how far the entries are covered by them: up to the entry
/// before the first frame left out, or `None` if none is.
pub fn cut(
    resolved: Vec<Resolved>,
    entries: &[InboxEntry],
    bytes_max: usize,
) -> (Vec<Resolved>, Option<MessageId>) {
    let mut bytes = 0;
    let mut kept = Vec::with_capacity(resolved.len());
    for mut one in resolved {
        one.bytes = Encoding::Json.write(&one.frame).len();
        bytes += one.bytes;
        if bytes > bytes_max && !kept.is_empty() {
            let below = |entry: &&InboxEntry| entry.pointer.id < one.first;
            let last = entries.iter().rfind(below).map_or(MessageId::ZERO, |e| e.pointer.id);
            return (kept, Some(last));
        }
        kept.push(one);
    }
    (kept, None)
}

#[cfg(test)]
mod tests {
    use chat_protocol::message::Role;
    use chat_store::Pointer;
    use uuid::Uuid;

    use super::*;

    fn group() -> ConversationId {
        ConversationId::group(UserId(Uuid::nil()), Uuid::nil())
    }

    fn entry(id: u64, kind: PointerKind, target: u64) -> InboxEntry {
        let pointer = Pointer { id: MessageId(id), kind, target: MessageId(target) };
        InboxEntry { pointer, conversation_id: group() }
    }

    fn member_row(user_id: UserId, joined: u64, left: Option<u64>) -> MemberRow {
        MemberRow {
            conversation_id: group(),
            user_id,
            joined_id: MessageId(joined),
            left_id: left.map(MessageId),
            role: Role::Member,
            version: MessageId(left.unwrap_or(joined)),
        }
    }

    fn row(version: u64) -> ConversationRow {
        ConversationRow {
            conversation_id: group(),
            created_id: MessageId(1),
            version: MessageId(version),
            creator_id: UserId(Uuid::nil()),
            name: Some("name".into()),
            picture: None,
        }
    }

    #[test]
    fn entries_that_lead_to_the_same_row_become_one_frame_at_the_first_ones_place() {
        let entries = [
            entry(1, PointerKind::Conversation, 0),
            entry(2, PointerKind::Message, 2),
            entry(3, PointerKind::Revision, 2),
            entry(4, PointerKind::Reaction, 2),
            entry(5, PointerKind::Reaction, 2),
            entry(6, PointerKind::Read, 0),
            entry(7, PointerKind::Conversation, 0),
            entry(8, PointerKind::Read, 0),
        ];
        let goals = goals(&entries);
        let firsts: Vec<u64> = goals.iter().map(|(first, _)| first.0).collect();
        assert_eq!(firsts, [1, 2, 4, 6]);
    }

    #[test]
    fn someone_who_left_learns_it_and_nothing_of_what_came_after() {
        let (gone, stays, left_before, came_after) =
            (UserId::random(), UserId::random(), UserId::random(), UserId::random());
        let members = [
            member_row(gone, 1, Some(50)),
            member_row(stays, 1, Some(90)),
            member_row(left_before, 1, Some(40)),
            member_row(came_after, 60, None),
        ];
        let told = as_left(row(10), &members, gone).unwrap();
        let ids: Vec<_> = told.members.iter().map(|member| member.user_id).collect();
        assert_eq!(ids, [stays]);
        assert_eq!((told.version, told.name), (MessageId(50), Some("name".into())));
        assert_eq!(as_left(row(70), &members, gone).unwrap().name, None, "renamed after");
        assert_eq!(as_left(row(10), &members, UserId::random()), None, "never a member");
    }

    #[test]
    fn a_cut_covers_exactly_the_entries_before_the_first_frame_left_out() {
        let entries = [
            entry(2, PointerKind::Read, 0),
            entry(3, PointerKind::Message, 3),
            entry(4, PointerKind::Read, 0),
            entry(5, PointerKind::Message, 5),
        ];
        let receipt = Receipt { conversation_id: group(), user_id: UserId(Uuid::nil()), seq: 1 };
        let resolved: Vec<Resolved> = [2, 3, 5]
            .map(|first| Resolved {
                first: MessageId(first),
                id: MessageId::ZERO,
                frame: ServerFrame::Read(receipt.clone()),
                bytes: 0,
            })
            .into();
        let size = Encoding::Json.write(&resolved[0].frame).len();
        let (kept, covered) = cut(resolved.clone(), &entries, size * 2);
        assert_eq!((kept.len(), covered), (2, Some(MessageId(4))));
        let (kept, covered) = cut(resolved.clone(), &entries, 1);
        assert_eq!((kept.len(), covered), (1, Some(MessageId(2))), "always at least one");
        let (kept, covered) = cut(resolved, &entries, size * 3);
        assert_eq!((kept.len(), covered), (3, None));
    }
}
