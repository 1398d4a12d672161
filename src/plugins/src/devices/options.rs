//! Combines what a container's plugins answered.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{DeviceFile, HostMount, Options};
use crate::api::device_plugin::ContainerAllocateResponse;

/// Adds an entry; warns if there is one with another value, which stays.
fn add(to: &mut BTreeMap<String, String>, key: &str, value: &str, what: &str) -> bool {
    if let Some(known) = to.get(key) {
        if known != value {
            tracing::warn!(
                "device plugins disagree about the {what} {key}: {known:?} stays, not {value:?}"
            );
        }
        return false;
    }
    to.insert(key.to_owned(), value.to_owned());
    true
}

/// Returns what the runtime does for devices of several resources. The first answer counts.
pub(super) fn combined<'a>(
    responses: impl Iterator<Item = &'a ContainerAllocateResponse>,
) -> Options {
    let mut options = Options::default();
    let (mut files, mut mounts) = (BTreeMap::new(), BTreeMap::new());
    let mut cdi = BTreeSet::new();
    for response in responses {
        for (name, value) in &response.envs {
            add(&mut options.env, name, value, "variable");
        }
        for device in &response.devices {
            if add(
                &mut files,
                &device.container_path,
                &device.host_path,
                "device",
            ) {
                options.devices.push(DeviceFile {
                    host: device.host_path.clone(),
                    container: device.container_path.clone(),
                    permissions: device.permissions.clone(),
                });
            }
        }
        for mount in &response.mounts {
            if add(
                &mut mounts,
                &mount.container_path,
                &mount.host_path,
                "mount",
            ) {
                options.mounts.push(HostMount {
                    host: mount.host_path.clone(),
                    container: mount.container_path.clone(),
                    read_only: mount.read_only,
                });
            }
        }
        for (name, value) in &response.annotations {
            add(&mut options.annotations, name, value, "annotation");
        }
        for device in &response.cdi_devices {
            if cdi.insert(device.name.clone()) {
                options.cdi.push(device.name.clone());
            }
        }
    }
    options
}
