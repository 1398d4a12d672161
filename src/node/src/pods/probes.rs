//! Probes: one task per probe, and the container state derived from the results.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rkube_runtime::Runtime;
use tokio::task::AbortHandle;

use super::handlers::{self, Outcome};
use super::paused;
use super::plan::ProbeView;
use super::probe_counts::{self, Counter, Series};
use super::status::Health;
use crate::kinds::*;
use crate::recorder::Recorder;
use crate::recorder::Severity::Warning;

/// Number of attempts of a probe that ends in errors (the kubelet's).
const MAX_ATTEMPTS: usize = 3;

/// Purpose of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Startup,
    Liveness,
    Readiness,
}

impl Purpose {
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// Returns the probe's name in events, in lower case.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    /// Returns the container's probe for this purpose.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// Counts consecutive equal results and compares them with the probe's thresholds.
#[derive(Debug)]
pub(crate) struct Thresholds {
    success: u32,
    failure: u32,
    last: Option<bool>,
    run: u32,
}

impl Thresholds {
    /// Returns a counter without results; missing thresholds default to 1 success and 3 failures.
    pub(crate) fn new(probe: &Probe) -> Self {
        let positive = |v: Option<i32>, default: u32| {
            v.and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default)
        };
        Self {
            success: positive(probe.success_threshold, 1),
            failure: positive(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// Records a result.
    ///
    /// Returns the new state once the success or failure threshold is reached.
    pub(crate) fn observe(&mut self, success: bool) -> Option<bool> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let needed = if success { self.success } else { self.failure };
        (self.run >= needed).then_some(success)
    }
}

/// A probe's new state, sent to the pod's worker.
#[derive(Debug)]
pub(crate) struct ProbeResult {
    pub container: String,
    /// ID of the probed container; a result of an earlier attempt is ignored.
    pub id: String,
    pub purpose: Purpose,
    pub success: bool,
}

/// Probe state of one running container. Dropping it stops the probes.
#[derive(Debug)]
pub(crate) struct Probed {
    pub id: String,
    pub name: String,
    started: bool,
    ready: bool,
    failed: Option<Purpose>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Probed {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// All probes of a pod's containers.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    containers: Vec<Probed>,
}

/// A container to probe.
pub(crate) struct Target {
    pub runtime: Runtime,
    pub recorder: Recorder,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub id: String,
    pub ip: IpAddr,
    /// Start time of the container.
    pub since: jiff::Timestamp,
    /// Sends a result to the worker; returns whether the worker is still running.
    pub report: Box<dyn Fn(ProbeResult) -> bool + Send + Sync>,
}

impl Probes {
    /// Starts to probe a running container.
    ///
    /// `adopted` is the health that the API has for a container that an earlier agent started; it
    /// applies until a probe changes it.
    pub(crate) fn watch(&mut self, target: Target, adopted: Option<Health>) {
        self.forget(&target.container.name);
        let container = &target.container;
        let startup = container.startup_probe.is_some();
        let mut probed = Probed {
            id: target.id.clone(),
            name: container.name.clone(),
            started: !startup || adopted.is_some_and(|h| h.started),
            ready: container.readiness_probe.is_none() || adopted.is_some_and(|h| h.ready),
            failed: None,
            tasks: Vec::new(),
        };
        let target = Arc::new(target);
        if probed.started {
            start_probes(&mut probed, &target);
        } else {
            let runner = tokio::spawn(run(target.clone(), Purpose::Startup));
            probed.tasks.push(runner.abort_handle());
        }
        self.containers.push(probed);
    }

    /// Stops the probes of a container and discards their state.
    pub(crate) fn forget(&mut self, name: &str) {
        self.containers.retain(|p| p.name != name);
    }

    /// Stops all probes and discards their state.
    pub(crate) fn clear(&mut self) {
        self.containers.clear();
    }

    /// Returns the ID of the probed container of this name.
    pub(crate) fn probed(&self, name: &str) -> Option<&str> {
        self.find(name).map(|p| p.id.as_str())
    }

    fn find(&self, name: &str) -> Option<&Probed> {
        self.containers.iter().find(|p| p.name == name)
    }

    /// Returns the container's health; neither started nor ready if it is not probed.
    pub(crate) fn health(&self, name: &str) -> Health {
        self.find(name).map_or(
            Health {
                started: false,
                ready: false,
            },
            |p| Health {
                started: p.started,
                ready: p.ready,
            },
        )
    }

    /// Applies a result.
    ///
    /// `target` returns the container for the liveness and readiness probes, which start once the
    /// startup probe has succeeded.
    pub(crate) fn apply(&mut self, result: &ProbeResult, target: impl FnOnce() -> Option<Target>) {
        let Some(probed) = self
            .containers
            .iter_mut()
            .find(|p| p.name == result.container && p.id == result.id)
        else {
            return;
        };
        match (result.purpose, result.success) {
            (Purpose::Startup, true) => {
                if !probed.started {
                    probed.started = true;
                    if let Some(target) = target() {
                        start_probes(probed, &Arc::new(target));
                    }
                }
            }
            (Purpose::Readiness, ready) => probed.ready = ready,
            (purpose, false) => probed.failed = Some(purpose),
            (Purpose::Liveness, true) => probed.failed = None,
        }
    }

    /// Clears failed probes. Called when the pod is being stopped: no container is restarted.
    pub(crate) fn stop_restarting(&mut self) {
        for p in &mut self.containers {
            p.failed = None;
        }
    }
}

/// Starts the liveness and readiness probes of a container.
fn start_probes(probed: &mut Probed, target: &Arc<Target>) {
    for purpose in [Purpose::Liveness, Purpose::Readiness] {
        if purpose.of(&target.container).is_some() {
            let runner = tokio::spawn(run(target.clone(), purpose));
            probed.tasks.push(runner.abort_handle());
        }
    }
}

impl ProbeView for Probes {
    fn started(&self, container: &str) -> bool {
        self.find(container).is_some_and(|p| p.started)
    }
    fn failed(&self, container: &str) -> Option<&'static str> {
        self.find(container)?.failed.map(Purpose::name)
    }
}

/// Probes a container periodically and reports changes of its state.
///
/// Returns when the probe has no further purpose or the worker has ended.
async fn run(target: Arc<Target>, purpose: Purpose) {
    let Some(probe) = purpose.of(&target.container) else {
        return;
    };
    let seconds = |v: Option<i32>, default: u64| {
        Duration::from_secs(
            v.and_then(|v| u64::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default),
        )
    };
    let period = seconds(probe.period_seconds, 10);
    let delay = seconds(probe.initial_delay_seconds, 0);
    let age = jiff::Timestamp::now().duration_since(target.since);
    let age = Duration::try_from(age).unwrap_or_default();
    tokio::time::sleep(delay.saturating_sub(age)).await;
    let mut thresholds = Thresholds::new(probe);
    let mut reported = None;
    let counter = Counter::start(Series {
        container: target.container.name.clone(),
        namespace: target.pod.namespace().to_owned(),
        pod: target.pod.name().to_owned(),
        pod_uid: target.pod.uid().to_owned(),
        kind: purpose.title(),
    });
    let mut clock = tokio::time::interval(period);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        if paused::is_paused(target.pod.namespace()) {
            continue;
        }
        let started = std::time::Instant::now();
        let outcome = retried(|| probe_once(&target, probe)).await;
        // The container was frozen during the probe.
        if paused::is_paused(target.pod.namespace()) {
            continue;
        }
        let counted = match &outcome {
            Outcome::Success(_) => probe_counts::Outcome::Successful,
            Outcome::Failure(_) => probe_counts::Outcome::Failed,
            Outcome::Error(_) => probe_counts::Outcome::Unknown,
        };
        counter.observe(counted, started.elapsed().as_secs_f64());
        record(&target, purpose, &outcome);
        let success = match &outcome {
            Outcome::Success(_) => true,
            Outcome::Failure(_) => false,
            // An error says nothing about the container's health.
            Outcome::Error(_) => continue,
        };
        let Some(state) = thresholds.observe(success) else {
            continue;
        };
        if reported != Some(state) {
            reported = Some(state);
            let result = ProbeResult {
                container: target.container.name.clone(),
                id: target.id.clone(),
                purpose,
                success: state,
            };
            if !(target.report)(result) {
                return;
            }
        }
        let done = match purpose {
            Purpose::Startup => true,
            // No more probes until the container is restarted.
            Purpose::Liveness => !state,
            Purpose::Readiness => false,
        };
        if done {
            return;
        }
    }
}

/// Probes again at once after an error, at most [`MAX_ATTEMPTS`] times in all.
async fn retried<F: Future<Output = Outcome>>(probe: impl Fn() -> F) -> Outcome {
    for _ in 1..MAX_ATTEMPTS {
        match probe().await {
            Outcome::Error(_) => {}
            outcome => return outcome,
        }
    }
    probe().await
}

async fn probe_once(target: &Target, probe: &Probe) -> Outcome {
    let timeout = Duration::from_secs(
        probe
            .timeout_seconds
            .and_then(|t| u64::try_from(t).ok())
            .filter(|t| *t > 0)
            .unwrap_or(1),
    );
    let agent = handlers::probe_agent();
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        handlers::exec(&target.runtime, &target.id, &command, timeout).await
    } else if let Some(get) = &probe.http_get {
        handlers::http_get(get, &target.container, target.ip, timeout, &agent).await
    } else if let Some(socket) = &probe.tcp_socket {
        handlers::tcp(socket, &target.container, target.ip, timeout).await
    } else if let Some(grpc) = &probe.grpc {
        handlers::grpc(grpc, target.ip, timeout, &agent).await
    } else {
        Outcome::Error(format!(
            "missing probe handler for {}",
            target.pod.full_name()
        ))
    }
}

fn record(target: &Target, purpose: Purpose, outcome: &Outcome) {
    let title = purpose.title();
    let message = match outcome {
        Outcome::Success(_) => return,
        Outcome::Failure(text) => format!("{title} probe failed: {text}"),
        Outcome::Error(text) => {
            format!("{title} probe errored and resulted in unknown state: {text}")
        }
    };
    target.recorder.container(
        &target.pod,
        &target.container.name,
        Warning,
        "Unhealthy",
        message,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_count_in_a_row() {
        let mut t = Thresholds::new(&Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Default::default()
        });
        let results = [true, true, false, false, true, false, false, false, false];
        let states: Vec<_> = results.into_iter().map(|r| t.observe(r)).collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(states, [None, yes, None, None, None, None, None, no, no]);
    }

    #[tokio::test]
    async fn errors_are_retried() {
        use std::cell::Cell;
        for (errors, attempts, success) in [(0, 1, true), (1, 2, true), (2, 3, true), (3, 3, false)]
        {
            let made = Cell::new(0);
            let outcome = retried(|| {
                made.set(made.get() + 1);
                let kind = [Outcome::Success, Outcome::Error][usize::from(made.get() <= errors)];
                std::future::ready(kind(String::new()))
            })
            .await;
            assert_eq!(made.get(), attempts, "{errors}");
            assert_eq!(matches!(outcome, Outcome::Success(_)), success, "{errors}");
        }
    }

    #[test]
    fn defaults_are_one_and_three() {
        let mut t = Thresholds::new(&Probe::default());
        assert_eq!(t.observe(false), None);
        assert_eq!(t.observe(true), Some(true));
        assert_eq!(t.observe(false), None);
        assert_eq!(t.observe(false), None);
        assert_eq!(t.observe(false), Some(false));
    }

    fn probes(started: bool, ready: bool) -> Probes {
        Probes {
            containers: vec![Probed {
                id: "id".into(),
                name: "c".into(),
                started,
                ready,
                failed: None,
                tasks: Vec::new(),
            }],
        }
    }

    fn result(id: &str, purpose: Purpose, success: bool) -> ProbeResult {
        ProbeResult {
            container: "c".into(),
            id: id.into(),
            purpose,
            success,
        }
    }

    #[test]
    fn results_change_the_health() {
        let mut p = probes(false, false);
        assert!(!p.health("c").started);
        p.apply(&result("id", Purpose::Startup, true), || None);
        assert!(p.started("c") && !p.health("c").ready);
        p.apply(&result("id", Purpose::Readiness, true), || None);
        assert!(p.health("c").ready);
        p.apply(&result("id", Purpose::Readiness, false), || None);
        assert!(!p.health("c").ready);
        assert_eq!(p.failed("c"), None, "readiness restarts nothing");
    }

    #[test]
    fn failures_restart_the_container() {
        for (purpose, name) in [
            (Purpose::Startup, "startup"),
            (Purpose::Liveness, "liveness"),
        ] {
            let mut p = probes(true, true);
            p.apply(&result("id", purpose, false), || None);
            assert_eq!(p.failed("c"), Some(name));
            p.stop_restarting();
            assert_eq!(p.failed("c"), None);
        }
        let mut p = probes(true, true);
        p.apply(&result("id", Purpose::Liveness, false), || None);
        p.apply(&result("id", Purpose::Liveness, true), || None);
        assert_eq!(p.failed("c"), None);
    }

    #[test]
    fn results_of_earlier_attempts_do_not_count() {
        let mut p = probes(true, true);
        p.apply(&result("earlier", Purpose::Liveness, false), || None);
        assert_eq!(p.failed("c"), None);
        assert_eq!(p.probed("c"), Some("id"));
        p.forget("c");
        assert_eq!(p.probed("c"), None);
        assert_eq!(p.health("c"), Health::default());
        assert!(!p.started("c"));
    }
}
