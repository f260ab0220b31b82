//! The store of a platform is restored from an older copy: what the log retains comes back into it.

use std::process::Output;
use std::time::Duration;

use crate::cluster::Platform;
use crate::migrate::{World, said, seeded};
use crate::process::program;

async fn restore(flags: &[String]) -> Output {
    let mut command = program();
    command.arg("restore-platform").args(flags);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_epoch_resets_every_cursor_and_a_replay_of_the_log_doubles_nothing() {
    let mut random = seeded();
    let platform = Platform::new().await;
    let mut node = platform.node().await;
    let world = World::new(&node, 60, &mut random).await;
    // Lists of conversations show what is in the store, a moment after what was sent.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = world.view(&node).await;
    let refused = restore(&platform.flags()).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("is running. Stop all nodes first"), "{}", said(&refused));
    node.stop().await;
    let done = restore(&platform.flags()).await;
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert!(said(&done).contains("replay the log of 320 partitions"), "{}", said(&done));
    node.restart().await;
    assert_eq!(world.view(&node).await, before);
    world.go_on(&node).await;
    node.stop().await;
}

mod long {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use chat_protocol::{Millis, Partition};
    use chat_store::cql::{CqlStore, Options};
    use chat_store::{Store, Table, Tables};
    use serde_json::Value;
    use servers::cassandra::{Cassandra, CassandraOptions, DATACENTER};
    use servers::nats::{Nats, NatsOptions};

    use super::*;
    use crate::process::NodeProcess;

    /// Rows of a page.
    const ROWS: usize = 500;

    async fn open(platform: &Platform, keyspace: &str) -> CqlStore {
        let now = Millis(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64);
        let options = Options {
            replication: BTreeMap::from([(DATACENTER.to_owned(), 1)]),
            ..Options::new(platform.cassandra.addresses(), keyspace, DATACENTER, now)
        };
        CqlStore::open(options).await.unwrap()
    }

    /// A copy of the store as it is now, in another keyspace.
    async fn copy(platform: &Platform, keyspace: &str) {
        let (from, to) = (open(platform, &platform.name).await, open(platform, keyspace).await);
        for partition in Partition::all() {
            let checkpoint = from.checkpoint(partition).await.unwrap();
            to.put_checkpoints(vec![(partition, checkpoint)]).await.unwrap();
        }
        for table in Table::ALL {
            let mut next = Some(vec![]);
            while let Some(position) = next {
                let page = from.scan(table, position, ROWS).await.unwrap();
                to.import(page.rows).await.unwrap();
                next = page.next;
            }
        }
    }

    fn node(platform: &Platform, flags: &[String]) -> NodeProcess {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        NodeProcess::stopped(&platform.keys().with_file_name("unused"), &flags)
    }

    /// How far a device has received is written once in a while, and at the end of a node.
    fn without_progress(mut views: Vec<Value>) -> Vec<Value> {
        for view in &mut views {
            for device in view["/v1/devices"]["items"].as_array_mut().unwrap() {
                device.as_object_mut().unwrap().remove("received_until");
            }
        }
        views
    }

    /// The copy is made by rows, into another keyspace.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: makes two keyspaces; `cargo xtask test --long` runs it"]
    async fn what_was_sent_after_the_copy_is_there_once_and_every_cursor_is_reset() {
        let mut random = seeded();
        let platform = Platform::new().await;
        let copied = format!("{}_copy", platform.name);
        let flags = platform.flags();
        let restored: Vec<String> = flags
            .iter()
            .map(|flag| flag.replace(&format!("/{}", platform.name), &format!("/{copied}")))
            .collect();

        let mut first = node(&platform, &flags);
        first.restart().await;
        // Tables take a while to be made.
        let made = open(&platform, &copied);
        let (mut world, made) = tokio::join!(World::new(&first, 60, &mut random), made);
        drop(made);
        first.kill();
        copy(&platform, &copied).await;

        first.restart().await;
        for _ in 0..80 {
            world.act(&first, &mut random).await;
        }
        // Lists of conversations show what is in the store, a moment after what was sent.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = world.view(&first).await;
        first.kill();

        let mut second = node(&platform, &restored);
        let mismatch = second_start(&restored).await;
        assert!(mismatch.contains("do not belong together"), "{mismatch}");
        let done = restore(&restored).await;
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        println!("{}", said(&done));
        assert!(said(&done).contains("replay the log of 320 partitions"), "{}", said(&done));
        second.restart().await;
        assert_eq!(world.view(&second).await, before);
        world.go_on(&second).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = world.view(&second).await;
        second.stop().await;

        // The log is lost, too: new ids are above those in the store all the same.
        let name = format!("--nats-prefix={}", platform.name);
        let other =
            |flag: &String| if *flag == name { format!("{name}_new") } else { flag.clone() };
        let without_log: Vec<String> = restored.iter().map(other).collect();
        let refused = second_start(&without_log).await;
        assert!(refused.contains("log is missing"), "{refused}");
        let done = restore(&without_log).await;
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        assert!(said(&done).contains("log of 320 partitions was behind"), "{}", said(&done));
        let mut third = node(&platform, &without_log);
        third.restart().await;
        let after = world.view(&third).await;
        assert_eq!(without_progress(after), without_progress(before));
        world.go_on(&third).await;
        third.stop().await;
    }

    async fn second_start(flags: &[String]) -> String {
        let mut command = program();
        command.args(flags).args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    }

    const FOLDERS: [&str; 4] = ["data", "commitlog", "hints", "saved_caches"];

    fn copy_folders(from: &Path, to: &Path) {
        for folder in FOLDERS {
            let target = to.join(folder);
            if target.exists() {
                std::fs::remove_dir_all(&target).unwrap();
            }
            let copied =
                std::process::Command::new("cp").arg("-a").arg(from.join(folder)).arg(to).status();
            assert!(copied.unwrap().success(), "{folder}");
        }
    }

    /// The whole procedure, with copies of the database's own files.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: starts a database of its own three times; `cargo xtask test --long` runs it"]
    async fn a_database_that_is_put_back_gets_what_the_log_retains() {
        let mut random = seeded();
        let start = tokio::task::spawn_blocking(|| {
            let nats = Nats::single(&NatsOptions::default());
            (nats, Cassandra::single(&CassandraOptions::default()))
        });
        let (nats, cassandra) = start.await.unwrap();
        let platform = Platform::on(Arc::new(nats), Arc::new(cassandra));
        let database = platform.cassandra.clone();
        let flags = platform.flags();
        let backup = tempfile::tempdir().unwrap();
        let up = |database: Arc<Cassandra>| {
            tokio::task::spawn_blocking(move || {
                database.restart(0);
                database.wait_until_up(0);
            })
        };

        let (mut one, mut two) = (node(&platform, &flags), node(&platform, &flags));
        one.restart().await;
        let mut world = World::new(&one, 100, &mut random).await;
        one.stop().await;
        database.kill(0);
        copy_folders(&database.place(0), backup.path());
        up(database.clone()).await.unwrap();

        one.restart().await;
        two.restart().await;
        for number in 0..200 {
            world.act([&one, &two][number % 2], &mut random).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = world.view(&one).await;
        one.kill();
        two.kill();
        database.kill(0);
        copy_folders(backup.path(), &database.place(0));
        up(database.clone()).await.unwrap();

        let nothing: Vec<String> = flags
            .iter()
            .map(|flag| flag.replace(&format!("/{}", platform.name), "/another"))
            .collect();
        let refused = restore(&nothing).await;
        let text = said(&refused);
        assert!(text.contains("holds nothing that nodes have written"), "{text}");

        let done = restore(&flags).await;
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        println!("{}", said(&done));
        one.restart().await;
        two.restart().await;
        assert_eq!(world.view(&two).await, before);
        world.go_on(&one).await;
        one.stop().await;
        two.stop().await;
    }
}
