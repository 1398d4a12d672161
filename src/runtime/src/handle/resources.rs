//! Resource limits and usage.

use std::path::PathBuf;

use rkube_cgroups::details::{self, Details};
use rkube_cgroups::{Resources, Stats, node as cgroup};

use super::types::Runtime;
use crate::blocking::blocking;
use crate::error::Result;
use crate::snapshot;
use crate::status::FsUsage;

/// The time in which all processes of a container must be frozen.
const FREEZE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl Runtime {
    /// Changes the limits of a running container. Unset fields are left unchanged.
    pub async fn update_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        let container = self.container(id)?;
        self.running(&container)?;
        let resources = resources.clone();
        blocking(move || Ok(cgroup::update(&container.meta.cgroup, &resources)?)).await
    }

    /// Creates a parent cgroup of containers (such as `/kubepods/burstable/pod…`), and sets its
    /// weight and limits.
    pub async fn configure_cgroup(&self, cgroup: &str, resources: &Resources) -> Result<()> {
        let (cgroup, mut resources) = (cgroup.to_owned(), resources.clone());
        if let Some(shares) = resources.cpu_shares.filter(|_| cgroup::is_v2()) {
            resources.cpu_shares = None;
            resources
                .unified
                .insert("cpu.weight".into(), cgroup::pod_weight(shares).to_string());
        }
        blocking(move || Ok(cgroup::configure(&cgroup, &resources)?)).await
    }

    /// Removes a parent cgroup, unless it still contains containers.
    pub async fn remove_cgroup(&self, cgroup: &str) {
        let cgroup = cgroup.to_owned();
        let _: Result<()> = blocking(move || {
            cgroup::remove_empty(&cgroup);
            Ok(())
        })
        .await;
    }

    /// Returns the CPU and memory usage of a running container.
    pub fn stats(&self, id: &str) -> Result<Stats> {
        let container = self.container(id)?;
        self.running(&container)?;
        Ok(cgroup::stats(&container.meta.cgroup)?)
    }

    /// Returns the CPU and memory usage of a cgroup of this node (such as `/` or `/kubepods/pod…`).
    pub fn cgroup_stats(&self, cgroup: &str) -> Result<Stats> {
        Ok(cgroup::stats(cgroup)?)
    }

    /// Returns everything that the kernel accounts for a cgroup of this node.
    pub fn cgroup_details(&self, cgroup: &str) -> Result<Details> {
        Ok(details::details(cgroup)?)
    }

    /// Returns the processes of a cgroup of this node, and of those below it.
    pub fn cgroup_processes(&self, cgroup: &str) -> Vec<i32> {
        details::all_processes(cgroup)
    }

    /// Returns the cgroup of a running container.
    pub fn container_cgroup(&self, id: &str) -> Result<String> {
        let container = self.container(id)?;
        self.running(&container)?;
        Ok(container.meta.cgroup.clone())
    }

    /// Freezes the processes of a container, or lets them go on. Returns whether that was a change.
    pub async fn set_container_frozen(&self, id: &str, frozen: bool) -> Result<bool> {
        let container = self.container(id)?;
        // A container without a cgroup has ended.
        if !frozen && !cgroup::is_frozen(&container.meta.cgroup) {
            return Ok(false);
        }
        blocking(move || {
            Ok(cgroup::set_frozen(
                &container.meta.cgroup,
                frozen,
                FREEZE_TIMEOUT,
            )?)
        })
        .await
    }

    /// Returns the number of bytes and inodes in a container's writable layer. Slow, because it
    /// walks the whole tree.
    pub async fn writable_layer_usage(&self, id: &str) -> Result<FsUsage> {
        let upper = snapshot::upper(&self.container(id)?.dir);
        blocking(move || Ok(snapshot::usage(&upper))).await
    }

    /// Returns the directory of a container's writable layer.
    pub fn writable_layer(&self, id: &str) -> Option<PathBuf> {
        self.container(id).ok().map(|c| snapshot::upper(&c.dir))
    }

    /// Returns the mount point of a container's root file system on the node.
    pub fn container_rootfs(&self, id: &str) -> Option<PathBuf> {
        self.container(id).ok().map(|c| snapshot::rootfs(&c.dir))
    }
}
