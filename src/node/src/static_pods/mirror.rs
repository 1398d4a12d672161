//! Keeps a mirror pod in the API for each static pod.
//!
//! Mirror pods only show static pods, and are made again when somebody deletes them. One that does
//! not match is replaced when the pod that it showed has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{HASH, MIRROR, annotation, key};
use crate::client;
use crate::kinds::*;
use crate::node_object::NodeObject;

/// Delay before the next attempt after the API refused a mirror pod: the period in which the
/// kubelet looks after its pods.
const REFUSED_DELAY: Duration = Duration::from_secs(60);

/// A static pod's worker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// It runs this pod.
    Running(Arc<Pod>),
    /// It stops its pod.
    Ending,
}

/// What decides about the mirror pods: static pods that have a worker, and mirrors in the API, both
/// by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mirrors {
    pub pods: BTreeMap<String, State>,
    pub mirrors: BTreeMap<String, Arc<Pod>>,
}

/// A change of the mirror pods.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    /// Create a mirror of the static pod.
    Create(Arc<Pod>),
    /// Delete a mirror that does not match, then create one of the static pod if there is one.
    Replace(Arc<Pod>, Option<Arc<Pod>>),
}

/// Returns what to do about the mirror pods.
fn decide(view: &Mirrors) -> Vec<Action> {
    let mut actions = Vec::new();
    for (name, state) in &view.pods {
        let State::Running(pod) = state else { continue };
        match view.mirrors.get(name) {
            None => actions.push(Action::Create(pod.clone())),
            Some(mirror) if mirror.deleting() || !shows(mirror, pod) => {
                actions.push(Action::Replace(mirror.clone(), Some(pod.clone())));
            }
            Some(_) => {}
        }
    }
    let orphans = view.mirrors.iter();
    let orphans = orphans.filter(|(name, _)| !view.pods.contains_key(*name));
    actions.extend(orphans.map(|(_, mirror)| Action::Replace(mirror.clone(), None)));
    actions
}

/// Returns whether a mirror pod shows the present content of a static pod of the same name.
pub(crate) fn shows(mirror: &Pod, pod: &Pod) -> bool {
    let shown = annotation(mirror, MIRROR);
    shown.is_some() && shown == annotation(pod, HASH)
}

/// Returns the mirror of a static pod. It belongs to the node, and so is deleted with it.
fn new_mirror(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    let metadata = &mut mirror.metadata;
    let hash = annotation(pod, HASH).unwrap_or_default().to_owned();
    metadata
        .annotations
        .get_or_insert_default()
        .insert(MIRROR.into(), hash);
    metadata.uid = None;
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror
}

/// Keeps the mirror pods until the sender of `view` is dropped. The view is `None` before the pods
/// of the API are known.
pub(crate) async fn keep(
    client: kube::Client,
    node: NodeObject,
    mut view: watch::Receiver<Option<Mirrors>>,
) {
    // The node owns the mirrors, and the API server gives it its UID.
    node.registered().await;
    let mut failures: u32 = 0;
    let mut complaints = Complaints::default();
    loop {
        let actions = view.borrow_and_update().as_ref().map(decide);
        let mut again = None;
        for action in actions.into_iter().flatten() {
            let done = perform(&client, &node, &action).await;
            complaints.report(&action, done.as_ref().err());
            if let Err(e) = done {
                let delay = match client::unreachable(&e) {
                    true => client::retry_delay(failures.saturating_mul(10)),
                    false => REFUSED_DELAY,
                };
                again = Some(again.map_or(delay, |least: Duration| least.min(delay)));
            }
        }
        failures = match again {
            Some(_) => failures.saturating_add(1),
            None => 0,
        };
        let changed = async {
            match again {
                Some(delay) => match tokio::time::timeout(delay, view.changed()).await {
                    Ok(changed) => changed.is_ok(),
                    Err(_) => true,
                },
                None => view.changed().await.is_ok(),
            }
        };
        if !changed.await {
            return;
        }
    }
}

/// The last complaint about each mirror pod, which is not repeated.
#[derive(Default)]
struct Complaints(BTreeMap<String, String>);

impl Complaints {
    /// Logs why the API refused a change; `None` if it was done.
    fn report(&mut self, action: &Action, error: Option<&kube::Error>) {
        let (pod, what) = match action {
            Action::Create(pod) | Action::Replace(_, Some(pod)) => (pod, "creating"),
            Action::Replace(mirror, None) => (mirror, "deleting"),
        };
        match error {
            Some(kube::Error::Api(status)) => {
                let last = self.0.insert(key(pod), status.message.clone());
                if last.as_ref() != Some(&status.message) {
                    let why = &status.message;
                    warn!(pod = %pod.full_name(), "Failed {what} a mirror pod: {why}");
                }
            }
            // That the API cannot be reached is reported elsewhere.
            Some(_) => {}
            None => {
                self.0.remove(&key(pod));
            }
        }
    }
}

async fn perform(
    client: &kube::Client,
    node: &NodeObject,
    action: &Action,
) -> Result<(), kube::Error> {
    match action {
        Action::Create(pod) => create(client, node, pod).await,
        Action::Replace(mirror, pod) => {
            let deleted = delete(client, mirror).await?;
            match pod {
                // Otherwise the watch will tell what is there instead.
                Some(pod) if deleted => create(client, node, pod).await,
                _ => Ok(()),
            }
        }
    }
}

/// Creates a mirror pod. Succeeds, too, if the API has it already.
async fn create(client: &kube::Client, node: &NodeObject, pod: &Pod) -> Result<(), kube::Error> {
    let Some(node) = node.get() else {
        return Ok(());
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
    let done = api
        .create(&PostParams::default(), &new_mirror(pod, &node))
        .await;
    match done {
        Ok(_) => {
            info!(pod = %pod.full_name(), "created a mirror pod");
            Ok(())
        }
        Err(e) if client::answered(&e, 409) => match api.get_opt(pod.name()).await? {
            Some(there) if shows(&there, pod) => Ok(()),
            _ => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// Deletes a mirror pod at once; returns whether it was still there.
async fn delete(client: &kube::Client, mirror: &Pod) -> Result<bool, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), mirror.namespace());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(mirror.uid().to_owned()),
            resource_version: None,
        }),
        ..Default::default()
    };
    match api.delete(mirror.name(), &params).await {
        Ok(_) => {
            info!(pod = %mirror.full_name(), "deleted a mirror pod");
            Ok(true)
        }
        Err(e) if client::answered(&e, 404) || client::answered(&e, 409) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{mirror, static_pod};
    use super::*;

    fn view(pods: &[(&str, State)], mirrors: &[&Arc<Pod>]) -> Mirrors {
        let pods = pods
            .iter()
            .map(|(name, state)| (format!("ns/{name}"), state.clone()));
        let mirrors = mirrors.iter().map(|pod| (key(pod), Arc::clone(pod)));
        Mirrors {
            pods: pods.collect(),
            mirrors: mirrors.collect(),
        }
    }

    /// The cases of upstream's `TestCreateMirrorPod`, `TestDeleteOutdatedMirrorPod` and
    /// `TestDeleteOrphanedMirrorPods`.
    #[test]
    fn mirrors_follow_static_pods() {
        let pod = Arc::new(static_pod("a", "1"));
        let running = || ("a", State::Running(pod.clone()));
        let good = Arc::new(mirror("a", "m", "1"));
        let outdated = Arc::new(mirror("a", "m", "0"));
        let mut deleting = mirror("a", "m", "1");
        deleting.metadata.deletion_timestamp = Some(now());
        let deleting = Arc::new(deleting);
        let replaced = |mirror: &Arc<Pod>| Action::Replace(mirror.clone(), Some(pod.clone()));
        let removed = |mirror: &Arc<Pod>| Action::Replace(mirror.clone(), None);
        for (pods, mirrors, actions) in [
            (vec![running()], vec![], vec![Action::Create(pod.clone())]),
            (vec![running()], vec![&good], vec![]),
            (vec![running()], vec![&outdated], vec![replaced(&outdated)]),
            (vec![running()], vec![&deleting], vec![replaced(&deleting)]),
            (vec![], vec![&good], vec![removed(&good)]),
            // The old pod is shown until it has ended.
            (vec![("a", State::Ending)], vec![&outdated], vec![]),
            (vec![("a", State::Ending)], vec![], vec![]),
        ] {
            let view = view(&pods, &mirrors);
            assert_eq!(decide(&view), actions, "{view:?}");
        }
    }

    #[test]
    fn the_node_owns_mirrors() {
        let node = Node {
            metadata: ObjectMeta {
                name: Some("n".into()),
                uid: Some("node-uid".into()),
                ..Default::default()
            },
            ..Default::default()
        };
        let pod = static_pod("a", "1");
        let mirror = new_mirror(&pod, &node);
        assert!(shows(&mirror, &pod) && !shows(&pod, &pod));
        assert_eq!(mirror.metadata.uid, None);
        let owners = mirror.metadata.owner_references.unwrap();
        let [owner] = &owners[..] else {
            panic!("{owners:?}")
        };
        let is = (&*owner.api_version, &*owner.kind, &*owner.name, &*owner.uid);
        assert_eq!(is, ("v1", "Node", "n", "node-uid"));
        assert_eq!(
            (owner.controller, owner.block_owner_deletion),
            (Some(true), None)
        );
    }
}
