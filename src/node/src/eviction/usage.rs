//! A pod's usage of the resources that it can be evicted for.

use std::time::Duration;

use rkube_runtime::{FsUsage, Runtime};

use crate::disk::Sizes;
use crate::kinds::*;
use crate::pods::instance::Instance;
use crate::pods::paths::log_dir;
use crate::pods::qos;
use crate::pods::table::Snapshot;
use crate::volumes::scratch;

/// The usage of a running container.
#[derive(Clone, Debug, Default)]
pub(super) struct ContainerUsage {
    pub name: String,
    /// Its working set in bytes.
    pub memory: Option<u64>,
    /// Its writable layer and logs.
    pub disk: FsUsage,
}

/// The usage of a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct PodUsage {
    /// The working set in bytes.
    pub memory: Option<u64>,
    pub processes: Option<u64>,
    pub containers: Vec<ContainerUsage>,
    /// The volumes that are directories on the node's disk, by name.
    pub volumes: Vec<(String, FsUsage)>,
}

impl PodUsage {
    /// Returns the disk usage of containers and volumes.
    pub(super) fn disk(&self) -> FsUsage {
        let containers = self.containers.iter().map(|c| &c.disk);
        let all = containers.chain(self.volumes.iter().map(|(_, usage)| usage));
        all.fold(FsUsage::default(), |sum, usage| add(&sum, usage))
    }
}

fn add(a: &FsUsage, b: &FsUsage) -> FsUsage {
    FsUsage {
        used_bytes: a.used_bytes.saturating_add(b.used_bytes),
        used_inodes: a.used_inodes.saturating_add(b.used_inodes),
    }
}

/// Measures pods.
#[derive(Clone, Copy)]
pub(super) struct Meter<'a> {
    pub runtime: &'a Runtime,
    pub sizes: &'a Sizes,
    /// The accepted age of the sizes of directories.
    pub age: Duration,
}

impl Meter<'_> {
    /// Returns a pod's memory and processes.
    pub(super) fn groups(&self, snapshot: &Snapshot) -> PodUsage {
        let stats = self
            .runtime
            .cgroup_stats(&qos::cgroup_parent(&snapshot.pod))
            .ok();
        let container = |instance: &Instance| {
            let group = self.runtime.container_cgroup(&instance.id).ok()?;
            let stats = self.runtime.cgroup_stats(&group).ok()?;
            Some(ContainerUsage {
                name: instance.name.clone(),
                memory: Some(stats.memory_working_set),
                disk: FsUsage::default(),
            })
        };
        PodUsage {
            memory: stats.as_ref().map(|s| s.memory_working_set),
            processes: stats.map(|s| s.pids),
            containers: running(snapshot).filter_map(container).collect(),
            volumes: Vec::new(),
        }
    }

    /// Returns a pod's disk usage. Blocks the thread while directories are walked.
    pub(super) fn disk(&self, snapshot: &Snapshot) -> PodUsage {
        let pod = &snapshot.pod;
        let containers = running(snapshot).map(|instance| {
            let layer = self.runtime.writable_layer(&instance.id);
            let logs = log_dir(pod).join(&instance.name);
            let used = layer.map(|layer| self.sizes.not_older_than(&layer, self.age));
            ContainerUsage {
                name: instance.name.clone(),
                memory: None,
                disk: add(
                    &used.unwrap_or_default(),
                    &self.sizes.not_older_than(&logs, self.age),
                ),
            }
        });
        PodUsage {
            containers: containers.collect(),
            volumes: self.volumes(pod, |_| true),
            ..PodUsage::default()
        }
    }

    /// Returns the disk usage of the volumes that `wanted` selects.
    pub(super) fn volumes(
        &self,
        pod: &Pod,
        wanted: impl Fn(&Volume) -> bool,
    ) -> Vec<(String, FsUsage)> {
        let volumes = pod.spec().volumes.iter().flatten();
        volumes
            .filter(|volume| wanted(volume))
            .filter_map(|volume| {
                let directory = scratch(pod.uid(), volume)?;
                let usage = self.sizes.not_older_than(&directory, self.age);
                Some((volume.name.clone(), usage))
            })
            .collect()
    }
}

/// Returns the running attempts of a pod's containers.
fn running(snapshot: &Snapshot) -> impl Iterator<Item = &Instance> {
    let latest = snapshot.instances.values().filter_map(|all| all.last());
    latest.filter(|instance| instance.running())
}
