//! `/metrics/cadvisor`: usage and limits of the node, its pods and containers, in cAdvisor's names.

use http::StatusCode;
use rkube_runtime::cgroup_details::Details;

use super::super::answer::{Answer, text};
use super::super::endpoint::Endpoint;
use super::families::FAMILIES;
use super::page::{Label, Page};
use super::subjects::{self, Observations, Subject};
use crate::machine::{self, Machine};

/// Serves `/metrics/cadvisor`.
pub(crate) async fn serve(endpoint: &Endpoint) -> Answer {
    let endpoint = endpoint.clone();
    let made = tokio::task::spawn_blocking(move || {
        page(&subjects::gather(&endpoint), &endpoint.host.machine).into_answer()
    });
    match made.await {
        Ok(answer) => answer,
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// Adds a sample of a subject. The labels are those of the kubelet, sorted; all are always there.
fn sample(
    page: &mut Page,
    name: &str,
    subject: &Subject,
    more: &[Label<'_>],
    value: f64,
    ms: Option<i64>,
) {
    let mut labels = vec![
        ("container", &*subject.container),
        ("id", &subject.id),
        ("image", &subject.image),
        ("name", &subject.name),
        ("namespace", &subject.namespace),
        ("pod", &subject.pod),
    ];
    labels.extend(more);
    labels.sort_unstable();
    page.sample(name, &labels, value, ms);
}

fn page(world: &Observations, machine: &Machine) -> Page {
    let mut page = Page::default();
    version(&mut page, machine);
    let now = world.now.as_millisecond();
    let at = |subject: &Subject| {
        let details: Option<&Details> = subject.details.as_ref();
        details.map_or(now, |details| details.stats.timestamp.as_millisecond())
    };
    for (name, kind, help, values) in FAMILIES {
        page.family(name, kind, help);
        for subject in &world.subjects {
            let ms = values.is_timed().then(|| at(subject));
            values.of(subject, &world.devices, &mut |more, value| {
                sample(&mut page, name, subject, more, value, ms);
            });
        }
    }
    let name = "container_last_seen";
    let help = "Last time a container was seen by the exporter";
    page.family(name, "gauge", help);
    for subject in world.subjects.iter().filter(|s| s.details.is_some()) {
        let seen = world.now.as_second() as f64;
        sample(&mut page, name, subject, &[], seen, Some(at(subject)));
    }
    let name = "container_start_time_seconds";
    let help = "Start time of the container since unix epoch in seconds.";
    page.family(name, "gauge", help);
    for subject in &world.subjects {
        if let Some(started) = subject.started {
            let started = started.as_second() as f64;
            sample(&mut page, name, subject, &[], started, None);
        }
    }
    let name = "container_scrape_error";
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    page.family(name, "gauge", help);
    let is_known = world.subjects.iter().any(|s| s.id == "/");
    page.sample(name, &[], f64::from(u8::from(!is_known)), None);
    machine_families(&mut page, machine);
    page
}

fn version(page: &mut Page, machine: &Machine) {
    let name = "cadvisor_version_info";
    let help = "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.";
    page.family(name, "gauge", help);
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", &*machine.kernel),
        ("osVersion", &machine.os_image),
    ];
    page.sample(name, &labels, 1.0, None);
}

/// Returns the numbers of physical cores and of sockets in a text of `/proc/cpuinfo`; `None` if it
/// does not tell them.
fn topology(cpuinfo: &str) -> Option<(usize, usize)> {
    let mut cores = std::collections::BTreeSet::new();
    let mut socket = None;
    for line in cpuinfo.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key.trim() {
            "physical id" => socket = value.trim().parse::<u32>().ok(),
            "core id" => {
                cores.insert((socket?, value.trim().parse::<u32>().ok()?));
            }
            _ => {}
        }
    }
    let sockets: std::collections::BTreeSet<u32> = cores.iter().map(|(s, _)| *s).collect();
    (!cores.is_empty()).then_some((cores.len(), sockets.len()))
}

fn machine_families(page: &mut Page, machine: &Machine) {
    let labels = [
        ("boot_id", &*machine.boot_id),
        ("machine_id", &machine.machine_id),
        ("system_uuid", &machine.system_uuid),
    ];
    let cores = machine.cpu_millis as f64 / 1e3;
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let (physical, sockets) = topology(&cpuinfo).map_or((cores, 1.0), |(cores, sockets)| {
        (cores as f64, sockets as f64)
    });
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", cores),
        (
            "machine_cpu_physical_cores",
            "Number of physical CPU cores.",
            physical,
        ),
        ("machine_cpu_sockets", "Number of CPU sockets.", sockets),
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            machine.memory_bytes as f64,
        ),
        (
            "machine_swap_bytes",
            "Amount of swap memory available on the machine.",
            machine::meminfo("SwapTotal").unwrap_or(0) as f64,
        ),
    ] {
        page.family(name, "gauge", help);
        page.sample(name, &labels, value, None);
    }
    let name = "machine_scrape_error";
    let help = "1 if there was an error while getting machine metrics, 0 otherwise.";
    page.family(name, "gauge", help);
    page.sample(name, &[], 0.0, None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use rkube_runtime::cgroup_details::DeviceIo;

    #[test]
    fn subjects_have_the_labels_of_the_kubelet() {
        let mut details = Details::default();
        details.stats.timestamp = Timestamp::from_millisecond(5).unwrap();
        details.stats.cpu_ns = 1_500_000_000;
        details.limits.cpu_quota = Some(50_000);
        details.limits.memory = None;
        details.cpu.throttled_ns = 2_000_000_000;
        details.io.push(DeviceIo {
            major: 8,
            minor: 0,
            read_bytes: 7,
            ..DeviceIo::default()
        });
        let container = Subject {
            id: "/kubepods/podu/c1".into(),
            name: "c1".into(),
            image: "docker.io/library/web:1".into(),
            namespace: "ns".into(),
            pod: "p".into(),
            container: "c".into(),
            started: Timestamp::from_second(3).ok(),
            details: Some(details),
            processes: Some(subjects::Processes {
                count: 2,
                ..Default::default()
            }),
            ..Subject::default()
        };
        let network = Subject {
            id: "/kubepods/podu/s1".into(),
            name: "s1".into(),
            namespace: "ns".into(),
            pod: "p".into(),
            interfaces: vec![subjects::Interface {
                name: "eth0".into(),
                ..Default::default()
            }],
            ..Subject::default()
        };
        let world = Observations {
            subjects: vec![container, network],
            devices: [((8, 0), "/dev/sda".to_owned())].into(),
            now: Timestamp::from_second(9).unwrap(),
        };
        let page = page(&world, &Machine::default()).into_text();
        let image = "docker.io/library/web:1";
        let rest = format!(
            "id=\"/kubepods/podu/c1\",image=\"{image}\",name=\"c1\",namespace=\"ns\",pod=\"p\""
        );
        for line in [
            format!("container_cpu_usage_seconds_total{{container=\"c\",cpu=\"total\",{rest}}} 1.5 5"),
            format!("container_cpu_cfs_throttled_seconds_total{{container=\"c\",{rest}}} 2 5"),
            format!("container_spec_memory_limit_bytes{{container=\"c\",{rest}}} 0"),
            format!("container_spec_cpu_quota{{container=\"c\",{rest}}} 50000"),
            format!("container_fs_reads_bytes_total{{container=\"c\",device=\"/dev/sda\",{rest}}} 7 5"),
            format!("container_processes{{container=\"c\",{rest}}} 2 5"),
            format!("container_start_time_seconds{{container=\"c\",{rest}}} 3"),
            format!("container_last_seen{{container=\"c\",{rest}}} 9 5"),
            "container_network_receive_bytes_total{container=\"\",id=\"/kubepods/podu/s1\",image=\"\",interface=\"eth0\",name=\"s1\",namespace=\"ns\",pod=\"p\"} 0 9000".into(),
            "machine_scrape_error 0".into(),
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        // The kernel of this group measures no pressure.
        assert!(!page.contains("\ncontainer_pressure_cpu_waiting_seconds_total{"));
    }

    #[test]
    fn cores_and_sockets() {
        let cpu = |socket: u32, core: u32| {
            format!("processor\t: 0\nphysical id\t: {socket}\ncore id\t\t: {core}\n\n")
        };
        let text = [cpu(0, 0), cpu(0, 0), cpu(0, 1), cpu(1, 0)].concat();
        assert_eq!(topology(&text), Some((3, 2)));
        assert_eq!(topology("processor : 0\n"), None);
    }
}
