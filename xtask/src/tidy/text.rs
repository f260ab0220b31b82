//! Checks of single files: size, left-overs, things that belong to one machine, reasons of dependencies.

use super::Tracked;

/// A longer file is split by meaning.
const LINES_MAX: usize = 600;

/// Left-overs, in pieces so that this file does not hold them itself.
const LEFT_OVERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// What belongs to one machine or one company's network.
const MACHINE_BOUND: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("/t", "mp/"),
    concat!("artifact", "ory"),
    concat!("nex", "us."),
    concat!(".inter", "nal/"),
];

pub(super) fn check(files: &[Tracked]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        findings.extend(size(file));
        findings.extend(left_overs(file));
        findings.extend(machine_bound(file));
        if file.path == "Cargo.toml" {
            findings.extend(reasons(file));
        }
    }
    findings
}

fn is_source(path: &str) -> bool {
    [".rs", ".js", ".py", ".css", ".html"].iter().any(|ending| path.ends_with(ending))
}

fn is_generated(path: &str) -> bool {
    path.ends_with(".lock") || path.ends_with("package-lock.json") || path == "docs/openapi.json"
}

fn size(file: &Tracked) -> Option<String> {
    let lines = file.text.lines().count();
    // The model is one state machine, told from top to bottom.
    let exempt = file.path.starts_with("tests/model/");
    (is_source(&file.path) && lines > LINES_MAX && !exempt)
        .then(|| format!("{}: {lines} lines; split it by meaning (at most {LINES_MAX})", file.path))
}

fn left_overs(file: &Tracked) -> Vec<String> {
    if is_generated(&file.path) {
        return Vec::new();
    }
    let found = |line: &str| LEFT_OVERS.iter().find(|word| line.contains(**word));
    let lines = file.text.lines().enumerate();
    lines
        .filter_map(|(number, line)| Some((number, found(line)?)))
        .map(|(number, word)| {
            format!(
                "{}:{}: {word}: finish it, or say in the docs what is missing",
                file.path,
                number + 1
            )
        })
        .collect()
}

fn machine_bound(file: &Tracked) -> Vec<String> {
    if file.path.starts_with("LICENSE") {
        return Vec::new();
    }
    // A path begins after a blank, a quote, a bracket or a `=`; `docs/work/` is none.
    let begins = |line: &str, at: usize| {
        line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !"._-/}$".contains(c))
    };
    let found = |line: &str| {
        MACHINE_BOUND.iter().find(|text| {
            line.match_indices(**text).any(|(at, _)| !text.starts_with('/') || begins(line, at))
        })
    };
    let lines = file.text.lines().enumerate();
    lines
        .filter_map(|(number, line)| Some((number, found(line)?)))
        .map(|(number, text)| {
            format!("{}:{}: {text} exists on one machine only", file.path, number + 1)
        })
        .collect()
}

/// Every dependency of the workspace says beside it what it is for.
fn reasons(file: &Tracked) -> Vec<String> {
    let section = file.text.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter(|line| line.contains('=') && !line.contains("path = ") && !line.starts_with('#'))
        .filter(|line| !line.contains(" # "))
        .map(|line| format!("Cargo.toml: say beside it what this is for: {line}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&[Tracked { path: path.to_owned(), text: text.to_owned() }]).len()
    }

    #[test]
    fn long_files_and_left_overs_are_found() {
        assert_eq!(findings("a.rs", &"x\n".repeat(LINES_MAX)), 0);
        assert_eq!(findings("a.rs", &"x\n".repeat(LINES_MAX + 1)), 1);
        assert_eq!(findings("a.rs", concat!("// TO", "DO: later")), 1);
    }

    #[test]
    fn paths_of_one_machine_are_found_and_others_are_not() {
        assert_eq!(findings("a.md", concat!("see `/ho", "me/ann/chat`")), 1);
        assert_eq!(findings("a.md", concat!("see docs/ho", "me/chat")), 0);
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let head = "[workspace.dependencies]\nown = { path = \"own\" }\n";
        assert_eq!(findings("Cargo.toml", &format!("{head}a = \"1\" # hashing\n")), 0);
        assert_eq!(findings("Cargo.toml", &format!("{head}a = \"1\"\n\n[other]\nb = 1\n")), 1);
    }
}
