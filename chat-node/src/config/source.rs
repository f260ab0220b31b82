//! Where settings come from, and which of the places wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::{Arg, ArgMatches};
use toml::{Table, Value};

use super::fields::{FIELDS, Field};
use super::value::Setting;

/// Why the node does not start: one sentence that names the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag(String),
    /// An environment variable.
    Environment(String),
    /// The configuration file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "the flag --{flag}"),
            Origin::Environment(variable) => write!(f, "the environment variable {variable}"),
            Origin::File(path) => write!(f, "the configuration file {}", path.display()),
        }
    }
}

#[derive(Clone, Debug)]
enum Given {
    Text(String),
    Toml(Value),
}

/// What was given, by setting; for each the place that wins.
#[derive(Clone, Debug, Default)]
pub struct Sources(BTreeMap<&'static str, (Given, Origin)>);

/// The arguments of a command keep references to their names.
static FLAGS: LazyLock<Vec<String>> = LazyLock::new(|| FIELDS.iter().map(Field::flag).collect());

/// The flags of all settings, and `--config`.
pub fn arguments() -> Vec<Arg> {
    let config = Arg::new("config").long("config").value_name("FILE").help(
        "Configuration file (TOML). Flags and the environment win over it [env: CHAT_CONFIG]",
    );
    let flags = FIELDS.iter().zip(FLAGS.iter()).filter(|(field, _)| !field.secret);
    let flags = flags.map(|(field, flag)| {
        Arg::new(field.key)
            .long(flag.as_str())
            .value_name("VALUE")
            // A value that begins with a dash is a bad value of this setting, not another flag.
            .allow_hyphen_values(true)
            .help(help(field))
    });
    std::iter::once(config).chain(flags).collect()
}

fn help(field: &Field) -> String {
    let default = match field.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    format!("{}{default} [env: {}]", field.text(), field.variable())
}

impl Sources {
    /// Gathers flags, environment and the configuration file that one of them names. `variable` reads the environment.
    pub fn gather(
        matches: &ArgMatches,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Sources, Problem> {
        // An empty variable counts as not set: that is how scripts and manifests leave something out.
        let text = |name: &str| match variable(name).map(OsString::into_string) {
            Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(Err(_)) => {
                Err(Problem(format!("The environment variable {name} is not valid UTF-8.")))
            }
            None => Ok(None),
        };
        let mut sources = Sources::default();
        let path = match matches.get_one::<String>("config") {
            Some(path) => Some(path.clone()),
            None => text("CHAT_CONFIG")?,
        };
        if let Some(path) = path {
            sources.add_file(Path::new(&path))?;
        }
        for field in FIELDS {
            let name = field.variable();
            if let Some(text) = text(&name)? {
                sources.0.insert(field.key, (Given::Text(text), Origin::Environment(name)));
            }
            if field.secret {
                continue;
            }
            if let Some(text) = matches.get_one::<String>(field.key) {
                let origin = Origin::Flag(field.flag());
                sources.0.insert(field.key, (Given::Text(text.clone()), origin));
            }
        }
        Ok(sources)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), Problem> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problem(format!("The configuration file {shown} cannot be read: {error}."))
        })?;
        self.add_toml(&text, path)
    }

    /// Adds the text of a configuration file.
    pub fn add_toml(&mut self, text: &str, path: &Path) -> Result<(), Problem> {
        let shown = path.display();
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let message = error.message().replace('\n', ", ");
            Problem(format!(
                "The configuration file {shown} is not valid TOML: line {line}: {message}."
            ))
        })?;
        for (key, value) in table {
            match value {
                Value::Table(section) => {
                    for (name, value) in section {
                        self.add_value(&format!("{key}.{name}"), value, path)?;
                    }
                }
                value => self.add_value(&key, value, path)?,
            }
        }
        Ok(())
    }

    fn add_value(&mut self, key: &str, value: Value, path: &Path) -> Result<(), Problem> {
        let Some(field) = FIELDS.iter().find(|field| field.key == key) else {
            let ending = match similar(key) {
                Some(known) => format!("; did you mean {known}?"),
                None => ".".to_owned(),
            };
            return Err(Problem(format!(
                "The configuration file {} has the key {key}, which is not a setting{ending}",
                path.display()
            )));
        };
        self.0.insert(field.key, (Given::Toml(value), Origin::File(path.to_owned())));
        Ok(())
    }

    /// The value of a setting: the given one, or its default.
    pub(super) fn parse<T: Setting>(
        &self,
        key: &'static str,
        default: &'static str,
        range: Option<RangeInclusive<u64>>,
    ) -> Result<T, Problem> {
        let Some((given, origin)) = self.0.get(key) else {
            // A test parses every default.
            return T::from_text(default)
                .ok_or_else(|| Problem(format!("{key} has no valid default.")));
        };
        let parsed = match given {
            Given::Text(text) => T::from_text(text),
            Given::Toml(value) => T::from_toml(value),
        };
        let in_range = |value: &T| match (&range, value.number()) {
            (Some(range), Some(number)) => range.contains(&number),
            _ => true,
        };
        parsed.filter(in_range).ok_or_else(|| {
            let form = match &range {
                Some(range) => format!("{} from {} to {}", T::FORM, range.start(), range.end()),
                None => T::FORM.to_owned(),
            };
            let shown = match given {
                _ if T::SECRET => "has another one".to_owned(),
                Given::Text(text) => format!("says {text:?}"),
                Given::Toml(value) => format!("says {value}"),
            };
            Problem(format!("{key} must be {form}, but {origin} {shown}."))
        })
    }
}

/// The setting whose key is nearest to a mistyped one.
fn similar(key: &str) -> Option<&'static str> {
    let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let distance =
        |field: &&Field| distance(key, field.key).min(distance(&name(key), field.name()) + 1);
    let nearest = FIELDS.iter().min_by_key(distance)?;
    (distance(&nearest) <= 1 + key.len() / 5).then_some(nearest.key)
}

/// Edit distance (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
