//! Settings that face the network and look wrong. Pure.

use crate::config::{Config, WebOrigin};

use super::finding::Finding;

/// What of these settings looks wrong, or that nothing does.
pub(super) fn judge(config: &Config) -> Vec<Finding> {
    let lists = [addresses(config), origins(config), proxies(config)];
    let mut findings: Vec<Finding> = lists.into_iter().flatten().collect();
    findings.extend([admin(config), limits(config)].into_iter().flatten());
    if findings.is_empty() {
        findings.push(Finding::ok(
            "settings",
            "The configuration is valid, and nothing in it looks wrong.",
        ));
    }
    findings
}

fn addresses(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_private =
        |host: &str| host == "localhost" || host.starts_with("127.") || host == "[::1]";
    if let Some(url) = &config.public_url
        && let Some(host) = url.as_str().strip_prefix("http://")
        && !is_private(host.split(['/', ':']).next().unwrap_or_default())
        && !host.starts_with("[::1]")
    {
        findings.push(Finding::warn(
            "public_url",
            format!("{} is not encrypted: passwords travel in the open.", url.as_str()),
            "Put something that ends TLS in front, and write https://.",
        ));
    }
    if config.public_url.is_none() && !config.listen.ip().is_loopback() {
        findings.push(Finding::warn(
            "public_url",
            "It is not set, so service discovery believes the Host header of each request.",
            "Set public_url to the address that clients use.",
        ));
    }
    findings
}

fn origins(config: &Config) -> Vec<Finding> {
    let is_open = |origin: &&WebOrigin| {
        let rest = origin.as_str().strip_prefix("http://");
        rest.is_some_and(|host| !host.starts_with("localhost") && !host.starts_with("127.0.0.1"))
    };
    let open = config.allowed_origins.iter().chain(&config.cors_origins).filter(is_open);
    let mut findings: Vec<Finding> = open
        .map(|origin| {
            Finding::warn(
                "origins",
                format!(
                    "Pages of {} come unencrypted: whoever changes them acts as their users.",
                    origin.as_str()
                ),
                "Serve the page over https, and write its origin so.",
            )
        })
        .collect();
    let own = config.public_url.as_ref().map(|url| url.origin());
    let may_connect = |origin: &WebOrigin| {
        config.allowed_origins.contains(origin) || own == Some(origin.as_str())
    };
    findings.extend(config.cors_origins.iter().filter(|origin| !may_connect(origin)).map(
        |origin| {
            Finding::warn(
                "origins",
                format!(
                    "Pages of {} may use the HTTP API but not open WebSockets.",
                    origin.as_str()
                ),
                "Add the origin to allowed_origins too, if they are to chat.",
            )
        },
    ));
    findings
}

fn proxies(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for network in config.trusted_proxy.cidrs.iter().filter(|network| network.prefix() == 0) {
        findings.push(Finding::fail(
            "trusted_proxy",
            format!("{network} trusts everyone: any client can claim any address, and no limit per address holds."),
            "Name only the networks of your own proxies.",
        ));
    }
    let is_https = config.public_url.as_ref().is_some_and(|url| url.as_str().starts_with("https:"));
    if is_https && config.trusted_proxy.cidrs.is_empty() {
        findings.push(Finding::warn(
            "trusted_proxy",
            "public_url is https, so a proxy stands in front, and none is trusted: all clients share its address, and \
             the limits per address.",
            "Set trusted_proxy.cidrs to the proxy's network.",
        ));
    }
    findings
}

fn admin(config: &Config) -> Option<Finding> {
    let is_open = !config.admin_listen.ip().is_loopback() && config.admin_token.is_none();
    is_open.then(|| {
        Finding::warn(
            "admin_listen",
            format!(
                "{} can be reached from the network and asks for no token.",
                config.admin_listen
            ),
            "Set CHAT_ADMIN_TOKEN, or make sure that only your own machines reach the port.",
        )
    })
}

fn limits(config: &Config) -> Option<Finding> {
    (!config.rate_limits.enabled).then(|| {
        Finding::warn(
            "rate_limits",
            "They are off: one client can take the node's whole time, and try passwords without end.",
            "Set rate_limits.enabled to true, except for tests and benchmarks.",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Sources;
    use crate::doctor::finding::Level;

    use super::*;

    fn found(toml: &str) -> Vec<(Level, String)> {
        let mut sources = Sources::default();
        sources.add_toml(toml, Path::new("test.toml")).unwrap();
        let findings = judge(&Config::load(&sources).unwrap());
        findings.into_iter().map(|finding| (finding.level, finding.check)).collect()
    }

    fn warns(check: &str) -> Vec<(Level, String)> {
        vec![(Level::Warn, check.to_owned())]
    }

    #[test]
    fn the_defaults_and_a_careful_platform_look_right() {
        let right = vec![(Level::Ok, "settings".to_owned())];
        assert_eq!(found(""), right);
        let careful = "
            listen = \"0.0.0.0:8080\"
            public_url = \"https://chat.example.org\"
            allowed_origins = [\"https://app.example.org\"]
            cors_origins = [\"https://app.example.org\", \"https://chat.example.org\"]
            [trusted_proxy]
            cidrs = [\"10.0.0.0/8\"]";
        assert_eq!(found(careful), right);
        assert_eq!(found("public_url = \"http://localhost:8080\""), right);
    }

    #[test]
    fn what_looks_wrong_is_told_with_the_setting() {
        assert_eq!(found("listen = \"0.0.0.0:80\""), warns("public_url"));
        assert_eq!(found("public_url = \"http://chat.example.org\""), warns("public_url"));
        assert_eq!(found("public_url = \"https://chat.example.org\""), warns("trusted_proxy"));
        assert_eq!(found("admin_listen = \"0.0.0.0:9090\""), warns("admin_listen"));
        assert_eq!(found("[rate_limits]\nenabled = false"), warns("rate_limits"));
        assert_eq!(found("allowed_origins = [\"http://app.example.org\"]"), warns("origins"));
        assert_eq!(found("cors_origins = [\"https://app.example.org\"]"), warns("origins"));
        let everyone = found("[trusted_proxy]\ncidrs = [\"0.0.0.0/0\"]");
        assert_eq!(everyone, [(Level::Fail, "trusted_proxy".to_owned())]);
    }
}
