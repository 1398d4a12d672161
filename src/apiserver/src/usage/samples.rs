//! Samples of the counters of nodes and containers, and the usage computed from them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

/// The length that a window should have at least. Shorter windows are used while there are no
/// older samples.
const WINDOW: SignedDuration = SignedDuration::from_secs(10);
/// The age from which a container without an earlier sample is measured since its start. The usage
/// of a younger one is that of its start alone.
const FRESH_CONTAINER: SignedDuration = SignedDuration::from_secs(10);
/// The age up to which a container may be measured since its start.
const RECENT_CONTAINER: SignedDuration = SignedDuration::from_secs(60);

/// The counters of a node or a container at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// The time of the measurement, by the node's clock.
    pub(super) at: Timestamp,
    /// The start of the container.
    pub(super) started: Option<Timestamp>,
    /// Cumulative processor time in seconds.
    pub(super) cpu: f64,
    /// Working set in bytes.
    pub(super) memory: u64,
}

/// The usage of a node or a container.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    /// The end of the window.
    pub(super) at: Timestamp,
    /// The length of the window over which `cpu` is averaged.
    pub(super) window: SignedDuration,
    /// Processor time per second, in billionths of a core.
    pub(super) cpu: u64,
    /// Working set in bytes at the end of the window.
    pub(super) memory: u64,
}

/// Namespace and name of a pod.
pub(super) type PodKey = (String, String);

/// The counters of a node and of its containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// The node itself.
    pub(super) node: Option<Point>,
    /// The running containers by pod and name.
    pub(super) pods: BTreeMap<PodKey, BTreeMap<String, Point>>,
}

/// The samples of one round, by node.
pub(super) type Round = HashMap<String, Arc<Sample>>;

/// Returns the usage at the last of several points, in ascending order of time.
fn usage_of(points: &[Point]) -> Option<Usage> {
    let (last, earlier) = points.split_last()?;
    // Counters start at zero with the container.
    let same = |point: &&Point| {
        point.at < last.at
            && point.cpu <= last.cpu
            && last.started.is_none_or(|started| started <= point.at)
    };
    let far = |point: &&Point| last.at.duration_since(point.at) >= WINDOW;
    let first = earlier
        .iter()
        .rev()
        .filter(same)
        .find(far)
        .or_else(|| earlier.iter().find(same));
    let (since, cpu) = match first {
        Some(first) => (first.at, first.cpu),
        None => {
            let started = last.started?;
            let age = last.at.duration_since(started);
            if !(FRESH_CONTAINER..RECENT_CONTAINER).contains(&age) {
                return None;
            }
            (started, 0.0)
        }
    };
    let window = last.at.duration_since(since);
    Some(Usage {
        at: last.at,
        window,
        cpu: ((last.cpu - cpu) / window.as_secs_f64() * 1e9) as u64,
        memory: last.memory,
    })
}

/// Returns a node's usage; `None` if it is not known yet.
pub(super) fn node_usage(rounds: &[Arc<Round>], node: &str) -> Option<Usage> {
    rounds.last()?.get(node)?;
    let points: Vec<Point> = rounds
        .iter()
        .filter_map(|round| round.get(node)?.node)
        .collect();
    usage_of(&points)
}

/// Returns the usage of a pod's containers; `None` if that of a running container is not known yet,
/// as sums would be too low then.
pub(super) fn pod_usage(
    rounds: &[Arc<Round>],
    node: &str,
    pod: &PodKey,
) -> Option<Vec<(String, Usage)>> {
    let last = rounds.last()?.get(node)?.pods.get(pod)?;
    last.keys()
        .map(|container| {
            let points: Vec<Point> = rounds
                .iter()
                .filter_map(|round| round.get(node)?.pods.get(pod)?.get(container).copied())
                .collect();
            Some((container.clone(), usage_of(&points)?))
        })
        .collect()
}

/// A line of the Prometheus text format: name, labels, value, time in milliseconds.
struct Line<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
    at: Option<i64>,
}

/// Splits the labels, after the opening brace, from the rest of the line.
fn labels(mut text: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (end, '"') => break end,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((name, value));
        text = &rest[end + 1..];
    }
}

fn line(text: &str) -> Option<Line<'_>> {
    if text.starts_with('#') {
        return None;
    }
    let end = text.find(['{', ' '])?;
    let (name, rest) = text.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let mut words = rest.split_ascii_whitespace();
    Some(Line {
        name,
        labels,
        value: words.next()?.parse().ok().filter(|v: &f64| v.is_finite())?,
        at: words.next().and_then(|word| word.parse().ok()),
    })
}

/// The counters of one container while the page is read.
#[derive(Default)]
struct Partial {
    started: Option<Timestamp>,
    cpu: Option<(Timestamp, f64)>,
    memory: Option<u64>,
}

impl Partial {
    fn set(&mut self, what: &str, line: &Line<'_>) {
        let at = line
            .at
            .and_then(|at| Timestamp::from_millisecond(at).ok())
            .unwrap_or_else(Timestamp::now);
        match what {
            "cpu_usage_seconds_total" => self.cpu = Some((at, line.value)),
            "memory_working_set_bytes" => self.memory = Some(line.value as u64),
            "start_time_seconds" => {
                self.started = Timestamp::from_millisecond((line.value * 1e3) as i64).ok();
            }
            _ => {}
        }
    }

    fn point(&self) -> Option<Point> {
        let (at, cpu) = self.cpu?;
        Some(Point {
            at,
            started: self.started,
            cpu,
            memory: self.memory?,
        })
    }
}

/// Reads the page `/metrics/resource` of a node. Lines that cannot be read are left out, and so are
/// containers for which a value is missing.
pub(super) fn read(page: &str) -> Sample {
    let mut node = Partial::default();
    let mut containers: BTreeMap<(PodKey, String), Partial> = BTreeMap::new();
    for line in page.lines().filter_map(line) {
        if let Some(what) = line.name.strip_prefix("node_") {
            node.set(what, &line);
            continue;
        }
        let Some(what) = line.name.strip_prefix("container_") else {
            continue;
        };
        let label = |name: &str| {
            let found = line.labels.iter().find(|(label, _)| *label == name);
            found.map(|(_, value)| value.clone())
        };
        let (Some(namespace), Some(pod), Some(container)) =
            (label("namespace"), label("pod"), label("container"))
        else {
            continue;
        };
        containers
            .entry(((namespace, pod), container))
            .or_default()
            .set(what, &line);
    }
    let mut sample = Sample {
        node: node.point(),
        pods: BTreeMap::new(),
    };
    for ((pod, container), partial) in containers {
        if let Some(point) = partial.point() {
            sample.pods.entry(pod).or_default().insert(container, point);
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn point(second: i64, cpu: f64, started: Option<i64>) -> Point {
        Point {
            at: at(second),
            started: started.map(at),
            cpu,
            memory: 7,
        }
    }

    fn rate(points: &[Point]) -> Option<(i64, u64)> {
        usage_of(points).map(|usage| (usage.window.as_secs(), usage.cpu))
    }

    #[test]
    fn windows_are_the_shortest_of_ten_seconds_and_more() {
        let all = [
            point(0, 0.0, None),
            point(5, 5.0, None),
            point(14, 5.0, None),
            point(20, 8.0, None),
        ];
        assert_eq!(rate(&all), Some((15, 200_000_000)));
        assert_eq!(rate(&all[..2]), Some((5, 1_000_000_000)));
        assert_eq!(rate(&all[2..]), Some((6, 500_000_000)));
        assert_eq!(rate(&all[..1]), None);
        assert_eq!(rate(&[]), None);
        // A clock that stands still or goes back gives no window.
        assert_eq!(rate(&[point(5, 1.0, None), point(5, 2.0, None)]), None);
    }

    #[test]
    fn a_restarted_container_begins_anew() {
        let restarted = [point(0, 90.0, Some(-100)), point(30, 1.0, Some(20))];
        assert_eq!(rate(&restarted), Some((10, 100_000_000)));
        // Its processor time may already exceed that of its predecessor.
        let restarted = [point(0, 1.0, Some(-100)), point(30, 20.0, Some(20))];
        assert_eq!(rate(&restarted), Some((10, 2_000_000_000)));
        assert_eq!(rate(&[point(29, 1.0, Some(20))]), None);
        assert_eq!(rate(&[point(90, 1.0, Some(20))]), None);
    }

    #[test]
    fn pages_of_the_agent_are_read() {
        let page = "# HELP x y\n# TYPE x counter\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 1000000000\n\
            container_memory_working_set_bytes{pod=\"p\",namespace=\"n\",container=\"c\"} 4096 1000000000\n\
            container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 999990.5\n\
            container_cpu_usage_seconds_total{container=\"half\",namespace=\"n\",pod=\"p\"} 1 1\n\
            pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 3 5\n\
            node_cpu_usage_seconds_total 2e1 1000000001\nnode_memory_working_set_bytes 9 1000000001\n\
            broken{a=\"b\nbroken 1 2 3\nnode_cpu_usage_seconds_total NaN 7\n";
        let sample = read(page);
        assert_eq!(sample.node.unwrap().cpu, 20.0);
        let pod = &sample.pods[&("n".to_owned(), "p".to_owned())];
        assert_eq!(pod.len(), 1);
        let expected = Point {
            at: at(0),
            started: Timestamp::from_millisecond(999_990_500).ok(),
            cpu: 1.5,
            memory: 4096,
        };
        assert_eq!(pod["c"], expected);
        let escaped = line("m{a=\"x\\\"\\\\\\n{\",b=\"\"} 1").unwrap();
        assert_eq!(escaped.labels[0].1, "x\"\\\n{");
        assert_eq!(escaped.labels[1], ("b", String::new()));
    }

    #[test]
    fn pods_are_known_when_all_their_containers_are() {
        let key = ("n".to_owned(), "p".to_owned());
        let round = |containers: &[(&str, Point)]| {
            let containers = containers.iter().map(|(name, p)| ((*name).to_owned(), *p));
            let sample = Sample {
                node: None,
                pods: [(key.clone(), containers.collect())].into(),
            };
            Arc::new(Round::from([("node".to_owned(), Arc::new(sample))]))
        };
        let first = round(&[("a", point(0, 1.0, None))]);
        let second = round(&[("a", point(10, 2.0, None))]);
        let usage = pod_usage(&[first.clone(), second], "node", &key).unwrap();
        assert_eq!((&*usage[0].0, usage[0].1.cpu), ("a", 100_000_000));
        let late = round(&[("a", point(10, 2.0, None)), ("b", point(10, 0.0, Some(9)))]);
        assert_eq!(pod_usage(&[first, late], "node", &key), None);
    }
}
