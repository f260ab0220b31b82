//! What the configuration says to each part of the node.

use crate::auth::{self, PasswordCost};
use crate::config::Config;
use crate::{http, server, session};

pub(super) fn server(config: &Config) -> server::Settings {
    server::Settings {
        connections_max: config.connections_max as usize,
        connections_per_address_max: config.connections_per_address_max as usize,
        proxy_header: config.trusted_proxy.header.clone(),
        proxies: config.trusted_proxy.cidrs.clone(),
        region_header: config.discovery.region_header.clone(),
    }
}

pub(super) fn session(config: &Config) -> session::Settings {
    let limits = &config.rate_limits;
    session::Settings {
        heartbeat_interval_ms: config.heartbeat_interval_ms,
        offline_after_ms: config.offline_after_ms,
        audit_interval_ms: config.audit_interval_ms,
        connections_max: config.connections_max as usize,
        allowed_origins: allowed_origins(config),
        poll_wait_ms_max: config.poll_wait_ms_max,
        rate: limits.enabled.then_some(session::Rate {
            per_second: limits.commands_per_second,
            burst: limits.commands_burst,
        }),
        ..session::Settings::default()
    }
}

fn allowed_origins(config: &Config) -> Vec<String> {
    let own = config.public_url.iter().map(|url| url.origin().to_owned());
    own.chain(config.allowed_origins.iter().map(|origin| origin.as_str().to_owned())).collect()
}

pub(super) fn http(config: &Config) -> http::Settings {
    let limits = &config.rate_limits;
    let per_minute =
        |count: u32| http::Rate { burst: count, refill_ms: 60_000 / u64::from(count.max(1)) };
    http::Settings {
        public_url: config.public_url.as_ref().map(|url| url.as_str().to_owned()),
        roles: config.roles,
        regions: config.discovery.regions.clone(),
        region_header: config.discovery.region_header.clone(),
        trust_forwarded: !config.trusted_proxy.cidrs.is_empty(),
        origins: config.cors_origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
        rates: limits.enabled.then(|| http::Rates {
            logins_per_handle: per_minute(limits.logins_per_account_per_minute),
            logins_per_address: per_minute(limits.logins_per_minute),
            sign_ups_per_address: per_minute(limits.sign_ups_per_minute),
            requests_per_user: http::Rate {
                burst: limits.requests_burst,
                refill_ms: 1_000 / u64::from(limits.requests_per_second.clamp(1, 1_000)),
            },
        }),
        ..http::Settings::default()
    }
}

pub(super) fn auth(config: &Config) -> auth::Settings {
    let oidc = &config.oidc;
    let external_issuer = match (&oidc.issuer, &oidc.audience, &oidc.jwks_file) {
        (Some(issuer), Some(audience), Some(file)) => Some(auth::IssuerSettings {
            issuer: issuer.as_str().to_owned(),
            audience: audience.clone(),
            keys_file: file.clone(),
        }),
        _ => None,
    };
    auth::Settings {
        access_life_ms: config.token.access_lifetime_ms,
        refresh_life_ms: config.token.refresh_lifetime_days * 24 * 3_600 * 1_000,
        password_cost: PasswordCost {
            memory_kib: config.password.memory_kib,
            passes: config.password.iterations,
            lanes: config.password.parallelism,
        },
        password_concurrency: config.password.concurrency as usize,
        external_issuer,
        ..auth::Settings::default()
    }
}
