//! Where a client is.

use std::net::IpAddr;

use crate::config::Cidr;

/// Longest name of a region.
const CHARS_MAX: usize = 63;

/// The name of a region, such as `eu-central`: letters, digits and `-`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(String);

impl Region {
    /// The region with this name. It may become part of a host's name, so it must be a label of one (RFC 1123).
    pub fn parse(text: &str) -> Option<Region> {
        let text = text.trim().to_ascii_lowercase();
        is_label(&text).then_some(Region(text))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text can be one part of a host's name.
pub(super) fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= CHARS_MAX
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A network and the region that its clients are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionNetwork {
    /// The network.
    pub network: Cidr,
    /// The region.
    pub region: Region,
}

impl RegionNetwork {
    /// From `10.0.0.0/8=eu-central`.
    pub fn parse(text: &str) -> Option<RegionNetwork> {
        let (network, region) = text.split_once('=')?;
        Some(RegionNetwork {
            network: Cidr::parse(network.trim())?,
            region: Region::parse(region)?,
        })
    }
}

/// What a request says of where its client is.
#[derive(Clone, Copy, Debug)]
pub struct Hints<'a> {
    /// What the client asked for.
    pub asked: Option<&'a str>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// What a trusted proxy says.
    pub told: Option<&'a str>,
}

/// The client's region: the one it asked for, else that of the narrowest network that its address is in, else the one
/// that a trusted proxy names.
pub fn region(hints: Hints<'_>, networks: &[RegionNetwork]) -> Option<Region> {
    let by_address = || {
        let holding = networks
            .iter()
            .filter(|entry| hints.address.is_some_and(|a| entry.network.contains(a)));
        holding.max_by_key(|entry| entry.network.prefix()).map(|entry| entry.region.clone())
    };
    hints
        .asked
        .and_then(Region::parse)
        .or_else(by_address)
        .or_else(|| hints.told.and_then(Region::parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(asked: Option<&str>, address: &str, told: Option<&str>) -> Option<String> {
        let networks: Vec<RegionNetwork> =
            ["10.0.0.0/8=eu", "10.1.0.0/16=asia", "2001:db8::/32=us"]
                .into_iter()
                .map(|text| RegionNetwork::parse(text).unwrap())
                .collect();
        let hints = Hints { asked, address: address.parse().ok(), told };
        region(hints, &networks).map(|region| region.as_str().to_owned())
    }

    #[test]
    fn the_clients_word_comes_before_its_address_and_that_before_the_proxys_word() {
        assert_eq!(found(Some("US"), "10.1.2.3", Some("mars")).as_deref(), Some("us"));
        assert_eq!(found(None, "10.1.2.3", Some("mars")).as_deref(), Some("asia"));
        assert_eq!(found(None, "10.2.2.3", None).as_deref(), Some("eu"));
        assert_eq!(found(None, "2001:db8::1", None).as_deref(), Some("us"));
        assert_eq!(found(None, "192.0.2.1", Some("mars")).as_deref(), Some("mars"));
        assert_eq!(found(None, "192.0.2.1", None), None);
        assert_eq!(found(Some("a b"), "192.0.2.1", Some("<x>")), None);
    }

    #[test]
    fn what_is_no_network_with_a_region_is_refused() {
        for text in ["", "10.0.0.0/8", "10.0.0.0/33=eu", "10.0.0.0/8=", "10.0.0.0/8=-eu", "x=eu"] {
            assert_eq!(RegionNetwork::parse(text), None, "{text}");
        }
    }
}
