//! Filters the frames that machines send to QEMU's user network.
//!
//! QEMU's user network connects a guest to any port of the host's loopback, both by
//! the gateway's address and by addresses in `127.0.0.0/8`. The only option against
//! that blocks all other destinations, too. Therefore a machine's network interface is
//! not attached to the user network but to this gate, in the switch's process, which
//! forwards allowed frames only. A single frame is enough to recognise a new flow: for
//! TCP the segment that opens a connection, for UDP a packet that does not answer one
//! from the host.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::layout::{self, GUEST_SOCKET, HOST_SOCKET};

/// Timeout of a machine's answer to a UDP packet. QEMU uses the same.
const UDP_FLOW_TIMEOUT: Duration = Duration::from_secs(240);
/// Maximum number of UDP flows that are tracked per machine.
const MAX_UDP_FLOWS: usize = 1024;
/// The port of name servers.
const DNS: u16 = 53;

const ETHERNET: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The gates of a cluster's machines.
#[derive(Debug)]
pub struct Gates {
    loopback_ports: Vec<u16>,
    machines: HashMap<PathBuf, UdpFlows>,
}

impl Gates {
    /// Creates gates that let machines reach these TCP ports of the host's loopback.
    pub fn new(loopback_ports: &[u16]) -> Self {
        Self {
            loopback_ports: loopback_ports.to_vec(),
            machines: HashMap::new(),
        }
    }

    /// Forwards a frame to the other side, or drops it.
    pub fn pass(&mut self, socket: &UnixDatagram, from: &SocketAddr, frame: &[u8]) {
        let Some((folder, side)) = from
            .as_pathname()
            .and_then(|p| Some((p.parent()?, p.file_name()?.to_str()?)))
        else {
            return;
        };
        let flows = match self.machines.get_mut(folder) {
            Some(flows) => flows,
            None => self.machines.entry(folder.to_owned()).or_default(),
        };
        let now = Instant::now();
        let to = match side {
            GUEST_SOCKET if may_leave(frame, &self.loopback_ports, flows, now) => HOST_SOCKET,
            HOST_SOCKET => {
                flows.record(frame, now);
                GUEST_SOCKET
            }
            _ => return,
        };
        // A frame that the receiver does not accept is lost, as on any network.
        let _ = socket.send_to(frame, folder.join(to));
    }
}

/// UDP flows that the host's loopback has opened to a machine: the host's port, the
/// machine's port, and the time of the last packet.
#[derive(Debug, Default)]
struct UdpFlows(HashMap<(u16, u16), Instant>);

impl UdpFlows {
    fn record(&mut self, frame: &[u8], now: Instant) {
        let Some(packet) = Packet::read(frame) else {
            return;
        };
        if packet.source != layout::HOST || packet.protocol != UDP || packet.fragment {
            return;
        }
        if let Some(ports) = packet.ports() {
            if self.0.len() >= MAX_UDP_FLOWS {
                self.0.retain(|_, last| now - *last < UDP_FLOW_TIMEOUT);
            }
            if self.0.len() < MAX_UDP_FLOWS {
                self.0.insert(ports, now);
            }
        }
    }

    fn answers(&self, machine: u16, host: u16, now: Instant) -> bool {
        self.0
            .get(&(host, machine))
            .is_some_and(|last| now - *last < UDP_FLOW_TIMEOUT)
    }
}

/// An IPv4 packet in a frame.
struct Packet<'a> {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    fragment: bool,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    fn read(frame: &'a [u8]) -> Option<Self> {
        let packet = frame
            .get(ETHERNET..)
            .filter(|_| frame[ETHERNET - 2..ETHERNET] == IPV4)?;
        let head = usize::from(packet.first()? & 0x0f) * 4;
        if packet[0] >> 4 != 4 || head < 20 || packet.len() < head {
            return None;
        }
        let address =
            |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        Some(Self {
            source: address(12),
            destination: address(16),
            protocol: packet[9],
            fragment: u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0,
            payload: &packet[head..],
        })
    }

    /// Returns the source and the destination port.
    fn ports(&self) -> Option<(u16, u16)> {
        let [a, b, c, d] = *self.payload.first_chunk::<4>()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    /// Whether a TCP segment opens a connection.
    fn opens(&self) -> bool {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        // A truncated segment is treated as one that opens a connection.
        self.payload
            .get(13)
            .is_none_or(|flags| flags & (SYN | ACK) == SYN)
    }
}

/// Whether a frame from a machine may be forwarded.
fn may_leave(frame: &[u8], loopback_ports: &[u16], flows: &UdpFlows, now: Instant) -> bool {
    if frame.get(ETHERNET - 2..ETHERNET) == Some(&ARP) {
        return true;
    }
    let Some(packet) = Packet::read(frame) else {
        return false;
    };
    let to = packet.destination;
    // "This host", loopback, multicast, reserved and broadcast addresses.
    if matches!(to.octets()[0], 0 | 127 | 224..) {
        return false;
    }
    if !layout::is_outside(to) {
        return true;
    }
    // Every address of QEMU's own network leads to the host's loopback.
    if packet.fragment {
        return false;
    }
    let Some((from, port)) = packet.ports() else {
        return false;
    };
    match (packet.protocol, to) {
        // QEMU answers these itself.
        (ICMP, layout::HOST | layout::NAME_SERVER) => true,
        (TCP, layout::HOST) => loopback_ports.contains(&port) || !packet.opens(),
        (UDP, layout::HOST) => flows.answers(from, port, now),
        // Other ports of this address lead to the host of the name server.
        (TCP | UDP, layout::NAME_SERVER) => port == DNS,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: u8 = 2;
    const ACK: u8 = 16;

    fn frame(to: [u8; 4], protocol: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
        from_to([192, 0, 2, 15], to, protocol, ports, flags)
    }

    fn from_to(from: [u8; 4], to: [u8; 4], protocol: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(IPV4);
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(from);
        frame.extend(to);
        frame.extend(ports.0.to_be_bytes());
        frame.extend(ports.1.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame
    }

    fn leaves(frame: &[u8]) -> bool {
        may_leave(frame, &[5000], &UdpFlows::default(), Instant::now())
    }

    #[test]
    fn the_world_is_open_and_the_hosts_loopback_is_not() {
        let tcp = |to, port, flags| leaves(&frame(to, TCP, (40000, port), flags));
        assert!(tcp([192, 0, 3, 1], 443, SYN));
        assert!(tcp([10, 0, 0, 1], 22, SYN));
        for to in [
            [192, 0, 2, 2],
            [192, 0, 2, 3],
            [192, 0, 2, 4],
            [127, 0, 0, 1],
            [127, 66, 0, 1],
            [0, 0, 0, 0],
            [255, 255, 255, 255],
            [224, 0, 0, 251],
        ] {
            assert!(!tcp(to, 22, SYN), "{to:?}");
            assert!(!leaves(&frame(to, UDP, (40000, 69), 0)), "{to:?}");
        }
        // Allowed ports, and replies on connections that others opened.
        assert!(tcp([192, 0, 2, 2], 5000, SYN));
        assert!(tcp([192, 0, 2, 2], 22, SYN | ACK));
        assert!(tcp([192, 0, 2, 2], 22, ACK));
        assert!(tcp([192, 0, 2, 3], 53, SYN));
        assert!(leaves(&frame([192, 0, 2, 3], UDP, (40000, 53), 0)));
        assert!(leaves(&frame([192, 0, 2, 2], ICMP, (0, 0), 0)));
    }

    #[test]
    fn what_hides_its_beginning_does_not_pass() {
        let whole = frame([192, 0, 2, 2], TCP, (40000, 22), ACK);
        for length in 0..whole.len() - 6 {
            assert!(!leaves(&whole[..length]), "{length} bytes");
        }
        for fragment in [0x20, 0x01] {
            let mut piece = whole.clone();
            piece[ETHERNET + 6] = fragment;
            assert!(!leaves(&piece));
        }
        let mut six = whole.clone();
        six[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert!(!leaves(&six));
        // With IP options, the ports are at a higher offset.
        let mut options = frame([192, 0, 2, 2], TCP, (40000, 22), SYN);
        options[ETHERNET] = 0x46;
        options.splice(ETHERNET + 20..ETHERNET + 20, [1, 1, 1, 0]);
        assert!(!leaves(&options));
    }

    #[test]
    fn udp_is_answered_and_not_begun() {
        let mut flows = UdpFlows::default();
        let now = Instant::now();
        let answer = frame([192, 0, 2, 2], UDP, (30053, 41000), 0);
        let out = |flows: &UdpFlows, frame: &[u8], now| may_leave(frame, &[], flows, now);
        assert!(!out(&flows, &answer, now));
        flows.record(
            &from_to([192, 0, 2, 2], [192, 0, 2, 15], UDP, (41000, 30053), 0),
            now,
        );
        assert!(out(&flows, &answer, now));
        assert!(!out(
            &flows,
            &frame([192, 0, 2, 2], UDP, (30053, 41001), 0),
            now
        ));
        assert!(!out(&flows, &answer, now + UDP_FLOW_TIMEOUT));
    }
}
