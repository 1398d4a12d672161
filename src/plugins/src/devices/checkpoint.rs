//! The file from which a restarted agent knows its allocations: `kubelet_internal_checkpoint`.
//!
//! Its format is the kubelet's, except for the checksum, which the kubelet computes from Go's
//! representation of the data. Here it is FNV-1a of the data's JSON.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::state::State;
use super::types::Allocation;
use crate::api::device_plugin::ContainerAllocateResponse;
use crate::wire::Message as _;

/// Name of the file.
pub(super) const FILE: &str = "kubelet_internal_checkpoint";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: Data,
    checksum: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod: String,
    #[serde(rename = "ContainerName")]
    container: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    #[serde(rename = "DeviceIDs")]
    ids: BTreeMap<i64, Vec<String>>,
    #[serde(rename = "AllocResp")]
    response: String,
}

/// Returns the FNV-1a hash of 32 bits.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    u64::from(bytes.iter().fold(0x811c_9dc5, step))
}

/// Returns the file's content.
pub(super) fn encode(state: &State) -> serde_json::Result<Vec<u8>> {
    let entries = state
        .allocations()
        .map(|(pod, container, resource, held)| Entry {
            pod: pod.to_owned(),
            container: container.to_owned(),
            resource: resource.to_owned(),
            ids: held.ids.clone(),
            response: STANDARD.encode(held.response.encode()),
        });
    let registered = state.resources().map(|(name, resource)| {
        let ids = resource.healthy.iter().cloned().collect();
        (name.to_owned(), ids)
    });
    let data = Data {
        pod_device_entries: Some(entries.collect()),
        registered_devices: registered.collect(),
    };
    let checksum = fnv(&serde_json::to_vec(&data)?);
    serde_json::to_vec(&Checkpoint { data, checksum })
}

/// Reads the file's content into `state`.
///
/// # Errors
///
/// Fails if it is damaged; `state` is unchanged.
pub(super) fn decode(bytes: &[u8], state: &mut State) -> Result<(), String> {
    let read: Checkpoint = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let data = serde_json::to_vec(&read.data).map_err(|e| e.to_string())?;
    if fnv(&data) != read.checksum {
        return Err("checkpoint is corrupted".into());
    }
    let mut restored = state.clone();
    for entry in read.data.pod_device_entries.into_iter().flatten() {
        let bytes = STANDARD
            .decode(&entry.response)
            .map_err(|e| e.to_string())?;
        let response = ContainerAllocateResponse::decode(&bytes).map_err(|e| e.to_string())?;
        let allocation = Allocation {
            ids: entry.ids,
            response,
        };
        restored.restore(&entry.pod, &entry.container, &entry.resource, allocation);
    }
    for resource in read.data.registered_devices.keys() {
        restored.restore_resource(resource);
    }
    *state = restored;
    Ok(())
}

/// Reads the file of a directory; without one, there are no allocations.
pub(super) fn read(dir: &Path) -> State {
    let mut state = State::default();
    let path = dir.join(FILE);
    let result = match std::fs::read(&path) {
        Ok(bytes) => decode(&bytes, &mut state),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.to_string()),
    };
    if let Err(why) = result {
        tracing::error!(
            "{} is not used: {why}. Devices that containers have may be given to others",
            path.display()
        );
    }
    state
}

/// Writes the file of a directory.
///
/// # Errors
///
/// Returns upstream's message if the file cannot be written.
pub(super) fn write(dir: &Path, state: &State) -> Result<(), String> {
    let write = |bytes: Vec<u8>| rkube_fsutil::write_atomic_private(&dir.join(FILE), &bytes);
    encode(state)
        .map_err(io::Error::other)
        .and_then(write)
        .map_err(|e| format!("failed to write checkpoint file {FILE:?}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::types::Ids;

    fn state() -> State {
        let mut state = State::default();
        let connection = state.connect("e.com/a", Default::default());
        let device = crate::api::device_plugin::Device {
            id: "d1".into(),
            health: "Healthy".into(),
            topology: None,
        };
        state.update("e.com/a", connection, vec![device]);
        let response = ContainerAllocateResponse {
            envs: [("A".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        state.insert("p", "c", "e.com/a", &Ids::from(["d1".to_owned()]), response);
        state
    }

    #[test]
    fn allocations_survive_and_resources_wait_for_their_plugins() {
        let bytes = encode(&state()).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(
            text.starts_with(
                r#"{"Data":{"PodDeviceEntries":[{"PodUID":"p","ContainerName":"c","ResourceName":"e.com/a","DeviceIDs":{"-1":["d1"]},"AllocResp":"CgYKAUESATE="}],"RegisteredDevices":{"e.com/a":["d1"]}},"Checksum":"#
            ),
            "{text}"
        );
        let mut read = State::default();
        decode(&bytes, &mut read).unwrap();
        assert_eq!(
            read.of_container("p", "c", "e.com/a"),
            Some(Ids::from(["d1".into()]))
        );
        assert_eq!(read.options("p", "c").env["A"], "1");
        assert_eq!(read.capacity().resources["e.com/a"], (0, 0));
        assert!(read.is_device("e.com/a"));
    }

    #[test]
    fn damaged_files_are_not_used() {
        let bytes = encode(&state()).unwrap();
        let damaged = String::from_utf8(bytes)
            .unwrap()
            .replace("\"d1\"", "\"d2\"");
        let mut read = State::default();
        let error = decode(damaged.as_bytes(), &mut read).unwrap_err();
        assert_eq!(error, "checkpoint is corrupted");
        assert!(read.pods().is_empty());
        let dir = tempfile::tempdir().unwrap();
        assert!(super::read(dir.path()).pods().is_empty());
        write(dir.path(), &state()).unwrap();
        assert_eq!(super::read(dir.path()).pods(), ["p"]);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(super::read(dir.path()).pods().is_empty());
    }
}
