//! A user who creates, changes and deletes workloads, and what must come of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kube::Client;
use rkube_store::embedded::Random;
use serde_json::{Value, json};

use crate::api;
use crate::node::SCRIPT;

/// One request of the user.
#[derive(Clone, Debug)]
enum Act {
    Create(Value),
    Patch(Value),
    /// With a propagation policy.
    Delete(&'static str),
}

#[derive(Clone, Debug)]
struct Request {
    pause: Duration,
    plural: &'static str,
    name: String,
    act: Act,
}

/// The objects that the user wants, by resource and name.
pub type Wanted = BTreeMap<(&'static str, String), Value>;

/// The user. It outlives the control plane's processes, and repeats what was not answered.
pub struct User {
    requests: VecDeque<Request>,
    /// The objects that were created and not deleted, in their wanted state.
    pub wanted: Wanted,
}

/// Returns the path of a resource in the default namespace.
pub fn path(plural: &str) -> String {
    let group = match plural {
        "jobs" => "/apis/batch/v1",
        "pods" | "configmaps" => "/api/v1",
        _ => "/apis/apps/v1",
    };
    format!("{group}/namespaces/default/{plural}")
}

impl User {
    pub fn new(seed: u64, requests: usize) -> User {
        let mut random = Random::new(seed);
        let mut planned = Wanted::new();
        let requests = (0..requests)
            .map(|number| plan(&mut random, number, &mut planned))
            .collect();
        User {
            requests,
            wanted: Wanted::new(),
        }
    }

    /// Sends the requests, each until it is answered.
    pub async fn run(&mut self, client: &Client) {
        while let Some(request) = self.requests.front().cloned() {
            tokio::time::sleep(request.pause).await;
            while !self.send(client, &request).await {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            self.requests.pop_front();
        }
    }

    /// Sends a request. Returns whether it is answered for certain.
    async fn send(&mut self, client: &Client, request: &Request) -> bool {
        let Request {
            plural, name, act, ..
        } = request;
        let all = path(plural);
        let one = format!("{all}/{name}");
        let result = match act {
            Act::Create(object) => api::post(client, &all, object.clone()).await,
            Act::Patch(patch) => api::patch(client, &one, patch.clone()).await,
            Act::Delete(policy) => {
                let options = json!({"propagationPolicy": policy});
                api::delete(client, &one, options).await
            }
        };
        let key = (*plural, name.clone());
        match (act, result) {
            (Act::Create(object), result) if result.is_ok() || api::is_code(&result, 409) => {
                self.wanted.insert(key, object.clone());
            }
            (Act::Patch(patch), Ok(_)) => {
                let object = self.wanted.get_mut(&key).expect("it was created");
                merge(object, patch);
            }
            (Act::Delete(_), result) if result.is_ok() || api::is_code(&result, 404) => {
                self.wanted.remove(&key);
            }
            (_, Err(kube::Error::Api(status))) if status.code == 404 => {
                panic!("{plural} {name} is lost: {status:?}")
            }
            (_, Err(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 422) => {
                panic!("{plural} {name}: {status:?}")
            }
            _ => return false,
        }
        true
    }
}

/// Merges as RFC 7396, without removals.
fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

fn plan(random: &mut Random, number: usize, planned: &mut Wanted) -> Request {
    let pause = Duration::from_millis(random.below(15_000));
    let old = match random.below(3) {
        0 => None,
        _ => planned
            .keys()
            .nth(random.below(planned.len().max(1) as u64) as usize)
            .cloned(),
    };
    let (plural, name, act) = match old {
        Some((plural, name)) if plural != "jobs" && random.below(3) > 0 => {
            let patch = change(random, plural, &name);
            (plural, name, Act::Patch(patch))
        }
        Some((plural, name)) => {
            planned.remove(&(plural, name.clone()));
            let policy = ["Background", "Foreground", "Orphan"][random.below(3) as usize];
            (plural, name, Act::Delete(policy))
        }
        None => {
            let kinds = [
                "deployments",
                "jobs",
                "statefulsets",
                "daemonsets",
                "deployments",
                "jobs",
            ];
            let plural = kinds[random.below(6) as usize];
            let name = format!("{}{number}", &plural[..2]);
            let object = create(random, plural, &name);
            planned.insert((plural, name.clone()), object.clone());
            (plural, name, Act::Create(object))
        }
    };
    Request {
        pause,
        plural,
        name,
        act,
    }
}

fn template(name: &str, image: &str, script: Option<&str>) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": image}]},
    });
    if let Some(script) = script {
        template["metadata"]["labels"][SCRIPT] = script.into();
        template["spec"]["restartPolicy"] = "Never".into();
    }
    template
}

fn create(random: &mut Random, plural: &str, name: &str) -> Value {
    let replicas = random.below(4);
    let selector = json!({"matchLabels": {"app": name}});
    let (version, kind, spec) = match plural {
        "jobs" => {
            let script = ["succeed", "flaky", "fail", "succeed"][random.below(4) as usize];
            let spec = json!({"completions": 1 + random.below(5), "parallelism": 1 + random.below(3),
                "backoffLimit": random.below(4), "template": template(name, "img:1", Some(script))});
            ("batch/v1", "Job", spec)
        }
        "statefulsets" => {
            let policy = ["OrderedReady", "Parallel"][random.below(2) as usize];
            let spec = json!({"replicas": replicas, "selector": selector, "serviceName": name,
                "podManagementPolicy": policy, "template": template(name, "img:1", None)});
            ("apps/v1", "StatefulSet", spec)
        }
        "daemonsets" => {
            let spec = json!({"selector": selector, "template": template(name, "img:1", None)});
            ("apps/v1", "DaemonSet", spec)
        }
        _ => {
            let spec = json!({"replicas": replicas, "selector": selector,
                "template": template(name, "img:1", None)});
            ("apps/v1", "Deployment", spec)
        }
    };
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn change(random: &mut Random, plural: &str, name: &str) -> Value {
    if plural != "daemonsets" && random.below(2) == 0 {
        return json!({"spec": {"replicas": random.below(5)}});
    }
    let image = format!("img:{}", random.below(4));
    let containers = json!([{"name": "c", "image": image}]);
    let labels = json!({"app": name});
    json!({"spec": {"template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}}})
}
