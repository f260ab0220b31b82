//! Which server may start again: a function of what is seen, and now.

use jiff::{SignedDuration, Timestamp};

use super::Report;
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
    /// Whether its pod is on its way out.
    pub ending: bool,
    /// What it says.
    pub report: Option<Report>,
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

/// Decides which of the servers starts again. `wanted` is how many there should be.
///
/// One at a time, while all others are there and have all copies of their streams, so that no quorum is lost; the leader
/// of the meta group last, so that it moves once. A server that is not ready and outdated goes first: it may be what an
/// edit was meant to mend.
pub fn next_restart(servers: &[Server], wanted: i32, now: Timestamp) -> Next {
    let outdated: Vec<&Server> = servers.iter().filter(|server| server.outdated).collect();
    if outdated.is_empty() {
        return Next::Nothing;
    }
    if let Some(ending) = servers.iter().find(|server| server.ending) {
        return Next::Wait(format!("{} ends.", ending.name));
    }
    if let Some(starts) = servers.iter().find(|s| s.ready_since.is_none() && !s.outdated) {
        return Next::Wait(format!("{} is not ready yet.", starts.name));
    }
    if let Some(broken) = outdated.iter().find(|server| server.ready_since.is_none()) {
        return Next::Restart(broken.name.clone());
    }
    if servers.len() < usize::try_from(wanted).unwrap_or(0) {
        return Next::Wait(format!("{} of {wanted} NATS servers are there.", servers.len()));
    }
    if let Some(text) = servers.iter().find_map(|server| unsettled(server, servers, now)) {
        return Next::Wait(text);
    }
    let leads = |server: &Server| {
        let said = servers.iter().filter_map(|other| other.report.as_ref()?.leader.as_ref());
        said.into_iter().any(|leader| *leader == server.name)
    };
    // From the last to the first, as Kubernetes does; the leader after all others.
    let next = outdated.iter().rev().find(|server| !leads(server)).or(outdated.first());
    next.map_or(Next::Nothing, |server| Next::Restart(server.name.clone()))
}

/// Why a server that is ready does not let another one start again.
fn unsettled(server: &Server, servers: &[Server], now: Timestamp) -> Option<String> {
    let name = &server.name;
    let since = server.ready_since?;
    // A server says that it is well before it has heard what it missed.
    let settled = since.checked_add(SignedDuration::from_secs(limits::NATS_SETTLE_SECONDS));
    if settled.is_ok_and(|settled| settled > now) {
        return Some(format!("{name} has just become ready."));
    }
    let Some(report) = &server.report else {
        return Some(format!("{name} does not answer on its monitoring port."));
    };
    // Without a meta group none of them can be well: a single server that becomes three has to start again first.
    let is_led = servers.iter().any(|s| s.report.as_ref().is_some_and(|r| r.leader.is_some()));
    let trouble = report.trouble.as_ref().filter(|_| is_led)?;
    Some(format!("{name} is not well: {trouble}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Timestamp {
        "2026-11-28T09:00:00Z".parse().unwrap()
    }

    fn server(ordinal: usize, outdated: bool) -> Server {
        Server {
            name: format!("chat-nats-{ordinal}"),
            outdated,
            ready_since: Some(now() - SignedDuration::from_secs(600)),
            ending: false,
            report: Some(Report { trouble: None, leader: Some("chat-nats-1".to_owned()) }),
        }
    }

    fn three() -> Vec<Server> {
        (0..3).map(|ordinal| server(ordinal, true)).collect()
    }

    fn restart(ordinal: usize) -> Next {
        Next::Restart(format!("chat-nats-{ordinal}"))
    }

    #[test]
    fn the_leader_is_the_last() {
        let mut servers = three();
        for ordinal in [2, 0, 1] {
            assert_eq!(next_restart(&servers, 3, now()), restart(ordinal));
            servers[ordinal].outdated = false;
        }
        assert_eq!(next_restart(&servers, 3, now()), Next::Nothing);
    }

    #[test]
    fn nobody_starts_again_while_another_one_is_away_or_behind() {
        type Change = fn(&mut Server);
        let cases: [(&str, Change); 5] = [
            ("chat-nats-0 ends.", |server| server.ending = true),
            ("not ready yet", |server| (server.ready_since, server.outdated) = (None, false)),
            ("just become ready", |server| server.ready_since = Some(now())),
            ("does not answer", |server| server.report = None),
            ("not well: stream is not current", |server| {
                server.report.as_mut().unwrap().trouble = Some("stream is not current".to_owned());
            }),
        ];
        for (sentence, change) in cases {
            let mut servers = three();
            change(&mut servers[0]);
            let next = next_restart(&servers, 3, now());
            assert!(matches!(&next, Next::Wait(text) if text.contains(sentence)), "{next:?}");
        }
        let next = next_restart(&three()[..2], 3, now());
        assert_eq!(next, Next::Wait("2 of 3 NATS servers are there.".to_owned()));
    }

    #[test]
    fn who_is_broken_and_outdated_goes_first() {
        let mut servers = three();
        servers[0].ready_since = None;
        assert_eq!(next_restart(&servers, 3, now()), restart(0));
    }

    #[test]
    fn a_single_server_that_becomes_three_starts_again_though_nobody_leads() {
        let mut servers = three();
        for (ordinal, server) in servers.iter_mut().enumerate() {
            server.outdated = ordinal == 0;
            let trouble = Some("no contact with a meta leader".to_owned());
            server.report = Some(Report { trouble, leader: None });
        }
        assert_eq!(next_restart(&servers, 3, now()), restart(0));
    }

    fn any_server() -> impl Strategy<Value = Server> {
        let report =
            (any::<bool>(), proptest::option::of(0..3_usize)).prop_map(|(bad, leader)| Report {
                trouble: bad.then(|| "bad".to_owned()),
                leader: leader.map(|leader| format!("chat-nats-{leader}")),
            });
        let times = proptest::option::of(0..60_i64);
        (any::<bool>(), times, any::<bool>(), proptest::option::of(report)).prop_map(
            |(outdated, ready, ending, report)| Server {
                name: String::new(),
                outdated,
                ready_since: ready.map(|ago| now() - SignedDuration::from_secs(ago)),
                ending,
                report,
            },
        )
    }

    proptest! {
        /// Whatever is seen: a server that is ready starts again only while all others are ready, so a quorum of three
        /// is never lost by it.
        #[test]
        fn a_quorum_is_never_taken_away(mut servers in proptest::collection::vec(any_server(), 3)) {
            for (ordinal, server) in servers.iter_mut().enumerate() {
                server.name = format!("chat-nats-{ordinal}");
            }
            let Next::Restart(name) = next_restart(&servers, 3, now()) else { return Ok(()) };
            let (chosen, others): (Vec<_>, Vec<_>) = servers.iter().partition(|server| server.name == name);
            prop_assert!(chosen[0].outdated && !chosen[0].ending);
            prop_assert!(others.iter().all(|server| !server.ending));
            if chosen[0].ready_since.is_some() {
                prop_assert!(others.iter().all(|server| server.ready_since.is_some()));
            }
        }
    }
}
