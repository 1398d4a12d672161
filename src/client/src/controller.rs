//! The interface of controllers, and their runner.
//!
//! A controller declares which changes make which items due ([`Controller::watch`]) and processes one
//! item ([`Controller::reconcile`]). [`start`] does the rest: it registers the event handlers, waits
//! for the informers' initial lists, and processes the queue with the controller's number of workers.
//! A controller whose task ends or panics is started again; the others continue meanwhile.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_component_helpers::label_selector::{self, Labels};

use crate::error::Result;
use crate::informers::{Change, Key, Object, Store, Versioned};
use crate::owners;
use crate::queue::Queue;
use crate::supervise::supervise;

/// An item of a work queue.
pub trait Item: Clone + Eq + Hash + Debug + Send + Sync + 'static {}

impl<T: Clone + Eq + Hash + Debug + Send + Sync + 'static> Item for T {}

/// Number of workers of most of upstream's controllers.
const WORKERS: usize = 5;

/// A controller: drives objects towards their specification, one item at a time.
///
/// An item is processed by at most one worker at a time. Failures are retried with back-off.
pub trait Controller: Send + Sync + 'static {
    /// The queued items: mostly the [`Key`]s of the controller's kind.
    type Item: Item;

    /// Returns the name in logs.
    fn name(&self) -> &'static str;

    /// Returns the number of items that are processed concurrently.
    fn workers(&self) -> usize {
        WORKERS
    }

    /// Returns the queue. It outlives the controller's task.
    fn queue(&self) -> &Queue<Self::Item>;

    /// Declares the stores that the controller reads, and which of their changes make which items
    /// due. Called once, before the informers start.
    fn watch(&self, watches: &mut Watches<Self::Item>);

    /// Runs before the first item is processed, after all declared stores have been listed.
    fn prepare(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Processes one item.
    ///
    /// # Errors
    ///
    /// After an error the item is processed again, with back-off.
    fn reconcile(&self, item: Self::Item) -> impl Future<Output = Result<()>> + Send;
}

/// The declarations of one controller.
pub struct Watches<I> {
    queue: Queue<I>,
    synced: Vec<BoxFuture<'static, ()>>,
}

impl<I: Item> Watches<I> {
    /// Declares that the controller reads a store, without being notified of its changes.
    pub fn reads<K: Versioned>(&mut self, store: &Store<K>) -> &mut Self {
        let store = store.clone();
        self.synced
            .push(Box::pin(async move { store.synced().await }));
        self
    }

    /// Calls `map` with every change of a store, to queue what it makes due.
    ///
    /// It is called from the watch's task, so it must be quick and must not block.
    pub fn watches<K: Versioned>(
        &mut self,
        store: &Store<K>,
        map: impl Fn(&Change<K>, &Queue<I>) + Send + Sync + 'static,
    ) -> &mut Self {
        let queue = self.queue.clone();
        store.on_change(move |change| map(change, &queue));
        self.reads(store)
    }
}

impl Watches<Key> {
    /// Declares the controller's own kind: an object is due when it changes in any way.
    pub fn objects<K: Versioned>(&mut self, store: &Store<K>) -> &mut Self {
        self.watches(store, |change, queue| {
            queue.add(Key::of(change.object().metadata()));
        })
    }

    /// Declares the controller's own kind: an object is due when it is created or updated.
    pub fn present<K: Versioned>(&mut self, store: &Store<K>) -> &mut Self {
        self.watches(store, |change, queue| {
            if !change.is_deletion() {
                queue.add(Key::of(change.object().metadata()));
            }
        })
    }

    /// Declares objects that objects of the kind `O` control: the owner is due when one changes.
    pub fn owns<K: Versioned, O: Object>(&mut self, children: &Store<K>) -> &mut Self {
        self.watches(children, |change, queue| {
            enqueue_owner::<K, O>(queue, change)
        })
    }

    /// Declares objects that objects of the kind `O` control or adopt: the owner is due when one
    /// changes, and if an object has no controller, all objects that `selects` it.
    pub fn claims<K: Versioned, O: Object>(
        &mut self,
        children: &Store<K>,
        owners: &Store<O>,
        selects: fn(&O, &Labels) -> bool,
    ) -> &mut Self {
        let owners = owners.clone();
        self.watches(children, move |change, queue| {
            enqueue_owner::<K, O>(queue, change);
            let meta = change.object().metadata();
            if owners::controller_of(meta).is_some() || change.is_deletion() {
                return;
            }
            let labels = label_selector::labels_or_empty(meta.labels.as_ref());
            for owner in owners.in_namespace(meta.namespace.as_deref().unwrap_or_default()) {
                if selects(&owner, labels) {
                    queue.add(Key::of(owner.metadata()));
                }
            }
        })
    }
}

/// Queues the controllers of an object, before and after its change, that are of the kind `O`.
fn enqueue_owner<K: Versioned, O: Object>(queue: &Queue<Key>, change: &Change<K>) {
    for state in change.states() {
        let meta = state.metadata();
        if let Some(name) = owners::controller_name::<O>(meta) {
            queue.add(Key::new(meta.namespace.clone().unwrap_or_default(), name));
        }
    }
}

/// Registers a controller's event handlers and returns its run loop, which never ends. Call before
/// the informers start.
pub fn start<C: Controller>(controller: C) -> BoxFuture<'static, ()> {
    let mut watches = Watches {
        queue: controller.queue().clone(),
        synced: Vec::new(),
    };
    controller.watch(&mut watches);
    let controller = Arc::new(controller);
    Box::pin(async move {
        for synced in watches.synced {
            synced.await;
        }
        let controller = &*controller;
        supervise(controller.name(), || async {
            let queue = controller.queue();
            queue.recover();
            controller.prepare().await;
            queue
                .work(controller.name(), controller.workers(), |item| {
                    controller.reconcile(item)
                })
                .await;
        })
        .await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use parking_lot::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::Notify;

    fn pod(name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod
    }

    struct Fragile {
        queue: Queue<Key>,
        pods: Store<Pod>,
        failed: AtomicBool,
        seen: Arc<Mutex<Vec<String>>>,
        done: Arc<Notify>,
    }

    impl Controller for Fragile {
        type Item = Key;

        fn name(&self) -> &'static str {
            "fragile"
        }

        fn workers(&self) -> usize {
            1
        }

        fn queue(&self) -> &Queue<Key> {
            &self.queue
        }

        fn watch(&self, watches: &mut Watches<Key>) {
            watches.watches(&self.pods, |change, queue| {
                let key = Key::of(&change.object().metadata);
                assert_ne!(key.name, "poison", "expected by this test");
                queue.add(key);
            });
        }

        async fn prepare(&self) {
            assert!(
                self.failed.swap(true, Ordering::Relaxed),
                "expected by this test"
            );
        }

        async fn reconcile(&self, item: Key) -> Result<()> {
            self.seen.lock().push(item.name);
            self.done.notify_one();
            Ok(())
        }
    }

    #[tokio::test]
    async fn neither_handlers_nor_tasks_stop_a_controller() {
        let (seen, done) = (Arc::default(), Arc::new(Notify::new()));
        let fragile = Fragile {
            queue: Queue::new(),
            pods: Store::new(),
            failed: AtomicBool::new(false),
            seen: Arc::clone(&seen),
            done: done.clone(),
        };
        let pods = fragile.pods.clone();
        let run = start(fragile);
        pods.replace(vec![pod("poison"), pod("web")], 1);
        tokio::select! {
            () = run => unreachable!(),
            () = done.notified() => {}
        }
        assert_eq!(*seen.lock(), ["web"]);
    }

    #[test]
    fn an_orphan_is_due_for_all_that_select_it() {
        let (pods, sets): (Store<Pod>, Store<ReplicaSet>) = (Store::new(), Store::new());
        let mut watches = Watches {
            queue: Queue::new(),
            synced: Vec::new(),
        };
        watches.claims(&pods, &sets, |set, _| {
            set.metadata.name.as_deref() == Some("mine")
        });
        let set = |name: &str| {
            let mut set = ReplicaSet::default();
            set.metadata.name = Some(name.into());
            set.metadata.namespace = Some("ns".into());
            set
        };
        sets.replace(vec![set("mine"), set("other")], 1);
        let mut orphan = pod("a");
        orphan.metadata.namespace = Some("ns".into());
        pods.replace(vec![orphan], 1);
        let due = futures::FutureExt::now_or_never(watches.queue.next());
        assert_eq!(due, Some(Key::new("ns", "mine")));
        let more = futures::FutureExt::now_or_never(watches.queue.next());
        assert_eq!(more, None);
    }
}
