//! `docs/protocol.md` is complete and right: every example is read by the real types, and nothing is missing.

use std::collections::BTreeSet;

use chat_protocol::Code;
use chat_protocol::close::Close;
use chat_protocol::encoding::Encoding;
use chat_protocol::frame::{ClientFrame, ServerFrame};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// The fenced blocks that open with this line.
fn examples(fence: &str) -> Vec<&'static str> {
    let opening = format!("```{fence}\n");
    let blocks = DOCUMENT.split(&opening).skip(1);
    blocks.map(|rest| rest.split("\n```").next().unwrap_or_default()).collect()
}

/// The frame types that serde knows, as its own error lists them.
fn types<T: DeserializeOwned>() -> BTreeSet<String> {
    let error = match serde_json::from_str::<T>("{\"no such frame\": {}}") {
        Ok(_) => panic!("any frame type is taken"),
        Err(error) => error.to_string(),
    };
    let expected = error.split("expected one of ").nth(1).expect("serde lists the types");
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every field of the example is known: what is written back holds all of it.
fn assert_known(example: &Value, written: &Value, at: &str) {
    match (example, written) {
        (Value::Object(example), Value::Object(written)) => {
            for (key, value) in example {
                let at = format!("{at}.{key}");
                // Empty lists and defaults may be left out when written.
                match written.get(key) {
                    Some(written) => assert_known(value, written, &at),
                    None => assert!(
                        value.as_array().is_some_and(Vec::is_empty),
                        "{at} is not a field of the frame"
                    ),
                }
            }
        }
        (Value::Array(example), Value::Array(written)) => {
            assert_eq!(example.len(), written.len(), "{at}");
            example.iter().zip(written).for_each(|(a, b)| assert_known(a, b, at));
        }
        _ => assert_eq!(example, written, "{at}"),
    }
}

fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(fence: &str) {
    let mut seen = BTreeSet::new();
    for example in examples(fence) {
        let frame: T = Encoding::Json
            .read(example.as_bytes())
            .unwrap_or_else(|refusal| panic!("{fence} example: {refusal}\n{example}"));
        let value: Value = serde_json::from_str(example).unwrap();
        assert_known(&value, &serde_json::to_value(&frame).unwrap(), fence);
        let packed = Encoding::MessagePack.write(&frame);
        assert_eq!(Encoding::MessagePack.read::<T>(&packed).unwrap(), frame);
        seen.extend(value.as_object().unwrap().keys().cloned());
    }
    assert_eq!(seen, types::<T>(), "{fence}: the document and the code know different frames");
}

#[test]
fn every_client_frame_has_an_example_that_the_server_reads() {
    check::<ClientFrame>("json client");
}

#[test]
fn every_server_frame_has_an_example_of_the_real_form() {
    check::<ServerFrame>("json server");
}

#[test]
fn the_tables_of_codes_are_those_of_the_code() {
    for code in Code::ALL {
        let retryable = if code.is_retryable() { "yes" } else { "no" };
        let row = format!("| `{code}` | {} | {retryable} |", code.http_status());
        assert!(DOCUMENT.contains(&row), "docs/protocol.md lacks the row {row}");
    }
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `") && line.contains("` | "));
    let listed = rows.filter(|line| line.ends_with(" |") && line.split('|').count() == 6).count();
    assert_eq!(listed, Code::ALL.len(), "the document lists a code that does not exist");
    for close in Close::ALL {
        let row = format!("| {} | {} |", close.number(), close.reason());
        assert!(DOCUMENT.contains(&row), "docs/protocol.md lacks the row {row}");
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    use chat_protocol::limits::*;
    for row in [
        format!("| JSON body of a message | {} bytes |", grouped(BODY_BYTES_MAX)),
        format!("| frame from a client | {} bytes |", grouped(CLIENT_FRAME_BYTES_MAX)),
        format!("| text of a message | 1 to {} characters |", grouped(TEXT_CHARS_MAX)),
        format!("| members of a group; mentions in a message | {GROUP_MEMBERS_MAX} |"),
        format!(
            "| different emoji on a message; bytes of one | {REACTION_KINDS_MAX}; {REACTION_BYTES_MAX} |"
        ),
        format!("| cursor | {CURSOR_CHARS_MAX} characters, valid for {CURSOR_DAYS_MAX} days |"),
        format!("| repeats of a send | {DUPLICATE_DAYS} days |"),
        format!("| page of a list | {PAGE_ROWS_MAX} rows |"),
        format!("| handle | {HANDLE_CHARS_MIN} to {HANDLE_CHARS_MAX} of "),
        format!("| password | {PASSWORD_CHARS_MIN} characters to {PASSWORD_BYTES_MAX} bytes |"),
    ] {
        assert!(DOCUMENT.contains(&row), "docs/protocol.md lacks the row {row}");
    }
}

fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}
