//! The host's part of a cluster's network with the native driver.
//!
//! The nodes are attached to a bridge in the cluster's network namespace. A veth pair connects the
//! bridge to the host; the host's end has the gateway address. The table `rkube-<profile>`
//! masquerades traffic from the nodes to other networks. It also keeps other machines from opening
//! connections to the nodes. A cluster with IPv6 has a table of the same name for it. Forwarding is enabled if it was off, and disabled when the last
//! profile that needs it is removed.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::error::{NetworkError, Result};
use crate::netlink::{LinkRef, Netlink, Netns, Route, Veth, in_netns};
use crate::nft::{
    ChainKind, CmpOp, Data, Expr, Family, Hook, HookKind, NatKind, Nftables, Reg, Rule, Table,
    ct_state, priority,
};
use crate::{firewall, hash, sysctl};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

mod forwarding;

use self::forwarding::Forwarding;

/// Name of the cluster's end of the veth pair, a port of the nodes' bridge.
const CLUSTER_END: &str = "host0";

/// Configuration of a cluster's network on its host.
#[derive(Clone, Debug)]
pub struct HostNetworkConfig {
    /// The profile's name, from which the names of the interface and the table derive.
    pub profile: String,
    /// Name of the bridge in the cluster's namespace that all nodes are attached to.
    pub bridge_name: String,
    /// The host's address in `node_cidr`, by convention the first one.
    pub gateway: Ipv4Addr,
    /// Address range of nodes.
    pub node_cidr: Ipv4Net,
    /// The host's address among the nodes' IPv6 addresses, with the length of their range's prefix.
    pub ipv6: Option<Ipv6Net>,
    /// MTU of the host's interface, in bytes.
    pub mtu: u32,
    /// TCP ports on the host's loopback address that nodes reach at `gateway`, such as a registry
    /// that listens on 127.0.0.1 only. No other port is exposed.
    pub loopback_ports: Vec<u16>,
    /// Directory of the state that is needed to restore `ip_forward`. All profiles of the host
    /// share it.
    pub state_dir: PathBuf,
}

/// A cluster's interface and rules on its host, in the calling thread's network namespace.
#[derive(Clone, Debug)]
pub struct HostNetwork {
    config: HostNetworkConfig,
}

impl HostNetwork {
    /// Returns a handle without changing anything.
    pub fn new(config: HostNetworkConfig) -> Self {
        Self { config }
    }

    /// Returns the name of the host's interface: `rk-` and a hash of the profile, 13 characters.
    pub fn link_name(&self) -> String {
        format!(
            "rk-{:010x}",
            hash::fnv64(self.config.profile.as_bytes()) & 0xff_ffff_ffff
        )
    }

    /// Returns the name of the host's packet filter table, `rkube-<profile>`.
    pub fn table_name(&self) -> String {
        table_name(&self.config.profile)
    }

    /// Creates whatever is missing: the bridge in the cluster's namespace, the veth pair between it
    /// and the host, the host's address, the table and forwarding. Can be repeated.
    pub fn up(&self, cluster_netns: BorrowedFd<'_>) -> Result<()> {
        let config = &self.config;
        let host = Netlink::open()?;
        let cluster = in_netns(cluster_netns, || {
            // Frames between nodes must bypass the IP packet filter.
            for name in ["iptables", "ip6tables", "arptables"] {
                sysctl::write_if_present(&format!("net/bridge/bridge-nf-call-{name}"), "0")?;
            }
            Ok::<_, NetworkError>(Netlink::open()?)
        })??;
        let bridge = match cluster.link(&config.bridge_name)? {
            Some(link) => link.index,
            None => cluster.create_bridge(&config.bridge_name)?,
        };
        cluster.set_mtu(bridge, config.mtu)?;
        cluster.set_up(bridge)?;
        cluster.set_up("lo")?;

        let name = self.link_name();
        if cluster.link(CLUSTER_END)?.is_none() || host.link(&name)?.is_none() {
            // The remaining end of a killed predecessor leads to a deleted namespace.
            host.delete_link(&name)?;
            cluster.delete_link(CLUSTER_END)?;
            host.create_veth(&Veth {
                name: &name,
                mtu: Some(config.mtu),
                peer_name: CLUSTER_END,
                peer_netns: Some(Netns::Fd(cluster_netns)),
                ..Veth::default()
            })?;
        }
        cluster.set_master(CLUSTER_END, Some(LinkRef::Index(bridge)))?;
        cluster.set_up(CLUSTER_END)?;
        let address = Ipv4Net::new(config.gateway, config.node_cidr.prefix_len())
            .map_err(|error| NetworkError::Invalid(error.to_string()))?;
        host.add_address(&name, address)?;
        if let Some(ipv6) = config.ipv6 {
            sysctl::write(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
            // Nodes are no routers of the host.
            sysctl::write(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
            host.add_address(&name, ipv6)?;
        }
        host.set_up(&name)?;
        sysctl::write_if_present(&format!("net/ipv4/conf/{name}/rp_filter"), "2")?;
        if !config.loopback_ports.is_empty() {
            // Otherwise the kernel drops packets to 127.0.0.1 that arrive on an interface.
            sysctl::write_if_present(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
        }
        let nft = Nftables::open()?;
        nft.apply(None, &self.table())?;
        firewall::open(Family::Ip, &name, &self.table_name())?;
        Forwarding::new(&config.state_dir, Family::Ip).acquire(&config.profile)?;
        if let Some(ipv6) = config.ipv6 {
            // First, because `down` knows by it that there is more.
            Forwarding::new(&config.state_dir, Family::Ip6).acquire(&config.profile)?;
            nft.apply(None, &self.ipv6_table(ipv6))?;
            firewall::open(Family::Ip6, &name, &self.table_name())?;
        }
        Ok(())
    }

    /// Removes everything that [`Self::up`] created. Missing parts are ignored. Attempts every step
    /// and returns the first error.
    pub fn down(&self) -> Result<()> {
        let link = Netlink::open().and_then(|host| host.delete_link(&self.link_name()));
        let mut families = vec![Family::Ip];
        // A damaged profile does not say whether it had IPv6.
        let registered =
            Forwarding::new(&self.config.state_dir, Family::Ip6).has(&self.config.profile);
        let ipv6 = self.config.ipv6.is_some() || registered;
        families.extend(ipv6.then_some(Family::Ip6));
        let mut done = link.map(drop).map_err(NetworkError::from);
        for family in families {
            let table =
                Nftables::open().and_then(|nft| nft.delete_table(family, &self.table_name()));
            let filter = firewall::close(family, &self.table_name());
            let forwarding =
                Forwarding::new(&self.config.state_dir, family).release(&self.config.profile);
            done = done
                .and(table.map(drop).map_err(NetworkError::from))
                .and(filter)
                .and(forwarding);
        }
        done
    }

    /// Adds a host route to `destination` (the service or pod range) via a node. Succeeds if the
    /// same route exists; fails if the host has another route to the destination.
    pub fn route_add(&self, destination: impl Into<IpNet>, via: impl Into<IpAddr>) -> Result<()> {
        let host = Netlink::open()?;
        let route = self.route(&host, destination.into(), via.into())?;
        match host.add_route(&route) {
            Err(error) if error.is_exists() => {
                let ours = host.routes()?.iter().any(|found| {
                    found.destination == route.destination
                        && found.gateway == route.gateway
                        && found.link == route.link
                });
                if ours { Ok(()) } else { Err(error.into()) }
            }
            other => Ok(other?),
        }
    }

    /// Deletes a route added by [`Self::route_add`]. Returns whether it existed.
    pub fn route_del(&self, destination: impl Into<IpNet>, via: impl Into<IpAddr>) -> Result<bool> {
        let host = Netlink::open()?;
        if host.link(&self.link_name())?.is_none() {
            return Ok(false);
        }
        Ok(host.delete_route(&self.route(&host, destination.into(), via.into())?)?)
    }

    fn route(&self, host: &Netlink, destination: IpNet, via: IpAddr) -> Result<Route> {
        let link = host.index_of(&self.link_name())?;
        Ok(Route {
            link: Some(link),
            ..Route::via(destination.trunc(), via)
        })
    }

    /// Returns the packet filter table.
    fn table(&self) -> Table {
        let link = self.link_name();
        let mut table = Table::new(Family::Ip, self.table_name());
        masquerade(&mut table, &link, self.config.node_cidr.into());
        if !self.config.loopback_ports.is_empty() {
            // The sysctl route_localnet of the link is set, so the kernel would route packets to
            // any service on the host's loopback. Only the ports below are for the nodes.
            table.base_chain(
                "loopback-guard",
                Hook::new(ChainKind::Filter, HookKind::Prerouting, priority::RAW),
                vec![
                    Rule::new()
                        .in_link(CmpOp::Eq, &link)
                        .destination(CmpOp::Eq, LOOPBACK)
                        .drop()
                        .comment("nodes to the host's loopback"),
                ],
            );
            let gateway = Ipv4Net::from(self.config.gateway);
            let address = Reg::word(0);
            table.base_chain(
                "prerouting",
                Hook::new(ChainKind::Nat, HookKind::Prerouting, priority::DNAT),
                self.config
                    .loopback_ports
                    .iter()
                    .map(|port| {
                        Rule::new()
                            .in_link(CmpOp::Eq, &link)
                            .destination(CmpOp::Eq, gateway)
                            .protocol(libc::IPPROTO_TCP as u8)
                            .destination_port(*port)
                            .expr(Expr::Immediate(address, Data::ip(Ipv4Addr::LOCALHOST)))
                            .expr(Expr::Nat {
                                kind: NatKind::Destination,
                                address,
                                port: None,
                            })
                            .comment("nodes to a port of the host's loopback")
                    })
                    .collect(),
            );
        }
        keep_out(&mut table, &link);
        table
    }

    /// Returns the packet filter table of IPv6. Without services on the host's loopback: the kernel
    /// does not route its address.
    fn ipv6_table(&self, ipv6: Ipv6Net) -> Table {
        let link = self.link_name();
        let mut table = Table::new(Family::Ip6, self.table_name());
        masquerade(&mut table, &link, ipv6.trunc().into());
        keep_out(&mut table, &link);
        table
    }
}

/// Adds the chain that gives packets of `nodes` to other networks the host's address.
fn masquerade(table: &mut Table, link: &str, nodes: IpNet) {
    table.base_chain(
        "postrouting",
        Hook::new(ChainKind::Nat, HookKind::Postrouting, priority::SNAT),
        vec![
            Rule::new()
                .source(CmpOp::Eq, nodes)
                .out_link(CmpOp::Ne, link)
                .expr(Expr::Masquerade {
                    fully_random: false,
                })
                .comment("nodes to elsewhere"),
        ],
    );
}

/// Adds the chain that drops connections of other machines to nodes.
fn keep_out(table: &mut Table, link: &str) {
    table.base_chain(
        "forward",
        Hook::new(ChainKind::Filter, HookKind::Forward, priority::FILTER),
        vec![
            Rule::new()
                .out_link(CmpOp::Eq, link)
                .ct_state(ct_state::ESTABLISHED | ct_state::RELATED)
                .accept(),
            Rule::new()
                .in_link(CmpOp::Ne, link)
                .out_link(CmpOp::Eq, link)
                .drop()
                .comment("other machines to nodes"),
        ],
    );
}

/// Drops everything that the host would forward to or from `link`, the interface of a cluster's
/// machines, in the table `rkube-<profile>`. Can be repeated.
pub fn isolate(profile: &str, link: &str) -> Result<()> {
    let mut table = Table::new(Family::Ip, table_name(profile));
    table.base_chain(
        "forward",
        Hook::new(ChainKind::Filter, HookKind::Forward, priority::FILTER),
        vec![
            Rule::new()
                .in_link(CmpOp::Eq, link)
                .drop()
                .comment("machines to elsewhere"),
            Rule::new()
                .out_link(CmpOp::Eq, link)
                .drop()
                .comment("elsewhere to machines"),
        ],
    );
    Nftables::open()?.apply(None, &table)?;
    Ok(())
}

/// Removes the rules of [`isolate`]. Succeeds if there are none.
pub fn release(profile: &str) -> Result<()> {
    Nftables::open()?.delete_table(Family::Ip, &table_name(profile))?;
    Ok(())
}

fn table_name(profile: &str) -> String {
    format!("rkube-{profile}")
}

/// The addresses of the loopback interface.
const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// Returns the first of `candidates` that overlaps no address and no route of the host, except
/// default routes and those of the interfaces `ignore_links`.
pub fn find_free_range(candidates: &[Ipv4Net], ignore_links: &[&str]) -> Result<Option<Ipv4Net>> {
    let taken = taken_ranges(ignore_links)?;
    Ok(candidates
        .iter()
        .copied()
        .find(|range| conflict(*range, &taken).is_none()))
}

/// Describes the host's address or route that overlaps `range`, if any.
pub fn range_conflict(range: Ipv4Net, ignore_links: &[&str]) -> Result<Option<String>> {
    Ok(conflict(range, &taken_ranges(ignore_links)?).map(|(net, what)| format!("{what} ({net})")))
}

/// Returns the first of the `taken` ranges that overlaps `range`.
fn conflict(range: Ipv4Net, taken: &[(Ipv4Net, String)]) -> Option<&(Ipv4Net, String)> {
    taken
        .iter()
        .find(|(net, _)| net.contains(&range) || range.contains(net))
}

/// Returns the host's ranges with a description of their owner.
fn taken_ranges(ignore_links: &[&str]) -> Result<Vec<(Ipv4Net, String)>> {
    let host = Netlink::open()?;
    let links = host.links()?;
    let name = |index: u32| {
        links
            .iter()
            .find(|link| link.index == index)
            .map_or("?", |link| link.name.as_str())
    };
    let mut taken = Vec::new();
    for address in host.addresses()? {
        if let IpNet::V4(net) = address.net
            && !ignore_links.contains(&name(address.link))
        {
            taken.push((
                net.trunc(),
                format!("the address of link {}", name(address.link)),
            ));
        }
    }
    for route in host.routes()? {
        let link = route.link.map(name);
        if let IpNet::V4(net) = route.destination
            && net.prefix_len() > 0
            && !link.is_some_and(|link| ignore_links.contains(&link))
        {
            let by = link
                .map(|link| format!(" over link {link}"))
                .unwrap_or_default();
            taken.push((net.trunc(), format!("a route{by}")));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;
    use crate::netlink::new_netns;
    use crate::testing::root;

    fn config(profile: &str, state_dir: &Path) -> HostNetworkConfig {
        HostNetworkConfig {
            loopback_ports: vec![5000],
            profile: profile.into(),
            bridge_name: "nodes".into(),
            gateway: Ipv4Addr::new(10, 66, 0, 1),
            node_cidr: "10.66.0.0/24".parse().unwrap(),
            ipv6: None,
            mtu: 1500,
            state_dir: state_dir.to_owned(),
        }
    }

    #[test]
    fn names_fit_and_differ() {
        let dir = Path::new("/nowhere");
        let long = "a-profile-with-a-rather-long-name".to_owned();
        let a = HostNetwork::new(config(&long, dir)).link_name();
        let b = HostNetwork::new(config("rkube", dir)).link_name();
        assert!(a.len() <= 15 && b.len() <= 15 && a != b);
    }

    #[test]
    fn the_hosts_loopback_is_guarded_where_it_is_routed() {
        let dir = Path::new("/nowhere");
        let guards = |ports: &[u16]| {
            let mut config = config("one", dir);
            config.loopback_ports = ports.to_vec();
            let table = HostNetwork::new(config).table();
            format!("{table:?}").contains("loopback-guard")
        };
        assert!(guards(&[5000]));
        assert!(!guards(&[]));
    }

    #[test]
    fn a_loopback_service_is_out_of_reach_of_nodes() {
        use std::net::TcpListener;

        if !root() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let (host, cluster) = (new_netns().unwrap(), new_netns().unwrap());
        let mut config = config("guard", state.path());
        let secret = in_netns(host.as_fd(), || {
            Netlink::open().unwrap().set_up("lo").unwrap();
            let declared = TcpListener::bind("127.0.0.1:0").unwrap();
            config.loopback_ports = vec![declared.local_addr().unwrap().port()];
            HostNetwork::new(config.clone())
                .up(cluster.as_fd())
                .unwrap();
            (declared, TcpListener::bind("127.0.0.5:0").unwrap())
        })
        .unwrap();
        let (declared, secret) = secret;
        in_netns(cluster.as_fd(), || {
            let nl = Netlink::open().unwrap();
            let own = Ipv4Net::new(Ipv4Addr::new(10, 66, 0, 9), 24).unwrap();
            nl.add_address("nodes", own).unwrap();
            sysctl::write("net/ipv4/conf/nodes/route_localnet", "1").unwrap();
            nl.delete_address("lo", Ipv4Net::new(Ipv4Addr::LOCALHOST, 8).unwrap())
                .unwrap();
            let to_host = Route {
                link: Some(nl.index_of("nodes").unwrap()),
                ..Route::via(Ipv4Net::from(Ipv4Addr::new(127, 0, 0, 5)), config.gateway)
            };
            nl.add_route(&to_host).unwrap();
            let wait = std::time::Duration::from_millis(500);
            let ask = |ip: Ipv4Addr, port: u16| {
                std::net::TcpStream::connect_timeout(&(ip, port).into(), wait)
            };
            let port = declared.local_addr().unwrap().port();
            ask(config.gateway, port).unwrap();
            let port = secret.local_addr().unwrap().port();
            let error = ask(Ipv4Addr::new(127, 0, 0, 5), port).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        })
        .unwrap();
        in_netns(host.as_fd(), || {
            HostNetwork::new(config.clone()).down().unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_link_is_isolated_and_released() {
        if !root() {
            return;
        }
        let netns = new_netns().unwrap();
        in_netns(netns.as_fd(), || {
            isolate("one", "rk-0a").unwrap();
            isolate("one", "rk-0a").unwrap();
            let nft = Nftables::open().unwrap();
            assert_eq!(nft.tables(Family::Ip).unwrap(), ["rkube-one"]);
            release("one").unwrap();
            release("one").unwrap();
            assert!(nft.tables(Family::Ip).unwrap().is_empty());
        })
        .unwrap();
    }

    #[test]
    fn ipv6_is_set_up_and_taken_down_as_well() {
        if !root() || !Path::new("/proc/net/if_inet6").exists() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let (host, cluster) = (new_netns().unwrap(), new_netns().unwrap());
        in_netns(host.as_fd(), || {
            let forwards = || sysctl::read("net/ipv6/conf/all/forwarding").unwrap();
            assert_eq!(forwards(), "0");
            let mut config = config("six", state.path());
            config.ipv6 = Some("fd72::1/64".parse().unwrap());
            let one = HostNetwork::new(config);
            one.up(cluster.as_fd()).unwrap();
            one.up(cluster.as_fd()).unwrap();
            assert_eq!(forwards(), "1");
            let nft = Nftables::open().unwrap();
            assert_eq!(nft.tables(Family::Ip6).unwrap(), ["rkube-six"]);
            one.down().unwrap();
            assert_eq!(forwards(), "0");
            assert!(nft.tables(Family::Ip6).unwrap().is_empty());
            assert!(!state.path().join("ip6-forward").exists());
        })
        .unwrap();
    }

    #[test]
    fn up_and_down_leave_nothing_behind() {
        if !root() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let (host, cluster) = (new_netns().unwrap(), new_netns().unwrap());
        in_netns(host.as_fd(), || {
            sysctl::write("net/ipv4/ip_forward", "0").unwrap();
            let one = HostNetwork::new(config("one", state.path()));
            one.up(cluster.as_fd()).unwrap();
            one.up(cluster.as_fd()).unwrap();
            assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "1");
            let nl = Netlink::open().unwrap();
            let link = nl.link(&one.link_name()).unwrap().unwrap();
            assert!(link.up);
            let nft = Nftables::open().unwrap();
            assert_eq!(nft.tables(Family::Ip).unwrap(), ["rkube-one"]);

            let range: Ipv4Net = "10.66.0.0/16".parse().unwrap();
            let free: Ipv4Net = "10.67.0.0/16".parse().unwrap();
            assert_eq!(find_free_range(&[range, free], &[]).unwrap(), Some(free));
            assert_eq!(
                find_free_range(&[range], &[&one.link_name()]).unwrap(),
                Some(range)
            );
            let words = range_conflict(range, &[]).unwrap().unwrap();
            assert!(words.contains(&one.link_name()), "{words}");

            let services: Ipv4Net = "10.96.0.0/12".parse().unwrap();
            let node = Ipv4Addr::new(10, 66, 0, 2);
            one.route_add(services, node).unwrap();
            one.route_add(services, node).unwrap();
            assert!(
                one.route_add(services, Ipv4Addr::new(10, 66, 0, 3))
                    .is_err()
            );
            assert!(one.route_del(services, node).unwrap());
            assert!(!one.route_del(services, node).unwrap());

            // A second profile keeps forwarding enabled until it is removed as well.
            Forwarding::new(state.path(), Family::Ip)
                .acquire("two")
                .unwrap();
            one.down().unwrap();
            one.down().unwrap();
            assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "1");
            assert!(nl.link(&one.link_name()).unwrap().is_none());
            assert!(nft.tables(Family::Ip).unwrap().is_empty());
            Forwarding::new(state.path(), Family::Ip)
                .release("two")
                .unwrap();
            assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "0");
            assert!(!state.path().join("ip-forward").exists());
        })
        .unwrap();
    }
}
