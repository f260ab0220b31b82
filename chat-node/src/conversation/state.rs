//! A conversation as its owner holds it: what the store says of it, and every entry since.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chat_protocol::message::{Conversation, Member, Role};
use chat_protocol::record::{self, Change, Entry, MemberChange, MemberChanged, Unreadable};
use chat_protocol::{ConversationId, ConversationKind, MessageId, UserId};
use chat_store::{ConversationRow, MemberRow};

/// What was read from the store to begin with.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Its columns; none: it does not exist.
    pub row: Option<ConversationRow>,
    /// Every membership interval.
    pub members: Vec<MemberRow>,
    /// Marks: user → (read seq, delivered seq).
    pub marks: HashMap<UserId, (u64, u64)>,
    /// Seq of its newest message.
    pub last_seq: u64,
}

/// Somebody's present membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// What they may do.
    pub role: Role,
    /// Id of the entry that began it.
    pub joined_id: MessageId,
    /// Id of the entry that last changed it.
    pub version: MessageId,
}

/// A conversation now. Cheap to clone: what seldom changes is shared.
#[derive(Clone, Debug)]
pub struct State {
    /// Its id.
    pub id: ConversationId,
    /// Its columns; none: it does not exist yet.
    pub row: Option<Arc<ConversationRow>>,
    /// Its members now.
    pub members: Arc<BTreeMap<UserId, Membership>>,
    /// The same people, as the audience of entries.
    pub audience: Arc<[UserId]>,
    /// Id of the last change of columns, members or roles.
    pub version: MessageId,
    /// Seq of the newest message.
    pub last_seq: u64,
    /// Marks: user → (read seq, delivered seq).
    pub marks: Arc<HashMap<UserId, (u64, u64)>>,
}

impl State {
    /// The conversation as the store has it.
    pub fn new(id: ConversationId, loaded: Loaded) -> State {
        let row_version = loaded.row.as_ref().map_or(MessageId::ZERO, |row| row.version);
        let version =
            loaded.members.iter().map(|row| row.version).fold(row_version, MessageId::max);
        let members: BTreeMap<_, _> = loaded
            .members
            .into_iter()
            .filter(|row| row.left_id.is_none())
            .map(|row| {
                let MemberRow { role, joined_id, version, .. } = row;
                (row.user_id, Membership { role, joined_id, version })
            })
            .collect();
        State {
            id,
            row: loaded.row.map(Arc::new),
            audience: members.keys().copied().collect(),
            members: Arc::new(members),
            version,
            last_seq: loaded.last_seq,
            marks: Arc::new(loaded.marks),
        }
    }

    /// Direct, group or room.
    pub fn kind(&self) -> ConversationKind {
        self.id.kind()
    }

    /// Somebody's role, if they are a member now.
    pub fn role(&self, user: UserId) -> Option<Role> {
        self.members.get(&user).map(|membership| membership.role)
    }

    /// In a direct conversation: the other one.
    pub fn peer(&self, user: UserId) -> Option<UserId> {
        match self.kind() {
            ConversationKind::Direct => self.members.keys().copied().find(|member| *member != user),
            _ => None,
        }
    }

    /// How far somebody read and received.
    pub fn marks_of(&self, user: UserId) -> (u64, u64) {
        self.marks.get(&user).copied().unwrap_or_default()
    }

    /// Raises a delivery mark. `false`: it was that high already.
    pub fn deliver(&mut self, user: UserId, seq: u64) -> bool {
        let (read, delivered) = self.marks_of(user);
        if seq <= delivered.max(read) {
            return false;
        }
        Arc::make_mut(&mut self.marks).insert(user, (read, seq));
        true
    }

    /// Takes in an entry. Never decides: an entry that contradicts the state is applied as far as it makes sense, as it
    /// would be on any other node.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Unreadable> {
        let id = entry.message_id();
        match &entry.change {
            Some(Change::Message(message)) => self.last_seq = self.last_seq.max(message.seq),
            Some(Change::Created(created)) => self.create(id, created)?,
            Some(Change::Properties(properties)) => {
                if let Some(row) = &mut self.row {
                    let row = Arc::make_mut(row);
                    row.version = id;
                    let set = |field: &mut Option<String>, value: &Option<String>| {
                        if let Some(value) = value {
                            *field = (!value.is_empty()).then(|| value.clone());
                        }
                    };
                    set(&mut row.name, &properties.name);
                    set(&mut row.picture, &properties.picture);
                }
                self.version = id;
            }
            Some(Change::Member(change)) => self.change_member(id, change)?,
            Some(Change::Read(mark)) => {
                let user = record::user_id(&mark.user)?;
                let (read, delivered) = self.marks_of(user);
                let raised = (read.max(mark.seq), delivered.max(mark.seq));
                Arc::make_mut(&mut self.marks).insert(user, raised);
            }
            Some(Change::Edit(_) | Change::Delete(_) | Change::Reaction(_)) => {}
            None => return Err(Unreadable(format!("unknown change in entry {}", entry.id))),
        }
        Ok(())
    }

    fn create(
        &mut self,
        id: MessageId,
        created: &record::ConversationCreated,
    ) -> Result<(), Unreadable> {
        let creator = record::user_id(&created.creator)?;
        let text = |value: &String| (!value.is_empty()).then(|| value.clone());
        self.row = Some(Arc::new(ConversationRow {
            conversation_id: self.id,
            created_id: id,
            version: id,
            creator_id: creator,
            name: text(&created.name),
            picture: text(&created.picture),
        }));
        let first_role = match self.kind() {
            ConversationKind::Direct => Role::Member,
            _ => Role::Owner,
        };
        let joined = |role| Membership { role, joined_id: id, version: id };
        let members = Arc::make_mut(&mut self.members);
        for member in &created.members {
            members.insert(record::user_id(member)?, joined(Role::Member));
        }
        members.insert(creator, joined(first_role));
        self.members_changed(id);
        Ok(())
    }

    fn change_member(&mut self, id: MessageId, change: &MemberChanged) -> Result<(), Unreadable> {
        let user = record::user_id(&change.user)?;
        let role = record::role_from(change.role)?;
        let members = Arc::make_mut(&mut self.members);
        match MemberChange::try_from(change.change) {
            Ok(MemberChange::Joined) => {
                members.insert(user, Membership { role, joined_id: id, version: id });
            }
            Ok(MemberChange::Left) => {
                members.remove(&user);
            }
            Ok(MemberChange::RoleChanged) => {
                if let Some(membership) = members.get_mut(&user) {
                    membership.role = role;
                    membership.version = id;
                }
            }
            _ => return Err(Unreadable(format!("member change {}", change.change))),
        }
        self.members_changed(id);
        Ok(())
    }

    fn members_changed(&mut self, id: MessageId) {
        self.audience = self.members.keys().copied().collect();
        self.version = id;
    }

    /// As clients see it; none: it does not exist.
    pub fn view(&self) -> Option<Conversation> {
        let row = self.row.as_ref()?;
        let member = |(user_id, membership): (&UserId, &Membership)| {
            let (read_seq, delivered_seq) = self.marks_of(*user_id);
            Member {
                user_id: *user_id,
                role: membership.role,
                joined_id: membership.joined_id,
                read_seq,
                delivered_seq: delivered_seq.max(read_seq),
            }
        };
        Some(Conversation {
            conversation_id: self.id,
            kind: self.kind(),
            version: self.version,
            name: row.name.clone(),
            picture: row.picture.clone(),
            created_at: row.created_id.created_at(),
            members: self.members.iter().map(member).collect(),
        })
    }
}
