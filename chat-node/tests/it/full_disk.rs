//! A full disk refuses what is new, and nothing else.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chat_protocol::api::{NewMessage, Problem, Sent};
use chat_protocol::frame::ServerFrame;
use chat_protocol::{ClientMessageId, Code, ConversationId};
use tokio::time::Instant;

use crate::client::{PATIENCE, Person, Socket, api, drain, history, send, text};
use crate::process::NodeProcess;

fn long_text() -> NewMessage {
    text(&"x".repeat(20_000))
}

/// Sends until the server has no room; what it acknowledged, and the refusal.
async fn send_until_full(
    node: &NodeProcess,
    person: &Person,
    group: ConversationId,
) -> (Vec<(ClientMessageId, Sent)>, Problem) {
    let mut acknowledged = Vec::new();
    let api = api(node);
    for _ in 0..2_000 {
        let message = long_text();
        match api.send(person.token(), group, &message).await {
            Ok(sent) => acknowledged.push((message.client_message_id, sent)),
            Err(chat_client::ApiError::Refused(problem)) => return (acknowledged, *problem),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is no end to the room")
}

fn assert_is_full(problem: &Problem) {
    assert_eq!((problem.code, problem.status), (Code::StorageFull, 507));
    assert!(problem.retry_after_ms.is_some_and(|after| after > 0), "{problem:?}");
}

/// Every kind of reading works: history, a resume, a new connection.
async fn assert_readable(
    node: &NodeProcess,
    person: &Person,
    group: ConversationId,
    cursor: &str,
    acknowledged: &[(ClientMessageId, Sent)],
) {
    assert_kept(node, person, group, acknowledged).await;
    let (frames, _) = drain(&api(node), person.token(), cursor).await;
    let came: Vec<_> = frames
        .iter()
        .filter_map(|frame| match frame {
            ServerFrame::Message(message) => Some(message.client_message_id),
            _ => None,
        })
        .collect();
    for (id, _) in acknowledged {
        assert!(came.contains(id), "a device that resumes gets {id}");
    }
    api(node).conversations(person.token(), None).await.unwrap();
}

async fn assert_kept(
    node: &NodeProcess,
    person: &Person,
    group: ConversationId,
    acknowledged: &[(ClientMessageId, Sent)],
) {
    let all = history(&api(node), person.token(), group).await;
    for (id, sent) in acknowledged {
        let found: Vec<_> = all.iter().filter(|message| message.client_message_id == *id).collect();
        assert_eq!(found.len(), 1, "{id}");
        assert_eq!((found[0].message_id, found[0].seq), (sent.message_id, sent.seq));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_of_the_log_sends_are_refused_and_reading_goes_on() {
    let mut node = NodeProcess::start(&["--storage-log-bytes-max=2000000"]).await;
    node.expect("the log was not written;");
    let (ann, ben) = (Person::new(&node, "ann").await, Person::new(&node, "ben").await);
    let group = ann.group(&node, &[&ben]).await;
    let cursor = ben.first_cursor(&node).await;

    let (mut acknowledged, problem) = send_until_full(&node, &ann, group).await;
    assert!(acknowledged.len() > 20, "{} fit in", acknowledged.len());
    assert_is_full(&problem);
    let mut socket = Socket::of(&node, &ann, None).await;
    let refused = socket.ask(1, &send(group, 1, &long_text()), &mut Vec::new()).await.unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, Code::StorageFull);
    assert!(refused.retry_after_ms.is_some_and(|after| after > 0), "{refused:?}");
    assert_readable(&node, &ben, group, &cursor, &acknowledged).await;

    node.stop().await;
    node.set_flags(&["--storage-log-bytes-max=50000000"]);
    node.restart().await;
    assert_readable(&node, &ben, group, &cursor, &acknowledged).await;
    let message = long_text();
    let sent = api(&node).send(ann.token(), group, &message).await.unwrap();
    acknowledged.push((message.client_message_id, sent));
    assert_kept(&node, &ben, group, &acknowledged).await;
}

/// A small file system in memory, until dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    /// `None` where this process may not mount.
    fn new(bytes: &str) -> Option<Mount> {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Mount(directory)),
            other => {
                eprintln!(
                    "SKIPPED: this test needs to mount a file system, which is refused: {other:?}"
                );
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{:?} stays mounted", self.path());
    }
}

/// Takes all the room that is left.
fn fill(path: &Path) -> PathBuf {
    let ballast = path.join("ballast");
    let mut file = File::options().create(true).append(true).open(&ballast).unwrap();
    for size in [1 << 20, 4_096] {
        let block = vec![7; size];
        while file.write_all(&block).is_ok() {}
    }
    ballast
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_refuses_sends_until_there_is_room_again() {
    let Some(mount) = Mount::new("48m") else { return };
    let mut node = NodeProcess::stopped(&mount.path().join("data"), &[]);
    node.expect("the log was not written;");
    node.expect("writes to the store fail");
    node.expect("presence cannot be written now");
    node.restart().await;
    let (ann, ben) = (Person::new(&node, "ann").await, Person::new(&node, "ben").await);
    let group = ann.group(&node, &[&ben]).await;
    let cursor = ben.first_cursor(&node).await;
    let first = long_text();
    let sent = api(&node).send(ann.token(), group, &first).await.unwrap();
    let mut acknowledged = vec![(first.client_message_id, sent)];

    let ballast = fill(mount.path());
    // What the files have grown to already is used up first.
    let (more, problem) = send_until_full(&node, &ann, group).await;
    acknowledged.extend(more);
    assert_is_full(&problem);
    // Whatever room was freed meanwhile is taken again.
    fill(mount.path());
    assert_kept(&node, &ben, group, &acknowledged).await;
    let mut socket = Socket::of(&node, &ben, None).await;
    let beat = chat_protocol::frame::ClientFrame::Heartbeat(Default::default());
    socket.send(&beat).await.unwrap();
    while !matches!(socket.next().await.unwrap(), ServerFrame::Heartbeat(_)) {}

    std::fs::remove_file(ballast).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut message = long_text();
    let sent = loop {
        match api(&node).send(ann.token(), group, &message).await {
            Ok(sent) => break sent,
            Err(error) => assert!(error.is_retryable() && Instant::now() < deadline, "{error}"),
        }
        message.retry = true;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    acknowledged.push((message.client_message_id, sent));
    assert_readable(&node, &ben, group, &cursor, &acknowledged).await;
    node.kill();
    node.restart().await;
    assert_readable(&node, &ben, group, &cursor, &acknowledged).await;
}
