//! ARP packets (RFC 826) on an interface.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Length of an ARP packet for IPv4 on Ethernet, in bytes.
const LENGTH: usize = 28;
/// The start of such a packet: Ethernet, IPv4, lengths of their addresses.
const HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Operation codes.
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// The hardware address of every machine.
const EVERYONE: [u8; 6] = [0xff; 6];

/// A socket that sends and receives ARP packets.
pub(super) struct Arp {
    socket: OwnedFd,
    link: i32,
    mac: [u8; 6],
}

fn packet(operation: u8, mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[..6].copy_from_slice(&HEAD);
    packet[7] = operation;
    packet[8..14].copy_from_slice(&mac);
    packet[14..18].copy_from_slice(&from.octets());
    if operation == REPLY {
        packet[18..24].copy_from_slice(&EVERYONE);
    }
    packet[24..].copy_from_slice(&to.octets());
    packet
}

/// Returns the sender of a reply.
fn replied(packet: &[u8]) -> Option<Ipv4Addr> {
    let sender: [u8; 4] = packet.get(14..18)?.try_into().ok()?;
    (packet.len() >= LENGTH && packet.starts_with(&HEAD) && packet[6..8] == [0, REPLY])
        .then(|| sender.into())
}

impl Arp {
    /// Opens a socket for the interface with this index and hardware address, in the calling
    /// thread's network namespace.
    pub fn open(link: u32, mac: [u8; 6]) -> io::Result<Self> {
        let link = i32::try_from(link).map_err(io::Error::other)?;
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let protocol = i32::from((libc::ETH_P_ARP as u16).to_be());
        // SAFETY: a plain system call without pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, kind, protocol) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let arp = Self { socket, link, mac };
        let to = arp.address();
        // SAFETY: the address is valid during the call, and its size is that of its type.
        let bound = unsafe {
            libc::bind(
                arp.socket.as_raw_fd(),
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        match bound {
            0 => Ok(arp),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn address(&self) -> libc::sockaddr_ll {
        // SAFETY: all zeros is a valid value of this plain struct.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ARP as u16).to_be();
        address.sll_ifindex = self.link;
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&EVERYONE);
        address
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        let to = self.address();
        // SAFETY: packet and address are valid during the call, with their own sizes.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                libc::MSG_NOSIGNAL,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        match sent {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Tells all machines that this one has the address. Some heed requests only, others replies
    /// only (RFC 5227, section 3).
    pub fn announce(&self, ip: Ipv4Addr) -> io::Result<()> {
        self.send(&packet(REQUEST, self.mac, ip, ip))?;
        self.send(&packet(REPLY, self.mac, ip, ip))
    }

    /// Asks for the hardware addresses of all `targets` at once. Returns those that answer in time.
    pub fn ask(
        &self,
        own: Ipv4Addr,
        targets: &BTreeSet<Ipv4Addr>,
        time: Duration,
    ) -> io::Result<BTreeSet<Ipv4Addr>> {
        for target in targets {
            self.send(&packet(REQUEST, self.mac, own, *target))?;
        }
        let end = Instant::now() + time;
        let mut answered = BTreeSet::new();
        while answered.len() < targets.len() {
            let left = end.saturating_duration_since(Instant::now());
            let Some(packet) = self.receive(left)? else {
                break;
            };
            answered.extend(replied(&packet).filter(|ip| targets.contains(ip)));
        }
        Ok(answered)
    }

    /// Returns the next packet, or `None` if there is none in time.
    fn receive(&self, time: Duration) -> io::Result<Option<Vec<u8>>> {
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one entry, valid during the call.
        match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
            0 => return Ok(None),
            -1 => return Err(io::Error::last_os_error()),
            _ => {}
        }
        let mut buffer = vec![0_u8; 128];
        // SAFETY: the buffer is valid for its length during the call.
        let length = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        buffer.truncate(length);
        Ok(Some(buffer))
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn packets_are_laid_out_as_the_rfc_says() {
        let mac = [2, 75, 192, 168, 77, 2];
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let request = packet(REQUEST, mac, a, b);
        assert_eq!(request[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(request[8..14], mac);
        assert_eq!(request[14..], [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
        assert_eq!(replied(&request), None);
        let reply = packet(REPLY, mac, b, b);
        assert_eq!(replied(&reply), Some(b));
        assert_eq!(replied(&reply[..20]), None);
        assert_eq!(replied(&[]), None);
    }
}
