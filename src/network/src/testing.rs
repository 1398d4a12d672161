//! Helpers shared by the tests of this crate.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::netlink::{Netlink, Netns, Route, Veth, in_netns, new_netns};
use crate::node::{AttachPod, HostPort, Ipv6Config, NetworkConfig, NodeNetwork};

/// Timeout of operations that should succeed, generous for busy machines.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of operations that should fail.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(300);

/// Returns whether the test can create network namespaces; reports a skip if not.
pub(crate) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        rkube_testing::skipped("creating network namespaces requires root");
    }
    root
}

/// A node with an uplink to a machine outside the cluster, each in a network namespace.
pub(crate) struct TestNetwork {
    pub(crate) node: OwnedFd,
    pub(crate) world: OwnedFd,
    pub(crate) network: NodeNetwork,
    _state: tempfile::TempDir,
}

/// A pod of a [`TestNetwork`].
pub(crate) struct Pod {
    pub(crate) netns: OwnedFd,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ipv6: Option<Ipv6Addr>,
    pub(crate) attach: AttachPod,
}

pub(crate) fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub(crate) fn net6(text: &str) -> Ipv6Net {
    text.parse().unwrap()
}

impl TestNetwork {
    pub(crate) fn new() -> Self {
        Self::with(None)
    }

    /// Returns a network of both families; `None` if the kernel has no IPv6.
    pub(crate) fn dual() -> Option<Self> {
        if !std::path::Path::new("/proc/net/if_inet6").exists() {
            rkube_testing::skipped("the kernel has no IPv6");
            return None;
        }
        Some(Self::with(Some(Ipv6Config {
            node_ip: "fd00:77::2".parse().unwrap(),
            node_cidr: net6("fd00:77::/64"),
            pod_cidr: net6("fd00:10:244:1::/64"),
            cluster_cidr: net6("fd00:10:244::/56"),
            service_cidr: net6("fd00:10:96::/112"),
        })))
    }

    fn with(ipv6: Option<Ipv6Config>) -> Self {
        let (node, world) = (new_netns().unwrap(), new_netns().unwrap());
        let state = tempfile::tempdir().unwrap();
        let at_node = Netlink::open_in(node.as_fd()).unwrap();
        at_node
            .create_veth(&Veth {
                name: "eth0",
                up: true,
                peer_name: "eth0",
                peer_netns: Some(Netns::Fd(world.as_fd())),
                ..Veth::default()
            })
            .unwrap();
        at_node.add_address("eth0", net("192.168.77.2/24")).unwrap();
        let at_world = Netlink::open_in(world.as_fd()).unwrap();
        at_world
            .add_address("eth0", net("192.168.77.1/24"))
            .unwrap();
        if ipv6.is_some() {
            at_node.add_address("eth0", net6("fd00:77::2/64")).unwrap();
            at_world.add_address("eth0", net6("fd00:77::1/64")).unwrap();
        }
        at_world.set_up("eth0").unwrap();
        at_world.set_up("lo").unwrap();
        let default = Route::via(Ipv4Net::default(), Ipv4Addr::new(192, 168, 77, 1));
        at_node.add_route(&default).unwrap();
        let config = NetworkConfig {
            ipv4_pods: true,
            ipv6,
            node_ip: Ipv4Addr::new(192, 168, 77, 2),
            node_cidr: net("192.168.77.0/24"),
            pod_cidr: net("10.244.1.0/24"),
            cluster_cidr: net("10.244.0.0/16"),
            service_cidr: net("10.96.0.0/12"),
            load_balancers: Some(net("192.168.77.128/25")),
            bridge: "rk0".into(),
            mtu: 1500,
            uplink: "eth0".into(),
            state_dir: state.path().to_owned(),
        };
        let network = in_netns(node.as_fd(), || {
            let network = NodeNetwork::new(config).unwrap();
            network.setup().unwrap();
            network.setup().unwrap();
            network
        })
        .unwrap();
        Self {
            node,
            world,
            network,
            _state: state,
        }
    }

    pub(crate) fn node_ip(&self) -> Ipv4Addr {
        self.network.config().node_ip
    }

    pub(crate) fn world_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, 1)
    }

    pub(crate) fn route_world_to_pods(&self) {
        self.route_world(self.network.config().cluster_cidr);
    }

    /// Routes a range from the outside machine to the node, as a tunnel does.
    pub(crate) fn route_world(&self, range: Ipv4Net) {
        let world = Netlink::open_in(self.world.as_fd()).unwrap();
        world
            .replace_route(&Route::via(range, self.node_ip()))
            .unwrap();
    }

    pub(crate) fn pod(&self, name: &str) -> Pod {
        self.pod_with(name, Vec::new())
    }

    pub(crate) fn pod_with(&self, name: &str, host_ports: Vec<HostPort>) -> Pod {
        self.attach(name, new_netns().unwrap(), host_ports)
    }

    pub(crate) fn attach(&self, name: &str, netns: OwnedFd, host_ports: Vec<HostPort>) -> Pod {
        let attach = AttachPod {
            sandbox_id: name.into(),
            netns: PathBuf::from(format!("/proc/self/fd/{}", netns.as_raw_fd())),
            host_ports,
            bandwidth: None,
        };
        let pod = self.network.attach_pod(&attach).unwrap();
        Pod {
            netns,
            ip: pod.ip,
            ipv6: pod.ipv6,
            attach,
        }
    }

    pub(crate) fn ask_from_node(&self, to: impl Into<SocketAddr>) -> std::io::Result<String> {
        ask(&self.node, to)
    }

    pub(crate) fn ask_from_world(&self, to: impl Into<SocketAddr>) -> std::io::Result<String> {
        ask(&self.world, to)
    }
}

impl Pod {
    pub(crate) fn ask(&self, to: impl Into<SocketAddr>) -> std::io::Result<String> {
        ask(&self.netns, to)
    }
}

/// Connects from a namespace. Returns the server's response.
pub(crate) fn ask(from: &OwnedFd, to: impl Into<SocketAddr>) -> std::io::Result<String> {
    ask_within(from, to.into(), TIMEOUT)
}

/// Connects to a port that should not respond. Returns the error.
pub(crate) fn ask_in_vain(from: &OwnedFd, to: impl Into<SocketAddr>) -> std::io::ErrorKind {
    ask_within(from, to.into(), REFUSAL_TIMEOUT)
        .expect_err("a response from a port without a server")
        .kind()
}

fn ask_within(from: &OwnedFd, to: SocketAddr, limit: Duration) -> std::io::Result<String> {
    in_netns(from.as_fd(), || {
        let mut stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
    .unwrap()
}

/// Sends a datagram and returns the response.
pub(crate) fn ask_udp(socket: &UdpSocket, to: SocketAddrV4) -> std::io::Result<String> {
    socket.set_read_timeout(Some(TIMEOUT))?;
    // Connected, so that an ICMP refusal becomes an error.
    socket.connect(SocketAddr::from(to))?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A server on a separate thread in a namespace. Stops when dropped.
pub(crate) struct Serve {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Serve {
    /// Responds to each connection with the client's address.
    pub(crate) fn tcp(netns: &OwnedFd, at: impl Into<SocketAddr>) -> Self {
        Self::tcp_saying(netns, at, None)
    }

    /// Responds to each connection with `words`.
    pub(crate) fn tcp_saying(
        netns: &OwnedFd,
        at: impl Into<SocketAddr>,
        words: Option<String>,
    ) -> Self {
        let at = at.into();
        let listener = in_netns(netns.as_fd(), || TcpListener::bind(at))
            .unwrap()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::spawn(move || {
            if let Ok((mut stream, peer)) = listener.accept() {
                let words = words.clone().unwrap_or_else(|| peer.ip().to_string());
                let _ = stream.write_all(words.as_bytes());
            }
        })
    }

    /// Responds to each datagram with `words`.
    pub(crate) fn udp_saying(netns: &OwnedFd, at: SocketAddrV4, words: &str) -> Self {
        let socket = in_netns(netns.as_fd(), || UdpSocket::bind(at))
            .unwrap()
            .unwrap();
        socket.set_nonblocking(true).unwrap();
        let words = words.to_owned();
        Self::spawn(move || {
            let mut buffer = [0; 64];
            if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(words.as_bytes(), peer);
            }
        })
    }

    fn spawn(mut step: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                step();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Returns the namespace's rules as `nft` lists them, or `None` if `nft` is not installed.
pub(crate) fn listed(netns: &OwnedFd) -> Option<String> {
    let output = in_netns(netns.as_fd(), || {
        std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output()
    })
    .unwrap();
    match output {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(_) => {
            eprintln!("not compared with nft's own reading: nft is not installed");
            None
        }
    }
}
