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
    Config, Discovery, FIELDS, Field, Log, Nats, Oidc, Password, RateLimits, Scylla, Shutdown,
    Storage, Token, TrustedProxy,
};
pub use source::{Origin, Problem, Sources, arguments};
pub use value::{
    BrokerAddress, Cidr, LogFilter, LogFormat, Password as Phrase, Secret, StoreAddress, Url,
    WebOrigin,
};

use crate::discovery::Roles;
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
        self.check_oidc()?;
        self.check_host()?;
        self.check_backends()
    }

    fn check_backends(&self) -> Result<(), String> {
        let (nats, scylla) = (&self.nats, &self.scylla);
        match (&self.broker, &self.store) {
            (BrokerAddress::Embedded, StoreAddress::Embedded) => return self.check_alone(),
            (BrokerAddress::Embedded, _) => {
                return Err("broker must be the address of NATS servers when store is not embedded, because many nodes \
                            cannot share an embedded log."
                    .to_owned());
            }
            (_, StoreAddress::Embedded) => {
                return Err("store must be the address of a ScyllaDB when broker is not embedded, because many nodes \
                            cannot share an embedded store."
                    .to_owned());
            }
            _ => {}
        }
        if self.token.key_file.is_none() {
            return Err("token.key_file must be set when broker is not embedded, so that every node accepts the tokens \
                        of the others. A file that does not exist is made; give the same one to all nodes."
                .to_owned());
        }
        if ![1, 3, 5].contains(&nats.replicas) {
            return Err(format!("nats.replicas must be 1, 3 or 5, but it is {}.", nats.replicas));
        }
        let pairs = [
            ("nats.user", nats.user.is_some(), "nats.password", nats.password.is_some()),
            (
                "nats.certificate_file",
                nats.certificate_file.is_some(),
                "nats.key_file",
                nats.key_file.is_some(),
            ),
            ("scylla.user", scylla.user.is_some(), "scylla.password", scylla.password.is_some()),
            (
                "scylla.certificate_file",
                scylla.certificate_file.is_some(),
                "scylla.key_file",
                scylla.key_file.is_some(),
            ),
        ];
        match pairs.into_iter().find(|(_, one, _, other)| one != other) {
            Some((name, true, missing, _)) | Some((missing, _, name, _)) => {
                Err(format!("{missing} must be set, because {name} is."))
            }
            None => Ok(()),
        }
    }

    /// A node by itself is the whole platform.
    fn check_alone(&self) -> Result<(), String> {
        match self.roles == Roles::ALL {
            true => Ok(()),
            false => Err(format!(
                "roles must be {} when broker is embedded, because there is no other node to do the rest, but it is {}.",
                Roles::ALL,
                self.roles
            )),
        }
    }

    /// What node name and region make of the template is known before the start.
    fn check_host(&self) -> Result<(), String> {
        let Some(template) = &self.advertise_host_template else { return Ok(()) };
        match template.fill(&self.node_name, self.region.as_ref()) {
            Some(_) => Ok(()),
            None => Err(format!(
                "advertise_host_template must give a host name with node_name {:?} and region {:?}, but it is {template}.",
                self.node_name,
                self.region.as_ref().map_or("", |region| region.as_str())
            )),
        }
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
