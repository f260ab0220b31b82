//! Every example in `docs/drain.md` is read by the real types, and written again as it stands.

use chat_protocol::admin::{AdminCode, AdminProblem, Grant, NodeStatus, Order, OwnerRevision};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/drain.md");

fn check<T: Serialize + DeserializeOwned>(fence: &str) -> T {
    let opening = format!("```json {fence}\n");
    let example = DOCUMENT.split(&opening).nth(1).unwrap_or_else(|| panic!("no example: {fence}"));
    let example = example.split("\n```").next().unwrap();
    let parsed: T = serde_json::from_str(example).unwrap_or_else(|e| panic!("{fence}: {e}"));
    let known: Value = serde_json::from_str(example).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), known, "{fence}");
    parsed
}

#[test]
fn the_examples_are_what_the_types_say() {
    assert!(check::<Order>("order").check().is_ok());
    assert!(check::<Grant>("grant").check().is_ok());
    assert!(check::<OwnerRevision>("owner_revision").check().is_ok());
    check::<NodeStatus>("status");
    check::<AdminProblem>("problem");
}

#[test]
fn every_code_is_documented_with_its_status() {
    for code in AdminCode::ALL {
        let name = serde_json::to_value(code).unwrap();
        let row = format!("| `{}` | {} |", name.as_str().unwrap(), code.http_status());
        assert!(DOCUMENT.contains(&row), "docs/drain.md lacks the row {row}");
    }
}

#[test]
fn values_outside_their_limits_are_refused() {
    let good = check::<Grant>("grant");
    let bad = [
        Grant { batch: 0, ..good.clone() },
        Grant { rate_per_second: 0, ..good.clone() },
        Grant { rollout: String::new(), ..good.clone() },
        Grant { rollout: "a b".to_owned(), ..good.clone() },
        Grant { sessions: chat_protocol::admin::Amount::PerMille(1_001), ..good.clone() },
        Grant { jitter: chat_protocol::admin::Jitter { min_ms: 2, max_ms: 1 }, ..good.clone() },
        Grant { jitter: chat_protocol::admin::Jitter { min_ms: 0, max_ms: 120_001 }, ..good },
    ];
    for grant in bad {
        assert_eq!(grant.check().unwrap_err().code, AdminCode::InvalidRequest, "{grant:?}");
    }
}
