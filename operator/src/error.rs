//! Why a pass failed, and when to try again.

use std::time::Duration;

use crate::limits;

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or did not answer.
    #[error("{doing}: {source}")]
    Kube {
        /// What was being done.
        doing: String,
        /// The client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server dropped fields of a status: its definition does not know them.
    #[error(
        "the definition of the ChatCluster in this cluster is older than the operator: apply crds/chatcluster.yaml of its release"
    )]
    OldDefinition,
    /// An object has the name that one of ours should have.
    #[error(
        "{kind} {name} exists and does not belong to this ChatCluster: delete it, or give the ChatCluster another name"
    )]
    Foreign {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Class {
    /// It may pass by itself.
    Transient,
    /// Somebody else wrote in between: at once again.
    Conflict,
    /// A person has to change something.
    User,
}

impl Class {
    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Transient => "transient",
            Class::Conflict => "conflict",
            Class::User => "user",
        }
    }
}

impl Error {
    /// What kind of failure it is.
    pub fn class(&self) -> Class {
        match self {
            Error::Foreign { .. } | Error::OldDefinition => Class::User,
            Error::Kube { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.code == 409 => Class::Conflict,
                kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => Class::User,
                _ => Class::Transient,
            },
        }
    }
}

/// An error of the API server with what was being done.
pub(crate) fn doing(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Kube { doing: doing.into(), source: Box::new(source) }
}

/// How long to wait after the `failures`-th failure in a row; `random` in [0, 1) spreads those of many resources.
pub fn retry_after(class: Class, failures: u32, random: f64) -> Duration {
    let (first, longest) = limits::RETRY;
    if class == Class::Conflict {
        return first / 2;
    }
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(longest).mul_f64(0.75 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_conflicts_do_not_wait() {
        assert_eq!(retry_after(Class::Transient, 1, 0.5), Duration::from_secs(1));
        assert_eq!(retry_after(Class::Transient, 4, 0.5), Duration::from_secs(8));
        assert!(retry_after(Class::User, 60, 0.99) <= Duration::from_secs(150));
        assert!(retry_after(Class::Conflict, 60, 0.5) < Duration::from_secs(1));
    }
}
