//! One group in every hierarchy of a host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::devices::{self, DeviceRule};
use crate::freezer::Freezer;
use crate::group;
use crate::hierarchy::{Hierarchy, enable_controllers};
use crate::types::{Context, Error, Result};

/// Period of the CPU bandwidth controller, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// Interval between checks for processes that have not exited yet.
const KILL_POLL_PERIOD: Duration = Duration::from_millis(5);
/// Interval between attempts to remove a group.
const REMOVE_POLL_PERIOD: Duration = Duration::from_millis(2);

/// CPU and memory limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// CPU time in thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// The group at the same path in every hierarchy.
#[derive(Clone, Debug)]
pub struct HostGroups<'a> {
    hierarchies: &'a [Hierarchy],
    /// Relative to each mount point.
    path: PathBuf,
}

impl<'a> HostGroups<'a> {
    /// Returns the groups at `path`, relative to the hierarchies' mount points, as in
    /// `rkube/<profile>/<node>`. Creates nothing.
    pub fn new(hierarchies: &'a [Hierarchy], path: impl Into<PathBuf>) -> Self {
        Self {
            hierarchies,
            path: path.into(),
        }
    }

    /// Creates the groups and their parents, and sets their limits.
    ///
    /// On version 2, controllers are enabled in every parent. On version 1, each group
    /// gets its parent's CPUs and memory nodes. Groups that exist are kept.
    pub fn create(&self, limits: Limits) -> Result<()> {
        for hierarchy in self.hierarchies {
            self.create_in(hierarchy)?;
            let group = hierarchy.mount_point.join(&self.path);
            set_limits(hierarchy, &group, limits)?;
        }
        Ok(())
    }

    /// Creates the group and its parents in one hierarchy.
    fn create_in(&self, hierarchy: &Hierarchy) -> Result<()> {
        let mount_point = &hierarchy.mount_point;
        // From the mount point, excluded, down to the group.
        let mut levels: Vec<PathBuf> = self
            .path
            .ancestors()
            .filter(|level| !level.as_os_str().is_empty())
            .map(|level| mount_point.join(level))
            .collect();
        levels.reverse();
        if hierarchy.unified {
            create_dir(&mount_point.join(&self.path))?;
            enable_controllers(mount_point);
            levels.pop();
            levels.iter().for_each(|parent| enable_controllers(parent));
            return Ok(());
        }
        for level in &levels {
            create_dir(level)?;
            // Also in one that exists: its creator may not be done yet.
            if hierarchy.has("cpuset") {
                fill_cpuset(level)?;
            }
        }
        Ok(())
    }

    /// Moves a process into the groups.
    pub fn add_process(&self, pid: i32) -> Result<()> {
        for hierarchy in self.hierarchies {
            let group = hierarchy.mount_point.join(&self.path);
            write(&group.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Restricts the groups and those below to these devices, unless they are restricted already.
    /// Must be called before there are groups below. The version 1 controller is used if the host
    /// has it.
    ///
    /// # Errors
    ///
    /// Fails if the host has neither version with control of devices, or the kernel refuses.
    pub fn restrict_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        let version_1 = self.hierarchies.iter().find(|h| h.has("devices"));
        let hierarchy = version_1
            .or_else(|| self.hierarchies.iter().find(|h| h.unified))
            .ok_or_else(|| Error::Invalid("no control group restricts devices".into()))?;
        let group = hierarchy.mount_point.join(&self.path);
        let done = if hierarchy.unified {
            devices::restrict_v2(&group, rules)
        } else {
            devices::restrict_v1(&group, rules)
        };
        done.context(|| format!("cannot restrict the devices of {}", group.display()))
    }

    /// Freezes the processes of the groups and those below, or lets them go on. Does nothing if
    /// there are no groups, or they are in that state already. If not all processes are frozen
    /// within `limit`, they go on, and an error is returned.
    pub fn set_frozen(&self, frozen: bool, limit: Duration) -> Result<()> {
        let Some(freezer) = Freezer::of(self.hierarchies, &self.path) else {
            return Ok(());
        };
        if freezer.is_on() == frozen {
            return Ok(());
        }
        freezer.set(frozen, limit).inspect_err(|_| {
            // The caller reports the failure that led here.
            let _ = freezer.set(false, limit);
        })
    }

    /// Lets the processes of all groups below go on, also of those that were frozen by themselves.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses.
    pub fn thaw_below(&self) -> Result<()> {
        let version_1 = self.hierarchies.iter().find(|h| h.has("freezer"));
        let Some(hierarchy) = version_1.or_else(|| self.hierarchies.iter().find(|h| h.unified))
        else {
            return Ok(());
        };
        Freezer::thaw_below(&hierarchy.mount_point.join(&self.path), hierarchy.unified)
    }

    /// Returns whether the processes are frozen.
    pub fn is_frozen(&self) -> bool {
        Freezer::of(self.hierarchies, &self.path).is_some_and(|freezer| freezer.is_on())
    }

    /// Returns the names of the groups directly below, of all hierarchies.
    pub fn children(&self) -> BTreeSet<String> {
        let entries = |hierarchy: &Hierarchy| {
            // A group that does not exist has no children.
            fs::read_dir(hierarchy.mount_point.join(&self.path))
                .into_iter()
                .flatten()
                .flatten()
        };
        self.hierarchies
            .iter()
            .flat_map(entries)
            .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Kills every process of the groups and those below, until none is left. Fails with
    /// [`Error::Alive`] if some are left after `timeout`.
    pub fn kill_all(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let left: usize = self
                .hierarchies
                .iter()
                .flat_map(|hierarchy| group::descendants(&hierarchy.mount_point.join(&self.path)))
                .map(|group| group::kill(&group))
                .sum();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Alive(left));
            }
            std::thread::sleep(KILL_POLL_PERIOD);
        }
    }

    /// Removes the groups and those below, which must have no processes. Repeats the
    /// removal of a busy group for at most `timeout`: a group can stay busy for a moment
    /// after its last process has exited.
    pub fn remove(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        for hierarchy in self.hierarchies {
            let group = hierarchy.mount_point.join(&self.path);
            while let Err(e) = group::remove(&group) {
                if e.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
                    return Err(e).context(|| format!("cannot remove {}", group.display()));
                }
                std::thread::sleep(REMOVE_POLL_PERIOD);
            }
        }
        Ok(())
    }

    /// Removes the group in each hierarchy where it has neither processes nor children.
    pub fn remove_if_empty(&self) {
        for hierarchy in self.hierarchies {
            let _ = fs::remove_dir(hierarchy.mount_point.join(&self.path));
        }
    }
}

fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).context(|| format!("cannot make {}", path.display()))
}

/// Copies the parent's CPUs and memory nodes to a version 1 group, which accepts no
/// process without any. `clone_children` does the same for groups created below.
fn fill_cpuset(group: &Path) -> Result<()> {
    let read = |path: PathBuf| {
        fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))
    };
    let parent = group
        .parent()
        .ok_or_else(|| Error::Invalid("a control group has a parent".into()))?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(group.join(file))?.trim().is_empty() {
            write(&group.join(file), read(parent.join(file))?.trim())?;
        }
    }
    write(&group.join("cgroup.clone_children"), "1")
}

fn set_limits(hierarchy: &Hierarchy, group: &Path, limits: Limits) -> Result<()> {
    let quota = limits.cpu_millis.map(|millis| millis * CPU_PERIOD / 1000);
    if hierarchy.unified {
        // On a host with both versions, version 2 may have no controllers.
        if let Some(quota) = quota
            && group.join("cpu.max").exists()
        {
            write(&group.join("cpu.max"), &format!("{quota} {CPU_PERIOD}"))?;
        }
        if let Some(bytes) = limits.memory_bytes
            && group.join("memory.max").exists()
        {
            write(&group.join("memory.max"), &bytes.to_string())?;
        }
        return Ok(());
    }
    if hierarchy.has("cpu")
        && let Some(quota) = quota
    {
        write(&group.join("cpu.cfs_period_us"), &CPU_PERIOD.to_string())?;
        write(&group.join("cpu.cfs_quota_us"), &quota.to_string())?;
    }
    if hierarchy.has("memory")
        && let Some(bytes) = limits.memory_bytes
    {
        write(&group.join("memory.limit_in_bytes"), &bytes.to_string())?;
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).context(|| format!("cannot write '{value}' to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(mount_point: &Path, controllers: &[&str]) -> Hierarchy {
        Hierarchy {
            mount_point: mount_point.to_owned(),
            controllers: controllers.iter().map(ToString::to_string).collect(),
            unified: controllers.is_empty(),
        }
    }

    #[test]
    fn groups_are_made_limited_and_removed_in_every_hierarchy() {
        // Plain directories behave like hierarchies, except that they have no files.
        let dir = tempfile::tempdir().unwrap();
        let (v1, v2) = (dir.path().join("memory"), dir.path().join("unified"));
        for path in [&v1, &v2] {
            fs::create_dir(path).unwrap();
        }
        let hierarchies = [hierarchy(&v1, &["memory"]), hierarchy(&v2, &[])];
        let groups = HostGroups::new(&hierarchies, "rkube/p/n");
        groups
            .create(Limits {
                cpu_millis: None,
                memory_bytes: Some(4096),
            })
            .unwrap();
        let limit = v1.join("rkube/p/n/memory.limit_in_bytes");
        assert_eq!(fs::read_to_string(&limit).unwrap(), "4096");
        // Version 2 without the controller.
        assert!(!v2.join("rkube/p/n/memory.max").exists());
        fs::remove_file(limit).unwrap();
        HostGroups::new(&hierarchies, "rkube")
            .kill_all(Duration::ZERO)
            .unwrap();
        HostGroups::new(&hierarchies, "rkube/p")
            .remove(Duration::ZERO)
            .unwrap();
        HostGroups::new(&hierarchies, "rkube").remove_if_empty();
        assert!(!v1.join("rkube").exists() && !v2.join("rkube").exists());
    }

    #[test]
    fn one_hierarchy_freezes_a_group() {
        // Plain files behave like the kernel's, except that they keep what is written.
        let dir = tempfile::tempdir().unwrap();
        let (v1, v2) = (dir.path().join("freezer"), dir.path().join("unified"));
        for path in [&v1, &v2] {
            fs::create_dir_all(path.join("rkube/p/n")).unwrap();
        }
        let old = v1.join("rkube/p/n/freezer.state");
        let new = v2.join("rkube/p/n/cgroup.freeze");
        fs::write(&old, "THAWED\n").unwrap();
        fs::write(&new, "0\n").unwrap();
        let both = [hierarchy(&v2, &[]), hierarchy(&v1, &["freezer"])];
        let limit = Duration::from_millis(20);
        assert!(!HostGroups::new(&both, "rkube/p/n").is_frozen());
        HostGroups::new(&both, "rkube/p/n")
            .set_frozen(true, limit)
            .unwrap();
        assert!(HostGroups::new(&both, "rkube/p/n").is_frozen());
        assert_eq!(fs::read_to_string(&new).unwrap(), "0\n");
        HostGroups::new(&both, "rkube/p/n")
            .set_frozen(false, limit)
            .unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "THAWED");
        HostGroups::new(&both, "rkube/p/n")
            .set_frozen(true, limit)
            .unwrap();
        for node in HostGroups::new(&both, "rkube/p").children() {
            HostGroups::new(&both, format!("rkube/p/{node}"))
                .set_frozen(false, limit)
                .unwrap();
        }
        assert_eq!(fs::read_to_string(&old).unwrap(), "THAWED");
        // A group that is not there is not frozen, and need not be.
        HostGroups::new(&both, "rkube/p/other")
            .set_frozen(true, limit)
            .unwrap();

        let unified = [hierarchy(&v2, &[])];
        let events = v2.join("rkube/p/n/cgroup.events");
        fs::write(&events, "populated 1\nfrozen 0\n").unwrap();
        assert!(
            HostGroups::new(&unified, "rkube/p/n")
                .set_frozen(true, limit)
                .is_err()
        );
        assert!(!HostGroups::new(&unified, "rkube/p/n").is_frozen());
        fs::write(&events, "populated 1\nfrozen 1\n").unwrap();
        HostGroups::new(&unified, "rkube/p/n")
            .set_frozen(true, limit)
            .unwrap();
        assert!(HostGroups::new(&unified, "rkube/p/n").is_frozen());
    }

    #[test]
    fn a_cpuset_is_filled_from_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("g");
        fs::create_dir(&group).unwrap();
        for (file, of_parent, own) in [("cpuset.cpus", "0-3\n", ""), ("cpuset.mems", "0\n", "1")] {
            fs::write(dir.path().join(file), of_parent).unwrap();
            fs::write(group.join(file), own).unwrap();
        }
        fill_cpuset(&group).unwrap();
        let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
        assert_eq!(read("cpuset.cpus"), "0-3");
        assert_eq!(read("cpuset.mems"), "1");
        assert_eq!(read("cgroup.clone_children"), "1");
    }
}
