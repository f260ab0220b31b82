//! Opening: what is made, what is refused, and what people are told.

use std::sync::Arc;

use bytes::Bytes;
use chat_broker::nats::{Authentication, NatsBroker, NatsOptions, OpenError, Tls};
use chat_broker::{Broker, Sequence, Subject};
use servers::nats::{Nats, NatsOptions as ServerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Ear, HERE, eventually, numbered, open, options};

async fn refusal(options: NatsOptions) -> (OpenError, String) {
    let error = NatsBroker::open(options).await.err().expect("refused");
    let text = error.to_string();
    assert!(text.ends_with('.'), "a sentence: {text}");
    (error, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_open_at_once_agree() {
    for nats in [Nats::single(&ServerOptions::default()), Nats::cluster(&ServerOptions::default())]
    {
        let options = options(&nats);
        let nodes: Vec<_> =
            (0..6).map(|_| tokio::spawn(NatsBroker::open(options.clone()))).collect();
        for node in nodes {
            node.await.expect("no panic").expect("the servers can be used");
        }
        assert_eq!(nats.streams().len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_changed_and_another_number_of_streams_is_refused() {
    let nats = Nats::shared();
    let options = options(&nats);
    let broker = open(&options).await;
    let last = broker.append(HERE, Sequence(0), numbered(0)).await.expect("accepted");
    drop(broker);
    let larger = NatsOptions { stream_bytes_max: 128 << 20, ..options.clone() };
    let broker = open(&larger).await;
    assert!(broker.append(HERE, last, numbered(1)).await.is_ok());
    let name = format!("{}-log-0", options.prefix);
    let stream = nats.streams().into_iter().find(|stream| stream["name"] == name.as_str());
    assert_eq!(stream.expect("the stream")["config"]["max_bytes"], 128 << 20);
    let (error, text) = refusal(NatsOptions { streams: 5, ..options.clone() }).await;
    assert!(matches!(error, OpenError::Stream { .. }), "{error:?}");
    assert!(text.contains("created with 4 streams") && text.contains("set to 5"), "{text}");
    let (error, text) = refusal(NatsOptions { replicas: 3, ..options }).await;
    assert!(matches!(error, OpenError::NoCluster(3)), "{error:?}");
    assert!(text.contains("3 replicas need as many servers"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_are_told_in_a_sentence() {
    let user = ("node".to_owned(), "right".to_owned());
    let nats = Nats::single(&ServerOptions { user: Some(user), ..ServerOptions::default() });
    let password = |password: &str| Authentication::Password {
        user: "node".to_owned(),
        password: password.to_owned(),
    };
    for wrong in
        [password("wrong"), Authentication::None, Authentication::Token("token".to_owned())]
    {
        let (error, text) = refusal(NatsOptions { authentication: wrong, ..options(&nats) }).await;
        assert!(matches!(error, OpenError::Credentials(_)), "{error:?}");
        assert!(text.contains("refuse these credentials") && !text.contains("wrong"), "{text}");
    }
    let missing = Authentication::CredentialsFile("missing.creds".into());
    let (error, _) = refusal(NatsOptions { authentication: missing, ..options(&nats) }).await;
    assert!(matches!(error, OpenError::CredentialsFile { .. }), "{error:?}");
    open(&NatsOptions { authentication: password("right"), ..options(&nats) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_checks_both_sides() {
    let tls = ServerOptions { tls: true, client_certificates: true, ..ServerOptions::default() };
    let nats = Nats::single(&tls);
    let right = Tls {
        required: true,
        root_certificates: Some(nats.certificate_authority()),
        client_certificate: Some(nats.client_certificate()),
    };
    let broker = open(&NatsOptions { tls: right.clone(), ..options(&nats) }).await;
    assert!(broker.append(HERE, Sequence(0), numbered(0)).await.is_ok());
    let ear = Arc::new(Ear::default());
    let bus = broker.connect(ear.clone()).await.expect("a connection");
    bus.subscribe(Subject::Nodes).await.expect("subscribed");
    bus.publish(&[Subject::Nodes], Bytes::from_static(b"secret"));
    eventually("it arrives", async || !ear.heard().is_empty()).await;

    let unknown = Tls { root_certificates: None, ..right.clone() };
    let (error, _) = refusal(NatsOptions { tls: unknown, ..options(&nats) }).await;
    assert!(matches!(error, OpenError::Tls { .. }), "{error:?}");
    let nobody = Tls { client_certificate: None, ..right };
    refusal(NatsOptions { tls: nobody, ..options(&nats) }).await;
}

#[tokio::test]
async fn servers_that_cannot_do_are_refused() {
    let nobody = NatsOptions {
        servers: vec!["nats://user:secret@127.0.0.1:1".to_owned()],
        ..NatsOptions::default()
    };
    let (error, text) = refusal(nobody).await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    assert!(text.contains("127.0.0.1:1") && !text.contains("secret"), "{text}");
    let nats = Nats::single(&ServerOptions { max_payload_bytes: 64 * 1024, ..Default::default() });
    let (_, text) = refusal(options(&nats)).await;
    assert!(text.contains("Raise max_payload"), "{text}");
    for (info, wanted) in [
        (r#""version":"2.11.9","jetstream":true"#, "2.12 or newer"),
        (r#""version":"2.12.0","jetstream":false"#, "JetStream is not enabled"),
    ] {
        let (_, text) = refusal(pretend(info).await).await;
        assert!(text.contains(wanted), "{text}");
    }
}

/// Options for a server that only says what it is.
async fn pretend(info: &str) -> NatsOptions {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let info = format!(
        "INFO {{\"server_id\":\"s\",\"server_name\":\"s\",\"max_payload\":1048576,\"proto\":1,\"headers\":true,{info}}}\r\n"
    );
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream.write_all(info.as_bytes()).await.expect("written");
        let mut bytes = [0; 4096];
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
            if stream.write_all(b"PONG\r\n").await.is_err() {
                return;
            }
        }
    });
    NatsOptions { servers: vec![format!("nats://{address}")], ..NatsOptions::default() }
}
