//! Which claims are prepared, for which pods, with which devices: what the agent remembers of
//! resource claims, also in the file `dra_manager_state`, which has the kubelet's format.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::dra as api;

/// Name of the file.
const FILE: &str = "dra_manager_state";
const KIND: &str = "DRACheckpoint";
const VERSION: &str = "checkpoint.dra.kubelet.k8s.io/v1";

/// An allocated device of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClaimDevice {
    /// Its pool.
    pub pool_name: String,
    /// Its name.
    pub device_name: String,
    /// The share of a device that several claims use.
    #[serde(rename = "ShareID")]
    pub share_id: Option<String>,
    /// The requests of the claim that it satisfies; all if empty.
    #[serde(deserialize_with = "list", default)]
    pub request_names: Vec<String>,
    /// Its names in the Container Device Interface.
    #[serde(rename = "CDIDeviceIDs", deserialize_with = "list", default)]
    pub cdi_device_ids: Vec<String>,
}

impl From<api::Device> for ClaimDevice {
    fn from(device: api::Device) -> Self {
        Self {
            pool_name: device.pool_name,
            device_name: device.device_name,
            share_id: device.share_id,
            request_names: device.request_names,
            cdi_device_ids: device.cdi_device_ids,
        }
    }
}

impl ClaimDevice {
    /// Returns whether the device is for a request; an empty name means any.
    pub fn is_for(&self, request: &str) -> bool {
        request.is_empty()
            || self.request_names.is_empty()
            || self.request_names.iter().any(|name| name == request)
    }
}

/// Go writes an absent list as `null`.
fn list<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DriverState {
    #[serde(deserialize_with = "list", default)]
    devices: Vec<ClaimDevice>,
}

/// An empty object, the value of Go's sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Nothing {}

/// A claim that pods of the node use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClaimInfo {
    /// UID of the claim.
    #[serde(rename = "ClaimUID")]
    pub uid: String,
    /// Its name.
    #[serde(rename = "ClaimName")]
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    #[serde(rename = "PodUIDs")]
    pods: BTreeMap<String, Nothing>,
    driver_state: BTreeMap<String, DriverState>,
    /// Whether this agent prepared it. A new agent asks the drivers again.
    #[serde(skip)]
    prepared: bool,
}

impl ClaimInfo {
    /// Returns the claim as its drivers know it.
    pub fn reference(&self) -> api::Claim {
        api::Claim {
            namespace: self.namespace.clone(),
            uid: self.uid.clone(),
            name: self.name.clone(),
        }
    }

    /// Returns the drivers of the claim's devices.
    pub fn drivers(&self) -> impl Iterator<Item = &String> {
        self.driver_state.keys()
    }

    /// Returns the claim's devices, with their drivers.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &ClaimDevice)> {
        self.driver_state
            .iter()
            .flat_map(|(driver, state)| state.devices.iter().map(move |d| (driver.as_str(), d)))
    }
}

/// A claim that the scheduler has allocated, as the API server has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocatedClaim {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The drivers of the allocated devices.
    pub drivers: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: String,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct Content {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[serde(rename = "ClaimInfoStateList")]
    claims: Option<Vec<ClaimInfo>>,
}

/// What to ask of drivers: claims by driver.
pub type Batches = BTreeMap<String, Vec<api::Claim>>;

/// The claims of a node's pods, by namespace and name.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    claims: BTreeMap<(String, String), ClaimInfo>,
}

impl Cache {
    /// Reads the file of a directory.
    ///
    /// # Errors
    ///
    /// Fails if it is damaged: claims that drivers have prepared would be lost.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let damaged = |why: String| {
            io::Error::other(format!(
                "{} is damaged ({why}); drain the node and remove the file",
                path.display()
            ))
        };
        let mut claims = BTreeMap::new();
        match std::fs::read(&path) {
            Ok(bytes) => {
                for claim in decode(&bytes).map_err(damaged)? {
                    claims.insert((claim.namespace.clone(), claim.name.clone()), claim);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(Self { path, claims })
    }

    fn save(&self) -> Result<(), String> {
        let write = |bytes: Vec<u8>| rkube_fsutil::write_atomic_private(&self.path, &bytes);
        encode(self.claims.values())
            .map_err(io::Error::other)
            .and_then(write)
            .map_err(|e| e.to_string())
    }

    /// Returns the claim of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&ClaimInfo> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Notes that a pod uses claims, and returns those that are not prepared yet, by driver.
    ///
    /// # Errors
    ///
    /// Fails for a claim whose predecessor of the same name is still prepared, and if the file
    /// cannot be written.
    pub fn reserve(&mut self, pod: &str, claims: &[AllocatedClaim]) -> Result<Batches, String> {
        let mut batches = Batches::new();
        for claim in claims {
            let key = (claim.namespace.clone(), claim.name.clone());
            let known = self.claims.entry(key).or_insert_with(|| ClaimInfo {
                uid: claim.uid.clone(),
                name: claim.name.clone(),
                namespace: claim.namespace.clone(),
                driver_state: claim
                    .drivers
                    .iter()
                    .map(|d| (d.clone(), DriverState::default()))
                    .collect(),
                ..Default::default()
            });
            if known.uid != claim.uid {
                return Err(format!(
                    "old ResourceClaim with same name {} and different UID {} still exists (previous pod force-deleted?!)",
                    claim.name, known.uid
                ));
            }
            known.pods.insert(pod.to_owned(), Nothing {});
            if known.prepared {
                continue;
            }
            for driver in known.driver_state.keys() {
                let batch = batches.entry(driver.clone()).or_default();
                let reference = known.reference();
                if !batch.contains(&reference) {
                    batch.push(reference);
                }
            }
        }
        self.save()
            .map_err(|e| format!("checkpoint ResourceClaim cache: {e}"))?;
        Ok(batches)
    }

    /// Takes over the devices that a driver prepared for a claim.
    pub fn prepared_by(&mut self, driver: &str, claim: &api::Claim, devices: Vec<api::Device>) {
        let key = (claim.namespace.clone(), claim.name.clone());
        if let Some(info) = self.claims.get_mut(&key).filter(|i| i.uid == claim.uid) {
            // Instead of those that an earlier agent got from the driver.
            info.driver_state
                .entry(driver.to_owned())
                .or_default()
                .devices = devices.into_iter().map(Into::into).collect();
        }
    }

    /// Marks claims as prepared by all of their drivers.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn prepared<'a>(
        &mut self,
        claims: impl Iterator<Item = &'a AllocatedClaim>,
    ) -> Result<(), String> {
        for claim in claims {
            let key = (claim.namespace.clone(), claim.name.clone());
            if let Some(info) = self.claims.get_mut(&key) {
                info.prepared = true;
            }
        }
        self.save()
            .map_err(|e| format!("checkpoint ResourceClaim state: {e}"))
    }

    /// Returns the claims that a pod uses as the last one, by driver. Others lose their reference
    /// to it.
    pub fn release(&mut self, pod: &str) -> Vec<ClaimInfo> {
        let mut last = Vec::new();
        for claim in self.claims.values_mut() {
            if !claim.pods.contains_key(pod) {
                continue;
            }
            if claim.pods.len() > 1 {
                claim.pods.remove(pod);
            } else {
                // If the drivers fail half-way, the next user has it prepared anew.
                claim.prepared = false;
                last.push(claim.clone());
            }
        }
        last
    }

    /// Forgets claims that are no longer prepared.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn remove(&mut self, claims: &[ClaimInfo]) -> Result<(), String> {
        for claim in claims {
            let key = (claim.namespace.clone(), claim.name.clone());
            if self
                .claims
                .get(&key)
                .is_some_and(|known| known.uid == claim.uid)
            {
                self.claims.remove(&key);
            }
        }
        self.save()
            .map_err(|e| format!("checkpoint ResourceClaim state: {e}"))
    }

    /// Returns whether a pod uses a claim that may be prepared.
    pub fn is_used_by(&self, pod: &str) -> bool {
        self.claims
            .values()
            .any(|claim| claim.pods.contains_key(pod))
    }

    /// Returns the UIDs of all pods that use claims.
    pub fn pods(&self) -> BTreeSet<String> {
        let pods = self.claims.values().flat_map(|claim| claim.pods.keys());
        pods.cloned().collect()
    }

    /// Returns the pods that use a device of a driver.
    pub fn users(&self, driver: &str, pool: &str, device: &str) -> BTreeSet<String> {
        let has = |claim: &&ClaimInfo| {
            let mut devices = claim
                .driver_state
                .get(driver)
                .into_iter()
                .flat_map(|d| &d.devices);
            devices.any(|d| d.pool_name == pool && d.device_name == device)
        };
        let users = self.claims.values().filter(has);
        users.flat_map(|claim| claim.pods.keys().cloned()).collect()
    }
}

/// Returns the CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

fn encode<'a>(claims: impl Iterator<Item = &'a ClaimInfo>) -> serde_json::Result<Vec<u8>> {
    let data = serde_json::to_string(&Content {
        kind: KIND.into(),
        api_version: VERSION.into(),
        claims: Some(claims.cloned().collect()),
    })?;
    let checksum = crc32(data.as_bytes());
    serde_json::to_vec(&File { data, checksum })
}

fn decode(bytes: &[u8]) -> Result<Vec<ClaimInfo>, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if crc32(file.data.as_bytes()) != file.checksum {
        return Err("checkpoint is corrupted".into());
    }
    let content: Content = serde_json::from_str(&file.data).map_err(|e| e.to_string())?;
    if content.api_version != VERSION {
        return Err(format!("unknown version {:?}", content.api_version));
    }
    Ok(content.claims.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, drivers: &[&str]) -> AllocatedClaim {
        AllocatedClaim {
            uid: format!("{name}-uid"),
            name: name.into(),
            namespace: "ns".into(),
            drivers: drivers.iter().map(ToString::to_string).collect(),
        }
    }

    fn device(name: &str) -> api::Device {
        api::Device {
            pool_name: "pool".into(),
            device_name: name.into(),
            request_names: vec!["gpu".into()],
            cdi_device_ids: vec![format!("e.com/class={name}")],
            share_id: None,
        }
    }

    #[test]
    fn claims_are_prepared_once_and_kept_for_their_last_pod() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(dir.path()).unwrap();
        let claims = [claim("a", &["x", "y"]), claim("b", &["x"])];
        let batches = cache.reserve("p1", &claims).unwrap();
        let names: Vec<_> = batches["x"].iter().map(|c| c.name.as_str()).collect();
        assert_eq!((names, batches["y"].len()), (vec!["a", "b"], 1));
        cache.prepared_by("x", &batches["x"][0], vec![device("d")]);
        cache.prepared(claims.iter()).unwrap();
        assert!(cache.reserve("p2", &claims[..1]).unwrap().is_empty());
        assert_eq!(cache.users("x", "pool", "d").len(), 2);
        assert!(cache.release("p1").iter().all(|c| c.name == "b"));
        let last = cache.release("p2");
        assert_eq!(last[0].drivers().count(), 2);
        assert!(cache.is_used_by("p2"), "until the drivers have agreed");
        cache.remove(&last).unwrap();
        assert!(!cache.is_used_by("p2"));
    }

    #[test]
    fn a_new_agent_asks_drivers_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(dir.path()).unwrap();
        let claims = [claim("a", &["x"])];
        let batches = cache.reserve("p", &claims).unwrap();
        cache.prepared_by("x", &batches["x"][0], vec![device("d")]);
        cache.prepared(claims.iter()).unwrap();
        let mut cache = Cache::open(dir.path()).unwrap();
        let info = cache.get("ns", "a").unwrap();
        assert_eq!(
            info.devices()
                .map(|(_, d)| d.cdi_device_ids.clone())
                .next()
                .unwrap(),
            ["e.com/class=d"]
        );
        assert_eq!(cache.reserve("p", &claims).unwrap().len(), 1);
        // The devices are not listed twice.
        cache.prepared_by("x", &batches["x"][0], vec![device("d")]);
        assert_eq!(cache.get("ns", "a").unwrap().devices().count(), 1);
    }

    #[test]
    fn a_successor_waits_for_the_old_claim() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(dir.path()).unwrap();
        cache.reserve("p", &[claim("a", &["x"])]).unwrap();
        let mut new = claim("a", &["x"]);
        new.uid = "other".into();
        assert_eq!(
            cache.reserve("q", &[new]).unwrap_err(),
            "old ResourceClaim with same name a and different UID a-uid still exists (previous pod force-deleted?!)"
        );
    }

    #[test]
    fn the_file_has_the_kubelets_format() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let data = r#"{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","ClaimInfoStateList":[{"ClaimUID":"u","ClaimName":"c","Namespace":"ns","PodUIDs":{"p":{}},"DriverState":{"x":{"Devices":[{"PoolName":"pool","DeviceName":"d","ShareID":null,"RequestNames":["r"],"CDIDeviceIDs":null}]},"y":{"Devices":null}}}]}"#;
        let file = File {
            data: data.into(),
            checksum: crc32(data.as_bytes()),
        };
        let bytes = serde_json::to_vec(&file).unwrap();
        let claims = decode(&bytes).unwrap();
        assert_eq!(claims[0].devices().count(), 1);
        assert!(claims[0].pods.contains_key("p"));
        let text = String::from_utf8(encode(claims.iter()).unwrap()).unwrap();
        assert!(text.contains(r#"\"PodUIDs\":{\"p\":{}}"#), "{text}");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(
            Cache::open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("drain the node")
        );
    }
}
