//! Probes: a task each, a small state machine of thresholds behind them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Letter;
use super::handlers::{self, Outcome};
use super::plan::ProbeView;
use super::status::Health;
use super::worker::Own;
use crate::agent::Agent;
use crate::kinds::*;
use crate::recorder::Severity::Warning;

/// What a probe is for.
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

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// Counts equal results in a row and says when they count.
#[derive(Debug)]
pub(crate) struct Thresholds {
    success: u32,
    failure: u32,
    last: Option<bool>,
    run: u32,
}

impl Thresholds {
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

    /// Takes a result; answers the state that it makes certain, if it does.
    pub(crate) fn take(&mut self, success: bool) -> Option<bool> {
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

/// A probe's news for the pod's worker.
#[derive(Debug)]
pub(crate) struct News {
    pub container: String,
    /// The container's ID, so that news of an earlier attempt are told apart.
    pub id: String,
    pub purpose: Purpose,
    pub success: bool,
}

/// What the probes of one running container said.
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

/// All probes of a pod.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    containers: Vec<Probed>,
}

/// What a probe's task needs.
pub(crate) struct Target {
    pub agent: Arc<Agent>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub id: String,
    pub ip: IpAddr,
    /// When the container started.
    pub since: jiff::Timestamp,
    /// The worker's mailbox.
    pub letters: mpsc::UnboundedSender<Letter>,
}

impl Probes {
    /// Probes a container that has just been seen running.
    ///
    /// `adopted` is its health as the API knows it when the container ran before
    /// this agent did: it stays so until a probe says otherwise.
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
            start(&mut probed, &target);
        } else {
            let runner = tokio::spawn(run(target.clone(), Purpose::Startup));
            probed.tasks.push(runner.abort_handle());
        }
        self.containers.push(probed);
    }

    pub(crate) fn forget(&mut self, name: &str) {
        self.containers.retain(|p| p.name != name);
    }

    pub(crate) fn clear(&mut self) {
        self.containers.clear();
    }

    /// The container's ID that is probed under this name.
    pub(crate) fn probed(&self, name: &str) -> Option<&str> {
        self.find(name).map(|p| p.id.as_str())
    }

    fn find(&self, name: &str) -> Option<&Probed> {
        self.containers.iter().find(|p| p.name == name)
    }

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

    /// Takes news in. `target` makes what the later probes need once startup is done.
    pub(crate) fn take(&mut self, news: &News, target: impl FnOnce() -> Option<Target>) {
        let Some(probed) = self
            .containers
            .iter_mut()
            .find(|p| p.name == news.container && p.id == news.id)
        else {
            return;
        };
        match (news.purpose, news.success) {
            (Purpose::Startup, true) => {
                if !probed.started {
                    probed.started = true;
                    if let Some(target) = target() {
                        start(probed, &Arc::new(target));
                    }
                }
            }
            (Purpose::Readiness, ready) => probed.ready = ready,
            (purpose, false) => probed.failed = Some(purpose),
            (Purpose::Liveness, true) => probed.failed = None,
        }
    }

    /// No more liveness or startup probes: the pod is being stopped.
    pub(crate) fn stop_restarting(&mut self) {
        for p in &mut self.containers {
            p.failed = None;
        }
    }
}

fn start(probed: &mut Probed, target: &Arc<Target>) {
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
    let mut told = None;
    let mut clock = tokio::time::interval(period);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let outcome = once(&target, probe).await;
        tell(&target, purpose, &outcome);
        let success = match &outcome {
            Outcome::Success(_) => true,
            Outcome::Failure(_) => false,
            // What could not be tried says nothing of the container.
            Outcome::Error(_) => continue,
        };
        let Some(state) = thresholds.take(success) else {
            continue;
        };
        if told != Some(state) {
            told = Some(state);
            let news = News {
                container: target.container.name.clone(),
                id: target.id.clone(),
                purpose,
                success: state,
            };
            let letter = Letter::Own(Own::Probe(news));
            if target.letters.send(letter).is_err() {
                return;
            }
        }
        let done = match purpose {
            Purpose::Startup => true,
            // On hold until the container is another.
            Purpose::Liveness => !state,
            Purpose::Readiness => false,
        };
        if done {
            return;
        }
    }
}

async fn once(target: &Target, probe: &Probe) -> Outcome {
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
        handlers::exec(&target.agent.runtime, &target.id, &command, timeout).await
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

fn tell(target: &Target, purpose: Purpose, outcome: &Outcome) {
    let title = purpose.title();
    let message = match outcome {
        Outcome::Success(_) => return,
        Outcome::Failure(text) => format!("{title} probe failed: {text}"),
        Outcome::Error(text) => {
            format!("{title} probe errored and resulted in unknown state: {text}")
        }
    };
    target.agent.recorder.container(
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
        let states: Vec<_> = results.into_iter().map(|r| t.take(r)).collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(states, [None, yes, None, None, None, None, None, no, no]);
    }

    #[test]
    fn defaults_are_one_and_three() {
        let mut t = Thresholds::new(&Probe::default());
        assert_eq!(t.take(false), None);
        assert_eq!(t.take(true), Some(true));
        assert_eq!(t.take(false), None);
        assert_eq!(t.take(false), None);
        assert_eq!(t.take(false), Some(false));
    }
}
