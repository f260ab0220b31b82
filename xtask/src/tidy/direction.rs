//! Who may use whom: crates by their manifests, the node's modules by what their sources name.

use super::Tracked;

/// A crate, and what it must not depend on.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "chat-protocol",
        &[
            "tokio",
            "axum",
            "hyper",
            "rusqlite",
            "chat-broker",
            "chat-store",
            "chat-node",
            "chat-client",
        ],
    ),
    ("chat-broker", &["axum", "chat-store", "chat-node", "chat-client"]),
    ("chat-store", &["axum", "chat-broker", "chat-node", "chat-client"]),
    // rusqlite is there for the benchmark alone, behind a feature.
    ("chat-client", &["axum", "chat-broker", "chat-store", "chat-node"]),
    // What kills nodes, and what starts servers, is for tests.
    ("chat-node", &["rusqlite", "cluster", "crds", "operator", "servers"]),
    ("crds", &["tokio", "chat-protocol", "chat-broker", "chat-store", "chat-node", "operator"]),
    // It talks to the API server alone.
    (
        "kubectl-chat",
        &["chat-protocol", "chat-broker", "chat-store", "chat-node", "chat-client", "operator"],
    ),
    // It knows nodes by their configuration file and their admin port alone; its tests parse the file with chat-node.
    ("operator", &["chat-broker", "chat-store", "chat-node", "chat-client"]),
];

/// The node's modules from top to bottom. A module uses those of lower layers, and itself.
const LAYERS: &[&[&str]] = &[
    &["node"],
    &["http", "transport", "handover"],
    &["session", "membership"],
    &["conversation", "presence", "hub"],
    &["partition"],
];

pub(super) fn check(files: &[Tracked]) -> Vec<String> {
    let crates = files.iter().filter_map(|file| {
        let name = file.path.strip_suffix("/Cargo.toml")?;
        let (_, forbidden) = FORBIDDEN.iter().find(|(known, _)| *known == name)?;
        Some(manifest(file, forbidden))
    });
    let modules = files.iter().filter_map(|file| {
        let inside = file.path.strip_prefix("chat-node/src/")?;
        let module = inside.split(['/', '.']).next()?;
        inside.ends_with(".rs").then(|| uses(file, module))
    });
    crates.flatten().chain(modules.flatten()).collect()
}

fn manifest(file: &Tracked, forbidden: &[&str]) -> Vec<String> {
    let section = file.text.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| forbidden.contains(name))
        .map(|name| format!("{}: must not depend on {name}", file.path))
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// Uses of a higher layer, or of another module of the same layer that is not below.
fn uses(file: &Tracked, module: &str) -> Vec<String> {
    let Some(own) = layer(module) else { return Vec::new() };
    // What follows the tests of a file may build more than the file itself knows.
    let is_test = file.path.ends_with("tests.rs") || file.path.contains("/tests/");
    let code = file.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|(number, line)| names(line).into_iter().map(move |name| (number, name)))
        .filter(|(_, used)| layer(used).is_some_and(|layer| layer < own) && !is_test)
        .map(|(number, used)| {
            format!(
                "{}:{}: {module} must not use {used}: calls go only downwards",
                file.path,
                number + 1
            )
        })
        .collect()
}

/// The modules that a line names: `crate::session::…`, `crate::{hub::…, session}`.
fn names(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(list.split([',', '}']).map(first_name)),
            None => found.push(first_name(rest)),
        }
    }
    found
}

fn first_name(text: &str) -> &str {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&[Tracked { path: path.to_owned(), text: text.to_owned() }])
    }

    #[test]
    fn calls_go_only_downwards() {
        let path = "chat-node/src/presence/owner.rs";
        assert!(findings(path, "use crate::partition::Partitions;").is_empty());
        assert!(findings(path, "use crate::clock::Clock;").is_empty());
        assert_eq!(findings(path, "use crate::session::Session;").len(), 1);
        assert_eq!(findings(path, "use crate::{clock::Clock, http::router};").len(), 1);
        assert!(findings(path, "// crate::session is above").is_empty());
        assert!(
            findings(path, "#[cfg(test)]\nmod tests {\nuse crate::session::Session;").is_empty()
        );
        assert!(findings("chat-node/src/main.rs", "use crate::session::Session;").is_empty());
    }

    #[test]
    fn crates_do_not_depend_upwards() {
        let manifest = "[package]\n\n[dependencies]\ntokio.workspace = true\n\n[dev-dependencies]\naxum.workspace = true\n";
        assert_eq!(findings("chat-protocol/Cargo.toml", manifest).len(), 1);
        assert!(findings("chat-broker/Cargo.toml", manifest).is_empty());
        let manifest = "[package]\n\n[dependencies]\ncluster.workspace = true\n";
        assert_eq!(findings("chat-node/Cargo.toml", manifest).len(), 1);
    }
}
