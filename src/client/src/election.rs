//! Leader election with a Lease, as client-go's `tools/leaderelection`.
//!
//! Candidates of any implementation may share a lease: the records are the same, and so are the
//! times. A candidate takes a lease over that nobody has renewed for as long as its record says,
//! measured by the candidate's own clock from when it saw the last renewal. A leader that cannot
//! renew its lease cancels its work before that time is over. There are no two leaders as long as the
//! work lets itself be cancelled: work that blocks its thread goes on until its next `await`, and so
//! does what it has spawned beside itself. Renewals have a task of their own, which such work does not
//! hold up.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::events::{Recorder, Severity};

/// How much longer, at random, a candidate waits between attempts, as a factor of
/// [`Timing::retry`].
const JITTER: f64 = 1.2;

/// The times of an election.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For how long a lease is held without being renewed.
    pub lease: Duration,
    /// For how long a leader tries to renew before it gives up. Less than `lease`.
    pub deadline: Duration,
    /// Time between two attempts.
    pub retry: Duration,
}

impl Default for Timing {
    /// Returns the times of upstream's components.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// A candidate for a lease.
#[derive(Clone)]
pub struct Election {
    /// The candidate's own identity at the API server.
    pub client: Client,
    /// The lease's namespace.
    pub namespace: String,
    /// The lease's name, which is that of the component.
    pub name: &'static str,
    /// What tells this candidate from all others. A candidate that restarts with the same identity
    /// still leads.
    pub identity: String,
    /// The same for all candidates.
    pub timing: Timing,
    /// Records who leads.
    pub recorder: Recorder,
}

/// A leader could not renew its lease, or somebody else has it.
#[derive(Debug, thiserror::Error)]
#[error("the lease {name} is lost")]
pub struct Lost {
    name: &'static str,
}

/// The newest record that a candidate has seen.
struct Observed {
    lease: Lease,
    /// When it was seen first.
    since: Instant,
}

impl Observed {
    fn new(lease: Lease) -> Self {
        Self {
            lease,
            since: Instant::now(),
        }
    }

    fn holder(&self) -> Option<&str> {
        let spec = self.lease.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|h| !h.is_empty())
    }

    /// Returns whether the holder may still lead.
    fn is_valid(&self) -> bool {
        let spec = self.lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let seconds = u64::try_from(seconds.unwrap_or(0)).unwrap_or(0);
        self.since + Duration::from_secs(seconds) > Instant::now()
    }
}

impl Election {
    /// Waits until this candidate leads, and then runs `work` for as long as it does.
    ///
    /// # Errors
    /// [`Lost`]: the lease was lost, and `work` was dropped.
    pub async fn lead<T, W: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> W,
    ) -> Result<T, Lost> {
        let observed = self.acquire().await;
        tracing::info!(lease = self.name, identity = self.identity, "leads");
        self.record(&observed, "became leader");
        // Dropped with this future, which ends the task.
        let mut renewal = JoinSet::new();
        let candidate = self.clone();
        renewal.spawn(async move { candidate.renew(observed).await });
        tokio::select! {
            result = work() => Ok(result),
            ended = renewal.join_next() => {
                tracing::warn!(lease = self.name, identity = self.identity, "leads no longer");
                match ended {
                    Some(Ok(observed)) => self.record(&observed, "stopped leading"),
                    // A lease that nothing renews is lost.
                    Some(Err(error)) => {
                        tracing::error!(lease = self.name, %error, "the renewal failed");
                    }
                    None => {}
                }
                Err(Lost { name: self.name })
            }
        }
    }

    async fn acquire(&self) -> Observed {
        let mut last = None;
        loop {
            let deadline = Instant::now() + self.timing.deadline;
            if let Some((leads, observed)) = self.attempt(last.as_ref(), deadline).await {
                if leads {
                    return observed;
                }
                last = Some(observed);
            }
            let factor = 1.0 + rand::random::<f64>() * JITTER;
            tokio::time::sleep(self.timing.retry.mul_f64(factor)).await;
        }
    }

    /// Renews until that fails for too long, or somebody else leads. Returns the last record.
    async fn renew(&self, mut last: Observed) -> Observed {
        let mut deadline = Instant::now() + self.timing.deadline;
        while Instant::now() + self.timing.retry < deadline {
            tokio::time::sleep(self.timing.retry).await;
            let began = Instant::now();
            let Some((leads, observed)) = self.attempt(Some(&last), deadline).await else {
                continue;
            };
            last = observed;
            if leads {
                deadline = began + self.timing.deadline;
            } else if last.holder().is_some_and(|holder| holder != self.identity) {
                break;
            }
        }
        last
    }

    /// Tries once to get or keep the lease. Returns whether this candidate has it, and the newest
    /// record; nothing if the API server did not answer.
    async fn attempt(
        &self,
        last: Option<&Observed>,
        deadline: Instant,
    ) -> Option<(bool, Observed)> {
        match tokio::time::timeout_at(deadline, self.try_once(last)).await {
            Ok(Ok(outcome)) => Some(outcome),
            Ok(Err(error)) => {
                tracing::debug!(lease = self.name, %error, "an attempt to lead failed");
                None
            }
            Err(_) => None,
        }
    }

    async fn try_once(&self, last: Option<&Observed>) -> kube::Result<(bool, Observed)> {
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        // The leader expects that nobody has written since.
        if let Some(last) = last.filter(|last| self.holds(last) && last.is_valid())
            && let Ok(observed) = self.replace(&api, last).await
        {
            return Ok((true, observed));
        }
        let Some(lease) = api.get_opt(self.name).await? else {
            let lease = self.renewed(None);
            let since = Instant::now();
            let lease = api.create(&PostParams::default(), &lease).await?;
            return Ok((true, Observed { lease, since }));
        };
        let mut observed = Observed::new(lease);
        if let Some(last) = last.filter(|last| last.lease.spec == observed.lease.spec) {
            observed.since = last.since;
        }
        let is_taken = observed.holder().is_some() && observed.is_valid();
        if is_taken && !self.holds(&observed) {
            return Ok((false, observed));
        }
        Ok((true, self.replace(&api, &observed).await?))
    }

    fn holds(&self, observed: &Observed) -> bool {
        observed.holder() == Some(self.identity.as_str())
    }

    /// Writes this candidate into a lease, unless somebody else has written it meanwhile.
    async fn replace(&self, api: &Api<Lease>, observed: &Observed) -> kube::Result<Observed> {
        let lease = self.renewed(Some(observed));
        // The lease is valid from when the request was sent, not from the answer.
        let since = Instant::now();
        let lease = api
            .replace(self.name, &PostParams::default(), &lease)
            .await?;
        Ok(Observed { lease, since })
    }

    /// Returns the lease with this candidate as its holder.
    fn renewed(&self, observed: Option<&Observed>) -> Lease {
        let mut lease = observed.map_or_else(Lease::default, |o| o.lease.clone());
        let old = lease.spec.take().unwrap_or_default();
        let is_own = old.holder_identity.as_ref() == Some(&self.identity);
        let now = Some(MicroTime(Timestamp::now()));
        let transitions = old.lease_transitions.unwrap_or(0);
        let seconds = i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: old.acquire_time.filter(|_| is_own).or_else(|| now.clone()),
            renew_time: now,
            lease_transitions: Some(match observed {
                Some(_) if !is_own => transitions.saturating_add(1),
                _ => transitions,
            }),
            ..LeaseSpec::default()
        });
        lease.metadata = ObjectMeta {
            name: Some(self.name.to_owned()),
            namespace: Some(self.namespace.clone()),
            ..lease.metadata
        };
        lease
    }

    fn record(&self, observed: &Observed, what: &str) {
        let message = format!("{} {what}", self.identity);
        let lease = &observed.lease;
        self.recorder.event(
            self.name,
            lease,
            Severity::Normal,
            "LeaderElection",
            message,
        );
    }
}
