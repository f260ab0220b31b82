//! What members are told that start with an empty volume. Until they are told they wait: a first member whose volume was
//! lost would else make a ring of its own, and serve from it as if there had never been a message.

use std::collections::BTreeMap;

use super::Database;
use crate::build::{LostMember, Start};

/// Most members that a new one asks.
const SEEDS: usize = 3;

/// How members start that do not serve. It is of no account for one that has joined the ring before and has its volume, so
/// it need not be known which of them have.
pub(super) fn starts(database: &Database) -> BTreeMap<String, Start> {
    if let Some(founder) = founder(database) {
        let start = Start { seeds: vec![founder.clone()], replaces: None };
        return BTreeMap::from([(founder, start)]);
    }
    let expected = database.expected();
    let leaves =
        |name: &String| database.leaving.as_ref().is_some_and(|leaving| leaving.pod == *name);
    let away = expected.iter().filter(|(name, member)| {
        !leaves(name) && member.is_none_or(|member| member.serving().is_none())
    });
    // One at a time, and who was in the ring first: it lets nobody join while a member is dead.
    let (known, mut new): (Vec<_>, Vec<_>) =
        away.map(|(name, _)| name).partition(|name| database.hosts.contains_key(*name));
    if database.leaving.is_some() {
        new.clear();
    }
    let start =
        known.into_iter().chain(new).find_map(|name| Some((name.clone(), how(database, name)?)));
    start.into_iter().collect()
}

/// How a member joins that does not serve, if it may.
fn how(database: &Database, name: &str) -> Option<Start> {
    let unclaimed = database.others(name).ok()?;
    let join = join(database, name)?;
    let mut lost = unclaimed.into_iter();
    match (lost.next(), lost.next()) {
        // One that is too many and was never in the ring goes without having been there.
        (None, _) => {
            let surplus =
                database.place(name).is_some_and(|(rack, ordinal)| ordinal >= rack.wanted);
            (!surplus).then_some(join)
        }
        // All others are there: this one is lost.
        (Some((host, address)), None) => {
            Some(Start { replaces: Some(LostMember { host, address }), ..join })
        }
        // Nobody could say which is which.
        _ => None,
    }
}

/// How a new member finds the others, if there are any.
pub(super) fn join(database: &Database, name: &str) -> Option<Start> {
    let expected = database.expected();
    let others = expected.iter().filter(|(other, _)| other != name);
    let serving = others.filter(|(_, member)| member.is_some_and(|m| m.serving().is_some()));
    let seeds: Vec<String> = serving.take(SEEDS).map(|(other, _)| other.clone()).collect();
    (!seeds.is_empty()).then_some(Start { seeds, replaces: None })
}

/// The first member of all, as long as it does not serve and there is no sign of any other.
pub(super) fn founder(database: &Database) -> Option<String> {
    let first = database.racks.first()?;
    let name = first.member(0);
    let pods = database.racks.iter().map(|rack| rack.members.len()).sum::<usize>();
    let claims = database.racks.iter().map(|rack| rack.claims.len()).sum::<usize>();
    let is_alone = pods <= usize::from(first.members.contains_key(&0))
        && claims <= usize::from(first.claims.contains_key(&0))
        && database.present() <= 1;
    let serves = first.members.get(&0).is_some_and(|member| member.serving().is_some());
    (is_alone && !serves).then_some(name)
}
