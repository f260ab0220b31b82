//! The types of settings: how each is written, and what it refuses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use toml::Value;

use crate::discovery::{HostTemplate, Region, RegionNetwork, Roles};

/// A type that settings can have.
pub(super) trait Setting: Sized {
    /// The values it takes, in words: "must be …".
    const FORM: &'static str;
    /// Its values are never shown.
    const SECRET: bool = false;

    /// The value with this text, as in a flag or the environment. `None`: the text is not one.
    fn from_text(text: &str) -> Option<Self>;

    /// The value in a configuration file. Texts are parsed as in a flag.
    fn from_toml(value: &Value) -> Option<Self> {
        Self::from_text(value.as_str()?)
    }

    /// The value as in a configuration file; `None` if it is not set.
    fn to_toml(&self) -> Option<Value>;

    /// Its number, for settings with a range.
    fn number(&self) -> Option<u64> {
        None
    }
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Setting for $type {
            const FORM: &'static str = "a whole number";
            fn from_text(text: &str) -> Option<Self> {
                // `parse` takes a plus sign, which nobody means.
                text.parse().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))
            }
            fn from_toml(value: &Value) -> Option<Self> {
                value.as_integer()?.try_into().ok()
            }
            fn to_toml(&self) -> Option<Value> {
                i64::try_from(*self).ok().map(Value::Integer)
            }
            fn number(&self) -> Option<u64> {
                Some((*self).into())
            }
        }
    )*};
}

numbers!(u32 u64);

impl Setting for bool {
    const FORM: &'static str = "true or false";
    fn from_text(text: &str) -> Option<bool> {
        match text {
            "true" | "on" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        }
    }
    fn from_toml(value: &Value) -> Option<bool> {
        value.as_bool()
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Setting for String {
    const FORM: &'static str = "a text that is not empty";
    fn from_text(text: &str) -> Option<String> {
        (!text.trim().is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

impl Setting for PathBuf {
    const FORM: &'static str = "a path";
    fn from_text(text: &str) -> Option<PathBuf> {
        (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.display().to_string()))
    }
}

impl Setting for SocketAddr {
    const FORM: &'static str = "an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080";
    fn from_text(text: &str) -> Option<SocketAddr> {
        text.parse().ok()
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

impl<T: Setting> Setting for Option<T> {
    const FORM: &'static str = T::FORM;
    const SECRET: bool = T::SECRET;
    fn from_text(text: &str) -> Option<Option<T>> {
        if text.is_empty() { Some(None) } else { T::from_text(text).map(Some) }
    }
    fn from_toml(value: &Value) -> Option<Option<T>> {
        if value.as_str() == Some("") { Some(None) } else { T::from_toml(value).map(Some) }
    }
    fn to_toml(&self) -> Option<Value> {
        self.as_ref().and_then(T::to_toml)
    }
}

/// A type that lists are made of.
pub(super) trait Element: Setting {
    /// The list's values in words.
    const LIST_FORM: &'static str;
}

impl<T: Element> Setting for Vec<T> {
    const FORM: &'static str = T::LIST_FORM;
    fn from_text(text: &str) -> Option<Vec<T>> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(T::from_text).collect()
    }
    fn from_toml(value: &Value) -> Option<Vec<T>> {
        value.as_array()?.iter().map(T::from_toml).collect()
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::Array(self.iter().filter_map(T::to_toml).collect()))
    }
}

impl Element for PathBuf {
    const LIST_FORM: &'static str = "a list of paths, separated by commas";
}

/// A form of log output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one object per line.
    Json,
}

impl Setting for LogFormat {
    const FORM: &'static str = "text or json";
    fn from_text(text: &str) -> Option<LogFormat> {
        match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        }
    }
    fn to_toml(&self) -> Option<Value> {
        let text = match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        Some(Value::String(text.to_owned()))
    }
}

/// What is logged, in the form that tracing's filters have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(pub String);

impl Setting for LogFilter {
    const FORM: &'static str = "a level (error, warn, info, debug, trace) or levels per module such as info,chat_node=debug";
    fn from_text(text: &str) -> Option<LogFilter> {
        // A bare word that is no level would be taken for a module's name, and silence everything.
        let known = |part: &str| {
            part.contains(['=', '['])
                || part.parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
        };
        let valid = tracing_subscriber::EnvFilter::try_new(text).is_ok();
        (valid && !text.is_empty() && text.split(',').all(known))
            .then(|| LogFilter(text.to_owned()))
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.0.clone()))
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Setting for Secret {
    const FORM: &'static str = "a secret of at least 16 visible ASCII characters";
    const SECRET: bool = true;
    fn from_text(text: &str) -> Option<Secret> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        (text.len() >= 16 && visible).then(|| Secret(text.to_owned()))
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String("***".to_owned()))
    }
}

/// A password or token of another system, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Setting for Password {
    const FORM: &'static str = "a secret without control characters";
    const SECRET: bool = true;
    fn from_text(text: &str) -> Option<Password> {
        (!text.is_empty() && !text.contains(char::is_control)).then(|| Password(text.to_owned()))
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String("***".to_owned()))
    }
}

const EMBEDDED: &str = "embedded";

/// Where the log, the keys and the bus are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerAddress {
    /// In the node itself.
    Embedded,
    /// On NATS servers with these addresses.
    Nats(Vec<String>),
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerAddress::Embedded => f.write_str(EMBEDDED),
            BrokerAddress::Nats(servers) => f.write_str(&servers.join(",")),
        }
    }
}

impl Setting for BrokerAddress {
    const FORM: &'static str = "embedded, or addresses such as nats://nats-0:4222,nats://nats-1:4222 without user or \
                                password (those are settings of their own)";
    fn from_text(text: &str) -> Option<BrokerAddress> {
        if text == EMBEDDED {
            return Some(BrokerAddress::Embedded);
        }
        let server = |part: &str| {
            let host = part.strip_prefix("nats://").or_else(|| part.strip_prefix("tls://"))?;
            host_and_port(host).then(|| part.to_owned())
        };
        text.split(',')
            .map(|part| server(part.trim()))
            .collect::<Option<_>>()
            .map(BrokerAddress::Nats)
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

/// The port that CQL databases listen on.
const CQL_PORT: u16 = 9042;

/// Where everything is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// In the node itself.
    Embedded,
    /// In a ScyllaDB or Apache Cassandra.
    Scylla {
        /// The first nodes to ask, each with its port.
        hosts: Vec<String>,
        /// The keyspace.
        keyspace: String,
    },
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreAddress::Embedded => f.write_str(EMBEDDED),
            StoreAddress::Scylla { hosts, keyspace } => {
                write!(f, "scylla://{}/{keyspace}", hosts.join(","))
            }
        }
    }
}

impl Setting for StoreAddress {
    const FORM: &'static str = "embedded, or an address with a keyspace such as scylla://scylla-0:9042,scylla-1:9042/chat without user or \
         password (those are settings of their own)";
    fn from_text(text: &str) -> Option<StoreAddress> {
        if text == EMBEDDED {
            return Some(StoreAddress::Embedded);
        }
        let (hosts, keyspace) = text.strip_prefix("scylla://")?.split_once('/')?;
        let host = |part: &str| {
            let has_port = part.rsplit_once(':').is_some_and(|(_, end)| !end.contains(']'));
            let host = if has_port { part.to_owned() } else { format!("{part}:{CQL_PORT}") };
            host_and_port(&host).then_some(host)
        };
        let hosts = hosts.split(',').map(|part| host(part.trim())).collect::<Option<_>>()?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let fits = keyspace.starts_with(|c: char| c.is_ascii_lowercase())
            && keyspace.len() <= 48
            && keyspace.chars().all(plain);
        fits.then(|| StoreAddress::Scylla { hosts, keyspace: keyspace.to_owned() })
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

/// An `http` or `https` address without user, query or fragment, and without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The origin: scheme, host and port.
    pub fn origin(&self) -> &str {
        let host = self.0.find("://").map_or(0, |at| at + 3);
        let end = self.0[host..].find('/').map_or(self.0.len(), |at| host + at);
        &self.0[..end]
    }
}

fn host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, port.strip_prefix(':').or(Some(""))),
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_fits = match text.starts_with('[') {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
            !host.is_empty() && host.bytes().all(allowed)
        }
    };
    host_fits && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

impl Setting for Url {
    const FORM: &'static str =
        "an address such as https://chat.example.org, without a slash at its end";
    fn from_text(text: &str) -> Option<Url> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#@\"\\<>".contains(&byte);
        let fits = host_and_port(host) && path.bytes().all(plain) && !text.ends_with('/');
        fits.then(|| Url(text.to_owned()))
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.0.clone()))
    }
}

impl Setting for Roles {
    const FORM: &'static str =
        "a list of roles out of api, gateway and partitions, separated by commas";
    fn from_text(text: &str) -> Option<Roles> {
        Roles::parse(text)
    }
    fn from_toml(value: &Value) -> Option<Roles> {
        let Some(names) = value.as_array() else { return Roles::parse(value.as_str()?) };
        let names = names.iter().map(Value::as_str).collect::<Option<Vec<&str>>>()?;
        Roles::parse(&names.join(","))
    }
    fn to_toml(&self) -> Option<Value> {
        let names = self.to_string();
        Some(Value::Array(names.split(',').map(|name| Value::String(name.to_owned())).collect()))
    }
}

impl Setting for HostTemplate {
    const FORM: &'static str = "a host name such as {node}.{region}.chat.example.org, with a port if it is not the usual one";
    fn from_text(text: &str) -> Option<HostTemplate> {
        HostTemplate::parse(text)
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

impl Setting for Region {
    const FORM: &'static str = "a name of letters, digits and `-`, such as eu-central";
    fn from_text(text: &str) -> Option<Region> {
        Region::parse(text)
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.as_str().to_owned()))
    }
}

impl Setting for RegionNetwork {
    const FORM: &'static str = "a network and its region such as 10.0.0.0/8=eu-central";
    fn from_text(text: &str) -> Option<RegionNetwork> {
        RegionNetwork::parse(text)
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(format!("{}={}", self.network, self.region.as_str())))
    }
}

impl Element for RegionNetwork {
    const LIST_FORM: &'static str =
        "a list of networks and their regions such as 10.0.0.0/8=eu-central, separated by commas";
}

/// A web origin: scheme, host and port (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOrigin(String);

impl WebOrigin {
    /// The origin as a browser sends it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for WebOrigin {
    const FORM: &'static str = "an origin such as https://app.example.org";
    fn from_text(text: &str) -> Option<WebOrigin> {
        let text = text.to_ascii_lowercase();
        let url = Url::from_text(&text)?;
        (url.origin() == text).then_some(WebOrigin(text))
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.0.clone()))
    }
}

impl Element for WebOrigin {
    const LIST_FORM: &'static str =
        "a list of origins such as https://app.example.org, separated by commas";
}

/// A network: an address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The network with this text: `address/prefix`, or one address.
    pub fn parse(text: &str) -> Option<Cidr> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.parse().ok()?, prefix.parse().ok()?),
            None => {
                let address: IpAddr = text.parse().ok()?;
                (address, if address.is_ipv4() { 32 } else { 128 })
            }
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= longest).then_some(Cidr { address, prefix })
    }

    /// The length of its prefix: of two networks that hold an address, the one with the longer prefix is narrower.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether an address lies in this network. An IPv4 address may come in its IPv6-mapped form.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = u32::from(network) ^ u32::from(address);
                differing.checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = u128::from(network) ^ u128::from(address);
                differing.checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Setting for Cidr {
    const FORM: &'static str = "a network such as 10.0.0.0/8";
    fn from_text(text: &str) -> Option<Cidr> {
        Cidr::parse(text)
    }
    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

impl Element for Cidr {
    const LIST_FORM: &'static str = "a list of networks such as 10.0.0.0/8, separated by commas";
}
