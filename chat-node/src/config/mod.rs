//! The node's configuration: one declaration per setting, whose comment is the help text and the reference manual.
//!
//! A setting comes from a flag, the environment, the configuration file or its default, in this order. All of them go
//! through the same parser, so a bad value gets the same sentence wherever it came from. Nothing here opens a port.

mod document;
mod fields;
mod source;
mod value;

pub use document::{example, manual};
pub use fields::{
    Config, Discovery, FIELDS, Field, Log, Oidc, Password, RateLimits, Shutdown, Storage, Token,
    TrustedProxy,
};
pub use source::{Origin, Problem, Sources, arguments};
pub use value::{Cidr, LogFilter, LogFormat, Secret, Url, WebOrigin};

use crate::limits;

impl Config {
    /// The configuration that these sources describe. The error is one sentence that names the setting.
    pub fn load(sources: &Sources) -> Result<Config, Problem> {
        let config = fields::build(sources)?;
        config.check().map_err(Problem)?;
        Ok(config)
    }

    /// The configuration in force, as a configuration file. Secrets are masked.
    pub fn to_toml(&self) -> String {
        document::effective(self)
    }

    /// Rules between settings.
    fn check(&self) -> Result<(), String> {
        let silence = self.heartbeat_interval_ms.saturating_mul(2);
        if self.offline_after_ms < silence {
            return Err(format!(
                "offline_after_ms must be at least twice heartbeat_interval_ms ({silence}), so that one lost heartbeat \
                 disconnects nobody, but it is {}.",
                self.offline_after_ms
            ));
        }
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err(format!(
                "admin_listen must differ from listen, but both are {}.",
                self.listen
            ));
        }
        let needed = self.shutdown.drain_jitter_ms.saturating_add(limits::DRAIN_FLUSH_MS);
        if self.shutdown.grace_ms < needed {
            return Err(format!(
                "shutdown.grace_ms must be at least shutdown.drain_jitter_ms plus {} for the last frames ({needed}), \
                 but it is {}.",
                limits::DRAIN_FLUSH_MS,
                self.shutdown.grace_ms
            ));
        }
        // RFC 9106, 3.1: at least 8 KiB for each lane.
        if self.password.memory_kib < self.password.parallelism.saturating_mul(8) {
            return Err(format!(
                "password.memory_kib must be at least 8 times password.parallelism ({}), but it is {}.",
                self.password.parallelism.saturating_mul(8),
                self.password.memory_kib
            ));
        }
        self.check_oidc()
    }

    fn check_oidc(&self) -> Result<(), String> {
        let oidc = &self.oidc;
        let given = [
            ("oidc.issuer", oidc.issuer.is_some()),
            ("oidc.audience", oidc.audience.is_some()),
            ("oidc.jwks_file", oidc.jwks_file.is_some()),
        ];
        match given.iter().find(|(_, given)| !given) {
            Some((missing, _)) if given.iter().any(|(_, given)| *given) => Err(format!(
                "{missing} must be set, because tokens of an external issuer need oidc.issuer, oidc.audience and \
                 oidc.jwks_file together."
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
