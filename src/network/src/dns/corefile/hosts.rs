//! The plugin `hosts`: names and addresses in the Corefile.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_proto::rr::Name;

use super::build::{zone, zones_or_all};
use super::lex::Directive;
use super::types::Problem;

/// Default time to live, in seconds.
const TTL: u32 = 3600;

/// Names and their addresses.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Hosts {
    /// Time to live of records, in seconds.
    pub ttl: u32,
    /// Addresses by name, in lower case.
    pub by_name: BTreeMap<Name, Vec<IpAddr>>,
    /// Names by address; empty with `no_reverse`.
    pub by_address: BTreeMap<IpAddr, Vec<Name>>,
    /// Zones whose other names are left to the next plugins.
    pub fallthrough: Vec<Name>,
}

impl Hosts {
    /// Reads the plugin.
    pub(super) fn read(directive: &Directive) -> Result<Self, Problem> {
        let line = &directive.line;
        if let Some(file) = line.split().1.first() {
            return Err(line.problem(format!(
                "files of hosts are not supported ('{file}'); write the names in the block"
            )));
        }
        let mut hosts = Self {
            ttl: TTL,
            ..Self::default()
        };
        let mut reverse = true;
        for inner in &directive.body {
            let (first, rest) = inner.split();
            match first {
                "ttl" => {
                    let [text] = rest else {
                        return Err(inner.count());
                    };
                    let ttl = text.parse().ok().filter(|ttl| (1..=65535).contains(ttl));
                    hosts.ttl = ttl.ok_or_else(|| {
                        inner.problem(format!("ttl must be a number from 1 to 65535: {text}"))
                    })?;
                }
                "no_reverse" if rest.is_empty() => reverse = false,
                "fallthrough" => hosts.fallthrough = zones_or_all(inner, rest)?,
                address => {
                    let Ok(ip) = address.parse::<IpAddr>() else {
                        return Err(inner.problem(format!("unknown property '{address}'")));
                    };
                    if rest.is_empty() {
                        return Err(inner.count());
                    }
                    for text in rest {
                        let name = zone(inner, text)?;
                        hosts.by_name.entry(name.clone()).or_default().push(ip);
                        hosts.by_address.entry(ip).or_default().push(name);
                    }
                }
            }
        }
        if !reverse {
            hosts.by_address.clear();
        }
        Ok(hosts)
    }

    /// Whether names that are not here are left to the next plugins.
    pub fn falls_through(&self, name: &Name) -> bool {
        self.fallthrough.iter().any(|zone| zone.zone_of(name))
    }
}
