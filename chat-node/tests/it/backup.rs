//! Copies of the data, made under load, and what a restore makes of them.

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use chat_protocol::ClientMessageId;
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::Outcome;

use crate::client::{Person, Socket, api, history, text};
use crate::process::{NodeProcess, program};

async fn run(arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_made_while_people_write_holds_what_was_acknowledged_before_it_began() {
    let node = NodeProcess::start(&[]).await;
    let (ann, ben) = (Person::new(&node, "ann").await, Person::new(&node, "ben").await);
    let group = ann.group(&node, &[&ben]).await;
    let cursor = ben.first_cursor(&node).await;
    let directory = tempfile::tempdir().unwrap();
    let (copy, restored) = (directory.path().join("copy"), directory.path().join("restored"));
    let (copy, restored) = (copy.to_str().unwrap(), restored.to_str().unwrap());
    let data = node.data().to_str().unwrap();

    let acknowledged: Arc<Mutex<Vec<ClientMessageId>>> = Arc::default();
    let is_over = AtomicBool::new(false);
    let write = |person: &Person| {
        let (api, person) = (api(&node), person.clone());
        let (acknowledged, is_over) = (acknowledged.clone(), &is_over);
        async move {
            while !is_over.load(Ordering::Relaxed) {
                let message = text(&"a text of some length ".repeat(20));
                api.send(person.token(), group, &message).await.unwrap();
                acknowledged.lock().unwrap().push(message.client_message_id);
            }
        }
    };
    let back_up = async {
        while acknowledged.lock().unwrap().len() < 100 {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let before = acknowledged.lock().unwrap().clone();
        let output = run(&["backup", "--data-dir", data, "--to", copy]).await;
        let after = acknowledged.lock().unwrap().len();
        is_over.store(true, Ordering::Relaxed);
        assert!(output.status.success(), "{}", errors(&output));
        assert!(after > before.len(), "people wrote meanwhile");
        before
    };
    let (_, _, before) = tokio::join!(write(&ann), write(&ben), back_up);

    let refused = run(&["restore", "--from", copy, "--data-dir", data]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("is in use by a running node"), "{}", errors(&refused));
    let output = run(&["restore", "--from", copy, "--data-dir", restored]).await;
    assert!(output.status.success(), "{}", errors(&output));

    let mut copied = NodeProcess::stopped(restored.as_ref(), &[]);
    copied.restart().await;
    let all = history(&api(&copied), ben.token(), group).await;
    for id in &before {
        let count = all.iter().filter(|message| message.client_message_id == *id).count();
        assert_eq!(count, 1, "{id} was acknowledged before the backup began");
    }
    let seqs: Vec<u64> = all.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (1..=all.len() as u64).collect::<Vec<_>>());

    let connected =
        Socket::connect(&copied.url(), ben.token(), Some(&cursor), Encoding::Json).await;
    assert_eq!(connected.unwrap().1.outcome, Outcome::Reset);
    let sync = api(&copied).sync(ben.token(), Some(&cursor), 0).await.unwrap();
    assert_eq!(sync.outcome, Outcome::Reset);
    let again = api(&copied).sync(ben.token(), Some(&sync.cursor), 0).await.unwrap();
    assert_eq!(again.outcome, Outcome::Resumed, "the new cursor is good");
    let sent = api(&copied).send(ann.token(), group, &text("after the restore")).await.unwrap();
    assert_eq!(sent.seq, all.len() as u64 + 1);

    let refused = run(&["restore", "--from", copy, "--data-dir", copy]).await;
    assert_eq!(refused.status.code(), Some(1), "a backup is not restored onto itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_data_is_refused_with_a_plain_sentence() {
    let node = NodeProcess::start(&[]).await;
    let data = node.data().to_str().unwrap();
    let arguments = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--data-dir", data];
    let output = run(&arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let sentence = format!(
        "chat-node: {data} is in use by a running node or restore; stop it first, or choose another directory\n"
    );
    assert!(errors(&output).ends_with(&sentence), "{}", errors(&output));
    let person = Person::new(&node, "ann").await;
    api(&node).me(person.token()).await.expect("the first one goes on");
}
