use super::super::revision::{DESIRED, REVISION};
use super::super::state::available;
use super::*;
use crate::common::extremes;
use crate::common::pods::testing::at;
use crate::common::pods::testing::pod;
use k8s_openapi::api::apps::v1::{
    DeploymentSpec, DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            ..Default::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "c".into(),
                image: Some(image.into()),
                ..Default::default()
            }],
            ..Default::default()
        }),
    }
}

fn deployment(replicas: i32, image: &str) -> Deployment {
    Deployment {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("ns".into()),
            uid: Some("d".into()),
            generation: Some(1),
            ..Default::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            template: template(image),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::String("25%".into())),
                    max_unavailable: Some(IntOrString::String("25%".into())),
                }),
            }),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(2),
            ..Default::default()
        }),
        status: None,
    }
}

/// A simulated cluster that applies plans and makes pods available on request.
struct SimulatedCluster {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: i64,
    log: Vec<String>,
}

impl SimulatedCluster {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: Vec::new(),
            now: 1,
            log: Vec::new(),
        }
    }

    fn step(&mut self) -> usize {
        self.step_with(&|_| Vec::new())
    }

    fn step_with(&mut self, pods_of: &dyn Fn(&ReplicaSet) -> Vec<Arc<Pod>>) -> usize {
        self.now += 1;
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        let plan = plan(&self.deployment, &sets, pods_of, at(self.now));
        let count = plan.actions.len();
        for action in plan.actions {
            match action {
                Action::Create(set) => {
                    let mut set = *set;
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.creation_timestamp = Some(
                        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(self.now)),
                    );
                    self.sets.push(set);
                }
                Action::Update(set) => {
                    let old = self
                        .sets
                        .iter_mut()
                        .find(|s| s.metadata.uid == set.metadata.uid)
                        .unwrap();
                    *old = *set;
                }
                Action::Delete(set) => self.sets.retain(|s| s.metadata.uid != set.metadata.uid),
                Action::Event(_, message) => self.log.push(message),
                Action::Report => self.deployment = plan.deployment.clone(),
            }
        }
        count
    }

    /// Gives every set its desired pods. Those of the new set are available only with `all_ready`.
    fn run_pods(&mut self, all_ready: bool) {
        let new = super::super::revision::find_new(&self.deployment, &self.sets);
        for (index, set) in self.sets.iter_mut().enumerate() {
            let size = set_replicas(set);
            let ready = if all_ready || Some(index) != new {
                size
            } else {
                0
            };
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(ready),
                available_replicas: Some(ready),
                terminating_replicas: Some(0),
                ..Default::default()
            });
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.run_pods(true);
            if self.step() == 0 {
                return;
            }
        }
        panic!("never settles: {:?}", self.log);
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(set_replicas).collect()
    }

    fn reason(&self, kind: &str) -> Option<String> {
        let status = self.deployment.status.as_ref()?;
        let conditions = status.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == kind)?.reason.clone()
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template = template(image);
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }
}

#[test]
fn a_new_deployment_makes_one_set_of_full_size() {
    let mut world = SimulatedCluster::new(deployment(3, "a"));
    world.step();
    assert_eq!(world.sizes(), [3]);
    assert!(world.log[0].starts_with("Scaled up replica set web-"));
    let annotations = world.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[REVISION], "1");
    assert_eq!(annotations[DESIRED], "3");
    assert_eq!(
        world.reason("Available").as_deref(),
        Some("MinimumReplicasUnavailable")
    );
    world.settle();
    assert_eq!(
        world.reason("Available").as_deref(),
        Some("MinimumReplicasAvailable")
    );
    assert_eq!(
        world.reason("Progressing").as_deref(),
        Some("NewReplicaSetAvailable")
    );
    assert_eq!(
        world.deployment.metadata.annotations.as_ref().unwrap()[REVISION],
        "1"
    );
}

#[test]
fn a_rolling_update_keeps_its_bounds() {
    let mut world = SimulatedCluster::new(deployment(4, "a"));
    world.settle();
    world.set_image("b");
    for _ in 0..50 {
        let changed = world.step();
        assert!(world.sizes().iter().sum::<i32>() <= 5, "surge");
        let available: i32 = world
            .sets
            .iter()
            .map(|s| available(s).min(set_replicas(s)))
            .sum();
        assert!(available >= 3, "unavailable");
        if changed == 0 {
            break;
        }
        world.run_pods(true);
    }
    assert_eq!(world.sizes(), [0, 4]);
    assert_eq!(
        world.sets[1].metadata.annotations.as_ref().unwrap()[REVISION],
        "2"
    );
}

#[test]
fn a_broken_update_stops_and_times_out() {
    let mut world = SimulatedCluster::new(deployment(4, "a"));
    world.settle();
    world.set_image("b");
    for _ in 0..10 {
        world.step();
        world.run_pods(false);
    }
    assert_eq!(world.sizes(), [3, 2]);
    world.now += 1000;
    world.step();
    assert_eq!(
        world.reason("Progressing").as_deref(),
        Some("ProgressDeadlineExceeded")
    );
}

#[test]
fn going_back_renumbers_the_old_set() {
    let mut world = SimulatedCluster::new(deployment(2, "a"));
    world.settle();
    world.set_image("b");
    world.settle();
    world.set_image("a");
    world.settle();
    assert_eq!(world.sizes(), [2, 0]);
    let annotations = world.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[REVISION], "3");
    assert_eq!(
        annotations["deployment.kubernetes.io/revision-history"],
        "1"
    );
}

#[test]
fn history_is_kept_to_its_limit() {
    let mut world = SimulatedCluster::new(deployment(1, "v0"));
    world.settle();
    for i in 1..6 {
        world.set_image(&format!("v{i}"));
        world.settle();
    }
    assert_eq!(world.sets.len(), 3); // the new one and two old ones
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = SimulatedCluster::new(deployment(2, "a"));
    world.settle();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.set_image("b");
    world.settle();
    assert_eq!(world.sizes(), [2]);
    assert_eq!(
        world.reason("Progressing").as_deref(),
        Some("DeploymentPaused")
    );
    world.deployment.spec.as_mut().unwrap().replicas = Some(5);
    world.settle();
    assert_eq!(world.sizes(), [5]);
    world.deployment.spec.as_mut().unwrap().paused = Some(false);
    world.settle();
    assert_eq!(world.sizes(), [0, 5]);
}

#[test]
fn scaling_during_a_rollout_is_proportional() {
    let mut world = SimulatedCluster::new(deployment(8, "a"));
    world.settle();
    world.set_image("b");
    for _ in 0..6 {
        world.step();
        world.run_pods(false);
    }
    assert_eq!(world.sizes(), [6, 4]);
    world.deployment.spec.as_mut().unwrap().replicas = Some(16);
    world.step();
    // The size grows from 10 of at most 10 pods to 20 of at most 20.
    assert_eq!(world.sizes(), [12, 8]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = SimulatedCluster::new(deployment(2, "a"));
    let strategy = DeploymentStrategy {
        type_: Some("Recreate".into()),
        rolling_update: None,
    };
    world.deployment.spec.as_mut().unwrap().strategy = Some(strategy);
    world.settle();
    world.set_image("b");
    world.step();
    assert_eq!(world.sizes(), [0]);
    world.run_pods(true);
    let lingering = |_: &ReplicaSet| vec![Arc::new(pod("old", "n", "Running", None))];
    world.step_with(&lingering);
    assert_eq!(world.sizes(), [0]);
    world.settle();
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn any_numbers_can_be_planned_with() {
    let deployment = |kind: &str, paused: bool| {
        json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1,
                "annotations": {"deployment.kubernetes.io/revision": "9223372036854775807"}},
            "spec": {
                "replicas": 3, "minReadySeconds": 1, "revisionHistoryLimit": 1,
                "progressDeadlineSeconds": 1, "paused": paused, "selector": {},
                "strategy": {"type": kind, "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
                "template": template("new"),
            },
            "status": {
                "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
                "availableReplicas": 1, "unavailableReplicas": 1, "collisionCount": 1,
                "conditions": [{"type": "Progressing", "status": "True", "reason": "Waiting",
                    "lastUpdateTime": "1970-01-01T00:00:01Z"}],
            },
        })
    };
    let set = |name: &str, image: &str, size: i32| -> Arc<ReplicaSet> {
        let set = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "annotations": {
                "deployment.kubernetes.io/revision": "9223372036854775807",
                "deployment.kubernetes.io/desired-replicas": size.to_string(),
                "deployment.kubernetes.io/max-replicas": size.to_string(),
            }},
            "spec": {"replicas": size, "selector": {}, "template": template(image)},
            "status": {"replicas": size, "availableReplicas": size, "readyReplicas": size,
                "terminatingReplicas": size},
        });
        Arc::new(serde_json::from_str(&set.to_string()).unwrap())
    };
    for size in [i32::MIN, 0, 2, i32::MAX] {
        let sets = [
            set("a", "old", size),
            set("b", "older", 7),
            set("c", "new", size),
        ];
        for (kind, paused) in [
            ("RollingUpdate", false),
            ("RollingUpdate", true),
            ("Recreate", false),
        ] {
            extremes::each(&deployment(kind, paused), |deployment: &Deployment| {
                plan(deployment, &sets, &|_| Vec::new(), at(100));
                plan(deployment, &sets[..2], &|_| Vec::new(), at(100));
            });
        }
    }
}
