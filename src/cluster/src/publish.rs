//! Assigns the loopback ports that drivers publish.
//!
//! A port is assigned once and stored in the profile, so that copies of the kubeconfig remain
//! valid. All ports are below the ephemeral ranges of Linux, macOS and Windows, so that outgoing
//! connections do not occupy them while the cluster is stopped.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use rkube_drivers::{PortMapping, Protocol};
use rkube_failure::{Failure, Kind, Source};

use crate::files::Home;
use crate::profile::Profile;

/// The range of ports that are assigned.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// Assigns a port to every server without one, and replaces ports that another program or profile
/// has taken. The cluster must not be running. Returns whether the profile changed.
pub(crate) fn assign(home: &Home, profile: &mut Profile) -> Result<bool, Failure> {
    let mut taken = others(home, &profile.name)?;
    taken.extend(profile.all_ports().map(|p| p.host_port));
    let mut changed = false;
    let mut ensure = |port: &mut Option<u16>| -> Result<(), Failure> {
        let good = port.is_some_and(|p| !taken.contains(&p) && is_free(Ipv4Addr::LOCALHOST, p));
        if !good {
            *port = Some(free(&taken)?);
            changed = true;
        }
        taken.extend(*port);
        Ok(())
    };
    ensure(&mut profile.api_port)?;
    for node in &mut profile.nodes {
        ensure(&mut node.ssh_port)?;
    }
    Ok(changed)
}

/// Assigns ports to nodes without one. Keeps all existing ports.
pub(crate) fn complete(home: &Home, profile: &mut Profile) -> Result<(), Failure> {
    let mut taken = others(home, &profile.name)?;
    taken.extend(profile.all_ports().map(|p| p.host_port));
    taken.extend(profile.api_port);
    taken.extend(profile.nodes.iter().filter_map(|n| n.ssh_port));
    for node in profile.nodes.iter_mut().filter(|n| n.ssh_port.is_none()) {
        let port = free(&taken)?;
        taken.insert(port);
        node.ssh_port = Some(port);
    }
    Ok(())
}

/// Fails if one of the requested ports is in use.
pub(crate) fn check<'a>(ports: impl IntoIterator<Item = &'a PortMapping>) -> Result<(), Failure> {
    for port in ports {
        let free = match port.protocol {
            Protocol::Tcp => is_free(port.host_ip, port.host_port),
            Protocol::Udp => UdpSocket::bind((port.host_ip, port.host_port)).is_ok(),
        };
        if !free {
            return Err(Failure::new(
                Source::LocalNetwork,
                Kind::Conflict,
                format!(
                    "the port {} of {} is taken or may not be listened on",
                    port.host_port, port.host_ip
                ),
            )
            .advise("end the program that listens there, or choose another port with --ports"));
        }
    }
    Ok(())
}

/// Returns the ports that other profiles use.
fn others(home: &Home, own: &str) -> Result<BTreeSet<u16>, Failure> {
    let mut taken = BTreeSet::new();
    for name in home.profile_names()?.iter().filter(|n| *n != own) {
        // The ports of a damaged profile are not known.
        if let Ok(Some(other)) = Profile::try_load(home, name) {
            taken.extend(other.api_port);
            taken.extend(other.nodes.iter().filter_map(|n| n.ssh_port));
            taken.extend(other.all_ports().map(|p| p.host_port));
        }
    }
    Ok(taken)
}

fn is_free(ip: Ipv4Addr, port: u16) -> bool {
    TcpListener::bind((ip, port)).is_ok()
}

fn free(taken: &BTreeSet<u16>) -> Result<u16, Failure> {
    // The start depends on the process, so that concurrent commands rarely choose the same port.
    let count = RANGE.len();
    let first = std::process::id() as usize * 97 % count;
    RANGE
        .cycle()
        .skip(first)
        .take(count)
        .find(|port| !taken.contains(port) && is_free(Ipv4Addr::LOCALHOST, *port))
        .ok_or_else(|| {
            Failure::new(
                Source::LocalNetwork,
                Kind::Conflict,
                format!(
                    "no port from {} to {} of the loopback is free",
                    RANGE.start, RANGE.end
                ),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over_and_reported() {
        let first = free(&BTreeSet::new()).unwrap();
        let second = free(&BTreeSet::from([first])).unwrap();
        assert_ne!(first, second);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken: PortMapping = format!("{}:80", listener.local_addr().unwrap().port())
            .parse()
            .unwrap();
        assert_eq!(check(&[taken]).unwrap_err().exit_code(), 71);
    }
}
