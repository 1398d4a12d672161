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
    taken.extend(led(profile));
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
    taken.extend(led(profile));
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
            .advise("end the program that listens there, or choose another port"));
        }
    }
    Ok(())
}

/// Fails if one of the profiles has a use for a port, even while its cluster is stopped.
pub(crate) fn check_uses<'a>(
    profiles: impl IntoIterator<Item = &'a Profile>,
    port: &PortMapping,
) -> Result<(), Failure> {
    for profile in profiles {
        if let Some(used) = use_of(profile, port) {
            return Err(Failure::new(
                Source::LocalNetwork,
                Kind::Conflict,
                format!(
                    "the port {} is taken: it {used} of '{}'",
                    port.host_port, profile.name
                ),
            )
            .advise("choose another port"));
        }
    }
    Ok(())
}

/// Returns what a profile uses a port for.
fn use_of(profile: &Profile, port: &PortMapping) -> Option<String> {
    let same = |ip: Ipv4Addr, number: u16, protocol: Protocol| {
        let same_ip = ip == port.host_ip || ip.is_unspecified() || port.host_ip.is_unspecified();
        same_ip && number == port.host_port && protocol == port.protocol
    };
    // Servers are published on the loopback.
    let server = |own: Option<u16>| {
        own.is_some_and(|number| same(Ipv4Addr::LOCALHOST, number, Protocol::Tcp))
    };
    if server(profile.api_port) {
        return Some("leads to the API server".to_owned());
    }
    if let Some(node) = profile.nodes.iter().find(|node| server(node.ssh_port)) {
        return Some(format!("leads to the SSH server of the node {}", node.name));
    }
    let at = |own: &PortMapping| same(own.host_ip, own.host_port, own.protocol);
    if let Some(own) = profile.all_ports().find(|own| at(own)) {
        return Some(format!("is published for the port {}", own.node_port));
    }
    let mut forwards = profile.forwards.iter();
    let found = forwards.find(|own| at(&own.listener()));
    found.map(|own| format!("leads to {}", own.to))
}

/// Returns the other profiles, without those that are damaged: their ports are not known.
pub(crate) fn other_profiles(home: &Home, own: &str) -> Result<Vec<Profile>, Failure> {
    let names = home.profile_names()?;
    let others = names.iter().filter(|name| *name != own);
    Ok(others
        .filter_map(|name| Profile::try_load(home, name).ok().flatten())
        .collect())
}

/// Returns the ports of this machine that lead to nodes and services of a profile.
fn led(profile: &Profile) -> impl Iterator<Item = u16> {
    let published = profile.all_ports().map(|port| port.host_port);
    published.chain(profile.forwards.iter().map(|port| port.host_port))
}

/// Returns the ports that other profiles use.
fn others(home: &Home, own: &str) -> Result<BTreeSet<u16>, Failure> {
    let mut taken = BTreeSet::new();
    for other in other_profiles(home, own)? {
        taken.extend(other.api_port);
        taken.extend(other.nodes.iter().filter_map(|n| n.ssh_port));
        taken.extend(led(&other));
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

    #[test]
    fn a_port_has_one_use_in_all_profiles() {
        let mut profile: Profile = serde_json::from_value(serde_json::json!({
            "format": 1, "name": "c", "driver": "docker", "created": "",
            "nodeCidr": "192.168.58.0/24", "podCidr": "10.244.0.0/16",
            "serviceCidr": "10.96.0.0/12", "dnsDomain": "cluster.local",
            "apiPort": 20001,
            "forwards": ["127.0.0.1:9000:80/udp@svc/default/web"],
            "nodes": [{"name": "c", "ip": "192.168.58.2", "podCidr": "10.244.0.0/24", "sshPort": 20002}],
        }))
        .unwrap();
        profile.ports.push("8080:30080".parse().unwrap());
        for (port, used) in [
            ("20001:80", Some("leads to the API server")),
            (
                "0.0.0.0:20002:80",
                Some("leads to the SSH server of the node c"),
            ),
            ("127.0.0.2:20002:80", None),
            ("20001:80/udp", None),
            ("8080:80", Some("is published for the port 30080")),
            ("9000:80/udp", Some("leads to svc/default/web")),
            ("9000:80", None),
        ] {
            let port: PortMapping = port.parse().unwrap();
            assert_eq!(use_of(&profile, &port).as_deref(), used, "{port:?}");
        }
        assert_eq!(led(&profile).collect::<Vec<_>>(), [8080, 9000]);
    }
}
