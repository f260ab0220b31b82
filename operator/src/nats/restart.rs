//! Which NATS server may start again.

use jiff::Timestamp;

use super::Report;
use crate::restart::{self, Next};

/// A server as it is, and what it says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// What all servers have in common.
    pub server: restart::Server,
    /// What it says.
    pub report: Option<Report>,
}

/// Decides which of the servers, which come in the order of their numbers, starts again. `wanted` is how many there
/// should be.
///
/// All others have to have all copies of their streams. From the last to the first, as Kubernetes does; the leader of the
/// meta group after all others, so that it moves once.
pub fn next_restart(servers: &[Server], wanted: i32, now: Timestamp) -> Next {
    let leads = |server: &Server| {
        let said = servers.iter().filter_map(|other| other.report.as_ref()?.leader.as_ref());
        said.into_iter().any(|leader| *leader == server.server.name)
    };
    let (last, first): (Vec<_>, Vec<_>) = servers.iter().rev().partition(|server| leads(server));
    let order: Vec<restart::Server> =
        first.iter().chain(&last).map(|server| server.server.clone()).collect();
    let trouble = || servers.iter().find_map(|server| trouble(server, servers));
    restart::next_restart(&order, wanted, "NATS servers", now, trouble)
}

/// Why a server that is ready does not let another one start again.
fn trouble(server: &Server, servers: &[Server]) -> Option<String> {
    let name = &server.server.name;
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

    fn now() -> Timestamp {
        "2026-11-28T09:00:00Z".parse().unwrap()
    }

    fn server(ordinal: usize) -> Server {
        let server = restart::Server {
            name: format!("chat-nats-{ordinal}"),
            outdated: true,
            ready_since: Some(Timestamp::UNIX_EPOCH),
            unready_since: None,
            ending: false,
        };
        let report = Report { trouble: None, leader: Some("chat-nats-1".to_owned()) };
        Server { server, report: Some(report) }
    }

    fn three() -> Vec<Server> {
        (0..3).map(server).collect()
    }

    fn restart(ordinal: usize) -> Next {
        Next::Restart(format!("chat-nats-{ordinal}"))
    }

    #[test]
    fn the_leader_is_the_last() {
        let mut servers = three();
        for ordinal in [2, 0, 1] {
            assert_eq!(next_restart(&servers, 3, now()), restart(ordinal));
            servers[ordinal].server.outdated = false;
        }
        assert_eq!(next_restart(&servers, 3, now()), Next::Nothing);
    }

    #[test]
    fn nobody_starts_again_while_another_one_is_behind() {
        let stream = Some("stream is not current".to_owned());
        let behind = Report { trouble: stream, leader: Some("chat-nats-1".to_owned()) };
        let cases = [
            (None, "chat-nats-0 does not answer on its monitoring port."),
            (Some(behind), "chat-nats-0 is not well: stream is not current"),
        ];
        for (report, sentence) in cases {
            let mut servers = three();
            servers[0].report = report;
            assert_eq!(next_restart(&servers, 3, now()), Next::Wait(sentence.to_owned()));
        }
    }

    #[test]
    fn a_single_server_that_becomes_three_starts_again_though_nobody_leads() {
        let mut servers = three();
        for (ordinal, server) in servers.iter_mut().enumerate() {
            server.server.outdated = ordinal == 0;
            let trouble = Some("no contact with a meta leader".to_owned());
            server.report = Some(Report { trouble, leader: None });
        }
        assert_eq!(next_restart(&servers, 3, now()), restart(0));
    }
}
