//! `/metrics`: metrics of the agent.

use rkube_runtime::ContainerState as State;

use super::super::answer::Answer;
use super::super::endpoint::Endpoint;
use super::page::Page;
use crate::pods::counts;

/// Clock ticks per second in `/proc`; fixed by the kernel's interface.
const TICKS: f64 = 100.0;

/// Serves `/metrics`.
pub(crate) fn serve(endpoint: &Endpoint) -> Answer {
    let pods = endpoint.pods.all();
    let mut page = Page::default();
    page.family(
        "kubelet_node_name",
        "gauge",
        "[ALPHA] The node's name. The count is always 1.",
    );
    let name = endpoint.host.name();
    page.sample("kubelet_node_name", &[("node", name)], 1.0, None);
    page.family(
        "kubelet_running_containers",
        "gauge",
        "[ALPHA] Number of containers currently running",
    );
    for (state, label) in [
        (State::Created, "created"),
        (State::Exited, "exited"),
        (State::Running, "running"),
    ] {
        let all = pods.iter().flat_map(|pod| pod.instances.values().flatten());
        let count = all.filter(|instance| instance.state == state).count();
        let labels = [("container_state", label)];
        if count > 0 || state == State::Running {
            page.sample("kubelet_running_containers", &labels, count as f64, None);
        }
    }
    page.family(
        "kubelet_running_pods",
        "gauge",
        "[ALPHA] Number of pods that have a running pod sandbox",
    );
    let with_sandbox = pods.iter().filter(|p| p.sandbox.is_some()).count();
    page.sample("kubelet_running_pods", &[], with_sandbox as f64, None);
    page.family(
        "kubernetes_build_info",
        "gauge",
        "[BETA] A metric with a constant '1' value labeled by version.",
    );
    let version = rkube_config::version();
    let platform = format!("linux/{}", endpoint.host.machine.architecture);
    let labels = [("git_version", &*version), ("platform", &platform)];
    page.sample("kubernetes_build_info", &labels, 1.0, None);
    counters(&mut page);
    process(&mut page);
    page.into_answer()
}

/// Adds what was counted since the agent's start.
fn counters(page: &mut Page) {
    let name = "kubelet_evictions";
    page.family(
        name,
        "counter",
        "[ALPHA] Cumulative number of pod evictions by eviction signal",
    );
    for (signal, count) in counts::evictions() {
        page.sample(name, &[("eviction_signal", signal)], count as f64, None);
    }
    let name = "kubelet_terminated_containers_total";
    page.family(
        name,
        "counter",
        "[ALPHA] Cumulative number of containers terminated, by exit code and reason",
    );
    for (end, count) in counts::ends() {
        let exit_code = end.exit_code.to_string();
        let labels = [
            ("container_type", end.container_type),
            ("exit_code", &*exit_code),
            ("reason", &*end.reason),
        ];
        page.sample(name, &labels, count as f64, None);
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The fields of `/proc/self/stat` after the command's name.
fn stat() -> Vec<f64> {
    let text = read("/proc/self/stat");
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields
        .split_ascii_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect()
}

/// Adds the agent's resource usage.
fn process(page: &mut Page) {
    let stat = stat();
    // Numbered as in proc(5), where the state is field 3.
    let field = |number: usize| stat.get(number - 3).copied().unwrap_or(0.0);
    let limits = read("/proc/self/limits");
    let open = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let most = open.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            (field(14) + field(15)) / TICKS,
        ),
        (
            "process_max_fds",
            "gauge",
            "Maximum number of open file descriptors.",
            most.unwrap_or(0.0),
        ),
        (
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            descriptors as f64,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            field(24) * page_size(),
        ),
    ] {
        page.family(name, kind, help);
        page.sample(name, &[], value, None);
    }
    start_time(page);
    let name = "process_virtual_memory_bytes";
    page.family(name, "gauge", "Virtual memory size in bytes.");
    page.sample(name, &[], field(23), None);
}

fn page_size() -> f64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().unwrap_or(4096) as f64
}

/// Adds the time at which the agent started.
pub(super) fn start_time(page: &mut Page) {
    let boot = read("/proc/stat");
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "));
    let boot: f64 = boot.and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let since_boot = stat().get(22 - 3).copied().unwrap_or(0.0) / TICKS;
    let name = "process_start_time_seconds";
    page.family(
        name,
        "gauge",
        "[ALPHA] Start time of the process since unix epoch in seconds.",
    );
    page.sample(name, &[], boot + since_boot, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured() {
        let mut page = Page::default();
        process(&mut page);
        let text = page.into_text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().parse().unwrap()
        };
        let now = jiff::Timestamp::now().as_second() as f64;
        assert!((now - value("process_start_time_seconds")).abs() < 3600.0);
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_open_fds") > 2.0);
    }
}
