//! The program as a person starts it: its commands, its sentences, its exit codes.

use std::process::{Command, Output};

fn chat_node(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-node"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHAT_") {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().copied()).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_bad_value_ends_the_start_with_one_sentence_before_a_port_is_bound() {
    // Were the port tried first, the sentence would be about it: it is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    for arguments in
        [&["--password-iterations=0", &listen][..], &["run", "--password-iterations=0"]]
    {
        let output = chat_node(arguments, &[]);
        assert_eq!(output.status.code(), Some(64));
        assert_eq!(
            errors(&output),
            "chat-node: password.iterations must be a whole number from 1 to 100, but the flag --password-iterations \
             says \"0\".\n"
        );
    }
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let output = chat_node(&["--lisen=127.0.0.1:1"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(errors(&output).contains("--lisen"), "{}", errors(&output));
}

#[test]
fn the_configuration_in_force_is_printed_without_secrets() {
    let secret = ("CHAT_ADMIN_TOKEN", "correct-horse-battery");
    let output =
        chat_node(&["config", "--node-name=berlin-1"], &[secret, ("CHAT_LOG_FORMAT", "json")]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("node_name = \"berlin-1\"\n"), "{text}");
    assert!(text.contains("[log]\nformat = \"json\"\n"), "{text}");
    assert!(text.contains("admin_token = \"***\"\n") && !text.contains(secret.1), "{text}");
}

#[test]
fn a_backup_of_nothing_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let (data, target) = (directory.path().join("data"), directory.path().join("copy"));
    let arguments =
        ["backup", "--data-dir", data.to_str().unwrap(), "--to", target.to_str().unwrap()];
    let output = chat_node(&arguments, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("store.db is missing"), "{}", errors(&output));
    assert!(!target.exists(), "a backup that failed left something behind");
}

#[test]
fn the_http_document_is_printed() {
    let output = chat_node(&["openapi"], &[]);
    assert!(output.status.success(), "{}", errors(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in ["/v1/sync", "/v1/events", "/v1/socket", "/v1/accounts"] {
        assert!(document["paths"].get(path).is_some(), "{path} is not in the document");
    }
}
