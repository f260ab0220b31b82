//! Host names of nodes, from a template.

use std::fmt;

use super::Region;
use super::region::is_label;

/// A host's name, and perhaps a port, with places for a node's own values, such as `{node}.{region}.chat.example.org:443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTemplate(String);

impl HostTemplate {
    /// The template with this text. `None`: it has an unknown place, or never gives a host's name.
    pub fn parse(text: &str) -> Option<HostTemplate> {
        let template = HostTemplate(text.to_owned());
        let region = Region::parse("r")?;
        template.fill("n", Some(&region)).map(|_| template)
    }

    /// The host of a node. `None`: the template needs a region and the node has none, or what comes out is no host's name.
    pub fn fill(&self, node: &str, region: Option<&Region>) -> Option<String> {
        let mut host = self.0.replace("{node}", &node.to_ascii_lowercase());
        if host.contains("{region}") {
            host = host.replace("{region}", region?.as_str());
        }
        is_host(&host).then_some(host)
    }
}

impl fmt::Display for HostTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    name.len() <= 253
        && name.split('.').all(is_label)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_with_the_nodes_values() {
        let template = HostTemplate::parse("{node}.{region}.chat.example.org:8443").unwrap();
        let eu = Region::parse("eu").unwrap();
        let host = template.fill("Node-1", Some(&eu));
        assert_eq!(host.as_deref(), Some("node-1.eu.chat.example.org:8443"));
        assert_eq!(template.fill("node-1", None), None);
        assert_eq!(template.fill("node 1", Some(&eu)), None);
        assert_eq!(
            template.fill("a.b", Some(&eu)).as_deref(),
            Some("a.b.eu.chat.example.org:8443")
        );
        let plain = HostTemplate::parse("{node}.example.org").unwrap();
        assert_eq!(plain.fill("n", None).as_deref(), Some("n.example.org"));
    }

    #[test]
    fn what_gives_no_host_is_refused() {
        for text in
            ["", "{pod}.a", "https://{node}", "{node}/a", "{node}..a", "a:0", "a:b", "-{node}-"]
        {
            assert_eq!(HostTemplate::parse(text), None, "{text}");
        }
    }
}
