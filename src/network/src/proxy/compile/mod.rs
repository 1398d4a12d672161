//! Compilation of services to rules.
//!
//! The table follows the layout of kube-proxy's nftables mode. Verdict maps lead from address,
//! protocol and port to one chain per service port. That chain translates the destination to a
//! random endpoint, or with session affinity to the client's previous one:
//!
//! ```text
//! nat prerouting, output ─ services ─ @service-ips, @service-nodeports
//!     ├─ service-…   (any endpoint)           ─ dnat to one of @endpoints
//!     ├─ local-…     (endpoints on this node) ─ dnat to one of @endpoints
//!     └─ external-…  (mark for masquerading)  ─ service-… or local-…
//! filter prerouting, output ─ firewall ─ @firewall-ips ─ firewall-…
//! filter input, forward, output ─ no-endpoints ─ @no-endpoint-ips, @no-endpoint-nodeports
//! filter forward, output (translated) ─ cluster-ips: reject ports that no service has
//! nat postrouting ─ masquerade what is marked, and pods that reach themselves
//! ```
//!
//! The endpoints of all services are in one map, keyed by the chain's hash and a number. A change
//! of endpoints therefore only changes elements. The kernel looks up elements by hash, but chains
//! and sets linearly when it loads rules. Services with session affinity have one chain and one set
//! of clients per endpoint (`endpoint-…`, `affinity-…`). IPv4 and IPv6 have a table each, of the
//! same layout.

mod base;
mod port;
mod rules;
mod types;

use std::collections::BTreeMap;

pub use types::{HealthCheck, Ruleset, UdpBackends, UdpEndpoints};

use self::base::{base_chains, refusal_chain};
use self::port::Port;
use self::types::Maps;
use super::state::ServiceState;
use super::types::ProxyConfig;
use crate::nft::{Family, Table};

/// Name of the service proxy's table.
pub const TABLE: &str = "rkube-proxy";

/// Compiles services to rules, without I/O. Services on [`ProxyConfig::local_ips`] are left out.
pub fn compile(state: &ServiceState, config: &ProxyConfig) -> Ruleset {
    let mut rules = Ruleset {
        tables: Vec::new(),
        health_checks: BTreeMap::new(),
        udp: UdpBackends::default(),
    };
    for (family, cluster_cidr) in config.families() {
        let mut table = Table::new(family, TABLE);
        let refuse = refusal_chain(&mut table);
        let mut maps = Maps::default();
        for service in &state.ports {
            let ip = service.cluster_ip;
            if Family::of(ip) == family && !config.local_ips.contains(&ip) {
                Port::new(
                    service,
                    config,
                    cluster_cidr,
                    state.zone.as_deref(),
                    &refuse,
                )
                .compile(&mut table, &mut rules, &mut maps);
            }
        }
        let load_balancers = config.load_balancers.filter(|_| family == Family::Ip);
        base_chains(&mut table, maps, load_balancers, &refuse);
        rules.tables.push(table);
    }
    rules
}
