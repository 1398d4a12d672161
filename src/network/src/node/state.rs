//! The address allocations of sandboxes, in memory and on disk.
//!
//! There is one file per sandbox, `pods/<sandbox>.json`. It is written to a temporary file and
//! renamed, so that a crash leaves either the old or the new state. `last-address` holds the most
//! recently allocated address. Addresses are allocated round-robin, so that one is reused only
//! after all others.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};

use super::types::{HostPort, PodNetwork, mac_of, same_place};
use crate::error::{NetworkError, Result};

/// The allocations and the addresses of other nodes.
pub(super) struct State {
    dir: PathBuf,
    pod_cidr: Ipv4Net,
    ipv6: Option<Ipv6Net>,
    by_address: BTreeMap<Ipv4Addr, PodNetwork>,
    /// The most recently allocated address.
    last: Ipv4Addr,
    /// Addresses of the other nodes, in ascending order.
    pub(super) peers: Vec<IpAddr>,
}

/// Returns the first address of a pod range.
pub(super) fn gateway(pod_cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(pod_cidr.network()) + 1)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> NetworkError {
    let path = path.display().to_string();
    move |source| NetworkError::File {
        action,
        path,
        source,
    }
}

/// Replaces a file atomically.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, content).map_err(failed("write", &beside))?;
    fs::rename(&beside, path).map_err(failed("write", path))
}

impl State {
    /// Loads the state from `dir`, which is created if missing. Deletes unusable records. With the
    /// range `ipv6`, pods get an address of it as well.
    pub(super) fn open(dir: &Path, pod_cidr: Ipv4Net, ipv6: Option<Ipv6Net>) -> Result<Self> {
        let pods = dir.join("pods");
        fs::create_dir_all(&pods).map_err(failed("create", &pods))?;
        let mut by_address = BTreeMap::new();
        for entry in fs::read_dir(&pods).map_err(failed("read", &pods))? {
            let path = entry.map_err(failed("read", &pods))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let content = fs::read(&path).map_err(failed("read", &path))?;
            match serde_json::from_slice::<PodNetwork>(&content) {
                Ok(pod) if pod_cidr.contains(&pod.ip) => {
                    by_address.insert(pod.ip, pod);
                }
                // Belongs to another range, or was torn by a power failure, which the sandbox did
                // not survive either.
                _ => {
                    tracing::warn!(path = %path.display(), "an unusable record of a pod's address is dropped");
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
            }
        }
        let last = fs::read_to_string(dir.join("last-address"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|ip| pod_cidr.contains(ip))
            .unwrap_or_else(|| gateway(pod_cidr));
        Ok(Self {
            dir: dir.to_owned(),
            pod_cidr,
            ipv6,
            by_address,
            last,
            peers: Vec::new(),
        })
    }

    /// Returns all records, ordered by address.
    pub(super) fn pods(&self) -> impl Iterator<Item = &PodNetwork> {
        self.by_address.values()
    }

    /// Returns the record of a sandbox, allocated if necessary, and whether it existed.
    pub(super) fn allocate(
        &mut self,
        sandbox_id: &str,
        host_link: &str,
        host_ports: &[HostPort],
    ) -> Result<(PodNetwork, bool)> {
        let path = self.path(sandbox_id)?;
        if let Some(pod) = self.pods().find(|pod| pod.sandbox_id == sandbox_id) {
            return Ok((pod.clone(), true));
        }
        let ip = self.next_address()?;
        let pod = PodNetwork {
            sandbox_id: sandbox_id.to_owned(),
            ip,
            ipv6: self.ipv6.map(|net| same_place(ip, self.pod_cidr, net)),
            gateway: gateway(self.pod_cidr),
            mac: mac_of(ip),
            host_link: host_link.to_owned(),
            host_ports: host_ports.to_vec(),
        };
        let content = serde_json::to_vec(&pod).expect("a record is plain data");
        replace(&path, &content)?;
        replace(&self.dir.join("last-address"), ip.to_string().as_bytes())?;
        self.last = ip;
        self.by_address.insert(ip, pod.clone());
        Ok((pod, false))
    }

    /// Releases the address of a sandbox. Returns its record, if any.
    pub(super) fn release(&mut self, sandbox_id: &str) -> Result<Option<PodNetwork>> {
        let path = self.path(sandbox_id)?;
        let Some(ip) = self
            .pods()
            .find(|pod| pod.sandbox_id == sandbox_id)
            .map(|pod| pod.ip)
        else {
            return Ok(None);
        };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
        Ok(self.by_address.remove(&ip))
    }

    /// Returns the path of a sandbox's record. Rejects IDs that are not plain file names.
    fn path(&self, sandbox_id: &str) -> Result<PathBuf> {
        if sandbox_id.is_empty() || sandbox_id.starts_with('.') || sandbox_id.contains(['/', '\0'])
        {
            return Err(NetworkError::Invalid(format!(
                "{sandbox_id:?} is no sandbox id"
            )));
        }
        Ok(self.dir.join("pods").join(format!("{sandbox_id}.json")))
    }

    /// Returns the next free address, excluding the network, gateway and broadcast addresses.
    fn next_address(&self) -> Result<Ipv4Addr> {
        let first = u32::from(gateway(self.pod_cidr)) + 1;
        let last = u32::from(self.pod_cidr.broadcast()) - 1;
        let count = last - first + 1;
        let start = u32::from(self.last).saturating_sub(first).wrapping_add(1);
        let start = if u32::from(self.last) < first {
            0
        } else {
            start
        };
        (0..count)
            .map(|step| Ipv4Addr::from(first + (start + step) % count))
            .find(|ip| !self.by_address.contains_key(ip))
            .ok_or(NetworkError::AddressesExhausted(self.pod_cidr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_in_turn_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let net: Ipv4Net = "10.244.3.0/29".parse().unwrap();
        let ip = |last| Ipv4Addr::new(10, 244, 3, last);
        let mut state = State::open(dir.path(), net, None).unwrap();
        let give =
            |state: &mut State, id: &str| state.allocate(id, "x", &[]).map(|(pod, _)| pod.ip);
        assert_eq!(give(&mut state, "a").unwrap(), ip(2));
        assert_eq!(give(&mut state, "b").unwrap(), ip(3));
        assert_eq!(give(&mut state, "a").unwrap(), ip(2));
        state.release("b").unwrap().unwrap();
        assert!(state.release("b").unwrap().is_none());

        let mut state = State::open(dir.path(), net, None).unwrap();
        assert_eq!(state.pods().count(), 1);
        for last in [4, 5, 6, 3] {
            assert_eq!(give(&mut state, &format!("c{last}")).unwrap(), ip(last));
        }
        assert!(matches!(
            give(&mut state, "d"),
            Err(NetworkError::AddressesExhausted(_))
        ));
        assert!(state.allocate("../e", "x", &[]).is_err());
    }

    #[test]
    fn torn_and_foreign_records_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("pods")).unwrap();
        fs::write(dir.path().join("pods/torn.json"), b"{\"sandboxId").unwrap();
        fs::write(dir.path().join("pods/half.new"), b"").unwrap();
        let state = State::open(dir.path(), "10.244.3.0/24".parse().unwrap(), None).unwrap();
        assert_eq!(state.pods().count(), 0);
        assert!(!dir.path().join("pods/torn.json").exists());
    }
}
