//! The IP families of a new cluster and their address ranges.

use std::path::Path;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rkube_config::families::{Ipv6Place, Ipv6Ranges, NODE_POD_PREFIX, node_range};
use rkube_failure::{Failure, Kind, Source};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

use crate::plan::StartOptions;

/// The default IPv6 range of pods, kind's: a /64 for each of 256 nodes.
const POD_RANGE: &str = "fd00:10:244::/56";
/// The default IPv6 range of services, kind's.
const SERVICE_RANGE: &str = "fd00:10:96::/112";
/// Prefix lengths that the IPv6 range of services can have, as upstream's allocator.
const SERVICE_PREFIXES: std::ops::RangeInclusive<u8> = 64..=120;
/// Shortest prefix of the IPv6 range of pods: upstream gives out at most 2^16 ranges of nodes.
const SHORTEST_POD_PREFIX: u8 = NODE_POD_PREFIX - 16;

/// The families of pods and services: the place of IPv6 among them, or IPv4 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families(pub Option<Ipv6Place>);

impl FromStr for Families {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text
            .split(',')
            .map(|name| name.trim().to_lowercase())
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match names.as_slice() {
            ["ipv4"] => Ok(Self(None)),
            ["ipv6"] => Ok(Self(Some(Ipv6Place::Only))),
            ["ipv4", "ipv6"] => Ok(Self(Some(Ipv6Place::Second))),
            ["ipv6", "ipv4"] => Ok(Self(Some(Ipv6Place::First))),
            _ => Err(format!(
                "'{text}' is not one of ipv4, ipv6, ipv4,ipv6 and ipv6,ipv4"
            )),
        }
    }
}

impl std::fmt::Display for Families {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            None => "ipv4",
            Some(Ipv6Place::Only) => "ipv6",
            Some(Ipv6Place::Second) => "ipv4,ipv6",
            Some(Ipv6Place::First) => "ipv6,ipv4",
        })
    }
}

/// Address ranges, at most one per family, such as `10.244.0.0/16,fd00:10:244::/56`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cidrs {
    /// The range of IPv4.
    pub ipv4: Option<Ipv4Net>,
    /// The range of IPv6.
    pub ipv6: Option<Ipv6Net>,
}

impl FromStr for Cidrs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for part in text.split(',') {
            let range = part
                .trim()
                .parse::<IpNet>()
                .map_err(|_| format!("'{part}' is not an address range"))?;
            let again = match range {
                IpNet::V4(range) => found.ipv4.replace(range).is_some(),
                IpNet::V6(range) => found.ipv6.replace(range).is_some(),
            };
            if again {
                return Err(format!("'{text}' has two ranges of one family"));
            }
        }
        Ok(found)
    }
}

impl<'de> Deserialize<'de> for Cidrs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Errors that a visitor returns have the place of the text.
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Cidrs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("address ranges")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Cidrs, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_str(Text)
    }
}

impl std::fmt::Display for Cidrs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ipv4 = self.ipv4.map(|range| range.to_string());
        let ipv6 = self.ipv6.map(|range| range.to_string());
        let both: Vec<String> = ipv4.into_iter().chain(ipv6).collect();
        f.write_str(&both.join(","))
    }
}

/// What the options of a start say about IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6Options {
    /// The families; IPv4 alone when `None`.
    pub families: Option<Families>,
    /// Address range of pods.
    pub pods: Option<Ipv6Net>,
    /// Address range of services.
    pub services: Option<Ipv6Net>,
}

fn usage(message: String) -> Failure {
    Failure::new(Source::Program, Kind::Usage, message)
}

/// Returns the IPv6 ranges of a new cluster whose nodes have the IPv4 range `nodes`; `None` for one of
/// IPv4 alone.
///
/// # Errors
/// Fails for ranges of a family that the cluster does not have, that are too small or too large, or
/// that overlap, and with a driver that cannot have IPv6.
pub(crate) fn ranges(
    options: &StartOptions,
    driver: &str,
    nodes: Ipv4Net,
) -> Result<Option<Ipv6Ranges>, Failure> {
    let Ipv6Options {
        families,
        pods,
        services,
    } = options.ipv6;
    let Some(place) = families.and_then(|families| families.0) else {
        if let Some(range) = pods.or(services) {
            return Err(
                usage(format!("the cluster has no IPv6 addresses such as {range}"))
                    .advise("add --ip-families ipv4,ipv6, or leave that range out"),
            );
        }
        return Ok(None);
    };
    if driver == "qemu" {
        return Err(Failure::new(
            Source::Driver,
            Kind::Unsupported,
            "the driver qemu has clusters of IPv4 only".to_owned(),
        )
        .advise("leave --ip-families out, or use the driver native or docker"));
    }
    if driver == "native" {
        has_ipv6(Path::new("/proc/net/if_inet6"))?;
    }
    let parse = |text: &str| text.parse::<Ipv6Net>().expect("a constant range");
    let found = Ipv6Ranges {
        place,
        node_cidr: node_range(nodes),
        pod_cidr: pods.unwrap_or_else(|| parse(POD_RANGE)).trunc(),
        service_cidr: services.unwrap_or_else(|| parse(SERVICE_RANGE)).trunc(),
    };
    for (flag, range, lengths) in [
        (
            "--pod-network-cidr",
            found.pod_cidr,
            SHORTEST_POD_PREFIX..=NODE_POD_PREFIX,
        ),
        (
            "--service-cluster-ip-range",
            found.service_cidr,
            SERVICE_PREFIXES,
        ),
    ] {
        if !lengths.contains(&range.prefix_len()) {
            return Err(usage(format!(
                "{flag} {range}: a range of IPv6 can be a /{} to a /{}",
                lengths.start(),
                lengths.end()
            )));
        }
    }
    let all = [found.node_cidr, found.pod_cidr, found.service_cidr];
    for (i, a) in all.iter().enumerate() {
        let mut others = all[i + 1..].iter();
        if let Some(b) = others.find(|b| a.contains(*b) || b.contains(a)) {
            return Err(usage(format!(
                "the address ranges {a} and {b} overlap; nodes, pods and services need separate ranges"
            )));
        }
    }
    Ok(Some(found))
}

/// Fails if the kernel of this machine has no IPv6, which `addresses` would list.
fn has_ipv6(addresses: &Path) -> Result<(), Failure> {
    if addresses.exists() {
        return Ok(());
    }
    Err(Failure::new(
        Source::Host,
        Kind::Unsupported,
        "the kernel of this machine has no IPv6, which --ip-families asks for".to_owned(),
    )
    .advise("boot without ipv6.disable=1 or load the module ipv6, or leave --ip-families out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_ranges_are_read_and_shown() {
        for text in ["ipv4", "ipv6", "ipv4,ipv6", "ipv6,ipv4"] {
            assert_eq!(text.parse::<Families>().unwrap().to_string(), text);
        }
        for text in ["", "dual", "ipv4,ipv4", "ipv4,ipv6,ipv4"] {
            assert!(text.parse::<Families>().is_err(), "{text}");
        }
        let both: Cidrs = "fd00:10:244::/56,10.244.0.0/16".parse().unwrap();
        assert_eq!(both.to_string(), "10.244.0.0/16,fd00:10:244::/56");
        for text in ["", "10.0.0.0", "10.0.0.0/8,10.1.0.0/16", "x,fd00::/56"] {
            assert!(text.parse::<Cidrs>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_kernel_without_ipv6_is_refused() {
        assert!(has_ipv6(Path::new("/nowhere/if_inet6")).is_err());
        assert!(has_ipv6(Path::new("/")).is_ok());
    }
}
