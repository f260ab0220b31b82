//! A platform is restored with the commands that docs/kubernetes.md gives.

use std::process::Command;

use chat_client::Api;
use chat_protocol::api::SignUp;
use chat_protocol::frame::Outcome;
use cluster::crowd::{Crowd, seed};
use kind::platform::{Platform, small};
use kind::{PATIENCE, Space, in_space, until};

use crate::operate::PEOPLE;

const DOCUMENT: &str = include_str!("../../../../docs/kubernetes.md");

/// The code of the document that has this mark.
fn code(mark: &str) -> &'static str {
    let (_, rest) = DOCUMENT.split_once(&format!("```sh {mark}\n")).expect("the code is there");
    rest.split_once("```").expect("it has an end").0
}

/// Runs commands as somebody whose context is this namespace.
async fn shell(space: &Space, code: &str) -> String {
    let kubectl = "kubectl() { command kubectl --namespace \"$SPACE\" \"$@\"; }\n";
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &format!("{kubectl}{code}")]).env("SPACE", &space.name);
    let run = tokio::task::spawn_blocking(move || bash.output());
    let output = run.await.unwrap().expect("bash runs");
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{said:?}");
    said.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn a_platform_is_restored_as_documented() {
    in_space("restore", async |space: Space| {
        let platform = Platform::start(&space, small()).await;
        let api = Api::new(&platform.url().await).unwrap();
        let ann = SignUp {
            handle: "ann".to_owned(),
            password: "correct horse battery".to_owned(),
            name: None,
            device_name: None,
        };
        let ann = api.sign_up(&ann).await.unwrap();
        let before = api.sync(&ann.access_token, None, 0).await.unwrap();

        let crowd = Crowd::start("kind-restore", seed(), api.clone(), PEOPLE).await;
        crowd.until_more(100, PATIENCE).await;
        let said = shell(&space, code("restore")).await;
        println!("{said}");
        platform.until_ready().await;
        crowd.until_more(100, PATIENCE).await;
        let outcome = crowd.finish().await;
        assert!(outcome.wrong.is_empty(), "{}\n{}", outcome.wrong.join("\n"), outcome.path);

        // Her token may have expired meanwhile.
        let ann = api.refresh(&ann.refresh_token).await.unwrap();
        let after = until("an answer to the older cursor", async || {
            api.sync(&ann.access_token, Some(&before.cursor), 0).await.ok()
        })
        .await;
        assert_eq!(after.outcome, Outcome::Reset, "every older cursor is");
    })
    .await;
}
