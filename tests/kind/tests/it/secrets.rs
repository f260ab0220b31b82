//! Secrets that change while people chat.

use cluster::crowd::CrowdOptions;
use crds::{Outcome, SecretReference};
use k8s_openapi::api::core::v1::Secret;
use kind::platform::{Platform, SERVERS, define, on_servers, small, three_servers};
use kind::roll::SOME;
use kind::{Roll, Space, in_space};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::servers::{Least, uids, until_replaced};

/// Fewer than elsewhere: the database has no other copy, and shares its processors.
const FEW: CrowdOptions =
    CrowdOptions { users: 8, devices: 5, groups: 4, pause_ms: 200, polls_every: 8 };

async fn text(space: &Space, secret: &str, key: &str) -> String {
    let mut data = space.api::<Secret>().get(secret).await.unwrap().data.unwrap();
    String::from_utf8(data.remove(key).unwrap().0).unwrap()
}

/// Writes keys of a Secret, or removes those that are null.
async fn write(space: &Space, secret: &str, mut texts: Value) {
    let secrets = space.api::<Secret>();
    let texts = texts.as_object_mut().unwrap();
    let gone: Vec<String> =
        texts.iter().filter(|(_, text)| text.is_null()).map(|(key, _)| key.clone()).collect();
    texts.retain(|_, text| !text.is_null());
    let data: Value = gone.into_iter().map(|key| (key, Value::Null)).collect();
    let patch = Patch::Merge(json!({"data": data, "stringData": texts}));
    secrets.patch(secret, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn the_admin_token_changes() {
    in_space("token", async |space: Space| {
        let roll = Roll::start(&space, "kind-token", small(), SOME).await;
        let secret = "chat-admin-token";
        let before = text(&space, secret, "token").await;
        roll.note("another admin token");
        let token = "another-token-of-thirty-two-bytes-or-so";
        write(&space, secret, json!({"token": token, "previous-token": before})).await;
        let history = roll.finish(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
        assert!(history[0].told > 0, "nodes with the older token were told to move their clients");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn the_password_of_nats_changes() {
    in_space("password", async |space: Space| {
        let roll = Roll::start(&space, "kind-password", three_servers(), SOME).await;
        let platform = roll.platform.clone();
        let secret = "chat-nats-credentials";
        let (user, password) =
            (text(&space, secret, "user").await, text(&space, secret, "password").await);
        let (nats, least) = (uids(&platform, "nats").await, Least::watch(&platform, "nats"));
        roll.note("another name and password");
        let both = json!({
            "user": "chat-2", "password": "another-password",
            "previous-user": user, "previous-password": password,
        });
        write(&space, secret, both).await;
        until_replaced(&platform, "nats", &nats).await;
        let history = roll.until_ended(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
        platform.until_ready().await;

        let (nats, chat) = (uids(&platform, "nats").await, uids(&platform, "chat").await);
        roll.note("those from before are not valid any more");
        write(&space, secret, json!({"previous-user": null, "previous-password": null})).await;
        until_replaced(&platform, "nats", &nats).await;
        assert_eq!(least.end(), 2, "one server at a time");
        assert_eq!(uids(&platform, "chat").await, chat, "no chat node was replaced for that");
        roll.finish(1).await;
    })
    .await;
}

async fn login(space: &Space, name: &str) -> SecretReference {
    let secret = serde_json::from_value(json!({
        "metadata": {"name": name},
        "stringData": {"user": name, "password": format!("password-of-{name}")},
    }));
    space.api::<Secret>().create(&PostParams::default(), &secret.unwrap()).await.unwrap();
    SecretReference { name: name.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a cluster: `cargo xtask test --kind` runs it"]
async fn the_login_at_external_servers_changes() {
    in_space("login", async |space: Space| {
        let users = ["one", "two"]
            .map(|name| format!("{{ user: {name}, password: password-of-{name} }}"))
            .join(", ");
        let authorization = format!("    authorization {{ users: [{users}] }}\n    max_payload");
        space.apply(&SERVERS.replace("    max_payload", &authorization)).await;
        let (one, two) = (login(&space, "one").await, login(&space, "two").await);
        space.create_keys("given-keys").await;
        space.until_available("nats").await;
        space.until_available("cql").await;
        define(&space.client).await;
        space.operator().await;
        let platform = Platform::create(&space, on_servers(Some(one))).await;
        platform.until_ready().await;
        let roll = Roll::on(platform, "kind-login", FEW).await;
        roll.note("another login");
        roll.platform
            .edit(|spec| spec.nats.external.as_mut().unwrap().credentials = Some(two.clone()))
            .await;
        let history = roll.finish(1).await;
        assert_eq!(history[0].outcome, Outcome::Completed);
    })
    .await;
}
