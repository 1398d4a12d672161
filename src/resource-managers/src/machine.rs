//! The machine's layout: CPUs, cores, caches, sockets and NUMA nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::cpuset::CpuSet;

/// Where a CPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuInfo {
    /// The NUMA node.
    pub numa: usize,
    /// The socket.
    pub socket: usize,
    /// The core: the lowest number of its CPUs, which is unique, unlike the kernel's number.
    pub core: usize,
    /// The last-level cache; the socket's number if all CPUs of a NUMA node share one.
    pub uncore: usize,
}

/// A level of the machine's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// NUMA nodes.
    Numa,
    /// Sockets.
    Socket,
    /// Cores.
    Core,
    /// Last-level caches that only a part of a NUMA node shares.
    Uncore,
}

impl CpuInfo {
    /// Returns the number of the unit that the CPU belongs to.
    pub fn at(&self, level: Level) -> usize {
        match level {
            Level::Numa => self.numa,
            Level::Socket => self.socket,
            Level::Core => self.core,
            Level::Uncore => self.uncore,
        }
    }
}

/// CPUs and where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus(pub BTreeMap<usize, CpuInfo>);

impl Cpus {
    /// Returns all CPUs.
    pub fn all(&self) -> CpuSet {
        self.0.keys().copied().collect()
    }

    /// Returns the CPUs of units of a level.
    pub fn of(&self, level: Level, ids: &[usize]) -> CpuSet {
        let within = |info: &CpuInfo| ids.contains(&info.at(level));
        self.0
            .iter()
            .filter(|(_, info)| within(info))
            .map(|(cpu, _)| *cpu)
            .collect()
    }

    /// Returns the units of a level, in ascending order.
    pub fn units(&self, level: Level) -> Vec<usize> {
        let ids: BTreeSet<usize> = self.0.values().map(|info| info.at(level)).collect();
        ids.into_iter().collect()
    }

    /// Returns the units of a level that are, at least in part, in units of another one.
    pub fn units_in(&self, level: Level, outer: Level, ids: &[usize]) -> Vec<usize> {
        let within = self.0.values().filter(|info| ids.contains(&info.at(outer)));
        let found: BTreeSet<usize> = within.map(|info| info.at(level)).collect();
        found.into_iter().collect()
    }

    /// Returns these of the CPUs.
    pub fn only(&self, cpus: &CpuSet) -> Self {
        let kept = self.0.iter().filter(|(cpu, _)| cpus.contains(**cpu));
        Self(kept.map(|(cpu, info)| (*cpu, *info)).collect())
    }

    /// Returns how many CPUs a unit of a level has on average, rounded down; 0 without CPUs.
    pub fn per(&self, level: Level) -> usize {
        self.0
            .len()
            .checked_div(self.units(level).len())
            .unwrap_or(0)
    }
}

/// A NUMA node's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaNode {
    /// The node's number.
    pub id: usize,
    /// Memory in bytes, with that of huge pages.
    pub memory: u64,
    /// Bytes of huge pages by resource name, such as `hugepages-2Mi`.
    pub hugepages: BTreeMap<String, u64>,
    /// Relative distances to the nodes, by their order in the kernel's list.
    pub distances: Vec<u64>,
}

/// The layout of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The CPUs that may be used.
    pub cpus: Cpus,
    /// The NUMA nodes with memory or CPUs.
    pub nodes: Vec<NumaNode>,
}

/// Returns the resource name of a huge page size in KiB, such as `hugepages-2Mi`.
pub fn hugepage_resource(kib: u64) -> String {
    match kib {
        k if k % (1 << 20) == 0 => format!("hugepages-{}Gi", k >> 20),
        k if k % 1024 == 0 => format!("hugepages-{}Mi", k >> 10),
        k => format!("hugepages-{k}Ki"),
    }
}

/// Returns the trimmed content of a file; `None` if it cannot be read.
fn text(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn number(path: &Path) -> Option<usize> {
    text(path)?.parse().ok()
}

/// Returns the entries of a directory that are called `<prefix><number>`, by number.
fn numbered(dir: &Path, prefix: &str) -> Vec<usize> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let name = |e: std::fs::DirEntry| e.file_name().into_string().ok();
    let mut all: Vec<usize> = entries
        .filter_map(name)
        .filter_map(|name| name.strip_prefix(prefix)?.parse().ok())
        .collect();
    all.sort_unstable();
    all
}

impl Machine {
    /// Reads the layout below a directory like `/sys/devices/system`, of the CPUs that are `allowed`.
    ///
    /// What sysfs does not say is assumed: one socket, one NUMA node with `memory` bytes, cores of
    /// one thread.
    ///
    /// # Errors
    ///
    /// Fails if no CPU is found.
    pub fn read(root: &Path, allowed: Option<&CpuSet>, memory: u64) -> Result<Self, String> {
        let cpu_dir = root.join("cpu");
        let online = match text(&cpu_dir.join("online")) {
            Some(list) => CpuSet::parse(&list)?,
            None => numbered(&cpu_dir, "cpu").into_iter().collect(),
        };
        let usable = match allowed {
            Some(allowed) => online.intersection(allowed),
            None => online,
        };
        if usable.is_empty() {
            return Err("could not detect number of cpus".into());
        }
        let node_dir = root.join("node");
        let mut nodes: Vec<NumaNode> = numbered(&node_dir, "node")
            .into_iter()
            .map(|id| read_node(&node_dir.join(format!("node{id}")), id))
            .collect();
        if nodes.is_empty() {
            nodes.push(NumaNode {
                memory,
                distances: vec![10],
                ..NumaNode::default()
            });
        }
        let mut cpus = Cpus::default();
        for node in &nodes {
            let of_node = match text(&node_dir.join(format!("node{}/cpulist", node.id))) {
                Some(list) => CpuSet::parse(&list)?.intersection(&usable),
                None => usable.clone(),
            };
            for cpu in of_node.iter() {
                let info = read_cpu(&cpu_dir.join(format!("cpu{cpu}")), cpu, &of_node, &usable);
                cpus.0.insert(
                    cpu,
                    CpuInfo {
                        numa: node.id,
                        ..info
                    },
                );
            }
        }
        Ok(Self { cpus, nodes })
    }

    /// Returns the layout with no more than this amount of memory, which the NUMA nodes share in
    /// proportion.
    pub fn with_memory(mut self, bytes: u64) -> Self {
        let total: u64 = self.nodes.iter().map(|n| n.memory).sum();
        if total > bytes {
            for node in &mut self.nodes {
                let part = u128::from(node.memory) * u128::from(bytes) / u128::from(total);
                node.memory = u64::try_from(part).unwrap_or(u64::MAX);
            }
        }
        self
    }
}

/// Reads where a CPU is within its NUMA node.
fn read_cpu(dir: &Path, cpu: usize, of_node: &CpuSet, usable: &CpuSet) -> CpuInfo {
    let topology = dir.join("topology");
    // Some virtual machines say -1.
    let socket = number(&topology.join("physical_package_id")).unwrap_or(0);
    let list = |path: &Path| CpuSet::parse(&text(path)?).ok();
    let siblings = list(&topology.join("thread_siblings_list"))
        .unwrap_or_else(|| CpuSet::from([cpu]))
        .intersection(usable);
    let caches = dir.join("cache");
    let uncore = numbered(&caches, "index").into_iter().find_map(|index| {
        let cache = caches.join(format!("index{index}"));
        let shared = list(&cache.join("shared_cpu_list"))?.intersection(usable);
        // A cache of the whole NUMA node, or of one core, makes no group within it.
        let is_group = number(&cache.join("level")) == Some(3)
            && shared.len() != of_node.len()
            && shared.len() != siblings.len();
        if is_group {
            number(&cache.join("id"))
        } else {
            None
        }
    });
    CpuInfo {
        numa: 0,
        socket,
        core: siblings.iter().next().unwrap_or(cpu),
        uncore: uncore.unwrap_or(socket),
    }
}

/// Reads a NUMA node's memory.
fn read_node(dir: &Path, id: usize) -> NumaNode {
    let meminfo = text(&dir.join("meminfo")).unwrap_or_default();
    let kib = meminfo.lines().find_map(|line| {
        let (_, rest) = line.split_once("MemTotal:")?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let folder = dir.join("hugepages");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let hugepages = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let size: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let pages = number(&entry.path().join("nr_hugepages"))?;
        Some((hugepage_resource(size), size * 1024 * pages as u64))
    });
    let distances = text(&dir.join("distance")).unwrap_or_default();
    NumaNode {
        id,
        memory: kib.unwrap_or(0) * 1024,
        hugepages: hugepages.collect(),
        distances: distances
            .split_whitespace()
            .filter_map(|d| d.parse().ok())
            .collect(),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns CPUs from the socket, core and NUMA node of each.
    pub(crate) fn cpus(all: impl IntoIterator<Item = (usize, usize, usize, usize)>) -> Cpus {
        Cpus(
            all.into_iter()
                .map(|(cpu, socket, core, numa)| {
                    (
                        cpu,
                        CpuInfo {
                            numa,
                            socket,
                            core,
                            uncore: numa,
                        },
                    )
                })
                .collect(),
        )
    }

    /// Four cores of two threads in one socket: upstream's `topoSingleSocketHT`.
    pub(crate) fn single_socket_ht() -> Cpus {
        cpus((0..8).map(|cpu| (cpu, 0, cpu % 4, 0)))
    }

    /// Six cores of two threads in two sockets: upstream's `topoDualSocketHT`.
    pub(crate) fn dual_socket_ht() -> Cpus {
        cpus((0..12).map(|cpu| (cpu, cpu % 2, cpu % 6, cpu % 2)))
    }

    /// Four cores in each of two sockets: upstream's `topoDualSocketNoHT`.
    pub(crate) fn dual_socket_no_ht() -> Cpus {
        cpus((0..8).map(|cpu| (cpu, cpu / 4, cpu, cpu / 4)))
    }

    /// 80 CPUs, 40 cores, 2 sockets, 4 NUMA nodes with threads in the upper half: upstream's
    /// `topoDualSocketMultiNumaPerSocketHT`.
    pub(crate) fn dual_socket_multi_numa_ht() -> Cpus {
        cpus((0..80).map(|cpu| {
            let core = cpu % 40;
            (cpu, core / 20, core, core / 10)
        }))
    }

    /// Two sockets of 16 cores without threads, one NUMA node each, with a last-level cache of
    /// four cores.
    pub(crate) fn uncore_no_ht() -> Cpus {
        Cpus(
            (0..32)
                .map(|cpu| {
                    let numa = cpu / 16;
                    (
                        cpu,
                        CpuInfo {
                            numa,
                            socket: numa,
                            core: cpu,
                            uncore: cpu / 4,
                        },
                    )
                })
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine written as sysfs has it: two sockets with two cores of two threads, and in the
    /// first one a last-level cache for each core pair.
    fn write(root: &Path) {
        let put = |path: String, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        };
        put("cpu/online".into(), "0-7");
        for cpu in 0..8usize {
            let (socket, core) = (cpu % 4 / 2, cpu % 4);
            let of = format!("cpu/cpu{cpu}");
            put(
                format!("{of}/topology/physical_package_id"),
                &socket.to_string(),
            );
            put(
                format!("{of}/topology/thread_siblings_list"),
                &format!("{core},{}", core + 4),
            );
            put(format!("{of}/cache/index0/level"), "1");
            put(format!("{of}/cache/index0/id"), &core.to_string());
            put(
                format!("{of}/cache/index0/shared_cpu_list"),
                &format!("{core},{}", core + 4),
            );
            put(format!("{of}/cache/index3/level"), "3");
            put(format!("{of}/cache/index3/id"), &(7 + socket).to_string());
            let shared = ["0-1,4-5", "2-3,6-7"][socket];
            put(format!("{of}/cache/index3/shared_cpu_list"), shared);
        }
        for (node, list) in ["0-1,4-5", "2-3,6-7"].into_iter().enumerate() {
            let of = format!("node/node{node}");
            put(format!("{of}/cpulist"), list);
            put(
                format!("{of}/meminfo"),
                &format!("Node {node} MemTotal:  1024 kB\nNode {node} MemFree: 1 kB"),
            );
            put(format!("{of}/distance"), ["10 21", "21 10"][node]);
            put(
                format!("{of}/hugepages/hugepages-2048kB/nr_hugepages"),
                &node.to_string(),
            );
        }
    }

    #[test]
    fn sockets_cores_and_nodes_are_found() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        let machine = Machine::read(dir.path(), None, 0).unwrap();
        let info = |cpu| machine.cpus.0[&cpu];
        // A cache of the whole NUMA node is no group: the socket's number stands for it.
        assert_eq!(
            info(6),
            CpuInfo {
                numa: 1,
                socket: 1,
                core: 2,
                uncore: 1
            }
        );
        assert_eq!(
            info(4),
            CpuInfo {
                numa: 0,
                socket: 0,
                core: 0,
                uncore: 0
            }
        );
        assert_eq!(machine.cpus.per(Level::Core), 2);
        assert_eq!(machine.cpus.per(Level::Socket), 4);
        assert_eq!(machine.cpus.units(Level::Core), [0, 1, 2, 3]);
        assert_eq!(
            machine.cpus.units_in(Level::Core, Level::Numa, &[1]),
            [2, 3]
        );
        let node = &machine.nodes[1];
        assert_eq!(
            (node.memory, node.distances.as_slice()),
            (1 << 20, &[21, 10][..])
        );
        assert_eq!(node.hugepages["hugepages-2Mi"], 2 << 20);
        let halved = machine.clone().with_memory(1 << 20);
        assert_eq!(halved.nodes[0].memory, 512 << 10);
        assert_eq!(machine.clone().with_memory(1 << 40), machine);
    }

    #[test]
    fn only_what_is_allowed_is_there() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        let allowed = CpuSet::from([4, 5, 6, 99]);
        let machine = Machine::read(dir.path(), Some(&allowed), 0).unwrap();
        assert_eq!(machine.cpus.all(), CpuSet::from([4, 5, 6]));
        assert_eq!(machine.cpus.0[&4].core, 4, "its sibling is not there");
        assert!(Machine::read(dir.path(), Some(&CpuSet::from([99])), 0).is_err());
    }

    #[test]
    fn a_group_of_a_cache_is_known_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        std::fs::remove_dir_all(dir.path().join("node")).unwrap();
        let machine = Machine::read(dir.path(), None, 5 << 20).unwrap();
        assert_eq!(machine.cpus.0[&0].uncore, 7);
        assert_eq!(machine.cpus.0[&7].uncore, 8);
        assert_eq!((machine.nodes.len(), machine.nodes[0].memory), (1, 5 << 20));
    }

    #[test]
    fn little_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("cpu/cpu1")).unwrap();
        let machine = Machine::read(dir.path(), None, 1).unwrap();
        assert_eq!(
            machine.cpus.0[&1],
            CpuInfo {
                core: 1,
                ..CpuInfo::default()
            }
        );
        assert!(Machine::read(&dir.path().join("none"), None, 1).is_err());
    }
}
