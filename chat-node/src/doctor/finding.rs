//! What people and programs are told.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warn,
    /// A node does not start, does not serve, or may lose something.
    Fail,
}

/// One check and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: String,
    /// How bad it is.
    pub level: Level,
    /// What was found, in a sentence.
    pub found: String,
    /// What to do, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    /// It is as it should be.
    pub fn ok(check: &str, found: impl Into<String>) -> Finding {
        Finding { check: check.to_owned(), level: Level::Ok, found: found.into(), advice: None }
    }

    /// Somebody should look at it.
    pub fn warn(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { level: Level::Warn, advice: Some(advice.into()), ..Finding::ok(check, found) }
    }

    /// It must be put right.
    pub fn fail(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { level: Level::Fail, ..Finding::warn(check, found, advice) }
    }
}

/// Everything that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing failed.
    pub healthy: bool,
    /// In the order in which a person should read them.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The report of these findings.
    pub fn new(findings: Vec<Finding>) -> Report {
        Report { healthy: findings.iter().all(|finding| finding.level != Level::Fail), findings }
    }

    /// One line for each check, and one for all.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let level = match finding.level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            let advice = finding.advice.as_ref().map(|advice| format!(" {advice}"));
            let advice = advice.unwrap_or_default();
            // One line for each check, whatever another program's error message holds.
            let line = format!("{level}  {}: {}{advice}", finding.check, finding.found);
            text += &line.replace(['\n', '\r'], " ");
            text.push('\n');
        }
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        text += &format!(
            "\n{} checks: {} failed, {} to look at.\n",
            self.findings.len(),
            count(Level::Fail),
            count(Level::Warn)
        );
        text
    }

    /// For programs.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and flags serialise") + "\n"
    }
}
