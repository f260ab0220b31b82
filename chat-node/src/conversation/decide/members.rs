//! Creating conversations, and changing what they are called and who is in them.

use chat_protocol::error::{Code, Refusal};
use chat_protocol::frame::SystemEvent;
use chat_protocol::limits::{GROUP_MEMBERS_MAX, NAME_CHARS_MAX, PICTURE_BYTES_MAX};
use chat_protocol::message::Role;
use chat_protocol::record::{
    Change, ConversationCreated, MemberChange, MemberChanged, MessageSent, PropertiesChanged,
    role_number,
};
use chat_protocol::{Body, ConversationId, ConversationKind, UserId};
use sha2::{Digest, Sha256};

use super::{Answer, Decision, bytes, forbidden, invalid, not_found};
use crate::conversation::command::Reply;
use crate::conversation::state::State;

pub(super) fn create(
    state: &State,
    caller: UserId,
    name: Option<&str>,
    members: &[UserId],
) -> Result<Decision, Refusal> {
    if state.row.is_some() {
        // Whoever asks again gets what the first request made, if they belong there.
        let known = state.kind() == ConversationKind::Room || state.role(caller).is_some();
        let view = state.view().filter(|_| known).ok_or_else(not_found)?;
        return Ok(Decision::Reply(Reply::Conversation(view)));
    }
    let mut others: Vec<UserId> = members.iter().copied().filter(|user| *user != caller).collect();
    others.sort_unstable();
    others.dedup();
    match state.kind() {
        ConversationKind::Direct => {
            let fits =
                matches!(others[..], [peer] if ConversationId::direct(caller, peer) == state.id);
            if !fits || name.is_some() {
                return Err(invalid(
                    "A direct conversation is between two people and has no name.",
                ));
            }
        }
        ConversationKind::Group if others.len() >= GROUP_MEMBERS_MAX => return Err(group_full()),
        ConversationKind::Room if !others.is_empty() => {
            return Err(invalid("A live room is created without members; people join it."));
        }
        _ => check_name(name.unwrap_or_default())?,
    }
    let created = ConversationCreated {
        creator: bytes(caller),
        name: name.unwrap_or_default().trim().to_owned(),
        picture: String::new(),
        members: others.into_iter().map(bytes).collect(),
    };
    let mut changes = vec![Change::Created(created)];
    if state.kind() == ConversationKind::Group {
        changes.push(system(state, 1, caller, &SystemEvent::Created));
    }
    Ok(Decision::Commit(changes, Answer::Conversation))
}

pub(super) fn change(
    state: &State,
    caller: UserId,
    role: Role,
    name: Option<&str>,
    picture: Option<&str>,
) -> Result<Decision, Refusal> {
    not_direct(state)?;
    if role < Role::Admin {
        return Err(forbidden("Only admins can change the name and picture."));
    }
    name.map_or(Ok(()), check_name)?;
    if picture.is_some_and(|picture| picture.len() > PICTURE_BYTES_MAX) {
        return Err(invalid(format!("`picture` is over {PICTURE_BYTES_MAX} bytes.")));
    }
    let now = state.row.as_ref().ok_or_else(not_found)?;
    let name =
        name.map(|name| name.trim().to_owned()).filter(|name| now.name.as_ref() != Some(name));
    let picture = picture
        .map(str::to_owned)
        .filter(|picture| now.picture.as_deref().unwrap_or_default() != picture);
    if name.is_none() && picture.is_none() {
        return unchanged(state);
    }
    let mut events = vec![];
    events.extend(name.clone().map(|name| SystemEvent::Renamed { name }));
    events.extend(picture.as_ref().map(|_| SystemEvent::PictureChanged));
    let mut changes =
        vec![Change::Properties(PropertiesChanged { by: bytes(caller), name, picture })];
    changes.extend(told(state, caller, &events));
    Ok(Decision::Commit(changes, Answer::Conversation))
}

pub(super) fn invite(
    state: &State,
    caller: UserId,
    role: Role,
    user_ids: &[UserId],
) -> Result<Decision, Refusal> {
    not_direct(state)?;
    if role < Role::Admin {
        return Err(forbidden("Only admins can invite people."));
    }
    let mut invited: Vec<UserId> =
        user_ids.iter().copied().filter(|user| state.role(*user).is_none()).collect();
    invited.sort_unstable();
    invited.dedup();
    if invited.is_empty() {
        return unchanged(state);
    }
    if state.members.len() + invited.len() > GROUP_MEMBERS_MAX {
        return Err(group_full());
    }
    let mut changes: Vec<Change> = invited
        .iter()
        .map(|user| member(*user, caller, MemberChange::Joined, Role::Member))
        .collect();
    let events: Vec<_> =
        invited.into_iter().map(|user_id| SystemEvent::Joined { user_id }).collect();
    changes.extend(told(state, caller, &events));
    Ok(Decision::Commit(changes, Answer::Conversation))
}

/// The one who goes still gets the message that tells of it: it stands before the record of the leave.
pub(super) fn remove(
    state: &State,
    caller: UserId,
    role: Role,
    user_id: UserId,
) -> Result<Decision, Refusal> {
    not_direct(state)?;
    let Some(membership) = state.members.get(&user_id) else {
        return match user_id == caller {
            true => Err(not_found()),
            false => unchanged(state),
        };
    };
    let (event, successor) = if user_id == caller {
        (SystemEvent::Left { user_id }, successor(state, user_id))
    } else if role > membership.role && role >= Role::Admin {
        (SystemEvent::Removed { user_id }, None)
    } else {
        return Err(forbidden("Only someone with a higher role can remove this member."));
    };
    let mut events = vec![event];
    let mut changes = vec![];
    if let Some(successor) = successor {
        events.push(SystemEvent::RoleChanged { user_id: successor, role: Role::Owner });
        changes.push(member(successor, caller, MemberChange::RoleChanged, Role::Owner));
    }
    changes.splice(0..0, told(state, caller, &events));
    changes.push(member(user_id, caller, MemberChange::Left, membership.role));
    Ok(Decision::Commit(changes, Answer::Conversation))
}

pub(super) fn set_role(
    state: &State,
    caller: UserId,
    role: Role,
    user_id: UserId,
    new: Role,
) -> Result<Decision, Refusal> {
    not_direct(state)?;
    if role != Role::Owner {
        return Err(forbidden("Only the owner can change roles."));
    }
    let Some(old) = state.role(user_id) else {
        return Err(Refusal::new(Code::NotFound, "That person is not a member."));
    };
    if old == new {
        return unchanged(state);
    }
    if user_id == caller {
        return Err(Refusal::new(
            Code::Conflict,
            "The owner's role cannot be changed. Make somebody else the owner instead.",
        ));
    }
    let mut events = vec![SystemEvent::RoleChanged { user_id, role: new }];
    let mut changes = vec![member(user_id, caller, MemberChange::RoleChanged, new)];
    if new == Role::Owner {
        // A conversation has one owner: the one who hands it over stays as an admin.
        events.push(SystemEvent::RoleChanged { user_id: caller, role: Role::Admin });
        changes.push(member(caller, caller, MemberChange::RoleChanged, Role::Admin));
    }
    changes.extend(told(state, caller, &events));
    Ok(Decision::Commit(changes, Answer::Conversation))
}

/// Who becomes the owner when the owner leaves: the admin, or else the member, who has been there longest.
fn successor(state: &State, leaving: UserId) -> Option<UserId> {
    if state.role(leaving) != Some(Role::Owner) {
        return None;
    }
    let others = state.members.iter().filter(|(user, _)| **user != leaving);
    others
        .min_by_key(|(user, membership)| {
            (std::cmp::Reverse(membership.role), membership.joined_id, **user)
        })
        .map(|(user, _)| *user)
}

fn unchanged(state: &State) -> Result<Decision, Refusal> {
    state.view().map(|view| Decision::Reply(Reply::Conversation(view))).ok_or_else(not_found)
}

fn not_direct(state: &State) -> Result<(), Refusal> {
    match state.kind() {
        ConversationKind::Direct => Err(Refusal::new(
            Code::Conflict,
            "A direct conversation keeps its two people and has no name. Create a group instead.",
        )),
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let length = name.trim().chars().count();
    if length == 0 || length > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(invalid(format!("`name` must have 1 to {NAME_CHARS_MAX} visible characters.")));
    }
    Ok(())
}

fn group_full() -> Refusal {
    let detail = format!(
        "A group has at most {GROUP_MEMBERS_MAX} members. Use a live room for a larger audience."
    );
    Refusal::new(Code::GroupFull, detail)
}

fn member(user: UserId, by: UserId, change: MemberChange, role: Role) -> Change {
    Change::Member(MemberChanged {
        user: bytes(user),
        by: bytes(by),
        change: change as i32,
        role: role_number(role),
    })
}

/// System messages that tell of changes. A live room has none: its audience does not care who moderates.
fn told(state: &State, by: UserId, events: &[SystemEvent]) -> Vec<Change> {
    if state.kind() == ConversationKind::Room {
        return vec![];
    }
    let numbered = events.iter().zip(state.last_seq + 1..);
    numbered.map(|(event, seq)| system(state, seq, by, event)).collect()
}

fn system(state: &State, seq: u64, by: UserId, event: &SystemEvent) -> Change {
    // Nobody repeats a system message; an id that follows from its place keeps replays alike.
    let digest =
        Sha256::new().chain_update(state.id.as_bytes()).chain_update(seq.to_be_bytes()).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    let body = Body::from_value(event)
        .map_or_else(|_| "null".to_owned(), |body| body.as_json().to_owned());
    Change::Message(MessageSent {
        seq,
        sender: bytes(by),
        client_message_id: uuid::Builder::from_custom_bytes(id).into_uuid().as_bytes().to_vec(),
        kind: "system".to_owned(),
        body,
        reply_to: 0,
        mentions: vec![],
    })
}
