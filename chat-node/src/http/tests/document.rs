use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use chat_protocol::{Code, ConversationId, MessageId, UserId};
use serde_json::Value;
use uuid::Uuid;

use super::Server;

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];

/// Every operation: (method, path, operation).
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if METHODS.contains(&method.as_str()) {
                found.push((method.to_uppercase(), path.clone(), operation));
            }
        }
    }
    found
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                found.insert(target.clone());
            }
            map.values().for_each(|child| references(child, found));
        }
        Value::Array(list) => list.iter().for_each(|child| references(child, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_served_document_is_openapi_3_1_and_complete_in_itself() {
    let server = Server::start().await;
    let served = server.get("", "/openapi.json").await.expect(200);
    assert_eq!(served, server.document);
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut targets = BTreeSet::new();
    references(&served, &mut targets);
    assert!(targets.contains("#/components/schemas/Problem"));
    for target in targets {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(served.pointer(pointer).is_some(), "{target} leads nowhere");
    }
}

#[tokio::test]
async fn every_operation_is_named_described_and_says_what_its_errors_look_like() {
    let server = Server::start().await;
    let mut names = BTreeSet::new();
    let all = operations(&server.document);
    assert!(all.len() > 35, "{}", all.len());
    for (method, path, operation) in all {
        let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path}"));
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        assert!(operation["summary"].is_string(), "{name} has no summary");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{name}");
        let error = &operation["responses"]["default"]["content"]["application/problem+json"];
        assert_eq!(error["schema"]["$ref"], "#/components/schemas/Problem", "{name}");
        let responses = operation["responses"].as_object().unwrap();
        let successes: Vec<_> =
            responses.iter().filter(|(status, _)| status.starts_with('2')).collect();
        assert!(!successes.is_empty(), "{name}");
        for (status, response) in successes {
            let has_content = response["content"].is_object();
            assert_eq!(has_content, status.as_str() != "204", "{name} {status}");
        }
        let has_body = operation["requestBody"].is_object();
        let takes_body = method == "POST" || method == "PATCH";
        assert!(has_body || !takes_body, "{name} takes an undescribed body");
        let described: BTreeSet<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["in"] == "path")
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect();
        let in_path: BTreeSet<_> = path
            .split('{')
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap().to_owned())
            .collect();
        assert_eq!(described, in_path, "{name}");
    }
}

#[tokio::test]
async fn what_the_document_says_of_access_is_what_the_routes_do() {
    let server = Server::start().await;
    assert_eq!(
        server.document["components"]["securitySchemes"]["access_token"]["scheme"],
        "bearer"
    );
    let conversation = ConversationId::direct(UserId::random(), UserId::random()).to_string();
    let uuid = Uuid::new_v4().to_string();
    let message = MessageId(1).to_string();
    let values = BTreeMap::from([
        ("{conversation_id}", conversation.as_str()),
        ("{message_id}", &message),
        ("{user_id}", &uuid),
        ("{device_id}", &uuid),
        ("{emoji}", "x"),
        ("{code}", "internal"),
    ]);
    let mut public = BTreeSet::new();
    for (method, path, operation) in operations(&server.document) {
        let address =
            values.iter().fold(path.clone(), |path, (name, value)| path.replace(name, value));
        let method: Method = method.parse().unwrap();
        let body = Some(Value::Object(Default::default()));
        let answer = server.call(method.clone(), &address, "", body).await;
        if operation["security"] == serde_json::json!([{ "access_token": [] }]) {
            answer.refused(Code::Unauthenticated);
        } else {
            assert_ne!(answer.status, 401, "{method} {path} is not described as protected");
            assert_ne!(answer.status, 404, "{method} {path}");
            public.insert(format!("{method} {path}"));
        }
    }
    let meant_to_be: BTreeSet<_> = [
        "GET /openapi.json",
        "GET /problems/{code}",
        "GET /v1/discovery",
        "POST /v1/accounts",
        "POST /v1/sessions",
        "POST /v1/sessions/refresh",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(public, meant_to_be);
}

#[tokio::test]
async fn every_code_has_its_page() {
    let server = Server::start().await;
    for code in Code::ALL {
        let page = server.get("", &format!("/problems/{code}")).await;
        assert_eq!(page.status, 200, "{code}");
        let text = String::from_utf8(page.body.to_vec()).unwrap();
        assert!(text.contains(code.as_str()) && text.contains(&code.http_status().to_string()));
    }
}
