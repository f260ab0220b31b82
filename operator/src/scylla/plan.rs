//! What is to be done about the database next, as one pure function: [`next_step`] of what is seen.

use std::collections::BTreeMap;

use crds::LeavingMember;

use super::starts::{founder, join, starts};
use super::{Database, Member};
use crate::build::Members;
use crate::restart::{Next, Server, is_given_up, next_restart};

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The members to have.
    pub members: Members,
    /// Ids of the members that have joined the ring, by their names. They and the next are to be written to the status before
    /// anything else is done.
    pub hosts: BTreeMap<String, String>,
    /// The member that leaves the ring.
    pub leaving: Option<LeavingMember>,
    /// Volume claims to delete.
    pub claims: Vec<String>,
    /// Pods to delete, after that.
    pub pods: Vec<String>,
    /// What is waited for, as sentences.
    pub waits: Option<String>,
    /// What to tell people, once.
    pub events: Vec<Event>,
}

/// Something worth telling once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Stable name, for programs.
    pub reason: &'static str,
    /// A sentence, for people.
    pub message: String,
}

/// Decides what to do: one thing at a time, and everything else waits for it.
pub fn next_step(database: &Database) -> Plan {
    let mut plan = Plan {
        members: database.as_it_is(),
        hosts: database.joined(),
        leaving: database.leaving.clone(),
        ..Plan::default()
    };
    if database.is_at_rest() {
        return plan;
    }
    plan.members.starts = starts(database);
    if let Some(leaving) = &database.leaving {
        go_on_leaving(database, leaving, &mut plan);
    } else if let Some(stale) = database.racks.iter().find(|rack| rack.stale) {
        plan.waits = Some(format!("Kubernetes has not seen yet what {} should be.", stale.set));
    } else {
        // A lost member may be what others wait for, and the other way round; but who is in the ring never changes otherwise
        // while members are of two kinds.
        let _ = give_up(database, &mut plan)
            || replace(database, &mut plan)
            || restart(database, "", &mut plan)
            || plan.waits.is_some()
            || shrink(database, &mut plan)
            || grow(database, &mut plan);
    }
    plan
}

impl Plan {
    /// Waits for something. It is decided.
    fn wait(&mut self, text: impl Into<String>) -> bool {
        self.waits = Some(text.into());
        true
    }

    /// Does something, and tells people. It is decided.
    fn tell(&mut self, reason: &'static str, message: String) -> bool {
        self.events.push(Event { reason, message: message.clone() });
        self.wait(message)
    }
}

/// One member after the other, rack by rack, the last number first. True if it is decided. While a member leaves the ring
/// only those start again that are broken.
fn restart(database: &Database, leaving: &str, plan: &mut Plan) -> bool {
    let racks = database.racks.iter();
    let members = racks.flat_map(|rack| rack.members.values().rev());
    let servers = members.map(|member| member.server.clone());
    let servers: Vec<Server> = servers.filter(|server| server.name != leaving).collect();
    let trouble = || match leaving {
        "" => database.trouble(),
        _ => Some(format!("{leaving} leaves the ring.")),
    };
    let wanted = database.present() - i32::from(!leaving.is_empty());
    match next_restart(&servers, wanted, "members of the database", database.now, trouble) {
        Next::Nothing => false,
        // Why the leaving member waits is already said.
        Next::Wait(_) if !leaving.is_empty() => false,
        Next::Wait(why) => plan.wait(why),
        Next::Restart(name) => start_again(name, plan),
    }
}

fn start_again(name: String, plan: &mut Plan) -> bool {
    let text = format!("Member {name} of the database starts again.");
    plan.pods.push(name);
    plan.tell("MemberRestarted", text)
}

/// Gives a member that somebody calls lost, or whose claim somebody deleted, an empty volume. Its next pod then takes its
/// place in the ring. True if it is decided.
fn replace(database: &Database, plan: &mut Plan) -> bool {
    let mut expected = database.expected().into_iter();
    expected.any(|(name, member)| {
        member.is_some_and(|member| replace_one(database, name, member, plan))
    })
}

fn replace_one(database: &Database, name: String, member: &Member, plan: &mut Plan) -> bool {
    // Nobody can keep a claim that is being deleted.
    if !(member.is_lost || database.claim(&name).is_some_and(|claim| claim.ending)) {
        return false;
    }
    let unclaimed = match database.others(&name) {
        Ok(unclaimed) => unclaimed,
        Err(why) => {
            plan.wait(format!("{name} is to be replaced, and waits: {why}"));
            return false;
        }
    };
    let own = member.serving().map(|view| &view.host).or_else(|| database.hosts.get(&name));
    let strangers = unclaimed.keys().filter(|host| Some(*host) != own).count();
    // The only one that nobody answers for is this one, whatever is known of it.
    let is_known = own.is_some_and(|own| unclaimed.contains_key(own));
    if strangers > usize::from(!is_known) {
        plan.wait(format!(
            "{name} is not replaced, because the ring has {strangers} that are none of the members: run `nodetool \
             removenode` for those that are gone."
        ));
        return false;
    }
    // While no other one serves nobody can say that it never joined.
    let is_alone = join(database, &name).is_none();
    if is_alone || (database.copies() < 2 && !unclaimed.is_empty()) {
        plan.wait(format!(
            "{name} is not replaced, because its rows have no other copy. Take the annotation away."
        ));
        return false;
    }
    plan.claims.extend(database.claim(&name).map(|claim| claim.name.clone()));
    plan.pods.push(name.clone());
    plan.tell("MemberReplaced", format!("Member {name} of the database gets an empty volume."))
}

/// The last member of a rack that has too many, and its id if it serves.
fn surplus(database: &Database) -> Option<(String, Option<String>)> {
    let rack = database.racks.iter().rev().find(|rack| rack.present() > rack.wanted)?;
    let ordinal = rack.present() - 1;
    let member = rack.members.get(&ordinal);
    Some((rack.member(ordinal), member.and_then(|member| Some(member.serving()?.host.clone()))))
}

/// Begins to let a member go that is too many and never joined. Nothing else waits for it.
fn give_up(database: &Database, plan: &mut Plan) -> bool {
    let Some((name, None)) = surplus(database) else { return false };
    let never_joined = database.others(&name).is_ok_and(|unclaimed| unclaimed.is_empty());
    never_joined && begin_to_leave(database, name, None, plan)
}

/// Begins to let a member leave that is too many.
fn shrink(database: &Database, plan: &mut Plan) -> bool {
    let Some((name, host)) = surplus(database) else { return false };
    let copies = database.copies();
    if database.wanted() < copies {
        return plan.wait(format!(
            "No member leaves, because each row has {copies} copies: ask for at least {copies} members."
        ));
    }
    if database.present() <= copies {
        // Others come first.
        return false;
    }
    if let Some(why) = database.trouble() {
        return plan.wait(format!("{name} is to leave the ring, and waits: {why}"));
    }
    begin_to_leave(database, name, host, plan)
}

fn begin_to_leave(
    database: &Database,
    name: String,
    host: Option<String>,
    plan: &mut Plan,
) -> bool {
    let message = format!("Member {name} is to leave the ring of the database.");
    plan.events.push(Event { reason: "MemberLeaves", message });
    let leaving = LeavingMember { pod: name, host, since: database.now };
    plan.leaving = Some(leaving.clone());
    plan.members.starts.clear();
    tell_to_leave(database, &leaving, plan);
    true
}

/// Tells a member to leave. It is told as long as the ring has it.
fn tell_to_leave(database: &Database, leaving: &LeavingMember, plan: &mut Plan) {
    let name = &leaving.pod;
    let place = database.place(name);
    let member = place.and_then(|(rack, ordinal)| rack.members.get(&ordinal));
    if let (Some(member), Some(_)) = (member, &leaving.host) {
        plan.members.leaving = Some((name.clone(), member.uid.clone()));
    }
    plan.wait(format!("{name} leaves the ring: others take its rows over."));
}

/// Lets a member's pod and volume go once all others say that it has left. What has begun is ended, whatever the resource
/// asks for meanwhile: a decommission cannot be taken back, and a new member takes the place afterwards.
fn go_on_leaving(database: &Database, leaving: &LeavingMember, plan: &mut Plan) {
    let name = &leaving.pod;
    let Some((rack, ordinal)) = database.place(name) else {
        plan.leaving = None;
        return;
    };
    let member = rack.members.get(&ordinal);
    let is_gone = match (database.others(name), &leaving.host) {
        (Ok(unclaimed), Some(host)) => !unclaimed.contains_key(host),
        (Ok(unclaimed), None) if unclaimed.is_empty() => true,
        // It joined at the last moment, or others need help first. It was not told anything yet.
        (_, None) => {
            plan.leaving = None;
            return;
        }
        (Err(why), Some(_)) => {
            tell_to_leave(database, leaving, plan);
            plan.wait(format!("{name} leaves the ring. Whether it has left is not certain: {why}"));
            // What it waits for may be lost, or not start because of an edit.
            if !replace(database, plan) && !database.racks.iter().any(|rack| rack.stale) {
                restart(database, name, plan);
            }
            return;
        }
    };
    if !is_gone {
        // One that is lost cannot. It leaves when another one has its place.
        if member.is_some_and(|member| replace_one(database, name.clone(), member, plan)) {
            plan.leaving = None;
            return;
        }
        tell_to_leave(database, leaving, plan);
        // One that does not start, because of an edit, does not hear it.
        let server = member.map(|member| &member.server).filter(|server| server.outdated);
        if server.is_some_and(|server| is_given_up(server, database.now)) {
            start_again(name.clone(), plan);
        }
        return;
    }
    plan.members.replicas.insert(rack.name.clone(), ordinal);
    let claim = rack.claims.get(&ordinal);
    if member.is_some() || rack.replicas.is_some_and(|replicas| replicas > ordinal) {
        plan.wait(format!("{name} has left the ring; its pod ends."));
    } else if let Some(claim) = claim {
        // Nothing on it is of use: a member that has left never joins again.
        plan.claims.push(claim.name.clone());
        plan.wait(format!("{name} has left the ring; its volume goes."));
    } else {
        plan.leaving = None;
        plan.hosts.remove(name);
        plan.tell("MemberLeft", format!("Member {name} has left the ring of the database."));
    }
}

/// Lets one member join, once all others are well. A ring with a dead member lets nobody join.
fn grow(database: &Database, plan: &mut Plan) -> bool {
    let mut racks = database.racks.iter();
    let Some(rack) = racks.find(|rack| rack.present() < rack.wanted) else { return false };
    let ordinal = rack.present();
    let name = rack.member(ordinal);
    if founder(database).is_some() && database.present() == 0 {
        plan.members.replicas.insert(rack.name.clone(), 1);
        return plan.wait(format!("{name} is the first member of the ring."));
    }
    if let Some(why) = database.trouble() {
        return plan.wait(format!("{name} is to join the ring, and waits: {why}"));
    }
    if let Some(claim) = rack.claims.get(&ordinal) {
        return plan.wait(format!(
            "{name} cannot join the ring, because volume {} of an earlier member is still there: delete it.",
            claim.name
        ));
    }
    let Some(start) = join(database, &name) else {
        return plan.wait(format!(
            "{name} has nobody to join: there are volumes of earlier members, and none of the first one."
        ));
    };
    plan.members.replicas.insert(rack.name.clone(), ordinal + 1);
    plan.members.starts.insert(name.clone(), start);
    plan.wait(format!("{name} joins the ring."))
}
