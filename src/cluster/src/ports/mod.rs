//! Ports of this machine that lead to nodes and services of a running cluster.
//!
//! They are part of the profile. A process of its own serves them while the cluster runs, and follows
//! the profile; `rkube start` and `rkube port add` start it.

mod carry;
mod resolve;
mod serve;
mod spec;

use rkube_failure::{Failure, Kind, Source, command};

use crate::files::Home;
use crate::profile::Profile;
use crate::publish;

pub use serve::{PortState, port_states, ports_are_served, serve_ports};
pub use spec::{PortForward, PortTarget, parse_ports};

/// Whether the cluster runs, so that its ports can be opened.
///
/// # Errors
/// Fails if the profile's driver does not exist.
pub async fn ports_can_open(home: &Home, profile: &Profile) -> Result<bool, Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    Ok(driver.is_up(&profile.plan(home)).await)
}

/// Adds ports to a profile.
///
/// # Errors
/// Fails if a port is taken, or if a node does not exist.
pub fn add_ports(home: &Home, name: &str, ports: &[PortForward]) -> Result<Profile, Failure> {
    let (_lock, mut profile) = Profile::lock(home, name)?;
    let others = publish::other_profiles(home, name)?;
    for port in ports {
        if let PortTarget::Node(node) = &port.to {
            profile.node(Some(node))?;
        }
        if profile.forwards.contains(port) {
            continue;
        }
        if let Some(other) = profile.forwards.iter().find(|other| other.collides(port)) {
            return Err(Failure::new(
                Source::LocalNetwork,
                Kind::Conflict,
                format!("the port {} leads to {} already", port.host_port, other.to),
            )
            .advise(format!(
                "remove it first: {}",
                command(&format!("port remove {}", other.host_port), name)
            )));
        }
        let listener = port.listener();
        // Also those of stopped clusters, which want them back.
        publish::check_uses(std::iter::once(&profile).chain(&others), &listener)?;
        publish::check([&listener])?;
        profile.forwards.push(port.clone());
    }
    let (count, most) = (profile.forwards.len(), spec::MAX_PORTS);
    if count > most {
        return Err(Failure::new(
            Source::LocalNetwork,
            Kind::Conflict,
            format!("'{name}' would have {count} ports, more than {most}"),
        )
        .advise("publish ranges of node ports with rkube start --ports"));
    }
    profile.save(home)?;
    Ok(profile)
}

/// Removes the ports that one of the texts describes: a port of this machine, or what was added.
/// Returns them.
///
/// # Errors
/// Fails if a text describes no port of the profile; none is removed then.
pub fn remove_ports(
    home: &Home,
    name: &str,
    texts: &[String],
) -> Result<Vec<PortForward>, Failure> {
    let (_lock, mut profile) = Profile::lock(home, name)?;
    let first = profile.control_plane().name.clone();
    let mut removed = Vec::new();
    for text in texts {
        let found: Vec<PortForward> = profile
            .forwards
            .iter()
            .filter(|port| port.is(text, &first))
            .cloned()
            .collect();
        if found.is_empty() {
            return Err(Failure::new(
                Source::Program,
                Kind::NotFound,
                format!("no port of '{name}' is '{text}'"),
            )
            .advise(format!("list them with: {}", command("port list", name))));
        }
        profile.forwards.retain(|port| !found.contains(port));
        removed.extend(found);
    }
    profile.save(home)?;
    Ok(removed)
}
