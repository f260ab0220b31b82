//! An embedded installation moves to NATS and a CQL database: nothing is lost, whatever befalls the move.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use chat_protocol::api::{NewConversation, NewMessage};
use chat_protocol::frame::Outcome;
use chat_protocol::{ConversationId, MessageId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Person, api, history, text};
use crate::cluster::Platform;
use crate::process::{NodeProcess, http, program};

/// A request that the client library has no call for.
async fn call(node: &NodeProcess, method: &str, path: &str, who: &Person, body: Value) -> Value {
    let url = format!("{}{path}", node.url());
    let mut request = http().request(method.parse().unwrap(), url).bearer_auth(who.token());
    if !body.is_null() {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{method} {path}: {status} {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

async fn get(node: &NodeProcess, path: &str, who: &Person) -> Value {
    call(node, "GET", path, who, Value::Null).await
}

/// People and what they have done on the old node.
pub(crate) struct World {
    people: Vec<Person>,
    /// A direct conversation, two groups and a room.
    groups: Vec<ConversationId>,
    /// Who talks in each of them.
    members: [Vec<usize>; 4],
    /// Acknowledged messages, each with its sender, place, id and number.
    sent: Vec<(usize, ConversationId, NewMessage, MessageId, u64)>,
    cursors: Vec<String>,
}

impl World {
    pub(crate) async fn new(node: &NodeProcess, messages: usize, random: &mut StdRng) -> World {
        let mut people = Vec::new();
        for name in ["ann", "ben", "cem", "dee", "eva"] {
            people.push(Person::new(node, name).await);
        }
        let mut cursors = Vec::new();
        for person in &people {
            cursors.push(person.first_cursor(node).await);
        }
        let [ann, ben, cem, dee, _] = &people[..] else { unreachable!() };
        ann.other_device(node).await;
        let direct = NewConversation::Direct { user_id: ben.id() };
        let direct = api(node).create(ann.token(), &direct).await.unwrap().conversation_id;
        let room = NewConversation::Room { request_id: Uuid::new_v4(), name: "A room".into() };
        let room = api(node).create(dee.token(), &room).await.unwrap().conversation_id;
        let groups = vec![
            direct,
            ann.group(node, &[ben, cem]).await,
            cem.group(node, &[ann, ben, dee]).await,
            room,
        ];
        let mut world = World {
            people,
            groups,
            members: [vec![0, 1], vec![0, 1, 2], vec![0, 1, 2, 3], vec![3]],
            sent: Vec::new(),
            cursors,
        };
        world.befriend(node).await;
        for _ in 0..messages {
            world.act(node, random).await;
        }
        world.leave_and_come_back(node).await;
        world
    }

    async fn befriend(&self, node: &NodeProcess) {
        let [ann, ben, cem, dee, eva] = &self.people[..] else { unreachable!() };
        let api = api(node);
        api.befriend(ann.token(), ben.id()).await.unwrap();
        api.befriend(ben.token(), ann.id()).await.unwrap();
        api.befriend(cem.token(), ann.id()).await.unwrap();
        api.befriend(dee.token(), cem.id()).await.unwrap();
        api.unfriend(cem.token(), dee.id()).await.unwrap();
        call(node, "PUT", &format!("/v1/blocks/{}", eva.id()), dee, Value::Null).await;
        let settings = json!({ "settings": { "colour": "blue" } });
        call(node, "PUT", "/v1/me/settings", ann, settings).await;
        let profile = json!({ "name": "Ann Other", "status": "here" });
        call(node, "PATCH", "/v1/me", ann, profile).await;
    }

    pub(crate) async fn act(&mut self, node: &NodeProcess, random: &mut StdRng) {
        let index = random.random_range(0..self.groups.len());
        let group = self.groups[index];
        let members = &self.members[index];
        let who = members[random.random_range(0..members.len())];
        let person = &self.people[who];
        let message = text(&format!("message {}", self.sent.len()));
        let sent = api(node).send(person.token(), group, &message).await.unwrap();
        self.sent.push((who, group, message, sent.message_id, sent.seq));
        let own: Vec<_> =
            self.sent.iter().filter(|sent| sent.0 == who && sent.1 == group).collect();
        let (.., target, seq) = own[random.random_range(0..own.len())];
        let path = format!("/v1/conversations/{group}/messages/{target}");
        match random.random_range(0..8) {
            0 => {
                let body = json!({ "body": { "text": "edited" } });
                // What was deleted takes no edit.
                let url = format!("{}{path}", node.url());
                http().patch(url).bearer_auth(person.token()).json(&body).send().await.unwrap();
            }
            1 => {
                // Neither does it take a second deletion.
                let url = format!("{}{path}", node.url());
                http().delete(url).bearer_auth(person.token()).send().await.unwrap();
            }
            2 | 3 => {
                let emoji = ["%F0%9F%91%8D", "%F0%9F%8E%89"][random.random_range(0..2)];
                let url = format!("{}{path}/reactions/{emoji}", node.url());
                let request =
                    if random.random_bool(0.7) { http().put(url) } else { http().delete(url) };
                request.bearer_auth(person.token()).send().await.unwrap();
            }
            4 | 5 => api(node).read(person.token(), group, *seq).await.unwrap(),
            _ => {}
        }
    }

    async fn leave_and_come_back(&mut self, node: &NodeProcess) {
        let (group, cem, ben) = (self.groups[1], &self.people[2], &self.people[1]);
        let path = format!("/v1/conversations/{group}/members/{}", cem.id());
        call(node, "DELETE", &path, cem, Value::Null).await;
        api(node).send(ben.token(), group, &text("while cem was away")).await.unwrap();
        let ann = &self.people[0];
        api(node).invite(ann.token(), group, vec![cem.id()]).await.unwrap();
        let path = format!("/v1/conversations/{}/members/{}", self.groups[2], self.people[1].id());
        call(node, "DELETE", &path, &self.people[1], Value::Null).await;
        self.members[2].retain(|member| *member != 1);
    }

    /// Everything that everyone sees.
    pub(crate) async fn view(&self, node: &NodeProcess) -> Vec<Value> {
        let mut all = Vec::new();
        for person in &self.people {
            let conversations = get(node, "/v1/conversations?limit=100", person).await;
            let mut histories = Vec::new();
            let ids = conversations["items"].as_array().unwrap().iter();
            let ids = ids.map(|head| head["conversation"]["conversation_id"].as_str().unwrap());
            let ids: Vec<ConversationId> = ids.map(|id| id.parse().unwrap()).collect();
            for id in ids.into_iter().chain([self.groups[3]]) {
                let messages = history(&api(node), person.token(), id).await;
                histories.push(serde_json::to_value(messages).unwrap());
            }
            let mut view = json!({ "conversations": conversations, "histories": histories });
            for path in [
                "/v1/me",
                "/v1/me/settings",
                "/v1/devices",
                "/v1/friends",
                "/v1/blocks",
                "/v1/rooms",
                "/v1/users?handle=ann",
            ] {
                view[path] = get(node, path, person).await;
            }
            all.push(view);
        }
        all
    }

    /// After the move: cursors, repeated sends, and what is sent now.
    pub(crate) async fn go_on(&self, node: &NodeProcess) {
        let api = api(node);
        for (person, cursor) in self.people.iter().zip(&self.cursors) {
            let sync = api.sync(person.token(), Some(cursor), 0).await.unwrap();
            assert_eq!(sync.outcome, Outcome::Reset, "an old cursor is reset");
            let again = api.sync(person.token(), Some(&sync.cursor), 0).await.unwrap();
            assert_eq!(again.outcome, Outcome::Resumed, "once");
        }
        let highest = self.sent.iter().map(|sent| sent.3).max().unwrap();
        for (who, group, message, id, seq) in &self.sent {
            let index = self.groups.iter().position(|id| id == group).unwrap();
            if !self.members[index].contains(who) {
                continue;
            }
            for retry in [true, false] {
                let again = NewMessage { retry, ..message.clone() };
                let sent = api.send(self.people[*who].token(), *group, &again).await.unwrap();
                assert_eq!((sent.message_id, sent.seq), (*id, *seq), "the first answer again");
            }
        }
        for (index, group) in self.groups.iter().enumerate() {
            let person = &self.people[self.members[index][0]];
            let before = history(&api, person.token(), *group).await;
            let last = before.last().map_or(0, |message| message.seq);
            let sent = api.send(person.token(), *group, &text("on the platform")).await.unwrap();
            assert_eq!(sent.seq, last + 1);
            assert!(sent.message_id > highest, "new ids are above all old ones");
        }
    }
}

/// Choices that `CHAT_TEST_SEED` repeats.
pub(crate) fn seeded() -> StdRng {
    let given = std::env::var("CHAT_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("CHAT_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// The command, with what every test tells it.
struct Command<'a> {
    data: &'a Path,
    flags: Vec<String>,
    more: &'static [&'static str],
}

/// The test's database loses nothing in the crash of a process.
const QUICK: &[&str] = &["--copy-keys", "--store-syncs-writes"];

impl Command<'_> {
    fn start(&self) -> Child {
        let mut command = program();
        command.arg("migrate").args(&self.flags).arg("--data-dir").arg(self.data);
        command.args(self.more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    async fn run(&self) -> Output {
        let child = self.start();
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
    }

    /// Kills it some time after it has begun to copy, or has gone on with that. Says whether it had not ended before.
    async fn kill(&self, after: Duration) -> bool {
        let mut child = self.start();
        tokio::task::spawn_blocking(move || {
            let lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let copies = |line: &String| line.contains("Reserving") || line.contains("Going on");
            let found = lines.map_while(Result::ok).any(|line| copies(&line));
            std::thread::sleep(after);
            let is_running = child.try_wait().unwrap().is_none();
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(found || !is_running);
            is_running
        })
        .await
        .unwrap()
    }
}

pub(crate) fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Starts a node, which must be refused.
async fn refused_start(platform: &Platform) -> String {
    let mut command = program();
    command.args(platform.flags()).args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    said(&output)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_killed_again_and_again_loses_nothing() {
    let mut random = seeded();
    let platform = Platform::new().await;
    let mut old = NodeProcess::start(&[]).await;
    let mut world = World::new(&old, 150, &mut random).await;
    let data = old.data().to_owned();
    let command = Command { data: &data, flags: platform.flags(), more: QUICK };

    let refused = command.run().await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("is in use by a running node"), "{}", said(&refused));

    // Lists of conversations show what is in the store, a moment after what was sent.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = world.view(&old).await;
    // What is sent now is only in the log when the old node dies.
    let (ann, group) = (world.people[0].clone(), world.groups[1]);
    let message = text("the last one");
    let sent = api(&old).send(ann.token(), group, &message).await.unwrap();
    old.kill();
    world.sent.push((0, group, message, sent.message_id, sent.seq));

    assert!(command.kill(Duration::from_millis(random.random_range(0..100))).await);
    let refused = refused_start(&platform).await;
    assert!(refused.contains("A migration to this platform has not ended"), "{refused}");
    let mut kills = 1;
    while kills < 6 && command.kill(Duration::from_millis(random.random_range(0..400))).await {
        kills += 1;
    }
    println!("killed {kills} times before it ended");
    let done = command.run().await;
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    println!("{}", said(&done));
    assert!(platform.keys().exists(), "the signing keys went along");
    let again = command.run().await;
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    assert!(said(&again).contains("was done before. Nothing was changed"), "{}", said(&again));

    let mut node = platform.node().await;
    let after = world.view(&node).await;
    let mut expected = before;
    compare_with_the_last_one(&mut expected, &after, sent.message_id);
    world.go_on(&node).await;

    let mut other = NodeProcess::start(&[]).await;
    other.stop().await;
    let foreign = Command { data: other.data(), flags: platform.flags(), more: QUICK }.run().await;
    assert_eq!(foreign.status.code(), Some(1));
    assert!(said(&foreign).contains("holds another installation"), "{}", said(&foreign));

    // The old node is started by mistake: nothing of the platform changes.
    old.restart().await;
    old.stop().await;
    let late = command.run().await;
    assert_eq!(late.status.code(), Some(1));
    assert!(said(&late).contains("the old node has run since"), "{}", said(&late));
    node.stop().await;
}

/// Everyone sees what they saw, and besides the message that was sent right before the end.
fn compare_with_the_last_one(before: &mut [Value], after: &[Value], last: MessageId) {
    let last = last.to_string();
    for (before, after) in before.iter_mut().zip(after) {
        let mut after = after.clone();
        for messages in after["histories"].as_array_mut().unwrap() {
            messages.as_array_mut().unwrap().retain(|message| message["message_id"] != last);
        }
        for heads in [&mut *before, &mut after] {
            let heads = heads["conversations"]["items"].as_array_mut().unwrap();
            // The one in which it was sent: newest message and counts are others.
            for head in heads.iter_mut() {
                if head["last_message"]["message_id"] == last {
                    head["last_seq"] = json!(head["last_seq"].as_u64().unwrap() - 1);
                    head["unread"] = json!(head["unread"].as_u64().unwrap().saturating_sub(1));
                }
                head["last_message"] = Value::Null;
            }
            heads.sort_by_key(|head| head["conversation"]["conversation_id"].to_string());
        }
        assert_eq!(*before, after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_that_nodes_have_run_on_takes_no_other_installation() {
    let platform = Platform::new().await;
    platform.node().await.stop().await;
    let old = NodeProcess::start(&[]).await;
    let data = old.data().to_owned();
    let command = Command { data: &data, flags: platform.flags(), more: QUICK };
    let held = tempfile::tempdir().unwrap();
    let copy = held.path().join("copy");
    let mut backup = program();
    backup.arg("backup").arg("--data-dir").arg(&data).arg("--to").arg(&copy);
    assert!(tokio::task::spawn_blocking(move || backup.status().unwrap()).await.unwrap().success());
    let refused = command.run().await;
    assert!(said(&refused).contains("is in use by a running node"), "{}", said(&refused));
    let refused = Command { data: &copy, flags: platform.flags(), more: QUICK }.run().await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("nodes have run on already"), "{}", said(&refused));
    let embedded = Command { data: &copy, flags: vec![], more: QUICK }.run().await;
    assert_eq!(embedded.status.code(), Some(64));
    assert!(said(&embedded).contains("Name the platform with --broker"), "{}", said(&embedded));
    let nothing = Command { data: held.path(), flags: platform.flags(), more: QUICK }.run().await;
    assert_eq!(nothing.status.code(), Some(1));
    assert!(said(&nothing).contains("holds no installation"), "{}", said(&nothing));
}

mod long {
    use super::*;

    /// As an operator does it: the old node ends well, and the database gets its time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: waits a minute for the database's disks; `cargo xtask test --long` runs it"]
    async fn a_node_that_ended_well_moves_in_one_run() {
        let mut random = seeded();
        let platform = Platform::new().await;
        let mut old = NodeProcess::start(&[]).await;
        let world = World::new(&old, 1_500, &mut random).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = world.view(&old).await;
        old.stop().await;
        let (data, keys) = (old.data().to_owned(), old.data().join("token.key"));
        let done = Command { data: &data, flags: platform.flags(), more: &[] }.run().await;
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        println!("{}", said(&done));
        assert!(said(&done).contains("Waiting 60 s"), "{}", said(&done));
        assert!(!said(&done).contains("brought together"), "its store holds everything");
        assert!(said(&done).contains("Copy "), "the key was not asked to be copied");
        std::fs::copy(keys, platform.keys()).unwrap();
        let mut node = platform.node().await;
        assert_eq!(world.view(&node).await, before);
        world.go_on(&node).await;
        node.stop().await;
        // There is a way back.
        old.restart().await;
        assert_eq!(world.view(&old).await, before, "the old installation was only read");
        old.stop().await;
    }
}
