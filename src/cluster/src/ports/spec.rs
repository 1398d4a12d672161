//! The notation of ports.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use rkube_drivers::{PortMapping, Protocol};
use serde::{Deserialize, Serialize};

/// Maximum number of ports of a profile, below the files that a process may usually have open.
pub(super) const MAX_PORTS: usize = 1000;

/// A port of this machine that leads into the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortForward {
    /// The address to listen on.
    pub host_ip: Ipv4Addr,
    /// The port to listen on.
    pub host_port: u16,
    /// Whether it is of UDP; of TCP otherwise.
    pub udp: bool,
    /// The port of the target.
    pub port: u16,
    /// Where connections are led.
    pub to: PortTarget,
}

/// Where connections are led.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortTarget {
    /// A node, by name.
    Node(String),
    /// A service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for PortTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => f.write_str(name),
            Self::Service { namespace, name } => write!(f, "svc/{namespace}/{name}"),
        }
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.udp { "/udp" } else { "" };
        let (ip, host, port, to) = (self.host_ip, self.host_port, self.port, &self.to);
        write!(f, "{ip}:{host}:{port}{protocol}@{to}")
    }
}

impl From<PortForward> for String {
    fn from(port: PortForward) -> Self {
        port.to_string()
    }
}

impl TryFrom<String> for PortForward {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // Profiles have the target of every port.
        let mut ports = parse_ports(&text, "")?;
        match (ports.pop(), ports.is_empty()) {
            (Some(port), true) if port.to != PortTarget::Node(String::new()) => Ok(port),
            _ => Err(format!("'{text}' is not one port with its target")),
        }
    }
}

impl FromStr for PortTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = |text: &str| {
            let valid = rkube_api::names::dns1123_label(text).is_empty();
            valid
                .then(|| text.to_owned())
                .ok_or_else(|| format!("'{text}' is not a name"))
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [node] => Ok(Self::Node(name(node)?)),
            ["svc" | "service" | "services", service] => Ok(Self::Service {
                namespace: "default".to_owned(),
                name: name(service)?,
            }),
            ["svc" | "service" | "services", namespace, service] => Ok(Self::Service {
                namespace: name(namespace)?,
                name: name(service)?,
            }),
            _ => Err(format!(
                "'{text}' is neither a node nor svc/[NAMESPACE/]NAME"
            )),
        }
    }
}

/// Returns the ports that a text describes: `[IP:]HOST[-HOST][:PORT[-PORT]][/tcp|/udp][@TARGET]`. The
/// default target is the node `node`, the default address `127.0.0.1`.
///
/// # Errors
/// Fails with a message if the text is nothing like that, if ranges differ in length, or if they are
/// too long.
pub fn parse_ports(text: &str, node: &str) -> Result<Vec<PortForward>, String> {
    let wrong =
        || format!("'{text}' is not [IP:]HOST-PORT[:PORT][/tcp|/udp][@NODE|@svc/[NAMESPACE/]NAME]");
    let (ports, to) = match text.split_once('@') {
        Some((ports, to)) => (ports, to.parse()?),
        None => (text, PortTarget::Node(node.to_owned())),
    };
    let (ports, udp) = match ports.split_once('/') {
        None => (ports, false),
        Some((ports, "tcp")) => (ports, false),
        Some((ports, "udp")) => (ports, true),
        Some(_) => return Err(wrong()),
    };
    let parts: Vec<&str> = ports.split(':').collect();
    let (host_ip, host, port) = match parts.as_slice() {
        [both] => (Ipv4Addr::LOCALHOST, *both, *both),
        [host, port] => (Ipv4Addr::LOCALHOST, *host, *port),
        [ip, host, port] => (ip.parse().map_err(|_| wrong())?, *host, *port),
        _ => return Err(wrong()),
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        (first > 0 && first <= last).then_some(first..=last)
    };
    let (host, port) = (
        range(host).ok_or_else(wrong)?,
        range(port).ok_or_else(wrong)?,
    );
    if host.len() != port.len() {
        return Err(format!(
            "'{text}' has {} ports of this machine for {}",
            host.len(),
            port.len()
        ));
    }
    if host.len() > MAX_PORTS {
        return Err(format!(
            "'{text}' has {} ports, more than {MAX_PORTS}",
            host.len()
        ));
    }
    Ok(host
        .zip(port)
        .map(|(host_port, port)| PortForward {
            host_ip,
            host_port,
            udp,
            port,
            to: to.clone(),
        })
        .collect())
}

impl PortForward {
    /// Returns what it listens on.
    pub(crate) fn listener(&self) -> PortMapping {
        PortMapping {
            host_ip: self.host_ip,
            host_port: self.host_port,
            node_port: self.port,
            protocol: if self.udp {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
        }
    }

    /// Whether both cannot be listened on.
    pub(super) fn collides(&self, other: &Self) -> bool {
        let same_ip = self.host_ip == other.host_ip
            || self.host_ip.is_unspecified()
            || other.host_ip.is_unspecified();
        same_ip && self.host_port == other.host_port && self.udp == other.udp
    }

    /// Whether a text describes this port: one like [`parse_ports`]'s, or only the first part of one.
    pub(super) fn is(&self, text: &str, node: &str) -> bool {
        if parse_ports(text, node).is_ok_and(|ports| ports.contains(self)) {
            return true;
        }
        if text.contains('@') {
            return false;
        }
        let (own, udp) = match text.split_once('/') {
            Some((own, "udp")) => (own, Some(true)),
            Some((own, "tcp")) => (own, Some(false)),
            Some(_) => return false,
            None => (text, None),
        };
        let (ip, port) = match own.rsplit_once(':') {
            Some((ip, port)) => (Some(ip), port),
            None => (None, own),
        };
        udp.is_none_or(|udp| udp == self.udp)
            && ip.is_none_or(|ip| ip.parse() == Ok(self.host_ip))
            && port.parse() == Ok(self.host_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_parsed_and_written() {
        for (text, expected) in [
            (
                "8080:80@svc/web",
                &["127.0.0.1:8080:80@svc/default/web"][..],
            ),
            ("8080:80@svc/shop/web", &["127.0.0.1:8080:80@svc/shop/web"]),
            ("8080:30080", &["127.0.0.1:8080:30080@one"]),
            ("30080/udp@two", &["127.0.0.1:30080:30080/udp@two"]),
            (
                "0.0.0.0:8000-8001:9000-9001/tcp@service/web",
                &[
                    "0.0.0.0:8000:9000@svc/default/web",
                    "0.0.0.0:8001:9001@svc/default/web",
                ],
            ),
        ] {
            let ports = parse_ports(text, "one").unwrap();
            let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
            assert_eq!(shown, expected, "{text}");
            for port in ports {
                assert_eq!(PortForward::try_from(port.to_string()).unwrap(), port);
            }
        }
        for text in [
            "",
            "0:80",
            "80:",
            "x:80",
            "8080:80/sctp",
            "8080:80@svc/a/b/c",
            "8080:80@pod/x",
            "8080:80@",
            "9000-8000",
            "8000-8001:80",
            "8000-9000",
            "1.2.3:80:80",
            "8080:80@Web",
        ] {
            assert!(parse_ports(text, "one").is_err(), "{text}");
        }
        assert!(PortForward::try_from("8080:80".to_owned()).is_err());
    }

    #[test]
    fn ports_are_told_apart() {
        let one = |text: &str| parse_ports(text, "one").unwrap().remove(0);
        let port = one("8080:80@svc/web");
        for (text, expected) in [
            ("8080", true),
            ("8080/tcp", true),
            ("127.0.0.1:8080", true),
            ("8080:80@svc/web", true),
            ("8080-8081:80-81@svc/web", true),
            ("8080/udp", false),
            ("0.0.0.0:8080", false),
            ("8080:80@svc/other", false),
            ("80", false),
        ] {
            assert_eq!(port.is(text, "one"), expected, "{text}");
        }
        assert!(port.collides(&one("0.0.0.0:8080:90")));
        assert!(!port.collides(&one("8080:80/udp")) && !port.collides(&one("127.0.0.2:8080:80")));
    }
}
