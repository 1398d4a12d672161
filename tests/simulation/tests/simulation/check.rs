//! Conditions that must hold once nothing fails any more and the user has the wanted objects.

use std::collections::BTreeSet;

use kube::Client;
use serde_json::{Value, json};

use crate::api::{self, controller, is_deleting, name, number, text, uid};
use crate::node::SCRIPT;
use crate::user::{Wanted, path};

/// The resources whose objects own or are owned.
const KINDS: [&str; 6] = [
    "deployments",
    "replicasets",
    "statefulsets",
    "daemonsets",
    "jobs",
    "controllerrevisions",
];

struct ListedObjects {
    pods: Vec<Value>,
    owners: Vec<(&'static str, Value)>,
}

/// Returns what does not hold yet.
pub async fn settled(client: &Client, wanted: &Wanted, nodes: usize) -> Result<(), String> {
    let list = async |path: String| -> Result<Vec<Value>, String> {
        let list = api::get(client, &path).await;
        let list = list.map_err(|e| format!("cannot list {path}: {e}"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    let mut found = ListedObjects {
        pods: list(path("pods")).await?,
        owners: Vec::new(),
    };
    for kind in KINDS {
        let objects = list(path(kind)).await?;
        found.owners.extend(objects.into_iter().map(|o| (kind, o)));
    }
    found.collected()?;
    found.as_wanted(wanted, nodes)?;
    nodes_are_well(&list("/api/v1/nodes".into()).await?)
}

fn nodes_are_well(nodes: &[Value]) -> Result<(), String> {
    let mut ranges = BTreeSet::new();
    for node in nodes {
        let range = text(node, "/spec/podCIDR");
        assert!(
            range.is_empty() || ranges.insert(range),
            "two nodes have {range}"
        );
        let taints = &node["spec"]["taints"];
        if !taints.is_null() {
            return Err(format!("node {} has taints: {taints}", name(node)));
        }
    }
    Ok(())
}

impl ListedObjects {
    /// Nothing is being deleted, and no dependent is without its owner.
    fn collected(&self) -> Result<(), String> {
        let uids: BTreeSet<&str> = self.owners.iter().map(|(_, o)| uid(o)).collect();
        let all = self.pods.iter().map(|pod| ("pods", pod));
        let all = all.chain(self.owners.iter().map(|(kind, o)| (*kind, o)));
        for (kind, object) in all {
            let name = name(object);
            if is_deleting(object) {
                return Err(format!("{kind} {name} is still being deleted"));
            }
            if let Some(owner) = controller(object)
                && !uids.contains(owner)
            {
                return Err(format!("{kind} {name} is without its owner"));
            }
        }
        Ok(())
    }

    fn as_wanted(&self, wanted: &Wanted, nodes: usize) -> Result<(), String> {
        for ((kind, name), object) in wanted {
            let found = self
                .owners
                .iter()
                .find(|(k, o)| k == kind && api::name(o) == name);
            let (_, found) = found.unwrap_or_else(|| panic!("{kind} {name} is lost"));
            self.workload(kind, found, object, nodes)
                .map_err(|what| format!("{kind} {name}: {what}; {}", found["status"]))?;
        }
        let kept = self
            .owners
            .iter()
            .filter(|(kind, _)| kind.ends_with("sets") || *kind == "jobs");
        for (kind, object) in kept {
            let key = (*kind, name(object).to_owned());
            // Replica sets are owned, or were orphaned.
            if *kind != "replicasets" && !wanted.contains_key(&key) {
                return Err(format!("{kind} {} was deleted and is there", key.1));
            }
        }
        Ok(())
    }

    fn workload(
        &self,
        kind: &str,
        found: &Value,
        wanted: &Value,
        nodes: usize,
    ) -> Result<(), String> {
        let status = |field: &str| number(found, &format!("/status/{field}"));
        if kind != "jobs" && status("observedGeneration") != number(found, "/metadata/generation") {
            return Err("a generation is not observed".into());
        }
        if kind == "jobs" {
            return self.job(found);
        }
        let replicas = match kind {
            "daemonsets" => nodes as i64,
            _ => number(wanted, "/spec/replicas"),
        };
        let image = "/spec/template/spec/containers/0/image";
        if kind != "daemonsets" && number(found, "/spec/replicas") != replicas {
            panic!(
                "{} has not the replicas that were acknowledged",
                name(found)
            );
        }
        assert_eq!(
            text(found, image),
            text(wanted, image),
            "of {}",
            name(found)
        );
        let own = self.pods_of(kind, found);
        let ready = own.iter().filter(|pod| api::is_ready(pod)).count() as i64;
        if own.len() as i64 != replicas || ready != replicas {
            return Err(format!("{} pods, {ready} ready, of {replicas}", own.len()));
        }
        let old = own
            .iter()
            .find(|pod| text(pod, "/spec/containers/0/image") != text(wanted, image));
        if let Some(pod) = old {
            return Err(format!("pod {} is of an old template", name(pod)));
        }
        let counted = match kind {
            "daemonsets" => [
                "desiredNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
            ],
            "statefulsets" => ["replicas", "readyReplicas", "currentReplicas"],
            _ => ["replicas", "availableReplicas", "updatedReplicas"],
        };
        if counted.iter().any(|field| status(field) != replicas) {
            return Err(format!("the status does not say {replicas}"));
        }
        let mut names: Vec<&str> = own.iter().map(|pod| name(pod)).collect();
        names.sort_unstable();
        let ordinals: Vec<String> = (0..replicas)
            .map(|i| format!("{}-{i}", name(found)))
            .collect();
        if kind == "statefulsets" && names != ordinals {
            return Err(format!("its pods are {names:?}"));
        }
        let hosts: BTreeSet<&str> = own.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
        if kind == "daemonsets" && hosts.len() != nodes {
            return Err(format!("its pods are on {hosts:?}"));
        }
        Ok(())
    }

    /// Returns the pods that belong to a workload, directly or through its replica sets.
    fn pods_of(&self, kind: &str, owner: &Value) -> Vec<&Value> {
        let mut owners = BTreeSet::from([uid(owner)]);
        if kind == "deployments" {
            let sets = self
                .owners
                .iter()
                .filter(|(kind, _)| *kind == "replicasets");
            owners.extend(
                sets.filter(|(_, o)| controller(o) == Some(uid(owner)))
                    .map(|(_, o)| uid(o)),
            );
        }
        let is_own = |pod: &&Value| controller(pod).is_some_and(|o| owners.contains(o));
        self.pods.iter().filter(is_own).collect()
    }

    fn job(&self, job: &Value) -> Result<(), String> {
        let conditions = job["status"]["conditions"].as_array();
        let is = |kind: &str| {
            let mut all = conditions.into_iter().flatten();
            all.any(|c| c["type"] == kind && c["status"] == "True")
        };
        let (complete, failed) = (is("Complete"), is("Failed"));
        if !complete && !failed {
            return Err("it has not ended".into());
        }
        assert!(!(complete && failed), "job {} has ended twice", name(job));
        let script = &job["spec"]["template"]["metadata"]["labels"][SCRIPT];
        // A pod of a lost node fails also where the script succeeds.
        assert!(
            !(complete && *script == "fail"),
            "job {} of failing pods is complete",
            name(job)
        );
        let (done, asked) = (
            number(job, "/status/succeeded"),
            number(job, "/spec/completions"),
        );
        assert!(
            !complete || done == asked,
            "job {}: {done} of {asked}",
            name(job)
        );
        if number(job, "/status/active") != 0 {
            return Err("it has ended with active pods".into());
        }
        let held = self.pods_of("jobs", job).into_iter().find(|pod| {
            let finalizers = pod["metadata"]["finalizers"].as_array();
            finalizers.is_some_and(|f| f.contains(&json!("batch.kubernetes.io/job-tracking")))
        });
        match held {
            Some(pod) => Err(format!("pod {} is still held", name(pod))),
            None => Ok(()),
        }
    }
}
