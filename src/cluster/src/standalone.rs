//! Clusters of one node that configures itself: the node image run by hand or by a test library.
//!
//! No driver made the node and nothing manages it from outside. Its profile and keys are in the node
//! itself, so that a restart finds them again.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use rkube_api::names::dns1123_subdomain;
use rkube_failure::{Failure, Kind, Source};

use crate::access;
use crate::files::{Home, io_failure, make_private_dir, write_private};
use crate::pki;
use crate::profile::{NewProfile, NodeSpec, Profile};
use crate::provision;

/// Name of the profile.
const NAME: &str = "default";
/// Ranges for pods and for services, of which the first that are free are taken.
const POD_RANGES: [&str; 3] = ["10.244.0.0/16", "10.42.0.0/16", "172.30.0.0/16"];
const SERVICE_RANGES: [&str; 3] = ["10.96.0.0/12", "10.43.0.0/16", "172.29.0.0/16"];

/// What a node that configures itself is to be.
#[derive(Clone, Debug)]
pub struct Standalone {
    /// The node's name.
    pub node: String,
    /// The node's address, with the size of its network.
    pub address: Ipv4Net,
    /// Address range of pods; one that is free by default.
    pub pod_cidr: Option<Ipv4Net>,
    /// Address range of services; one that is free by default.
    pub service_cidr: Option<Ipv4Net>,
    /// Suffix of service names.
    pub dns_domain: String,
    /// Port of the API server.
    pub api_port: u16,
    /// Further names and addresses of the API server.
    pub api_names: Vec<String>,
    /// Registries reached over plain HTTP.
    pub insecure_registries: Vec<String>,
}

impl Standalone {
    /// Writes the node's configuration and keys to `etc`, from the profile in `home`, which is created
    /// if it does not exist. Returns a kubeconfig for the node itself.
    ///
    /// # Errors
    /// Fails if the options cannot be combined, or a file cannot be written.
    pub fn configure(&self, home: &Home, etc: &Path) -> Result<String, Failure> {
        let profile = self.profile(Profile::try_load(home, NAME)?.as_ref())?;
        make_private_dir(&home.profile_dir(NAME))?;
        // The node may have another address than before, or is to have other names.
        pki::forget_servers(&home.profile_dir(NAME).join("pki"), &self.node);
        profile.save(home)?;
        provision::configure(home, &profile)?;
        let node = profile.control_plane();
        copy(&profile.plan(home).node_etc(&node.name), etc)?;
        // The engine's resolver is in the container's resolv.conf.
        let mut config = profile.node_config(node, &[]);
        config.cluster.api_server_port = self.api_port;
        write_private(&etc.join("node.yaml"), config.to_yaml().as_bytes())?;
        let mut entry = access::entry(home, &profile)?;
        entry.server = format!("https://127.0.0.1:{}", self.api_port);
        entry.to_yaml()
    }

    /// Returns the node's profile. Objects have addresses of the ranges of `earlier`, so these stay
    /// unless others are given.
    fn profile(&self, earlier: Option<&Profile>) -> Result<Profile, Failure> {
        self.check()?;
        let nodes = self.address.trunc();
        let pods = self.pod_cidr.or(earlier.map(|p| p.pod_cidr));
        let pods = self.range(pods, POD_RANGES, &[nodes])?;
        let services = self.service_cidr.or(earlier.map(|p| p.service_cidr));
        let services = self.range(services, SERVICE_RANGES, &[nodes, pods])?;
        let mut profile = Profile::new(&NewProfile {
            name: NAME,
            // Its nodes are containers of an engine as well.
            driver: "docker",
            nodes: &[NodeSpec::default()],
            node_cidr: nodes,
            pod_cidr: pods,
            service_cidr: services,
            ipv6: None,
            dns_domain: &self.dns_domain,
            insecure_registries: &self.insecure_registries,
            ports: &[],
            mounts: &[],
            kind: false,
            store: None,
            machine: &rkube_drivers::MachineOptions::default(),
        })?;
        profile.api_names.clone_from(&self.api_names);
        // The network is the engine's, which may give any of its addresses to another container.
        profile.no_load_balancer = true;
        for node in &mut profile.nodes {
            node.name.clone_from(&self.node);
            node.ip = self.address.addr();
        }
        Ok(profile)
    }

    /// Checks the names that become part of certificates and of the paths of files.
    fn check(&self) -> Result<(), Failure> {
        let refuse = |what: String| Err(Failure::new(Source::Program, Kind::Usage, what));
        // The node's name is also the value of a label.
        if self.node.len() > 63 || !dns1123_subdomain(&self.node).is_empty() {
            return refuse(format!("'{}' is not a name of a node", self.node));
        }
        if !dns1123_subdomain(&self.dns_domain).is_empty() {
            return refuse(format!("'{}' is not a domain name", self.dns_domain));
        }
        Ok(())
    }

    /// Returns the range that was given, or the first that does not overlap with those taken.
    fn range(
        &self,
        given: Option<Ipv4Net>,
        choice: [&str; 3],
        taken: &[Ipv4Net],
    ) -> Result<Ipv4Net, Failure> {
        let free = |range: &Ipv4Net| {
            let overlaps = |other: &Ipv4Net| range.contains(other) || other.contains(range);
            !taken.iter().any(overlaps)
        };
        let choice = choice.iter().filter_map(|range| range.parse().ok());
        match given {
            Some(given) if free(&given) => Ok(given.trunc()),
            Some(given) => Err(Failure::new(
                Source::Program,
                Kind::Usage,
                format!(
                    "the address range {given} overlaps with another one of {}",
                    taken
                        .iter()
                        .map(Ipv4Net::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            )),
            None => choice.into_iter().find(free).ok_or_else(|| {
                let message = format!("no address range is free beside {}", self.address);
                Failure::new(Source::LocalNetwork, Kind::Config, message)
            }),
        }
    }

    /// Returns the node's address.
    pub fn ip(&self) -> Ipv4Addr {
        self.address.addr()
    }
}

/// Copies a node's configuration to the place where the node reads it.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    make_private_dir(to)?;
    let entries = std::fs::read_dir(from).map_err(|e| io_failure("read", from, &e))?;
    for entry in entries {
        let path = entry.map_err(|e| io_failure("read", from, &e))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            let content = std::fs::read(&path).map_err(|e| io_failure("read", &path, &e))?;
            write_private(&target, &content)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(address: &str) -> Standalone {
        Standalone {
            node: "a1b2c3".into(),
            address: address.parse().unwrap(),
            pod_cidr: None,
            service_cidr: None,
            dns_domain: "cluster.local".into(),
            api_port: 6443,
            api_names: vec!["ci.example".into(), "10.0.0.9".into()],
            insecure_registries: Vec::new(),
        }
    }

    #[test]
    fn ranges_avoid_the_containers_network() {
        for (address, pods, services) in [
            ("172.17.0.2/16", "10.244.0.0/16", "10.96.0.0/12"),
            ("10.244.3.4/24", "10.42.0.0/16", "10.96.0.0/12"),
            ("10.100.0.2/24", "10.244.0.0/16", "10.43.0.0/16"),
            ("10.1.2.3/8", "172.30.0.0/16", "172.29.0.0/16"),
        ] {
            let profile = options(address).profile(None).unwrap();
            assert!(profile.no_load_balancer);
            assert_eq!(profile.pod_cidr.to_string(), pods, "{address}");
            assert_eq!(profile.service_cidr.to_string(), services, "{address}");
        }
        let mut own = options("172.17.0.2/16");
        own.pod_cidr = Some("172.17.8.0/24".parse().unwrap());
        assert!(own.profile(None).is_err());
    }

    #[test]
    fn ranges_stay_as_they_were_first() {
        let first = options("10.244.3.4/24").profile(None).unwrap();
        let moved = options("172.17.0.2/16").profile(Some(&first)).unwrap();
        assert_eq!(moved.pod_cidr, first.pod_cidr);
        assert_eq!(moved.service_cidr, first.service_cidr);
        // Nor are others taken when they are in the way.
        assert!(options("10.42.1.2/24").profile(Some(&first)).is_err());
    }

    #[test]
    fn names_are_checked() {
        for (node, domain, valid) in [
            ("a1b2c3", "cluster.local", true),
            ("a.b", "example", true),
            ("../../etc", "cluster.local", false),
            ("A", "cluster.local", false),
            ("", "cluster.local", false),
            ("a", "a b", false),
        ] {
            let mut own = options("172.17.0.2/16");
            own.node = node.to_owned();
            own.dns_domain = domain.to_owned();
            assert_eq!(own.profile(None).is_ok(), valid, "{node} {domain}");
        }
    }

    #[test]
    fn a_restart_keeps_the_keys_and_follows_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let (home, etc) = (Home::at(dir.path().join("home")), dir.path().join("etc"));
        let first = options("172.17.0.2/16").configure(&home, &etc).unwrap();
        assert!(first.contains("server: https://127.0.0.1:6443"), "{first}");
        let key = std::fs::read(etc.join("pki/ca.key")).unwrap();
        let serving = std::fs::read(etc.join("pki/apiserver.crt")).unwrap();
        let again = options("172.17.0.9/16").configure(&home, &etc).unwrap();
        assert_eq!(first, again);
        assert_eq!(std::fs::read(etc.join("pki/ca.key")).unwrap(), key);
        assert_ne!(
            std::fs::read(etc.join("pki/apiserver.crt")).unwrap(),
            serving
        );
        let config = rkube_config::NodeConfig::read(etc.join("node.yaml")).unwrap();
        assert_eq!(config.ip.to_string(), "172.17.0.9");
        assert_eq!(config.cluster.api_server_port, 6443);
        assert_eq!(config.name, "a1b2c3");
    }
}
