//! The bridge, links, addresses and routes of a node.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use parking_lot::Mutex;

use super::rules;
use super::state::{self, State};
use super::types::{AttachPod, NetworkConfig, PodNetwork, mac_of};
use crate::error::{NetworkError, Result};
use crate::netlink::{Link, Netlink, Netns, Route, Veth, in_netns, open_netns};
use crate::nft::{Nftables, Table};
use crate::{hash, sysctl};

/// Origin of this module's routes (`rtm_protocol`); it deletes no others.
const ROUTE_PROTOCOL: u8 = 82;
/// Prefix of the names of pod links.
const LINK_PREFIX: &str = "rkp";
/// The pod's end of its link.
const POD_LINK: &str = "eth0";

/// Interval between checks whether the bridge forwards a new link's frames.
const PORT_POLL_PERIOD: Duration = Duration::from_micros(200);
/// Maximum number of these checks.
const MAX_PORT_POLLS: u32 = 250;

/// A node's network. Clones share the same network. All calls block for at most a few
/// milliseconds.
#[derive(Clone)]
pub struct NodeNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetworkConfig,
    netlink: Netlink,
    nft: Nftables,
    state: Mutex<State>,
    /// The kernel's base table; `None` before `setup`.
    table: Mutex<Option<Table>>,
}

impl NodeNetwork {
    /// Opens the network in the calling thread's namespace, with what `state_dir`
    /// remembers of an earlier run.
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
                state: Mutex::new(State::open(&config.state_dir, config.pod_cidr)?),
                table: Mutex::new(None),
                config,
            }),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &NetworkConfig {
        &self.inner.config
    }

    /// The bridge's address, every pod's gateway: the first of the pod range.
    pub fn gateway(&self) -> Ipv4Addr {
        state::gateway(self.inner.config.pod_cidr)
    }

    /// Makes the bridge, kernel parameters and base rules. Can be repeated. Must run
    /// in the namespace that the network was opened in.
    pub fn setup(&self) -> Result<()> {
        let Inner {
            config, netlink, ..
        } = &*self.inner;
        // The larger of "all" and the link's own value counts: 2 is loose everywhere,
        // as packets for services may come and go by different links.
        sysctl::write("net/ipv4/conf/all/rp_filter", "2")?;
        sysctl::write("net/ipv4/conf/all/send_redirects", "0")?;
        sysctl::write("net/ipv4/conf/default/send_redirects", "0")?;
        // Pod links have no IPv6 address to negotiate.
        sysctl::write_if_present("net/ipv6/conf/default/disable_ipv6", "1")?;
        sysctl::write("net/ipv4/ip_forward", "1")?;
        for name in ["iptables", "ip6tables", "arptables"] {
            sysctl::write_if_present(&format!("net/bridge/bridge-nf-call-{name}"), "0")?;
        }
        // Packets out of the window must not tear down translated connections: they
        // would reach the pod untranslated and be answered with a reset.
        sysctl::write_if_present("net/netfilter/nf_conntrack_tcp_be_liberal", "1")?;

        netlink.set_up("lo")?;
        let bridge = match netlink.link(&config.bridge)? {
            Some(link) => link.index,
            None => netlink.create_bridge(&config.bridge)?,
        };
        // A bridge without an address of its own takes its ports', and changes it as
        // they come and go.
        let gateway = self.gateway();
        netlink.set_mac(bridge, mac_of(gateway))?;
        netlink.set_mtu(bridge, config.mtu)?;
        netlink.add_address(bridge, with_prefix(gateway, config.pod_cidr))?;
        netlink.set_up(bridge)?;
        let name = &config.bridge;
        sysctl::write(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
        // For host ports on 127.0.0.1; the rules keep pods from the node's own loopback.
        sysctl::write(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;

        // The node's own connections to service addresses need some route, and a
        // source address, before their destination is translated.
        if let Some(uplink) = netlink.link(&config.uplink)?.filter(|link| link.up) {
            netlink.replace_route(&Route {
                source: Some(config.node_ip.into()),
                protocol: ROUTE_PROTOCOL,
                ..Route::on_link(config.service_cidr.trunc(), uplink.index)
            })?;
        }
        *self.inner.table.lock() = None;
        self.apply_rules()
    }

    /// Gives the node itself a further address (`/32`, on loopback), such as the cluster DNS's.
    pub fn add_local_address(&self, ip: Ipv4Addr) -> Result<()> {
        Ok(self.inner.netlink.add_address("lo", Ipv4Net::from(ip))?)
    }

    /// Gives a pod `eth0` with an address. A sandbox that is attached already is
    /// answered as it is.
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
        // Written down first: after a crash from here on, `retain` cleans up.
        let (record, known) =
            state
                .lock()
                .allocate(&pod.sandbox_id, &host_link, &pod.host_ports)?;
        if known && netlink.link(&host_link)?.is_some() {
            return Ok(record);
        }
        let attached = self.make_link(netns.as_fd(), &record).and_then(|()| {
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
            // A link of this name belongs to this sandbox: what a crash left behind.
            if !(error.is_exists() && netlink.delete_link(&pod.host_link)?) {
                return Err(error.into());
            }
            netlink.create_veth(&veth)?;
        }
        in_netns(netns, || -> Result<()> {
            let inside = Netlink::open()?;
            inside.set_up("lo")?;
            let eth0 = inside.index_of(POD_LINK)?;
            inside.set_up(eth0)?;
            inside.add_address_without_route(eth0, with_prefix(pod.ip, config.pod_cidr))?;
            inside.add_route(&Route::on_link(Ipv4Net::from(pod.gateway), eth0))?;
            inside.add_route(&Route {
                link: Some(eth0),
                ..Route::via(Ipv4Net::default(), pod.gateway)
            })?;
            Ok(())
        })??;
        // Frames sent before the bridge has noticed are lost, and an address resolution
        // is tried again only a second later.
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

    /// Takes a pod's link, host ports and address away. Unknown sandboxes are fine.
    pub fn detach_pod(&self, sandbox_id: &str) -> Result<()> {
        let Inner { netlink, state, .. } = &*self.inner;
        // By hand: a namespace's own clean-up comes some time later.
        netlink.delete_link(&host_link(sandbox_id))?;
        let Some(pod) = state.lock().release(sandbox_id)? else {
            return Ok(());
        };
        if pod.host_ports.is_empty() {
            Ok(())
        } else {
            self.apply_rules()
        }
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

    /// Every attached sandbox.
    pub fn pods(&self) -> Vec<PodNetwork> {
        self.inner.state.lock().pods().cloned().collect()
    }

    /// Detaches every sandbox that `live` does not know and removes pod links that
    /// belong to none. Answers how many went.
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
        // Held meanwhile, so that no link just being made is taken for a stray.
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

    /// Makes the routes to the other nodes' pod ranges exactly these.
    pub fn set_routes(&self, routes: &[(Ipv4Net, Ipv4Addr)]) -> Result<()> {
        let Inner {
            config,
            netlink,
            state,
            ..
        } = &*self.inner;
        let wanted = || {
            routes
                .iter()
                .filter(|(net, via)| *net != config.pod_cidr && *via != config.node_ip)
                .map(|(net, via)| (net.trunc(), *via))
        };
        let mut there = Vec::new();
        for route in netlink.routes()? {
            let IpNet::V4(net) = route.destination else {
                continue;
            };
            if route.protocol != ROUTE_PROTOCOL || route.gateway.is_none() {
                continue;
            }
            if wanted().any(|(wanted, via)| wanted == net && route.gateway == Some(via.into())) {
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
        let mut peers: Vec<Ipv4Addr> = wanted().map(|(_, via)| via).collect();
        peers.sort_unstable();
        peers.dedup();
        let changed = {
            let mut state = state.lock();
            let changed = state.peers != peers;
            state.peers = peers;
            changed
        };
        if changed { self.apply_rules() } else { Ok(()) }
    }

    fn apply_rules(&self) -> Result<()> {
        let Inner {
            config,
            nft,
            state,
            table,
            ..
        } = &*self.inner;
        // Locked before the state is read, so that the last to read is the last to write.
        let mut table = table.lock();
        let wanted = {
            let state = state.lock();
            rules::base_table(config, &state.peers, state.pods())
        };
        nft.apply(table.as_ref(), &wanted)?;
        *table = Some(wanted);
        Ok(())
    }
}

/// Returns the name of a sandbox's link, derived from its ID.
fn host_link(sandbox_id: &str) -> String {
    format!(
        "{LINK_PREFIX}{:012x}",
        hash::fnv64(sandbox_id.as_bytes()) & 0xffff_ffff_ffff
    )
}

fn with_prefix(ip: Ipv4Addr, net: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new(ip, net.prefix_len()).expect("a prefix length taken from a network")
}
