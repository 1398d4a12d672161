//! Everything that the kernel accounts for a group, for the metrics pages of a node.

use std::fs;
use std::path::{Path, PathBuf};

use crate::group::{descendants, processes};
use crate::node::{self, ROOT};
use crate::types::{Result, Stats};

/// Lower bound of the values of v1 limits that mean no limit.
const V1_UNLIMITED: u64 = 1 << 62;

/// Usage and limits of a group. Values that the kernel does not account are 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The figures that [`node::stats`] returns.
    pub stats: Stats,
    /// Cumulative CPU time.
    pub cpu: Cpu,
    /// Memory in bytes.
    pub memory: Memory,
    /// Cumulative time in which tasks waited for CPU, memory and I/O; `None` if the kernel does not
    /// measure it.
    pub pressure: Option<Pressures>,
    /// Cumulative I/O per block device.
    pub io: Vec<DeviceIo>,
    /// The limits.
    pub limits: Limits,
}

/// Cumulative CPU time of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In user mode, in nanoseconds.
    pub user_ns: u64,
    /// In the kernel, in nanoseconds.
    pub system_ns: u64,
    /// Periods of the CPU quota that have elapsed.
    pub periods: u64,
    /// Periods in which the group was throttled.
    pub throttled_periods: u64,
    /// Time for which the group was throttled, in nanoseconds.
    pub throttled_ns: u64,
    /// Periods in which the group used its burst.
    pub bursts: u64,
    /// Time of bursts in nanoseconds.
    pub burst_ns: u64,
}

/// Memory of a group, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Page cache.
    pub cache: u64,
    /// Mapped files.
    pub mapped_file: u64,
    /// Memory of the kernel.
    pub kernel: u64,
    /// Swap.
    pub swap: u64,
    /// Highest usage.
    pub peak: u64,
    /// Number of times that the limit was hit; version 1 only.
    pub failures: u64,
    /// File pages in use.
    pub active_file: u64,
    /// File pages not in use lately.
    pub inactive_file: u64,
    /// Processes killed because the group was out of memory.
    pub oom_kills: u64,
}

/// Pressure of the three resources.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressures {
    /// Waiting for CPU.
    pub cpu: Pressure,
    /// Waiting for memory.
    pub memory: Pressure,
    /// Waiting for I/O.
    pub io: Pressure,
}

/// Pressure of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// Time in which tasks waited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// In all, in microseconds.
    pub total_us: u64,
    /// Percentage of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
}

/// Cumulative I/O of a group on one block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Completed reads.
    pub reads: u64,
    /// Completed writes.
    pub writes: u64,
}

/// Limits of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU weight on the v1 scale.
    pub cpu_shares: u64,
    /// CPU time per period, in microseconds; `None` if unlimited.
    pub cpu_quota: Option<u64>,
    /// The period in microseconds.
    pub cpu_period: u64,
    /// Memory in bytes; `None` if unlimited.
    pub memory: Option<u64>,
    /// Swap in bytes; on v1, memory and swap. `None` if unlimited.
    pub swap: Option<u64>,
    /// Swap alone, in bytes; `None` if unlimited.
    pub swap_alone: Option<u64>,
    /// Protected memory (v2) or the soft limit (v1) in bytes; `None` if unlimited.
    pub reservation: Option<u64>,
    /// Number of threads; `None` if unlimited.
    pub threads: Option<u64>,
}

/// Reads the usage and the limits of a group.
///
/// # Errors
///
/// Fails if the group does not exist.
pub fn details(cgroup: &str) -> Result<Details> {
    let stats = node::stats(cgroup)?;
    let files = Files {
        root: PathBuf::from(ROOT),
        cgroup: cgroup.trim_start_matches('/').to_owned(),
        is_v2: node::is_v2(),
    };
    let mut details = if files.is_v2 {
        files.version_2()
    } else {
        files.version_1()
    };
    details.stats = stats;
    details.memory.oom_kills = node::oom_kills(cgroup);
    Ok(details)
}

/// Returns the processes of a group and of the groups below it.
pub fn all_processes(cgroup: &str) -> Vec<i32> {
    let top = node::directory("pids", cgroup);
    descendants(&top)
        .iter()
        .flat_map(|group| processes(group))
        .collect()
}

/// The files of one group.
struct Files {
    root: PathBuf,
    cgroup: String,
    is_v2: bool,
}

fn keyed(text: &str, key: &str) -> u64 {
    node::keyed(text, key)
}

/// Parses a number; `None` for `max`, `-1` and other text.
fn parse(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

impl Files {
    fn text(&self, controller: &str, file: &str) -> String {
        let directory = if self.is_v2 {
            self.root.join(&self.cgroup)
        } else {
            self.root.join(controller).join(&self.cgroup)
        };
        // Kernels differ in the files that they have, and the root group lacks many.
        fs::read_to_string(Path::new(&directory).join(file)).unwrap_or_default()
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        parse(&self.text(controller, file))
    }

    fn version_2(&self) -> Details {
        let cpu = self.text("", "cpu.stat");
        let memory = self.text("", "memory.stat");
        let quota = self.text("", "cpu.max");
        let (quota, period) = quota.split_once(' ').unwrap_or_default();
        let weight = self.number("", "cpu.weight");
        let micro = |key: &str| keyed(&cpu, key).saturating_mul(1000);
        Details {
            cpu: Cpu {
                user_ns: micro("user_usec"),
                system_ns: micro("system_usec"),
                periods: keyed(&cpu, "nr_periods"),
                throttled_periods: keyed(&cpu, "nr_throttled"),
                throttled_ns: micro("throttled_usec"),
                bursts: keyed(&cpu, "nr_bursts"),
                burst_ns: micro("burst_usec"),
            },
            memory: Memory {
                cache: keyed(&memory, "file"),
                mapped_file: keyed(&memory, "file_mapped"),
                kernel: keyed(&memory, "kernel"),
                swap: self.number("", "memory.swap.current").unwrap_or(0),
                peak: self.number("", "memory.peak").unwrap_or(0),
                active_file: keyed(&memory, "active_file"),
                inactive_file: keyed(&memory, "inactive_file"),
                ..Memory::default()
            },
            pressure: self.pressures(),
            io: io_stat(&self.text("", "io.stat")),
            limits: Limits {
                cpu_shares: weight.map_or(0, |weight| {
                    2 + weight.saturating_sub(1).saturating_mul(262_142) / 9999
                }),
                cpu_quota: parse(quota),
                cpu_period: parse(period).unwrap_or(0),
                memory: self.number("", "memory.max"),
                swap: self.number("", "memory.swap.max"),
                swap_alone: self.number("", "memory.swap.max"),
                reservation: self.number("", "memory.min"),
                threads: self.number("", "pids.max"),
            },
            ..Details::default()
        }
    }

    fn version_1(&self) -> Details {
        let cpu = self.text("cpu", "cpu.stat");
        let memory = self.text("memory", "memory.stat");
        let limited = |limit: Option<u64>| limit.filter(|limit| *limit < V1_UNLIMITED);
        let most = limited(self.number("memory", "memory.limit_in_bytes"));
        let with_swap = limited(self.number("memory", "memory.memsw.limit_in_bytes"));
        let time = |file: &str| self.number("cpuacct", file).unwrap_or(0);
        Details {
            cpu: Cpu {
                user_ns: time("cpuacct.usage_user"),
                system_ns: time("cpuacct.usage_sys"),
                periods: keyed(&cpu, "nr_periods"),
                throttled_periods: keyed(&cpu, "nr_throttled"),
                throttled_ns: keyed(&cpu, "throttled_time"),
                bursts: keyed(&cpu, "nr_bursts"),
                burst_ns: keyed(&cpu, "burst_time"),
            },
            memory: Memory {
                cache: keyed(&memory, "total_cache"),
                mapped_file: keyed(&memory, "total_mapped_file"),
                kernel: self
                    .number("memory", "memory.kmem.usage_in_bytes")
                    .unwrap_or(0),
                swap: keyed(&memory, "total_swap"),
                peak: self
                    .number("memory", "memory.max_usage_in_bytes")
                    .unwrap_or(0),
                failures: self.number("memory", "memory.failcnt").unwrap_or(0),
                active_file: keyed(&memory, "total_active_file"),
                inactive_file: keyed(&memory, "total_inactive_file"),
                ..Memory::default()
            },
            pressure: None,
            io: throttle_io(
                &self.text("blkio", "blkio.throttle.io_service_bytes_recursive"),
                &self.text("blkio", "blkio.throttle.io_serviced_recursive"),
            ),
            limits: Limits {
                cpu_shares: self.number("cpu", "cpu.shares").unwrap_or(0),
                cpu_quota: self.number("cpu", "cpu.cfs_quota_us"),
                cpu_period: self.number("cpu", "cpu.cfs_period_us").unwrap_or(0),
                memory: most,
                swap: with_swap,
                swap_alone: with_swap.map(|both| both.saturating_sub(most.unwrap_or(0))),
                reservation: limited(self.number("memory", "memory.soft_limit_in_bytes")),
                threads: self.number("pids", "pids.max"),
            },
            ..Details::default()
        }
    }

    fn pressures(&self) -> Option<Pressures> {
        // Of the machine as a whole, the kernel shows it elsewhere.
        let read = |file: &str, of_machine: &str| {
            let text = match self.text("", file) {
                text if text.is_empty() && self.cgroup.is_empty() => {
                    fs::read_to_string(of_machine).unwrap_or_default()
                }
                text => text,
            };
            pressure(&text)
        };
        Some(Pressures {
            cpu: read("cpu.pressure", "/proc/pressure/cpu")?,
            memory: read("memory.pressure", "/proc/pressure/memory")?,
            io: read("io.pressure", "/proc/pressure/io")?,
        })
    }
}

/// Parses a file of pressure; `None` if it is empty.
fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut is_found = false;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let stall = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        is_found = true;
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let percent = || value.parse().unwrap_or(0.0);
            match key {
                "avg10" => stall.averages[0] = percent(),
                "avg60" => stall.averages[1] = percent(),
                "avg300" => stall.averages[2] = percent(),
                "total" => stall.total_us = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    is_found.then_some(pressure)
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Parses `io.stat` of version 2.
fn io_stat(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let (name, values) = line.split_once(' ')?;
        let (major, minor) = device(name)?;
        let mut io = DeviceIo {
            major,
            minor,
            ..DeviceIo::default()
        };
        for (key, value) in values.split(' ').filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// Parses the files of bytes and of operations of version 1.
fn throttle_io(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut all: Vec<DeviceIo> = Vec::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(name), Some(operation), Some(value)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let (Some((major, minor)), Ok(value)) = (device(name), value.parse()) else {
                continue;
            };
            let known = all
                .iter()
                .position(|io| (io.major, io.minor) == (major, minor));
            let index = known.unwrap_or_else(|| {
                all.push(DeviceIo {
                    major,
                    minor,
                    ..DeviceIo::default()
                });
                all.len() - 1
            });
            let io = &mut all[index];
            match (operation, is_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.written_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(is_v2: bool, all: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in all {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let files = Files {
            root: root.path().to_owned(),
            cgroup: "a/b".into(),
            is_v2,
        };
        (root, files)
    }

    #[test]
    fn groups_of_version_2() {
        let (_root, files) = files(
            true,
            &[
                (
                    "a/b/cpu.stat",
                    "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
                ),
                (
                    "a/b/memory.stat",
                    "anon 1\nfile 2\nkernel 3\nfile_mapped 4\ninactive_file 5\nactive_file 6\n",
                ),
                ("a/b/memory.swap.current", "7\n"),
                ("a/b/memory.peak", "8\n"),
                ("a/b/cpu.max", "50000 100000\n"),
                ("a/b/cpu.weight", "100\n"),
                ("a/b/memory.max", "max\n"),
                ("a/b/memory.min", "0\n"),
                ("a/b/pids.max", "99\n"),
                (
                    "a/b/io.stat",
                    "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nbroken\n",
                ),
                (
                    "a/b/cpu.pressure",
                    "some avg10=1.50 avg60=2.00 avg300=0.10 total=9\n",
                ),
                ("a/b/memory.pressure", "some total=1\nfull total=2\n"),
                ("a/b/io.pressure", "some total=3\nfull total=4\n"),
            ],
        );
        let found = files.version_2();
        assert_eq!((found.cpu.user_ns, found.cpu.system_ns), (20_000, 10_000));
        let throttled = (found.cpu.periods, found.cpu.throttled_periods);
        assert_eq!((throttled, found.cpu.throttled_ns), ((4, 3), 2000));
        let memory = Memory {
            cache: 2,
            kernel: 3,
            mapped_file: 4,
            swap: 7,
            peak: 8,
            inactive_file: 5,
            active_file: 6,
            ..Memory::default()
        };
        assert_eq!(found.memory, memory);
        let limits = Limits {
            cpu_shares: 2597,
            cpu_quota: Some(50_000),
            cpu_period: 100_000,
            reservation: Some(0),
            threads: Some(99),
            ..Limits::default()
        };
        assert_eq!(found.limits, limits);
        let io = DeviceIo {
            major: 8,
            minor: 0,
            read_bytes: 1,
            written_bytes: 2,
            reads: 3,
            writes: 4,
        };
        assert_eq!(found.io, [io]);
        let pressure = found.pressure.unwrap();
        assert_eq!(pressure.cpu.some.averages, [1.5, 2.0, 0.1]);
        assert_eq!(pressure.cpu.some.total_us, 9);
        assert_eq!(
            (pressure.io.some.total_us, pressure.io.full.total_us),
            (3, 4)
        );
    }

    #[test]
    fn groups_of_version_1() {
        let (_root, files) = files(
            false,
            &[
                ("cpuacct/a/b/cpuacct.usage_user", "20\n"),
                ("cpuacct/a/b/cpuacct.usage_sys", "10\n"),
                (
                    "cpu/a/b/cpu.stat",
                    "nr_periods 4\nnr_throttled 3\nthrottled_time 2\n",
                ),
                ("cpu/a/b/cpu.shares", "512\n"),
                ("cpu/a/b/cpu.cfs_quota_us", "-1\n"),
                ("cpu/a/b/cpu.cfs_period_us", "100000\n"),
                (
                    "memory/a/b/memory.stat",
                    "cache 1\ntotal_cache 2\ntotal_swap 3\n",
                ),
                ("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/a/b/memory.soft_limit_in_bytes", "5\n"),
                ("memory/a/b/memory.memsw.limit_in_bytes", "8\n"),
                ("memory/a/b/memory.failcnt", "6\n"),
                ("pids/a/b/pids.max", "max\n"),
                (
                    "blkio/a/b/blkio.throttle.io_service_bytes_recursive",
                    "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
                ),
                (
                    "blkio/a/b/blkio.throttle.io_serviced_recursive",
                    "8:0 Read 4\n8:0 Write 5\n8:16 Write 6\n",
                ),
            ],
        );
        let found = files.version_1();
        assert_eq!((found.cpu.user_ns, found.cpu.system_ns), (20, 10));
        assert_eq!((found.cpu.periods, found.cpu.throttled_ns), (4, 2));
        assert_eq!(
            (found.memory.cache, found.memory.swap, found.memory.failures),
            (2, 3, 6)
        );
        let limits = Limits {
            cpu_shares: 512,
            cpu_period: 100_000,
            reservation: Some(5),
            swap: Some(8),
            swap_alone: Some(8),
            ..Limits::default()
        };
        assert_eq!(found.limits, limits);
        let io: Vec<_> = found
            .io
            .iter()
            .map(|io| {
                (
                    io.minor,
                    io.read_bytes,
                    io.written_bytes,
                    io.reads,
                    io.writes,
                )
            })
            .collect();
        assert_eq!(io, [(0, 1, 2, 4, 5), (16, 0, 0, 0, 6)]);
        assert_eq!(found.pressure, None);
    }

    #[test]
    fn absent_groups_have_nothing() {
        let (_root, files) = files(true, &[]);
        assert_eq!(files.version_2(), Details::default());
        assert!(details("/absent/group").is_err());
    }
}
