use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

fn chat(arguments: &[&str], directory: &std::path::Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chat"))
        .args(arguments)
        .env_clear()
        .env("HOME", directory)
        .env("CHAT_PASSWORD", "a good password")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn without_a_login_the_terminal_client_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let output = chat(&["list"], directory.path());
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("You are not logged in. Run `chat log-in HANDLE`"), "{text}");
}

#[test]
fn a_server_that_is_not_there_is_named_in_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let output = chat(&["--url", "http://127.0.0.1:1", "log-in", "someone"], directory.path());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("The server at http://127.0.0.1:1 cannot be reached: "), "{text}");
}

#[test]
fn a_damaged_state_file_is_named_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.json");
    std::fs::write(&path, "{").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let output = chat(&["--state", path.to_str().unwrap(), "list"], directory.path());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("is damaged. Delete it and log in again."), "{text}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "{");
}
