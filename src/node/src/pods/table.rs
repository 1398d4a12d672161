//! The table of pods on this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::instance::Instances;
use super::reason::Eviction;
use crate::kinds::*;

/// An event sent to the worker of one pod.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    /// The pod's current version in the API.
    Updated(Arc<Pod>),
    /// The pod is no longer in the API, or the manifest of the static pod is gone.
    Removed,
    /// The mirror of the static pod in the API, if there is one.
    Mirror(Option<Arc<Pod>>),
    /// The container with this ID changed; an empty ID means the sandbox.
    ContainerChanged(String),
    /// The node evicts the pod.
    Evicted(Eviction),
    /// The health of the pod's devices changed.
    DevicesChanged,
}

/// A pod's state as its worker last published it.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// The pod with its generated status.
    pub pod: Arc<Pod>,
    /// All attempts of the pod's containers.
    pub instances: Arc<Instances>,
    /// ID of the pod's current sandbox.
    pub sandbox: Option<String>,
    /// UID of a static pod's mirror in the API, which clients know the pod by.
    pub mirror: Option<String>,
    /// Whether the node evicts the pod.
    pub evicting: bool,
    /// Whether nothing of the pod runs any more and its volumes are removed; those of an evicted
    /// pod and its containers.
    pub cleaned: bool,
}

/// Sends an event to a worker; returns whether the worker is still running.
pub(crate) type EventSender = Box<dyn Fn(WorkerEvent) -> bool + Send + Sync>;

/// Handle of a pod's worker.
pub(crate) struct WorkerHandle {
    pub send: EventSender,
    pub snapshot: watch::Receiver<Snapshot>,
}

/// The pods on this node and their workers, by UID.
#[derive(Default)]
pub(crate) struct PodTable {
    workers: Mutex<BTreeMap<String, WorkerHandle>>,
    grants: Mutex<()>,
}

impl PodTable {
    /// Returns snapshots of all pods.
    pub(crate) fn all(&self) -> Vec<Snapshot> {
        let workers = self.workers.lock();
        workers
            .values()
            .map(|w| w.snapshot.borrow().clone())
            .collect()
    }

    /// Returns the pods that are neither being deleted nor in a final phase.
    pub(crate) fn active(&self) -> Vec<Arc<Pod>> {
        self.all()
            .into_iter()
            .map(|s| s.pod)
            .filter(|p| !p.deleting() && !matches!(p.api_phase(), "Succeeded" | "Failed"))
            .collect()
    }

    /// Returns the pod of this name, and of this UID if one is given. The UID of its mirror is a
    /// static pod's, too.
    ///
    /// Prefers a pod that is not being deleted: a successor may have the same name.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Snapshot> {
        self.all()
            .into_iter()
            .filter(|s| s.pod.namespace() == namespace && s.pod.name() == name)
            .filter(|s| uid.is_none_or(|u| s.pod.uid() == u || s.mirror.as_deref() == Some(u)))
            .min_by_key(|s| s.pod.deleting())
    }

    /// Returns the UIDs of all pods.
    pub(crate) fn uids(&self) -> Vec<String> {
        self.workers.lock().keys().cloned().collect()
    }

    /// Asks a pod's worker to fail the pod and stop it.
    pub(crate) fn evict(&self, uid: &str, eviction: Eviction) {
        self.send(uid, WorkerEvent::Evicted(eviction));
    }

    /// Sends an event to a pod's worker; does nothing if there is none.
    pub(crate) fn send(&self, uid: &str, event: WorkerEvent) {
        if let Some(worker) = self.workers.lock().get(uid) {
            // A worker that has just ended does not need the event.
            let _ = (worker.send)(event);
        }
    }

    /// Sends the pod's new version to its worker, or starts one.
    ///
    /// `start` is called with all pods of the table while the table is locked, so that pods are
    /// admitted one at a time. It must not use the table.
    pub(crate) fn update(&self, pod: Arc<Pod>, start: impl FnOnce(&[Arc<Pod>]) -> WorkerHandle) {
        let mut workers = self.workers.lock();
        let uid = pod.uid().to_owned();
        if let Some(worker) = workers.get(&uid)
            && (worker.send)(WorkerEvent::Updated(pod))
        {
            return;
        }
        let others: Vec<Arc<Pod>> = workers
            .values()
            .map(|w| w.snapshot.borrow().pod.clone())
            .collect();
        workers.insert(uid, start(&others));
    }

    /// Removes the worker of a pod.
    pub(crate) fn remove(&self, uid: &str) {
        self.workers.lock().remove(uid);
    }

    /// Locks the granting of resources.
    ///
    /// Held while a resize is decided, so that two pods are not granted the same resources.
    pub(crate) fn lock_grants(&self) -> MutexGuard<'_, ()> {
        self.grants.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: &str, phase: &str, deleting: bool) -> Arc<Pod> {
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(uid.into()),
                deletion_timestamp: deleting.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
                ..Default::default()
            },
            status: Some(PodStatus {
                phase: Some(phase.into()),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    type Events = Arc<Mutex<Vec<WorkerEvent>>>;

    /// Adds a pod; returns its worker's events and, if a worker was started, the number of other
    /// pods.
    fn add(table: &PodTable, pod: &Arc<Pod>) -> (Events, Option<usize>) {
        let events = Events::default();
        let (_, snapshot) = watch::channel(Snapshot {
            pod: pod.clone(),
            instances: Arc::default(),
            sandbox: None,
            mirror: None,
            evicting: false,
            cleaned: false,
        });
        let mut others = None;
        table.update(pod.clone(), |all| {
            others = Some(all.len());
            let events = events.clone();
            WorkerHandle {
                send: Box::new(move |event| {
                    events.lock().push(event);
                    true
                }),
                snapshot,
            }
        });
        (events, others)
    }

    #[test]
    fn a_pod_has_one_worker() {
        let table = PodTable::default();
        let a = pod("a", "1", "Running", false);
        let (events, others) = add(&table, &a);
        assert_eq!(others, Some(0));
        assert_eq!(add(&table, &a).1, None, "the worker gets the update");
        assert!(matches!(events.lock()[..], [WorkerEvent::Updated(_)]));
        assert_eq!(add(&table, &pod("b", "2", "", false)).1, Some(1));
        table.remove("1");
        assert_eq!(table.uids(), ["2"]);
        // The pod is no longer in the table, so the event is dropped.
        table.send("1", WorkerEvent::Removed);
        assert_eq!(events.lock().len(), 1);
    }

    #[test]
    fn a_worker_that_has_ended_is_replaced() {
        let table = PodTable::default();
        let a = pod("a", "1", "Running", false);
        let (_, snapshot) = watch::channel(Snapshot {
            pod: a.clone(),
            instances: Arc::default(),
            sandbox: None,
            mirror: None,
            evicting: false,
            cleaned: false,
        });
        table.update(a.clone(), |_| WorkerHandle {
            send: Box::new(|_| false),
            snapshot,
        });
        assert_eq!(add(&table, &a).1, Some(1));
    }

    #[test]
    fn names_mean_the_successor() {
        let table = PodTable::default();
        add(&table, &pod("a", "1", "Running", true));
        add(&table, &pod("a", "2", "Pending", false));
        let uid = |wanted| {
            table
                .find("ns", "a", wanted)
                .map(|s| s.pod.uid().to_owned())
        };
        assert_eq!(uid(None).as_deref(), Some("2"));
        assert_eq!(uid(Some("1")).as_deref(), Some("1"));
        assert_eq!(uid(Some("3")), None);
        assert!(table.find("other", "a", None).is_none());
    }

    #[test]
    fn active_pods_may_run_containers() {
        let table = PodTable::default();
        add(&table, &pod("a", "1", "Running", false));
        add(&table, &pod("b", "2", "Succeeded", false));
        add(&table, &pod("c", "3", "Failed", false));
        add(&table, &pod("d", "4", "Running", true));
        add(&table, &pod("e", "5", "Pending", false));
        let active = table.active();
        let uids: Vec<&str> = active.iter().map(|p| p.uid()).collect();
        assert_eq!(uids, ["1", "5"]);
    }

    #[test]
    fn evictions_reach_the_worker() {
        let table = PodTable::default();
        let (events, _) = add(&table, &pod("a", "1", "Running", false));
        let eviction = Eviction {
            reason: Eviction::REASON,
            message: "low".into(),
            grace: 1,
            is_disruption: true,
        };
        table.evict("1", eviction.clone());
        assert!(matches!(&events.lock()[..], [WorkerEvent::Evicted(e)] if *e == eviction));
    }
}
