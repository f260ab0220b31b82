//! Which server of a part of the platform may start again: a function of what is seen, and now.
//!
//! Kubernetes would restart them in the order of their numbers, and look no further than at a server that answers. So the
//! StatefulSets of NATS and of the database wait for pods to be deleted, and this decides which one and when.

use jiff::{SignedDuration, Timestamp};

use crate::limits;

/// A server as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// Its name, which is that of its pod.
    pub name: String,
    /// Whether its pod is not what it should be.
    pub outdated: bool,
    /// Since when it has been ready; none if it is not.
    pub ready_since: Option<Timestamp>,
    /// Since when it has not been ready; none if it is.
    pub unready_since: Option<Timestamp>,
    /// Whether its pod is on its way out.
    pub ending: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// All servers are what they should be.
    Nothing,
    /// Some are to start again, and none may do so now. The sentence says why.
    Wait(String),
    /// This one may start again.
    Restart(String),
}

/// Decides which of the servers starts again; the first in the list that is to goes first. `wanted` is how many there
/// should be, `what` is what they are called, and `trouble` says why none that is ready may go.
///
/// One at a time, while all others are there and well, so that no quorum is lost. A server that is not ready and outdated
/// goes before all others: it may be what an edit was meant to mend. While another one starts it goes only when it has not
/// been ready for long: one that starts may wait for just that one, and one that was ready a moment ago comes back by itself.
pub fn next_restart(
    servers: &[Server],
    wanted: i32,
    what: &str,
    now: Timestamp,
    trouble: impl FnOnce() -> Option<String>,
) -> Next {
    let Some(first) = servers.iter().find(|server| server.outdated) else { return Next::Nothing };
    if let Some(ending) = servers.iter().find(|server| server.ending) {
        return Next::Wait(format!("{} ends.", ending.name));
    }
    let starts = servers.iter().find(|server| server.ready_since.is_none() && !server.outdated);
    let mut broken =
        servers.iter().filter(|server| server.ready_since.is_none() && server.outdated);
    if let Some(broken) = broken.find(|server| starts.is_none() || is_given_up(server, now)) {
        return Next::Restart(broken.name.clone());
    }
    if let Some(starts) = starts {
        return Next::Wait(format!("{} is not ready yet.", starts.name));
    }
    if servers.len() < usize::try_from(wanted).unwrap_or(0) {
        return Next::Wait(format!("{} of {wanted} {what} are there.", servers.len()));
    }
    if let Some(fresh) = servers.iter().find(|server| !is_settled(server.ready_since, now)) {
        return Next::Wait(format!("{} has just become ready.", fresh.name));
    }
    match trouble() {
        Some(text) => Next::Wait(text),
        None => Next::Restart(first.name.clone()),
    }
}

/// Whether a server has been ready for long enough: it says that it is well before it has heard what it missed.
pub fn is_settled(ready_since: Option<Timestamp>, now: Timestamp) -> bool {
    let settled = SignedDuration::from_secs(limits::SERVER_SETTLE_SECONDS);
    ready_since.is_some_and(|since| since.checked_add(settled).is_ok_and(|until| until <= now))
}

/// Whether a server has not been ready for so long that it will not be by itself.
pub fn is_given_up(server: &Server, now: Timestamp) -> bool {
    let patience = SignedDuration::from_secs(limits::SERVER_BROKEN_SECONDS);
    let until = server.unready_since.and_then(|since| since.checked_add(patience).ok());
    server.ready_since.is_none() && until.is_some_and(|until| until <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Timestamp {
        "2026-11-28T09:00:00Z".parse().unwrap()
    }

    fn three() -> Vec<Server> {
        let server = |ordinal| Server {
            name: format!("chat-nats-{ordinal}"),
            outdated: true,
            ready_since: Some(now() - SignedDuration::from_secs(600)),
            unready_since: None,
            ending: false,
        };
        (0..3).map(server).collect()
    }

    fn next(servers: &[Server]) -> Next {
        next_restart(servers, 3, "NATS servers", now(), || None)
    }

    #[test]
    fn one_goes_after_the_other_in_the_order_of_the_list() {
        let mut servers = three();
        for ordinal in 0..3 {
            assert_eq!(next(&servers), Next::Restart(format!("chat-nats-{ordinal}")));
            servers[ordinal].outdated = false;
        }
        assert_eq!(next(&servers), Next::Nothing);
    }

    #[test]
    fn nobody_starts_again_while_another_one_is_away_or_has_just_come() {
        type Change = fn(&mut Server);
        let cases: [(&str, Change); 3] = [
            ("chat-nats-1 ends.", |server| server.ending = true),
            ("chat-nats-1 is not ready yet.", |server| {
                (server.ready_since, server.outdated) = (None, false);
            }),
            ("chat-nats-1 has just become ready.", |server| server.ready_since = Some(now())),
        ];
        for (sentence, change) in cases {
            let mut servers = three();
            change(&mut servers[1]);
            assert_eq!(next(&servers), Next::Wait(sentence.to_owned()));
        }
        assert_eq!(next(&three()[..2]), Next::Wait("2 of 3 NATS servers are there.".to_owned()));
        let ill = || Some("One is not well.".to_owned());
        let next = next_restart(&three(), 3, "NATS servers", now(), ill);
        assert_eq!(next, Next::Wait("One is not well.".to_owned()));
    }

    #[test]
    fn who_is_broken_and_outdated_goes_first_whoever_is_ill() {
        let mut servers = three();
        servers[1].ready_since = None;
        let next = next_restart(&servers, 3, "NATS servers", now(), || Some("Ill.".to_owned()));
        assert_eq!(next, Next::Restart("chat-nats-1".to_owned()));
    }

    #[test]
    fn who_starts_holds_up_a_broken_one_for_a_while() {
        let mut servers = three();
        for server in &mut servers[..2] {
            (server.ready_since, server.unready_since) = (None, Some(now()));
        }
        servers[0].outdated = false;
        assert_eq!(next(&servers), Next::Wait("chat-nats-0 is not ready yet.".to_owned()));
        servers[1].unready_since = Some(now() - SignedDuration::from_secs(600));
        assert_eq!(next(&servers), Next::Restart("chat-nats-1".to_owned()));
    }

    fn any_server() -> impl Strategy<Value = Server> {
        let times = proptest::option::of(0..60_i64);
        (any::<bool>(), times, any::<bool>()).prop_map(|(outdated, ready, ending)| Server {
            name: String::new(),
            outdated,
            ready_since: ready.map(|ago| now() - SignedDuration::from_secs(ago)),
            unready_since: None,
            ending,
        })
    }

    proptest! {
        /// Whatever is seen: a server that is ready starts again only while all others are ready, so a quorum of three
        /// is never lost by it.
        #[test]
        fn a_quorum_is_never_taken_away(
            mut servers in proptest::collection::vec(any_server(), 3),
            ill in any::<bool>(),
        ) {
            for (ordinal, server) in servers.iter_mut().enumerate() {
                server.name = format!("chat-nats-{ordinal}");
            }
            let trouble = || ill.then(|| "Ill.".to_owned());
            let next = next_restart(&servers, 3, "NATS servers", now(), trouble);
            let Next::Restart(name) = next else { return Ok(()) };
            let (chosen, others): (Vec<_>, Vec<_>) =
                servers.iter().partition(|server| server.name == name);
            prop_assert!(chosen[0].outdated && !chosen[0].ending);
            prop_assert!(others.iter().all(|server| !server.ending));
            if chosen[0].ready_since.is_some() {
                prop_assert!(!ill && others.iter().all(|server| server.ready_since.is_some()));
            }
        }
    }
}
