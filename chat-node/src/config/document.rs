//! The configuration as documents: the commented example file, the manual page, and the configuration in force.

use super::fields::{Config, FIELDS, Field, SECTIONS, values};

/// A configuration file with every setting, its comment and its default, all commented out.
pub fn example() -> String {
    let mut text = String::from(
        "# Every setting of chat-node with its default. Generated from the source: `cargo xtask codegen`.\n\
         # Flags win over the environment, the environment wins over this file.\n",
    );
    for section in SECTIONS {
        if !section.name.is_empty() {
            line(&mut text, format!("\n{}\n[{}]", comment(section.doc), section.name));
        }
        for field in fields_of(section.name) {
            line(
                &mut text,
                format!(
                    "\n{}\n# Flag and environment: {}\n#{} = {}",
                    comment(field.doc),
                    places(field),
                    field.name(),
                    default_value(field)
                ),
            );
        }
    }
    text
}

/// The manual page of all settings, in Markdown.
pub fn manual() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Generated from the source by `cargo xtask codegen`; do not edit.\n\n\
         A setting is taken from its flag, else from its environment variable, else from the configuration file named by \
         `--config` or `CHAT_CONFIG`, else it has its default. Lists are separated by commas in flags and variables, and \
         are arrays in the file. An unknown key in the file, or a bad value anywhere, ends the start with exit code 64 \
         before any port is bound. `chat-node config` prints the configuration in force. A file to start from: \
         [chat-node.example.toml](chat-node.example.toml).\n",
    );
    for section in SECTIONS {
        if !section.name.is_empty() {
            line(&mut text, format!("\n## `[{}]`\n\n{}", section.name, joined(section.doc)));
        }
        for field in fields_of(section.name) {
            let default = match field.default {
                "" => "not set".to_owned(),
                default => format!("`{default}`"),
            };
            line(
                &mut text,
                format!(
                    "\n### `{}`\n\n{}\n\n- Value: {}\n- Default: {default}\n- Set by: {}",
                    field.key,
                    joined(field.doc),
                    field.form,
                    places(field)
                ),
            );
        }
    }
    text
}

/// The configuration in force, as a file.
pub(super) fn effective(config: &Config) -> String {
    let mut text = String::new();
    let mut section = "";
    for (field, value) in FIELDS.iter().zip(values(config)) {
        if field.section() != section {
            section = field.section();
            line(&mut text, format!("\n[{section}]"));
        }
        match value {
            Some(value) => line(&mut text, format!("{} = {value}", field.name())),
            None => line(&mut text, format!("# {} is not set", field.name())),
        }
    }
    text
}

fn line(text: &mut String, line: String) {
    text.push_str(&line);
    text.push('\n');
}

fn fields_of(section: &str) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| field.section() == section)
}

fn comment(doc: &[&str]) -> String {
    doc.iter().map(|line| format!("# {}", line.trim())).collect::<Vec<_>>().join("\n")
}

fn joined(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n")
}

fn places(field: &Field) -> String {
    match field.secret {
        true => format!("`{}` (no flag: others could see it)", field.variable()),
        false => format!("`--{}`, `{}`", field.flag(), field.variable()),
    }
}

fn default_value(field: &Field) -> String {
    let list = field.form.starts_with("a list");
    let bare = field.form.starts_with("a whole number") || field.form == "true or false";
    match field.default {
        "" if list => "[]".to_owned(),
        default if bare => default.to_owned(),
        default => format!("{default:?}"),
    }
}
