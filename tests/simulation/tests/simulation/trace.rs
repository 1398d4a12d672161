//! Everything that the store made durable, in order, and what must hold at every moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rkube_store::embedded::SteppedStore;
use rkube_store::{Change, ListOptions, Revision, Store, StoreError};
use serde_json::Value;

use crate::api::{controller, number, text, uid};

/// The history of the store over all processes.
#[derive(Default)]
pub struct Trace {
    /// The newest revision seen.
    newest: Revision,
    /// The revision and value of each key.
    live: BTreeMap<String, (Revision, bytes::Bytes)>,
    /// The revisions that changed pods.
    pub pod_changes: BTreeSet<Revision>,
    /// When something other than heartbeats and events last changed, in simulated time.
    pub last_change: std::time::Duration,
    /// The same for the same history, but for keys and certificates.
    pub digest: u64,
    pods: HashMap<String, PodSeen>,
    /// Each job's numbers of succeeded and failed pods.
    jobs: HashMap<String, (i64, i64)>,
}

#[derive(Default)]
struct PodSeen {
    job: Option<String>,
    /// While it runs.
    address: Option<String>,
    succeeded: bool,
}

impl Trace {
    /// Compares a store that has just been opened with what was seen before.
    ///
    /// # Panics
    /// Something durable is lost, or a revision is used again.
    pub async fn recover(&mut self, store: &SteppedStore) {
        let newest = store.revision();
        assert!(
            newest >= self.newest,
            "the store is at {newest} and was at {}",
            self.newest
        );
        if self.newest == 0 {
            self.newest = newest;
        }
        // A watch begins with a batch only if there is something to tell.
        if newest > self.newest {
            self.catch_up(store).await;
        }
        let page = store
            .list("", ListOptions::default())
            .await
            .expect("a list");
        let found: BTreeMap<_, _> = page
            .items
            .iter()
            .map(|kv| (kv.key.to_string(), (kv.mod_revision, kv.value.clone())))
            .collect();
        assert_eq!(page.revision, self.newest);
        for (key, seen) in &self.live {
            assert_eq!(found.get(key), Some(seen), "{key} is not what was durable");
        }
        assert_eq!(
            found.len(),
            self.live.len(),
            "there are more keys than written"
        );
    }

    /// Observes what became durable before the last process ended, and was not seen.
    async fn catch_up(&mut self, store: &SteppedStore) {
        match store.watch("", self.newest).await {
            Ok(mut watch) => {
                let first = watch.recv().await.expect("a batch").expect("a batch");
                self.observe(&first.changes);
            }
            Err(StoreError::Compacted { .. }) => self.reload(store).await,
            Err(error) => panic!("cannot watch: {error}"),
        }
    }

    /// Takes over a store whose history does not reach back.
    async fn reload(&mut self, store: &SteppedStore) {
        let page = store
            .list("", ListOptions::default())
            .await
            .expect("a list");
        self.live = page
            .items
            .iter()
            .map(|kv| (kv.key.to_string(), (kv.mod_revision, kv.value.clone())))
            .collect();
        self.newest = page.revision;
    }

    /// Observes changes in the order of their commits.
    pub fn observe(&mut self, changes: &[Change]) {
        for change in changes {
            let revision = change.revision();
            assert_eq!(
                revision,
                self.newest + 1,
                "a change is missing in the watch"
            );
            self.newest = revision;
            let key = change.key().to_string();
            let before = change.before().map(|kv| kv.mod_revision);
            assert_eq!(before, self.live.get(&key).map(|seen| seen.0), "{key}");
            if !key.contains("/leases/") && !key.contains("/events/") {
                self.last_change = crate::clock::now();
            }
            if key.contains("/pods/") {
                self.pod_changes.insert(revision);
            }
            self.digest = mix(self.digest, revision);
            self.digest = mix_bytes(self.digest, key.as_bytes());
            match change.after() {
                Some(kv) => {
                    if !has_own(&key) {
                        self.digest = mix_bytes(self.digest, &kv.value);
                    }
                    self.put(&key, &kv.value);
                    self.live.insert(key, (revision, kv.value.clone()));
                }
                None => {
                    let (_, value) = self.live.remove(&key).expect("it was there");
                    self.removed(&key, &value);
                }
            }
        }
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        if key.contains("/pods/") {
            let pod: Value = serde_json::from_slice(value).expect("a pod");
            self.pod(&pod);
        } else if key.contains("/jobs/") {
            let job: Value = serde_json::from_slice(value).expect("a job");
            self.job(&job);
        }
    }

    /// No two running pods have one address.
    fn pod(&mut self, pod: &Value) {
        let phase = text(pod, "/status/phase");
        let address = match phase {
            "Running" => text(pod, "/status/podIP").to_owned(),
            _ => String::new(),
        };
        let own = uid(pod).to_owned();
        if !address.is_empty() {
            let other = self
                .pods
                .iter()
                .find(|(uid, seen)| **uid != own && seen.address.as_ref() == Some(&address));
            assert!(other.is_none(), "two pods have the address {address}");
        }
        let seen = self.pods.entry(own).or_default();
        seen.address = (!address.is_empty()).then_some(address);
        seen.succeeded |= phase == "Succeeded";
        if seen.job.is_none() {
            seen.job = controller(pod).map(str::to_owned);
        }
    }

    /// A job counts each pod once, and never takes a count back.
    fn job(&mut self, job: &Value) {
        let name = text(job, "/metadata/name");
        let succeeded = number(job, "/status/succeeded");
        let failed = number(job, "/status/failed");
        let counts = self.jobs.entry(uid(job).to_owned()).or_default();
        assert!(
            succeeded >= counts.0 && failed >= counts.1,
            "job {name} counted {counts:?} and now ({succeeded}, {failed})"
        );
        *counts = (succeeded, failed);
        let completions = number(job, "/spec/completions");
        assert!(
            succeeded <= completions,
            "job {name} has {succeeded} of {completions} completions"
        );
        let of_job = |seen: &&PodSeen| seen.job.as_deref() == Some(uid(job));
        let pods = self.pods.values().filter(of_job).count() as i64;
        let ended = self.pods.values().filter(of_job).filter(|p| p.succeeded);
        let ended = ended.count() as i64;
        assert!(
            succeeded <= ended && succeeded + failed <= pods,
            "job {name} counts {succeeded} and {failed}; {ended} of {pods} pods have succeeded"
        );
    }

    fn removed(&mut self, key: &str, value: &[u8]) {
        if key.contains("/pods/") {
            let pod: Value = serde_json::from_slice(value).expect("a pod");
            if let Some(seen) = self.pods.get_mut(uid(&pod)) {
                seen.address = None;
            }
        }
    }
}

/// Returns whether a value has something of the process in it: its number, or a certificate.
fn has_own(key: &str) -> bool {
    ["/events/", "/configmaps/"]
        .iter()
        .any(|kind| key.contains(kind))
}

fn mix(digest: u64, word: u64) -> u64 {
    (digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

fn mix_bytes(digest: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(digest, |d, byte| mix(d, u64::from(*byte)))
}
