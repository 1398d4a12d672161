//! The nodes' network: a learning switch whose ports are Unix sockets.
//!
//! Every machine's network interface is a datagram socket in the cluster's run directory. Only the
//! owner can attach to it, and no privileges are needed. Every supervisor can serve as the switch:
//! the holder of a file lock does, and another one takes over when it dies. If rkube runs as root
//! on Linux, the host also has a port: a TAP interface with the gateway's address. The same process
//! runs the [`gate`](super::gate) between the machines and other networks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::gate::Gates;
use super::layout;
use crate::types::ClusterPlan;

/// Maximum frame size in bytes: QEMU may send segments that offloading has merged.
const FRAME: usize = 70_000;
/// Timeout of a port with a full queue. After that the frame is dropped, and the other
/// ports are not delayed any further.
const WRITE_TIMEOUT: Duration = Duration::from_millis(20);
/// Maximum number of source addresses that the switch remembers. A frame to any other one goes to
/// all ports.
const MAX_ADDRESSES: usize = 4096;
/// Length of a frame's destination and source address, in bytes.
const HEAD: usize = 12;

type Mac = [u8; 6];

/// The forwarding table: the known ports, and the port of each source address.
#[derive(Debug)]
struct Table<P> {
    ports: Vec<P>,
    seen: HashMap<Mac, usize>,
}

impl<P: PartialEq> Table<P> {
    fn new(ports: Vec<P>) -> Self {
        Self {
            ports,
            seen: HashMap::new(),
        }
    }

    /// Records the sender's port and returns the ports that the frame is forwarded to.
    fn route(&mut self, from: P, frame: &[u8]) -> Vec<&P> {
        let Some((to, source)) = frame.get(..HEAD).map(|h| h.split_at(6)) else {
            return Vec::new();
        };
        let from = match self.ports.iter().position(|p| *p == from) {
            Some(index) => index,
            None => {
                self.ports.push(from);
                self.ports.len() - 1
            }
        };
        if source[0] & 1 == 0
            && let Ok(mac) = Mac::try_from(source)
        {
            // Forgetting all is better than no limit: a machine can invent any number of addresses.
            if self.seen.len() >= MAX_ADDRESSES && !self.seen.contains_key(&mac) {
                self.seen.clear();
            }
            self.seen.insert(mac, from);
        }
        let known = Mac::try_from(to)
            .ok()
            .filter(|mac| mac[0] & 1 == 0)
            .and_then(|mac| self.seen.get(&mac).copied());
        match known {
            Some(index) if index == from => Vec::new(),
            Some(index) => vec![&self.ports[index]],
            None => self
                .ports
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != from)
                .map(|(_, port)| port)
                .collect(),
        }
    }
}

/// An origin or destination of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Port {
    Machine(PathBuf),
    Host,
}

/// Serves as the switch until the process ends. The caller must hold the switch's lock.
pub fn run(plan: &ClusterPlan) -> anyhow::Result<()> {
    let socket = listen(&layout::switch_socket(&plan.run_dir))?;
    let gate = listen(&layout::gate_socket(&plan.run_dir))?;
    let ports = plan
        .nodes
        .iter()
        .map(|n| Port::Machine(layout::switch_port(&plan.run_dir, &n.name)))
        .collect();
    serve(plan, &socket, &gate, Table::new(ports))
}

/// Binds a socket at `path`, replacing the one that a previous process left.
fn listen(path: &Path) -> anyhow::Result<UnixDatagram> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", path.display()));
        }
        _ => {}
    }
    let socket =
        UnixDatagram::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
    Ok(socket)
}

fn sender(address: &SocketAddr) -> Option<Port> {
    address.as_pathname().map(|p| Port::Machine(p.to_owned()))
}

/// Returns the host's port, if it has one.
#[cfg(target_os = "linux")]
fn host(plan: &ClusterPlan) -> Option<File> {
    super::tap::open(plan).unwrap_or_else(|e| {
        rkube_fsutil::say!("switch: the host has no link to the nodes: {e:#}");
        None
    })
}

#[cfg(not(target_os = "linux"))]
fn host(_: &ClusterPlan) -> Option<File> {
    None
}

fn serve(
    plan: &ClusterPlan,
    socket: &UnixDatagram,
    gate: &UnixDatagram,
    mut table: Table<Port>,
) -> anyhow::Result<()> {
    let mut gates = Gates::new(&plan.loopback_ports);
    let mut host = host(plan);
    if host.is_some() {
        table.ports.push(Port::Host);
    }
    let mut frame = vec![0; FRAME];
    loop {
        let ready = {
            let mut fds = vec![
                PollFd::new(socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(gate.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(
                host.as_ref()
                    .map(|h| PollFd::new(h.as_fd(), PollFlags::POLLIN)),
            );
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other.context("cannot wait for frames")?,
            };
            fds.iter()
                .map(|f| f.revents().is_some_and(|r| !r.is_empty()))
                .collect::<Vec<_>>()
        };
        if ready[0] {
            let (size, address) = socket
                .recv_from(&mut frame)
                .context("cannot read a frame")?;
            if let Some(from) = sender(&address) {
                let to = table.route(from, &frame[..size]);
                deliver(socket, host.as_mut(), to, &frame[..size]);
            }
        }
        if ready[1] {
            let (size, address) = gate.recv_from(&mut frame).context("cannot read a frame")?;
            gates.pass(gate, &address, &frame[..size]);
        }
        if ready.get(2) == Some(&true)
            && let Some(tap) = &mut host
        {
            match tap.read(&mut frame) {
                Ok(size) => {
                    let to = table.route(Port::Host, &frame[..size]);
                    deliver(socket, host.as_mut(), to, &frame[..size]);
                }
                Err(e) => {
                    rkube_fsutil::say!("switch: the host's link is lost: {e}");
                    host = None;
                }
            }
        }
    }
}

fn deliver(socket: &UnixDatagram, mut host: Option<&mut File>, to: Vec<&Port>, frame: &[u8]) {
    for port in to {
        match port {
            // The socket of a machine that does not run is missing.
            Port::Machine(path) => {
                let _ = socket.send_to(frame, path);
            }
            Port::Host => {
                if let Some(tap) = &mut host {
                    // A frame that the host does not accept is lost, as on any network.
                    let _ = tap.write(frame);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: Mac, from: Mac) -> Vec<u8> {
        [to, from].concat()
    }

    #[test]
    fn frames_go_where_the_address_was_seen_and_else_everywhere() {
        let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let everyone = [0xff; 6];
        let mut table = Table::new(vec!["a", "b", "c"]);
        assert_eq!(table.route("a", &frame(everyone, a)), [&"b", &"c"]);
        assert_eq!(table.route("b", &frame(a, b)), [&"a"]);
        assert_eq!(table.route("a", &frame(b, a)), [&"b"]);
        // An unknown machine, and an address that moved to another port.
        assert_eq!(table.route("d", &frame(a, b)), [&"a"]);
        assert_eq!(table.route("a", &frame(b, a)), [&"d"]);
        assert!(table.route("a", &frame(a, a)).is_empty());
        assert!(table.route("a", &[0; 5]).is_empty());
    }

    #[test]
    fn invented_addresses_do_not_fill_the_memory() {
        let everyone = [0xff; 6];
        let mut table = Table::new(vec!["a", "b"]);
        for number in 0..3 * u16::try_from(MAX_ADDRESSES).unwrap() {
            let [high, low] = number.to_be_bytes();
            table.route("a", &frame(everyone, [2, 0, 0, 0, high, low]));
            assert!(table.seen.len() <= MAX_ADDRESSES);
        }
        // Others are learnt as before.
        let other = [2, 1, 0, 0, 0, 1];
        table.route("b", &frame(everyone, other));
        assert_eq!(table.route("a", &frame(other, [2, 0, 0, 0, 0, 1])), [&"b"]);
    }
}
