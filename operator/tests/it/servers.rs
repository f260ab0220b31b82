//! What NATS servers take while Secrets change, in passes against an API server in memory.

use crate::bench::Bench;

/// Changes a key of a Secret; it goes if there is no text.
fn set_key(bench: &Bench, secret: &str, key: &str, text: Option<&str>) {
    use base64::Engine as _;
    let value = text.map(|text| base64::prelude::BASE64_STANDARD.encode(text));
    bench.server.change("secrets", secret, |secret| {
        let data = secret["data"].as_object_mut().unwrap();
        match value {
            Some(value) => drop(data.insert(key.to_owned(), value.into())),
            None => drop(data.remove(key)),
        }
    });
}

#[tokio::test]
async fn nats_takes_both_passwords_while_they_are_changed() {
    let bench = Bench::new();
    bench.apply_example();
    bench.run(12).await;
    let secret = "chat-nats-credentials";
    let configuration = || {
        let map = bench.server.get("configmaps", "chat-nats").unwrap();
        map["data"]["nats.conf"].as_str().unwrap().to_owned()
    };
    let names = || {
        let set = bench.server.get("statefulsets", "chat-nats").unwrap();
        set["spec"]["template"]["spec"]["containers"][0]["env"].to_string()
    };
    let (before, revisions) = (configuration(), bench.server.names("replicasets"));

    set_key(&bench, secret, "previous-user", Some("chat"));
    set_key(&bench, secret, "previous-password", Some("old"));
    bench.pass().await;
    let message = bench.condition("SecretsReady")["message"].clone();
    assert_eq!(message, format!("Write another user than previous-user in Secret {secret}."));
    assert_eq!(configuration(), before, "it would not start with one user twice");

    set_key(&bench, secret, "user", Some("chat-2"));
    bench.pass().await;
    assert_eq!(bench.condition("SecretsReady")["status"], "True");
    let first = configuration();
    assert!(first.contains("{ user: $NATS_PREVIOUS_USER, password: $NATS_PREVIOUS_PASSWORD }"));
    assert!(names().contains("previous-password"));
    set_key(&bench, secret, "password", Some("new"));
    bench.run(20).await;
    assert_ne!(configuration(), first, "another password is another template");
    let after = bench.server.names("replicasets");
    assert_ne!(after, revisions, "chat nodes take it with another revision");

    set_key(&bench, secret, "previous-user", None);
    set_key(&bench, secret, "previous-password", None);
    bench.run(3).await;
    assert_eq!(configuration(), before);
    assert!(!names().contains("previous-password"));
    assert_eq!(
        bench.server.names("replicasets"),
        after,
        "what was before is nothing to chat nodes"
    );
}
