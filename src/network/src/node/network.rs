//! The bridge, interfaces, addresses and routes of a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use parking_lot::Mutex;

use super::state::{self, State};
use super::types::{AttachPod, Ipv6Config, NetworkConfig, PodNetwork, Side, mac_of, same_place};
use super::{guard, rules};
use crate::error::{NetworkError, Result};
use crate::netlink::{Link, Netlink, Netns, Route, Veth, in_netns, open_netns};
use crate::nft::{Nftables, Table};
use crate::{hash, sysctl};

/// Origin (`rtm_protocol`) of the routes of this module. Others are never deleted.
const ROUTE_PROTOCOL: u8 = 82;
/// Prefix of the names of pods' interfaces on the node.
const LINK_PREFIX: &str = "rkp";
/// Name of the interface in the pod.
const POD_LINK: &str = "eth0";

/// Interval of the checks whether the bridge forwards a new interface's frames.
const PORT_POLL_PERIOD: Duration = Duration::from_micros(200);
/// Maximum number of these checks, which bounds the wait to about 50 ms.
const MAX_PORT_POLLS: u32 = 250;

/// A node's network. Clones share the same network. All calls block, usually for a few milliseconds
/// at most.
#[derive(Clone)]
pub struct NodeNetwork {
    inner: Arc<Inner>,
}

/// The state shared by all clones of a network.
struct Inner {
    config: NetworkConfig,
    netlink: Netlink,
    nft: Nftables,
    state: Mutex<State>,
    /// The tables of both families as last applied; `None` before `setup`.
    tables: Mutex<[Option<Table>; 2]>,
    guard: Mutex<Guard>,
}

/// The table that checks what pods send.
enum Guard {
    /// As last applied; `None` if unknown.
    Table(Option<Table>),
    /// The kernel cannot filter frames.
    Unsupported,
}

impl NodeNetwork {
    /// Opens the network in the calling thread's namespace. Restores the attachments that an
    /// earlier run recorded in `state_dir`. Fails if the pod range is smaller than /29.
    pub fn new(config: NetworkConfig) -> Result<Self> {
        if config.pod_cidr.prefix_len() > 29 {
            return Err(NetworkError::Invalid(format!(
                "the pod range {} is too small: at most /29 is possible",
                config.pod_cidr
            )));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                netlink: Netlink::open()?,
                nft: Nftables::open()?,
                state: Mutex::new(State::open(
                    &config.state_dir,
                    config.pod_cidr,
                    config.ipv6.map(|ipv6| ipv6.pod_cidr),
                )?),
                tables: Mutex::new([None, None]),
                guard: Mutex::new(Guard::Table(None)),
                config,
            }),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &NetworkConfig {
        &self.inner.config
    }

    /// Returns the bridge's address, the first of the pod range and the gateway of every pod.
    pub fn gateway(&self) -> Ipv4Addr {
        state::gateway(self.inner.config.pod_cidr)
    }

    /// Creates the bridge, sets kernel parameters and applies the base rules. Can be repeated. Must
    /// run in the namespace that the network was opened in.
    pub fn setup(&self) -> Result<()> {
        let Inner {
            config, netlink, ..
        } = &*self.inner;
        // The kernel uses the larger of "all" and the interface's value. Loose mode (2) is needed,
        // as packets for services may arrive and leave on different interfaces.
        sysctl::write("net/ipv4/conf/all/rp_filter", "2")?;
        sysctl::write("net/ipv4/conf/all/send_redirects", "0")?;
        sysctl::write("net/ipv4/conf/default/send_redirects", "0")?;
        // The nodes' ends of pod interfaces have no addresses, so skip their autoconfiguration.
        sysctl::write_if_present("net/ipv6/conf/default/disable_ipv6", "1")?;
        sysctl::write("net/ipv4/ip_forward", "1")?;
        for name in ["iptables", "ip6tables", "arptables"] {
            sysctl::write_if_present(&format!("net/bridge/bridge-nf-call-{name}"), "0")?;
        }
        // Out-of-window packets must not be marked invalid on translated connections: they would
        // reach the pod untranslated and be answered with a reset.
        sysctl::write_if_present("net/netfilter/nf_conntrack_tcp_be_liberal", "1")?;

        netlink.set_up("lo")?;
        let bridge = match netlink.link(&config.bridge)? {
            Some(link) => link.index,
            None => netlink.create_bridge(&config.bridge)?,
        };
        // Without an explicit hardware address, a bridge uses one of its ports' and changes it as
        // ports are added and removed.
        let gateway = self.gateway();
        netlink.set_mac(bridge, mac_of(gateway))?;
        if let Err(error) = netlink.learn_no_link_local(bridge) {
            tracing::warn!(%error, "a pod can have frames for another pod sent to itself");
        }
        netlink.set_mtu(bridge, config.mtu)?;
        netlink.add_address(bridge, with_prefix(gateway, config.pod_cidr))?;
        netlink.set_up(bridge)?;
        let name = &config.bridge;
        sysctl::write(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
        // For host ports on 127.0.0.1. The rules keep pods from the node's own loopback.
        sysctl::write(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;

        // The node's own connections to service addresses need a route and a source address before
        // their destination is translated.
        if let Some(uplink) = netlink.link(&config.uplink)?.filter(|link| link.up) {
            netlink.replace_route(&Route {
                source: Some(config.node_ip.into()),
                protocol: ROUTE_PROTOCOL,
                ..Route::on_link(config.service_cidr.trunc(), uplink.index)
            })?;
        }
        if let Some(ipv6) = &config.ipv6 {
            self.set_up_ipv6(bridge, ipv6)?;
        }
        *self.inner.tables.lock() = [None, None];
        self.apply_rules()?;
        self.set_up_guard()
    }

    /// Gives the bridge its IPv6 address, and the node the route to services.
    fn set_up_ipv6(&self, bridge: u32, ipv6: &Ipv6Config) -> Result<()> {
        let Inner {
            config, netlink, ..
        } = &*self.inner;
        sysctl::write("net/ipv6/conf/all/forwarding", "1")?;
        let name = &config.bridge;
        for (key, value) in [
            ("accept_dad", "0"),
            ("accept_ra", "0"),
            ("disable_ipv6", "0"),
        ] {
            sysctl::write(&format!("net/ipv6/conf/{name}/{key}"), value)?;
        }
        let gateway = gateway_of(config, ipv6);
        netlink.add_address(
            bridge,
            Ipv6Net::new_assert(gateway, ipv6.pod_cidr.prefix_len()),
        )?;
        if let Some(uplink) = netlink.link(&config.uplink)?.filter(|link| link.up) {
            netlink.replace_route(&Route {
                source: Some(ipv6.node_ip.into()),
                protocol: ROUTE_PROTOCOL,
                ..Route::on_link(ipv6.service_cidr.trunc(), uplink.index)
            })?;
        }
        Ok(())
    }

    /// Guards the attached pods, or finds out that the kernel cannot.
    fn set_up_guard(&self) -> Result<()> {
        *self.inner.guard.lock() = Guard::Table(None);
        match self.apply_guard() {
            Err(NetworkError::Netlink(error)) if guard::is_unsupported(&error) => {
                tracing::warn!(
                    %error,
                    "the kernel has no packet filter for bridges (CONFIG_NF_TABLES_BRIDGE): a pod can send with the address of another pod of its node"
                );
                *self.inner.guard.lock() = Guard::Unsupported;
                Ok(())
            }
            other => other,
        }
    }

    /// Adds a single address to the node's loopback interface, such as the cluster DNS address.
    pub fn add_local_address(&self, ip: IpAddr) -> Result<()> {
        Ok(self.inner.netlink.add_address("lo", IpNet::from(ip))?)
    }

    /// Attaches a pod: creates its `eth0` and allocates an address. Returns the existing attachment
    /// if the sandbox is already attached. On failure, nothing is left attached.
    pub fn attach_pod(&self, pod: &AttachPod) -> Result<PodNetwork> {
        let Inner {
            config,
            netlink,
            state,
            ..
        } = &*self.inner;
        let netns = open_netns(&pod.netns)?;
        if pod.bandwidth.is_some() {
            tracing::warn!(
                sandbox = pod.sandbox_id,
                "bandwidth limits of pods are not enforced yet"
            );
        }
        let host_link = host_link(&pod.sandbox_id);
        // Recorded first, so that `retain` cleans up after a crash from here on.
        let (record, known) =
            state
                .lock()
                .allocate(&pod.sandbox_id, &host_link, &pod.host_ports)?;
        if known && netlink.link(&host_link)?.is_some() {
            return Ok(record);
        }
        // Guarded first: what the pod sends before would be lost, and ARP retries after a second.
        let made = self
            .apply_guard()
            .and_then(|()| self.make_link(netns.as_fd(), &record));
        let attached = made.and_then(|()| {
            if pod.host_ports.is_empty() {
                Ok(())
            } else {
                self.apply_rules()
            }
        });
        if let Err(error) = attached {
            if let Err(again) = self.detach_pod(&pod.sandbox_id) {
                tracing::warn!(sandbox = pod.sandbox_id, error = %again, "cannot undo a failed attachment");
            }
            return Err(error);
        }
        tracing::debug!(sandbox = pod.sandbox_id, ip = %record.ip, link = host_link, mtu = config.mtu, "attached");
        Ok(record)
    }

    /// Creates the pod's veth pair with address and routes. Waits until the bridge forwards its
    /// frames.
    fn make_link(&self, netns: BorrowedFd<'_>, pod: &PodNetwork) -> Result<()> {
        let Inner {
            config, netlink, ..
        } = &*self.inner;
        let veth = Veth {
            name: &pod.host_link,
            master: Some(netlink.index_of(&config.bridge)?),
            mtu: Some(config.mtu),
            up: true,
            peer_name: POD_LINK,
            peer_mac: Some(pod.mac),
            peer_netns: Some(Netns::Fd(netns)),
            ..Veth::default()
        };
        if let Err(error) = netlink.create_veth(&veth) {
            // The name derives from the sandbox, so this is its interface from before a crash.
            if !(error.is_exists() && netlink.delete_link(&pod.host_link)?) {
                return Err(error.into());
            }
            netlink.create_veth(&veth)?;
        }
        // Neighbours are reached through the gateway only. Otherwise frames between them, such as of
        // IPv6 or with forged addresses, would bypass the packet filter.
        netlink.set_isolated(&pod.host_link, true)?;
        in_netns(netns, || -> Result<()> {
            let inside = Netlink::open()?;
            inside.set_up("lo")?;
            let eth0 = inside.index_of(POD_LINK)?;
            let ipv6 = config.ipv6.as_ref().zip(pod.ipv6);
            if ipv6.is_some() {
                // No two pods have the same address, and the bridge sends no advertisements.
                for key in ["accept_dad", "accept_ra"] {
                    sysctl::write(&format!("net/ipv6/conf/{POD_LINK}/{key}"), "0")?;
                }
            }
            inside.set_up(eth0)?;
            if config.ipv4_pods {
                inside.add_address_without_route(eth0, with_prefix(pod.ip, config.pod_cidr))?;
                inside.add_route(&Route::on_link(Ipv4Net::from(pod.gateway), eth0))?;
                inside.add_route(&Route {
                    link: Some(eth0),
                    ..Route::via(Ipv4Net::default(), pod.gateway)
                })?;
            }
            if let Some((ipv6, ip)) = ipv6 {
                add_ipv6(&inside, eth0, ip, gateway_of(config, ipv6), ipv6)?;
            }
            Ok(())
        })??;
        // Frames sent before the port forwards are lost, and ARP retries only after a second.
        for _ in 0..MAX_PORT_POLLS {
            if netlink
                .link(&pod.host_link)?
                .is_none_or(|link| link.forwarding)
            {
                break;
            }
            std::thread::sleep(PORT_POLL_PERIOD);
        }
        Ok(())
    }

    /// Removes a pod's interface, host ports and address. Succeeds if the sandbox is unknown.
    pub fn detach_pod(&self, sandbox_id: &str) -> Result<()> {
        let Inner { netlink, state, .. } = &*self.inner;
        // Deleted explicitly, because the kernel cleans up a namespace with a delay.
        netlink.delete_link(&host_link(sandbox_id))?;
        let Some(pod) = state.lock().release(sandbox_id)? else {
            return Ok(());
        };
        let guarded = self.apply_guard();
        // Whatever becomes of the guard: the next pod with this address must not get the ports.
        let forwarded = if pod.host_ports.is_empty() {
            Ok(())
        } else {
            self.apply_rules()
        };
        guarded.and(forwarded)
    }

    /// Returns the attachment of a sandbox.
    pub fn pod(&self, sandbox_id: &str) -> Option<PodNetwork> {
        self.inner
            .state
            .lock()
            .pods()
            .find(|pod| pod.sandbox_id == sandbox_id)
            .cloned()
    }

    /// Returns all attachments.
    pub fn pods(&self) -> Vec<PodNetwork> {
        self.inner.state.lock().pods().cloned().collect()
    }

    /// Detaches all sandboxes for which `live` returns false, and deletes pod interfaces without an
    /// attachment. Returns the number of both.
    pub fn retain(&self, live: impl Fn(&str) -> bool) -> Result<usize> {
        let Inner { netlink, state, .. } = &*self.inner;
        let dead: Vec<String> = state
            .lock()
            .pods()
            .filter(|pod| !live(&pod.sandbox_id))
            .map(|pod| pod.sandbox_id.clone())
            .collect();
        for sandbox_id in &dead {
            self.detach_pod(sandbox_id)?;
        }
        let links = netlink.links()?;
        // Locked during the deletion, so that an interface being attached is not taken for a stray.
        let state = state.lock();
        let stray = |link: &&Link| {
            link.name.starts_with(LINK_PREFIX)
                && !state.pods().any(|pod| pod.host_link == link.name)
        };
        let mut count = dead.len();
        for link in links.iter().filter(stray) {
            count += usize::from(netlink.delete_link(&link.name)?);
        }
        Ok(count)
    }

    /// Makes the routes to other nodes' pod ranges (range, node address) exactly `routes`. Entries
    /// for this node are ignored.
    pub fn set_routes(&self, routes: &[(IpNet, IpAddr)]) -> Result<()> {
        let Inner {
            config,
            netlink,
            state,
            ..
        } = &*self.inner;
        let routes = acceptable_routes(config, routes);
        let wanted = || routes.iter().copied();
        let mut there = Vec::new();
        for route in netlink.routes()? {
            let net = route.destination;
            if route.protocol != ROUTE_PROTOCOL || route.gateway.is_none() {
                continue;
            }
            if wanted().any(|(wanted, via)| wanted == net && route.gateway == Some(via)) {
                there.push(net);
            } else {
                netlink.delete_route(&route)?;
            }
        }
        for (net, via) in wanted().filter(|(net, _)| !there.contains(net)) {
            netlink.replace_route(&Route {
                protocol: ROUTE_PROTOCOL,
                ..Route::via(net, via)
            })?;
        }
        let mut peers: Vec<IpAddr> = wanted().map(|(_, via)| via).collect();
        peers.sort_unstable();
        peers.dedup();
        state.lock().peers = peers;
        // Writes nothing if the rules are as they should be. They may not be after a failure.
        self.apply_rules()
    }

    /// Makes the guard know the current pods.
    fn apply_guard(&self) -> Result<()> {
        // Locked before the state is read, so that the latest state is written last.
        let mut guard = self.inner.guard.lock();
        let Guard::Table(known) = &mut *guard else {
            return Ok(());
        };
        let wanted = {
            let ipv4 = self.inner.config.ipv4_pods;
            guard::table(LINK_PREFIX, ipv4, self.inner.state.lock().pods())
        };
        self.replace(known, wanted)
    }

    /// Applies the base tables for the current pods and peers.
    fn apply_rules(&self) -> Result<()> {
        let Inner {
            config,
            state,
            tables,
            ..
        } = &*self.inner;
        // Locked before the state is read, so that the latest state is written last.
        let mut tables = tables.lock();
        for (side, table) in config.sides().zip(&mut *tables) {
            let wanted = {
                let state = state.lock();
                rules::base_table(config, &side, &state.peers, state.pods())
            };
            self.replace(table, wanted)?;
        }
        Ok(())
    }

    /// Replaces a table by `wanted`. `known` is the table as last applied.
    fn replace(&self, known: &mut Option<Table>, wanted: Table) -> Result<()> {
        let nft = &self.inner.nft;
        // Unknown until the transaction is complete.
        let old = known.take();
        match nft.apply(old.as_ref(), &wanted) {
            Ok(_) => {}
            // Another program changed or flushed the table, so replace it.
            Err(error) if old.is_some() => {
                tracing::warn!(%error, "the node's rules are not as left; replacing them");
                nft.apply(None, &wanted)?;
            }
            Err(error) => return Err(error.into()),
        }
        *known = Some(wanted);
        Ok(())
    }
}

/// Returns the routes to other nodes. Leaves out those that would lead traffic astray: to ranges
/// outside the pods' or that overlap this node's, and over machines outside the nodes' range.
fn acceptable_routes(config: &NetworkConfig, routes: &[(IpNet, IpAddr)]) -> Vec<(IpNet, IpAddr)> {
    let sides: Vec<Side> = config.sides().collect();
    let mut accepted = Vec::new();
    for (net, via) in routes {
        let net = net.trunc();
        if sides
            .iter()
            .any(|side| side.pod_cidr == net || side.node_ip == *via)
        {
            continue;
        }
        let fits = |side: &Side| {
            let own = side.pod_cidr;
            let overlaps = net.contains(&own) || own.contains(&net);
            !overlaps && side.cluster_cidr.contains(&net) && side.node_cidr.contains(via)
        };
        if !sides.iter().any(fits) {
            tracing::warn!(range = %net, %via, "a node's addresses are not the cluster's; no route to it");
            continue;
        }
        accepted.push((net, *via));
    }
    accepted
}

/// Returns the name of a sandbox's interface on the node, derived from its ID.
fn host_link(sandbox_id: &str) -> String {
    format!(
        "{LINK_PREFIX}{:012x}",
        hash::fnv64(sandbox_id.as_bytes()) & 0xffff_ffff_ffff
    )
}

/// Returns the bridge's IPv6 address.
fn gateway_of(config: &NetworkConfig, ipv6: &Ipv6Config) -> Ipv6Addr {
    same_place(
        state::gateway(config.pod_cidr),
        config.pod_cidr,
        ipv6.pod_cidr,
    )
}

/// Gives the pod whose interface is `eth0` its IPv6 address, and the route over `gateway`.
fn add_ipv6(
    inside: &Netlink,
    eth0: u32,
    ip: Ipv6Addr,
    gateway: Ipv6Addr,
    ipv6: &Ipv6Config,
) -> Result<()> {
    let address = Ipv6Net::new_assert(ip, ipv6.pod_cidr.prefix_len());
    inside.add_address_without_route(eth0, address)?;
    inside.add_route(&Route::on_link(Ipv6Net::from(gateway), eth0))?;
    inside.add_route(&Route {
        link: Some(eth0),
        ..Route::via(Ipv6Net::default(), gateway)
    })?;
    Ok(())
}

fn with_prefix(ip: Ipv4Addr, net: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new(ip, net.prefix_len()).expect("a prefix length taken from a network")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_stay_within_the_cluster() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let net6 = |text: &str| text.parse::<Ipv6Net>().unwrap();
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let config = NetworkConfig {
            ipv4_pods: true,
            ipv6: Some(Ipv6Config {
                node_ip: "fd00:1::2".parse().unwrap(),
                node_cidr: net6("fd00:1::/64"),
                pod_cidr: net6("fd00:10:244::/64"),
                cluster_cidr: net6("fd00:10:244::/56"),
                service_cidr: net6("fd00:10:96::/112"),
            }),
            node_ip: ip("10.0.0.2"),
            node_cidr: net("10.0.0.0/24"),
            pod_cidr: net("10.244.0.0/24"),
            cluster_cidr: net("10.244.0.0/16"),
            service_cidr: net("10.96.0.0/12"),
            load_balancers: None,
            bridge: "rk0".into(),
            mtu: 1500,
            uplink: "eth0".into(),
            state_dir: "/nowhere".into(),
        };
        for (range, via, accepted) in [
            ("10.244.1.0/24", "10.0.0.3", true),
            ("10.244.1.7/24", "10.0.0.3", true),
            // This node's own.
            ("10.244.0.0/24", "10.0.0.3", false),
            ("10.244.1.0/24", "10.0.0.2", false),
            // Ranges that would take over other traffic.
            ("0.0.0.0/0", "10.0.0.3", false),
            ("10.244.0.0/16", "10.0.0.3", false),
            ("10.244.0.128/25", "10.0.0.3", false),
            ("10.96.0.0/24", "10.0.0.3", false),
            // Machines that are no nodes.
            ("10.244.1.0/24", "10.244.0.9", false),
            ("10.244.1.0/24", "127.0.0.1", false),
            // The same of IPv6, and not across families.
            ("fd00:10:244:1::/64", "fd00:1::3", true),
            ("fd00:10:244::/64", "fd00:1::3", false),
            ("fd00:10:244::/56", "fd00:1::3", false),
            ("fd00:10:244:1::/64", "fe80::3", false),
            ("fd00:10:244:1::/64", "10.0.0.3", false),
            ("10.244.1.0/24", "fd00:1::3", false),
        ] {
            let routes =
                acceptable_routes(&config, &[(range.parse().unwrap(), via.parse().unwrap())]);
            assert_eq!(!routes.is_empty(), accepted, "{range} via {via}");
        }
    }
}
