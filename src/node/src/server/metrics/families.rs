//! The families of `/metrics/cadvisor`, with cAdvisor's names, types and texts.

use std::collections::HashMap;

use rkube_runtime::cgroup_details::{Details, DeviceIo, Pressure};

use super::page::Label;
use super::subjects::{Interface, Processes, Subject};
use crate::machine::Space;

/// Receives additional labels and a value.
pub(super) type Emit<'a> = &'a mut dyn FnMut(&[Label<'_>], f64);

/// Names of block devices by their numbers.
pub(super) type Devices = HashMap<(u32, u32), String>;

/// The source of a family's values.
#[derive(Clone, Copy)]
pub(super) enum Values {
    /// One value of the group.
    Group(fn(&Details) -> Option<f64>),
    /// A limit of the group; not a measurement, so without a time.
    Limit(fn(&Details) -> Option<f64>),
    /// One value of a container's processes.
    Processes(fn(&Processes, &Details) -> Option<f64>),
    /// One value per network interface.
    Network(fn(&Interface) -> u64),
    /// One value per block device.
    Io(fn(&DeviceIo) -> u64),
    /// One value per file system.
    Space(fn(&Space) -> u64),
    /// Any values.
    Other(fn(&Subject, &Devices, Emit<'_>)),
}

/// A family: name, type, help text and values.
pub(super) type Family = (&'static str, &'static str, &'static str, Values);

use Values::{Group, Io, Limit, Network, Other, Processes as Process, Space as Fs};

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Returns a value if the group has a CPU quota.
fn with_quota(details: &Details, value: f64) -> Option<f64> {
    details.limits.cpu_quota.map(|_| value)
}

fn stalled(
    details: &Details,
    of: fn(&rkube_runtime::cgroup_details::Pressures) -> &Pressure,
    full: bool,
) -> Option<f64> {
    let pressure = of(details.pressure.as_ref()?);
    let stall = if full { pressure.full } else { pressure.some };
    Some(stall.total_us as f64 / 1e6)
}

fn bytes(amount: u64) -> Option<f64> {
    Some(amount as f64)
}

/// Returns a limit as cAdvisor shows it: 0 if there is none.
fn limit(amount: Option<u64>) -> Option<f64> {
    Some(amount.unwrap_or(0) as f64)
}

fn io_by_operation(subject: &Subject, devices: &Devices, emit: Emit<'_>) {
    for io in subject.details.iter().flat_map(|details| &details.io) {
        let device = devices.get(&(io.major, io.minor));
        let device = device.map_or("", String::as_str);
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        for (operation, value) in [("Read", io.read_bytes), ("Write", io.written_bytes)] {
            let labels = [
                ("device", device),
                ("major", &major),
                ("minor", &minor),
                ("operation", operation),
            ];
            emit(&labels, value as f64);
        }
    }
}

fn memory_failures(subject: &Subject, _: &Devices, emit: Emit<'_>) {
    let Some(details) = &subject.details else {
        return;
    };
    // As in cAdvisor, both scopes have the same figures.
    for scope in ["container", "hierarchy"] {
        for (kind, value) in [
            ("pgfault", details.stats.page_faults),
            ("pgmajfault", details.stats.major_page_faults),
        ] {
            emit(&[("failure_type", kind), ("scope", scope)], value as f64);
        }
    }
}

fn cpu_usage(subject: &Subject, _: &Devices, emit: Emit<'_>) {
    if let Some(details) = &subject.details {
        emit(&[("cpu", "total")], seconds(details.stats.cpu_ns));
    }
}

fn open_files(subject: &Subject, _: &Devices, emit: Emit<'_>) {
    if let Some(limit) = subject.processes.and_then(|p| p.open_files) {
        emit(&[("ulimit", "max_open_files")], limit as f64);
    }
}

/// The families, sorted by name.
#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    ("container_blkio_device_usage_total", COUNTER, "Blkio Device bytes usage", Other(io_by_operation)),
    ("container_cpu_cfs_burst_periods_total", COUNTER, "Number of periods when burst occurs.", Group(|d| with_quota(d, d.cpu.bursts as f64))),
    ("container_cpu_cfs_burst_seconds_total", COUNTER, "Total time duration the container has been bursted.", Group(|d| with_quota(d, seconds(d.cpu.burst_ns)))),
    ("container_cpu_cfs_periods_total", COUNTER, "Number of elapsed enforcement period intervals.", Group(|d| with_quota(d, d.cpu.periods as f64))),
    ("container_cpu_cfs_throttled_periods_total", COUNTER, "Number of throttled period intervals.", Group(|d| with_quota(d, d.cpu.throttled_periods as f64))),
    ("container_cpu_cfs_throttled_seconds_total", COUNTER, "Total time duration the container has been throttled.", Group(|d| with_quota(d, seconds(d.cpu.throttled_ns)))),
    ("container_cpu_system_seconds_total", COUNTER, "Cumulative system cpu time consumed in seconds.", Group(|d| Some(seconds(d.cpu.system_ns)))),
    ("container_cpu_usage_seconds_total", COUNTER, "Cumulative cpu time consumed in seconds.", Other(cpu_usage)),
    ("container_cpu_user_seconds_total", COUNTER, "Cumulative user cpu time consumed in seconds.", Group(|d| Some(seconds(d.cpu.user_ns)))),
    ("container_file_descriptors", GAUGE, "Number of open file descriptors for the container.", Process(|p, _| bytes(p.descriptors))),
    ("container_fs_inodes_free", GAUGE, "Number of available Inodes", Fs(|s| s.inodes_free)),
    ("container_fs_inodes_total", GAUGE, "Number of Inodes", Fs(|s| s.inodes)),
    ("container_fs_limit_bytes", GAUGE, "Number of bytes that can be consumed by the container on this filesystem.", Fs(|s| s.total)),
    ("container_fs_reads_bytes_total", COUNTER, "Cumulative count of bytes read", Io(|io| io.read_bytes)),
    ("container_fs_reads_total", COUNTER, "Cumulative count of reads completed", Io(|io| io.reads)),
    ("container_fs_usage_bytes", GAUGE, "Number of bytes that are consumed by the container on this filesystem.", Fs(|s| s.total.saturating_sub(s.available))),
    ("container_fs_writes_bytes_total", COUNTER, "Cumulative count of bytes written", Io(|io| io.written_bytes)),
    ("container_fs_writes_total", COUNTER, "Cumulative count of writes completed", Io(|io| io.writes)),
    ("container_memory_cache", GAUGE, "Number of bytes of page cache memory.", Group(|d| bytes(d.memory.cache))),
    ("container_memory_failcnt", COUNTER, "Number of memory usage hits limits", Group(|d| bytes(d.memory.failures))),
    ("container_memory_failures_total", COUNTER, "Cumulative count of memory allocation failures.", Other(memory_failures)),
    ("container_memory_kernel_usage", GAUGE, "Size of kernel memory allocated in bytes.", Group(|d| bytes(d.memory.kernel))),
    ("container_memory_mapped_file", GAUGE, "Size of memory mapped files in bytes.", Group(|d| bytes(d.memory.mapped_file))),
    ("container_memory_max_usage_bytes", GAUGE, "Maximum memory usage recorded in bytes", Group(|d| bytes(d.memory.peak))),
    ("container_memory_rss", GAUGE, "Size of RSS in bytes.", Group(|d| bytes(d.stats.memory_rss))),
    ("container_memory_swap", GAUGE, "Container swap usage in bytes.", Group(|d| bytes(d.memory.swap))),
    ("container_memory_total_active_file_bytes", GAUGE, "Current total active file in bytes.", Group(|d| bytes(d.memory.active_file))),
    ("container_memory_total_inactive_file_bytes", GAUGE, "Current total inactive file in bytes.", Group(|d| bytes(d.memory.inactive_file))),
    ("container_memory_usage_bytes", GAUGE, "Current memory usage in bytes, including all memory regardless of when it was accessed", Group(|d| bytes(d.stats.memory_usage))),
    ("container_memory_working_set_bytes", GAUGE, "Current working set in bytes.", Group(|d| bytes(d.stats.memory_working_set))),
    ("container_network_receive_bytes_total", COUNTER, "Cumulative count of bytes received", Network(|i| i.received.bytes)),
    ("container_network_receive_errors_total", COUNTER, "Cumulative count of errors encountered while receiving", Network(|i| i.received.errors)),
    ("container_network_receive_packets_dropped_total", COUNTER, "Cumulative count of packets dropped while receiving", Network(|i| i.received.dropped)),
    ("container_network_receive_packets_total", COUNTER, "Cumulative count of packets received", Network(|i| i.received.packets)),
    ("container_network_transmit_bytes_total", COUNTER, "Cumulative count of bytes transmitted", Network(|i| i.transmitted.bytes)),
    ("container_network_transmit_errors_total", COUNTER, "Cumulative count of errors encountered while transmitting", Network(|i| i.transmitted.errors)),
    ("container_network_transmit_packets_dropped_total", COUNTER, "Cumulative count of packets dropped while transmitting", Network(|i| i.transmitted.dropped)),
    ("container_network_transmit_packets_total", COUNTER, "Cumulative count of packets transmitted", Network(|i| i.transmitted.packets)),
    ("container_oom_events_total", COUNTER, "Count of out of memory events observed for the container", Group(|d| bytes(d.memory.oom_kills))),
    ("container_pressure_cpu_stalled_seconds_total", COUNTER, "Total time duration no tasks in the container could make progress due to CPU congestion.", Group(|d| stalled(d, |p| &p.cpu, true))),
    ("container_pressure_cpu_waiting_seconds_total", COUNTER, "Total time duration tasks in the container have waited due to CPU congestion.", Group(|d| stalled(d, |p| &p.cpu, false))),
    ("container_pressure_io_stalled_seconds_total", COUNTER, "Total time duration no tasks in the container could make progress due to IO congestion.", Group(|d| stalled(d, |p| &p.io, true))),
    ("container_pressure_io_waiting_seconds_total", COUNTER, "Total time duration tasks in the container have waited due to IO congestion.", Group(|d| stalled(d, |p| &p.io, false))),
    ("container_pressure_memory_stalled_seconds_total", COUNTER, "Total time duration no tasks in the container could make progress due to memory congestion.", Group(|d| stalled(d, |p| &p.memory, true))),
    ("container_pressure_memory_waiting_seconds_total", COUNTER, "Total time duration tasks in the container have waited due to memory congestion.", Group(|d| stalled(d, |p| &p.memory, false))),
    ("container_processes", GAUGE, "Number of processes running inside the container.", Process(|p, _| bytes(p.count))),
    ("container_sockets", GAUGE, "Number of open sockets for the container.", Process(|p, _| bytes(p.sockets))),
    ("container_spec_cpu_period", GAUGE, "CPU period of the container.", Limit(|d| bytes(d.limits.cpu_period))),
    ("container_spec_cpu_quota", GAUGE, "CPU quota of the container.", Limit(|d| d.limits.cpu_quota.map(|quota| quota as f64))),
    ("container_spec_cpu_shares", GAUGE, "CPU share of the container.", Limit(|d| bytes(d.limits.cpu_shares))),
    ("container_spec_memory_limit_bytes", GAUGE, "Memory limit for the container.", Limit(|d| limit(d.limits.memory))),
    ("container_spec_memory_reservation_limit_bytes", GAUGE, "Memory reservation limit for the container.", Limit(|d| limit(d.limits.reservation))),
    ("container_spec_memory_swap_limit_bytes", GAUGE, "Memory swap limit for the container.", Limit(|d| limit(d.limits.swap))),
    ("container_threads", GAUGE, "Number of threads running inside the container", Process(|_, d| bytes(d.stats.pids))),
    ("container_threads_max", GAUGE, "Maximum number of threads allowed inside the container, infinity if value is zero", Process(|_, d| limit(d.limits.threads))),
    ("container_ulimits_soft", GAUGE, "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice", Other(open_files)),
];

impl Values {
    /// Emits the values of a subject.
    pub(super) fn of(self, subject: &Subject, devices: &Devices, emit: Emit<'_>) {
        let details = subject.details.as_ref();
        match self {
            Group(value) | Limit(value) => {
                if let Some(value) = details.and_then(value) {
                    emit(&[], value);
                }
            }
            Process(value) => {
                if let (Some(processes), Some(details)) = (&subject.processes, details)
                    && let Some(value) = value(processes, details)
                {
                    emit(&[], value);
                }
            }
            Network(value) => {
                for interface in &subject.interfaces {
                    emit(&[("interface", &interface.name)], value(interface) as f64);
                }
            }
            Io(value) => {
                for io in details.iter().flat_map(|details| &details.io) {
                    let device = devices.get(&(io.major, io.minor));
                    let device = device.map_or("", String::as_str);
                    emit(&[("device", device)], value(io) as f64);
                }
            }
            Fs(value) => {
                for (device, space) in &subject.spaces {
                    emit(&[("device", device)], value(space) as f64);
                }
            }
            Other(values) => values(subject, devices, emit),
        }
    }

    /// Returns whether the values were measured at some time.
    pub(super) fn is_timed(self) -> bool {
        !matches!(self, Limit(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_sorted_and_unique() {
        assert!(FAMILIES.is_sorted_by(|a, b| a.0 < b.0));
        for (name, kind, ..) in FAMILIES {
            let exceptions = ["container_fs_inodes_total", "container_memory_failcnt"];
            let is_counter = name.ends_with("_total") != exceptions.contains(name);
            assert_eq!(is_counter, *kind == COUNTER, "{name}");
        }
    }
}
