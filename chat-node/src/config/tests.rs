use std::ffi::OsString;
use std::path::Path;

use clap::Command;

use super::*;

const NATS: &str = "--broker=nats://a:1,tls://b";
const SCYLLA: &str = "--store=scylla://a,[::1],b:2/chat";
const KEYS: &str = "--token-key-file=keys.json";

fn gather(
    flags: &[&str],
    environment: &[(&str, &str)],
    file: Option<&str>,
) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chat.toml");
    let mut words = vec!["chat-node".to_owned()];
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
        words.push(format!("--config={}", path.display()));
    }
    let matches = Command::new("chat-node").args(arguments()).try_get_matches_from(words).unwrap();
    let variable = |name: &str| {
        environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    };
    let sources = Sources::gather(&matches, variable);
    sources
        .and_then(|sources| Config::load(&sources))
        .map_err(|problem| problem.to_string().replace(&path.display().to_string(), "chat.toml"))
}

#[test]
fn without_any_source_every_setting_has_its_default() {
    let config = gather(&[], &[], None).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.token.key_file, None);
    assert_eq!(config.public_url, None);
    assert!(config.rate_limits.enabled);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let file = Some("node_name = \"file\"\ndata_dir = \"file\"\nworker_threads = 3");
    let environment = [("CHAT_NODE_NAME", "environment"), ("CHAT_DATA_DIR", "environment")];
    let config = gather(&["--node-name=flag"], &environment, file).unwrap();
    assert_eq!(config.node_name, "flag");
    assert_eq!(config.data_dir, Path::new("environment"));
    assert_eq!(config.worker_threads, 3);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let config = gather(&[], &[("CHAT_NODE_NAME", "")], Some("node_name = \"file\"")).unwrap();
    assert_eq!(config.node_name, "file");
}

#[test]
fn a_bad_value_is_one_sentence_that_names_the_setting_and_the_place() {
    let refused = |flags: &[&str], environment: &[(&str, &str)], file| {
        gather(flags, environment, file).unwrap_err()
    };
    assert_eq!(
        refused(&["--heartbeat-interval-ms", "soon"], &[], None),
        "heartbeat_interval_ms must be a whole number from 100 to 600000, but the flag --heartbeat-interval-ms says \
         \"soon\"."
    );
    assert_eq!(
        refused(&["--heartbeat-interval-ms", "-5"], &[], None),
        "heartbeat_interval_ms must be a whole number from 100 to 600000, but the flag --heartbeat-interval-ms says \
         \"-5\"."
    );
    assert_eq!(
        refused(&[], &[("CHAT_LOG_FORMAT", "xml")], None),
        "log.format must be text or json, but the environment variable CHAT_LOG_FORMAT says \"xml\"."
    );
    assert_eq!(
        refused(&[], &[], Some("[password]\niterations = 0")),
        "password.iterations must be a whole number from 1 to 100, but the configuration file chat.toml says 0."
    );
    assert_eq!(
        refused(&[], &[], Some("listen = 8080")),
        "listen must be an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080, but the configuration file \
         chat.toml says 8080."
    );
}

#[test]
fn unknown_keys_of_the_file_are_named_with_what_may_have_been_meant() {
    let refused = |file| gather(&[], &[], Some(file)).unwrap_err();
    assert_eq!(
        refused("lisen = \"127.0.0.1:1\""),
        "The configuration file chat.toml has the key lisen, which is not a setting; did you mean listen?"
    );
    assert_eq!(
        refused("[log]\nformt = \"json\""),
        "The configuration file chat.toml has the key log.formt, which is not a setting; did you mean log.format?"
    );
    assert_eq!(
        refused("[postgres]\nurl = \"x\""),
        "The configuration file chat.toml has the key postgres.url, which is not a setting."
    );
    assert!(
        refused("listen = \n")
            .starts_with("The configuration file chat.toml is not valid TOML: line 1: ")
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (flags, named) in [
        (&["--offline-after-ms=9999"][..], "offline_after_ms"),
        (&["--admin-listen=127.0.0.1:8080"], "admin_listen"),
        (&["--shutdown-grace-ms=3000"], "shutdown.grace_ms"),
        (&["--password-memory-kib=8", "--password-parallelism=2"], "password.memory_kib"),
        (&["--oidc-issuer=https://id.example.org"], "oidc.audience"),
        (&["--roles=gateway"], "roles"),
        (&["--advertise-host-template={node}.{region}.example.org"], "advertise_host_template"),
        (
            &["--advertise-host-template={node}.example.org", "--node-name=a b"],
            "advertise_host_template",
        ),
        (&["--broker=nats://a:1"], "store"),
        (&["--store=scylla://a/chat"], "broker"),
        (&[NATS, SCYLLA], "token.key_file"),
        (&[NATS, SCYLLA, KEYS, "--nats-replicas=2"], "nats.replicas"),
        (&[NATS, SCYLLA, KEYS, "--nats-user=chat"], "nats.password"),
        (&[NATS, SCYLLA, KEYS, "--scylla-key-file=key.pem"], "scylla.certificate_file"),
    ] {
        let sentence = gather(flags, &[], None).unwrap_err();
        assert!(sentence.starts_with(named), "{sentence}");
    }
}

#[test]
fn the_addresses_of_a_platform_are_read_and_shown() {
    let flags = [NATS, SCYLLA, KEYS];
    let config =
        gather(&flags, &[("CHAT_NATS_PASSWORD", "x")], Some("[nats]\nuser = \"chat\"")).unwrap();
    let servers = vec!["nats://a:1".to_owned(), "tls://b".to_owned()];
    assert_eq!(config.broker, BrokerAddress::Nats(servers));
    let hosts = vec!["a:9042".to_owned(), "[::1]:9042".to_owned(), "b:2".to_owned()];
    assert_eq!(config.store, StoreAddress::Scylla { hosts, keyspace: "chat".to_owned() });
    assert!(config.to_toml().contains("broker = \"nats://a:1,tls://b\""));
    for bad in ["nats://", "http://a:1", "nats://a:b", "nats://u:p@a:1", "nats://a,,nats://b", ""] {
        let given = [&format!("--broker={bad}")[..], SCYLLA, KEYS];
        assert!(gather(&given, &[], None).is_err(), "{bad}");
    }
    for bad in
        ["scylla://a", "scylla:///chat", "scylla://a/Chat", "scylla://a/chat?x=1", "a:1/chat"]
    {
        let given = [&format!("--store={bad}")[..], NATS, KEYS];
        assert!(gather(&given, &[], None).is_err(), "{bad}");
    }
}

#[test]
fn a_secret_has_no_flag_and_is_never_shown() {
    let token = "correct-horse-battery";
    let config = gather(&[], &[("CHAT_ADMIN_TOKEN", token)], None).unwrap();
    assert_eq!(config.admin_token.as_ref().map(Secret::reveal), Some(token));
    assert!(!format!("{config:?} {}", config.to_toml()).contains(token));
    let refused = gather(&[], &[("CHAT_ADMIN_TOKEN", "short")], None).unwrap_err();
    assert!(!refused.contains("short"), "{refused}");
    assert!(arguments().iter().all(|argument| argument.get_id() != "admin_token"));
}

#[test]
fn the_printed_configuration_is_read_back_as_the_same() {
    let flags = ["--trusted-proxy-cidrs=10.0.0.0/8,::1", "--public-url=https://chat.example.org"];
    let config = gather(&flags, &[("CHAT_RATE_LIMITS_ENABLED", "off")], None).unwrap();
    assert_eq!(gather(&[], &[], Some(&config.to_toml())).unwrap(), config);
}

#[test]
fn the_example_file_holds_the_defaults() {
    let uncommented: String = example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        // An absent secret or address has no value that could be written.
        .filter(|line| !line.ends_with("= \"\"\n"))
        .collect();
    assert_eq!(
        uncommented.matches(" = ").count(),
        FIELDS.iter().filter(|f| !f.default.is_empty() || f.form.starts_with("a list")).count()
    );
    assert_eq!(gather(&[], &[], Some(&uncommented)).unwrap(), gather(&[], &[], None).unwrap());
}

#[test]
fn every_setting_is_explained_in_help_and_manual() {
    let help = Command::new("chat-node").args(arguments()).term_width(0).render_help().to_string();
    for field in FIELDS {
        assert!(field.text().ends_with('.'), "{} needs a sentence", field.key);
        assert!(manual().contains(&format!("### `{}`\n", field.key)), "{}", field.key);
        assert!(field.secret || help.contains(&format!("--{} ", field.flag())), "{}", field.key);
    }
}

#[test]
fn addresses_are_checked() {
    use super::value::Setting;
    for good in ["https://chat.example.org", "http://127.0.0.1:8080", "http://[::1]:80/chat"] {
        assert!(Url::from_text(good).is_some(), "{good}");
    }
    for bad in [
        "chat.example.org",
        "https://",
        "https://a/",
        "https://u:p@a",
        "http://a:99999",
        "http://a b",
        "http://a/?q",
    ] {
        assert!(Url::from_text(bad).is_none(), "{bad}");
    }
    assert!(WebOrigin::from_text("https://a.example/path").is_none());
    let network = Cidr::from_text("10.1.0.0/16").unwrap();
    assert!(network.contains("10.1.255.1".parse().unwrap()));
    assert!(network.contains("::ffff:10.1.2.3".parse().unwrap()));
    assert!(!network.contains("10.2.0.1".parse().unwrap()));
    assert!(Cidr::from_text("0.0.0.0/0").unwrap().contains("8.8.8.8".parse().unwrap()));
    assert!(Cidr::from_text("10.0.0.0/33").is_none());
}
