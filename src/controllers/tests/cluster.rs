//! Tests the controllers against the real API server in one process. A substitute for scheduler and
//! node agent binds, runs and removes pods.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use rkube_apiserver::{ApiServer, Config, Pki};
use rkube_client::reflector::{self, Changes, Source};
use rkube_store::{EmbeddedOptions, EmbeddedStore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NODES: &[&str] = &["n1", "n2"];
/// Name of the real scheduler, which has only those pods that ask for it.
const SCHEDULER: &str = "real-scheduler";
/// Timeout of each wait.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

struct Cluster {
    client: Client,
    _folder: tempfile::TempDir,
}

struct Authority {
    pki: Pki,
    certificate: String,
    key: String,
}

fn authority() -> Authority {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "test-ca");
    let certificate = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::from_params(&params, &key);
    let sign = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        (
            params.signed_by(&key, &issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    };
    let (serving_cert, serving_key) = sign("kube-apiserver");
    let (kubelet_cert, kubelet_key) = sign("kubelet-client");
    let tokens = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    Authority {
        pki: Pki {
            ca_cert: certificate.clone().into(),
            serving_cert: serving_cert.into(),
            serving_key: serving_key.into(),
            kubelet_client_cert: kubelet_cert.into(),
            kubelet_client_key: kubelet_key.into(),
            front_proxy_ca_cert: None,
            front_proxy_client_cert: None,
            front_proxy_client_key: None,
            service_account_key: tokens.serialize_pem().into(),
            service_account_pub: tokens.public_key_pem().into(),
        },
        certificate,
        key: key.serialize_pem(),
    }
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Binds, runs and removes pods. The label `ends` gives the terminal phase of a pod.
async fn run_pods(client: Client) {
    let source = Source::of::<Pod>(None);
    let changes = Changes::<Pod>::new(client.clone(), source).flat_map(|event| {
        futures::stream::iter(match event {
            reflector::Event::Listed(list) => list.objects,
            reflector::Event::Applied(pod) => vec![pod],
            reflector::Event::Deleted(_) | reflector::Event::Failed(_) => Vec::new(),
            reflector::Event::Unreadable(pod) => panic!("{pod:?}"),
        })
    });
    let mut changes = std::pin::pin!(changes);
    let (mut address, mut turn) = (1, 0);
    while let Some(pod) = changes.next().await {
        let name = pod.metadata.name.clone().unwrap();
        let pods: Api<Pod> =
            Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap());
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = pods
                .delete(&name, &DeleteParams::default().grace_period(0))
                .await;
            continue;
        }
        let spec = pod.spec.as_ref().unwrap();
        if spec.node_name.is_none() && spec.scheduler_name.as_deref() == Some(SCHEDULER) {
            continue;
        }
        if spec.node_name.is_none() {
            turn += 1;
            let pinned = serde_json::to_value(&pod).unwrap();
            let pinned = pinned.pointer(
                "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0",
            );
            let node = pinned
                .and_then(Value::as_str)
                .unwrap_or(NODES[turn % NODES.len()]);
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node},
            });
            let bound: Result<Value, _> = pods
                .create_subresource("binding", &name, &PostParams::default(), &binding)
                .await;
            // The pod may have been deleted before it was bound.
            drop(bound);
            continue;
        }
        if pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            != Some("Pending")
        {
            continue;
        }
        address += 1;
        let ip = format!("10.244.0.{address}");
        let end = pod
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("ends"));
        let ready = if end.is_none() { "True" } else { "False" };
        let status = json!({"status": {
            "phase": end.map_or("Running", String::as_str),
            "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }});
        let _ = pods
            .patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
            .await;
    }
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority();
        let token_key = String::from_utf8(authority.pki.service_account_key.clone()).unwrap();
        let config = Config {
            store: EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap(),
            pki: authority.pki,
            version: "v1.36.0+rkube0.0.0".into(),
            dns_domain: "cluster.local".into(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_ports: (30000, 32767),
            advertise_ip: "192.168.49.2".parse().unwrap(),
            advertise_port: 8443,
            audit: None,
        };
        let server = ApiServer::new(config).await.unwrap();
        // With the rights that each controller has in a cluster, not more.
        let accounts = server.clone();
        let clients = rkube_controllers::Clients {
            manager: server.client("system:kube-controller-manager", &[]),
            account: Box::new(move |name| {
                accounts.client(
                    &format!("system:serviceaccount:kube-system:{name}"),
                    &[
                        "system:serviceaccounts",
                        "system:serviceaccounts:kube-system",
                    ],
                )
            }),
            setup: server.client("system:rkube-defaults", &["system:masters"]),
        };
        let mut settings = rkube_controllers::Config::new(
            authority.certificate,
            Some(authority.key),
            "10.244.0.0/16".parse().unwrap(),
        );
        settings.token_key_pem = Some(token_key);
        tokio::spawn(rkube_controllers::run(clients, settings));
        tokio::spawn(rkube_scheduler::run(
            server.client("system:kube-scheduler", &[]),
            rkube_scheduler::Config {
                name: SCHEDULER.into(),
                ..Default::default()
            },
        ));
        tokio::spawn(run_pods(server.client("tester", &["system:masters"])));
        let cluster = Self {
            client: server.client("tester", &["system:masters"]),
            _folder: folder,
        };
        for name in NODES {
            let nodes: Api<Node> = Api::all(cluster.client.clone());
            let node =
                json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
            nodes
                .create(&PostParams::default(), &object(node))
                .await
                .unwrap();
            let status = json!({"status": {"conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]}});
            nodes
                .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                .await
                .unwrap();
        }
        cluster
            .until::<ServiceAccount>("default account", |account| {
                account.metadata.namespace.as_deref() == Some("default")
                    && account.metadata.name.as_deref() == Some("default")
            })
            .await;
        cluster
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create<K>(&self, value: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        self.api()
            .create(&PostParams::default(), &object(value))
            .await
            .unwrap()
    }

    /// Returns all objects of a kind.
    async fn all<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        Api::<K>::all(self.client.clone())
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
    }

    /// Waits until an object of a kind matches.
    async fn until<K>(&self, what: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let begin = tokio::time::Instant::now();
        loop {
            let all = self.all::<K>().await;
            if let Some(found) = all.iter().find(|object| wanted(object)) {
                return found.clone();
            }
            assert!(
                begin.elapsed() < WAIT_TIMEOUT,
                "{what} never comes: {all:#?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until no object of a kind matches.
    async fn until_none<K>(&self, what: &str, unwanted: impl Fn(&K) -> bool)
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let begin = tokio::time::Instant::now();
        loop {
            let left: Vec<K> = self
                .all::<K>()
                .await
                .into_iter()
                .filter(|object| unwanted(object))
                .collect();
            if left.is_empty() {
                return;
            }
            assert!(
                begin.elapsed() < WAIT_TIMEOUT,
                "{what} never goes: {left:#?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is written any more, which shows that no controllers conflict.
    async fn is_quiet(&self) {
        let begin = tokio::time::Instant::now();
        loop {
            let revision = || async {
                let list = Api::<Namespace>::all(self.client.clone())
                    .list(&ListParams::default())
                    .await
                    .unwrap();
                list.metadata.resource_version.unwrap()
            };
            let before = revision().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            if revision().await == before {
                return;
            }
            assert!(
                begin.elapsed() < WAIT_TIMEOUT,
                "the cluster never comes to rest"
            );
        }
    }
}

fn template(app: &str, labels: &[(&str, &str)]) -> Value {
    let mut all: BTreeMap<&str, &str> = labels.iter().copied().collect();
    all.insert("app", app);
    json!({
        "metadata": {"labels": all},
        "spec": {"containers": [{"name": "c", "image": "img:1", "ports": [{"name": "web", "containerPort": 8080}]}]},
    })
}

fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, &[])},
    })
}

fn available(deployment: &Deployment) -> i32 {
    deployment
        .status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_and_is_collected() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment("web", 3)).await;
    cluster
        .until("an available deployment", |d: &Deployment| {
            available(d) == 3
        })
        .await;
    assert_eq!(cluster.all::<ReplicaSet>().await.len(), 1);
    assert_eq!(cluster.all::<Pod>().await.len(), 3);
    cluster.is_quiet().await;

    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "img:2"}]}}}});
    cluster
        .api::<Deployment>()
        .patch("web", &PatchParams::default(), &Patch::Strategic(image))
        .await
        .unwrap();
    let rolled = cluster
        .until("a finished rollout", |d: &Deployment| {
            let status = d.status.clone().unwrap_or_default();
            status.observed_generation == d.metadata.generation
                && status.updated_replicas == Some(3)
                && status.replicas == Some(3)
                && status.available_replicas == Some(3)
        })
        .await;
    assert_eq!(
        rolled
            .metadata
            .annotations
            .unwrap()
            .get("deployment.kubernetes.io/revision")
            .map(String::as_str),
        Some("2")
    );
    assert_eq!(cluster.all::<ReplicaSet>().await.len(), 2);
    cluster.is_quiet().await;
    let reasons: Vec<_> = cluster
        .all::<Event>()
        .await
        .into_iter()
        .filter_map(|event| event.reason)
        .collect();
    assert!(reasons.iter().any(|reason| reason == "ScalingReplicaSet"));
    assert!(reasons.iter().any(|reason| reason == "SuccessfulCreate"));

    cluster
        .api::<Deployment>()
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    cluster
        .until_none("replica sets", |_: &ReplicaSet| true)
        .await;
    cluster.until_none("pods", |_: &Pod| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_wait_for_dependents_or_let_them_go() {
    let cluster = Cluster::start().await;
    for name in ["front", "loose"] {
        cluster.create::<Deployment>(deployment(name, 2)).await;
        cluster
            .until(name, |d: &Deployment| {
                d.metadata.name.as_deref() == Some(name) && available(d) == 2
            })
            .await;
    }
    cluster
        .api::<Deployment>()
        .delete("front", &DeleteParams::foreground())
        .await
        .unwrap();
    cluster
        .until_none("the deployment", |d: &Deployment| {
            d.metadata.name.as_deref() == Some("front")
        })
        .await;
    let of =
        |app: &'static str| move |pod: &Pod| pod.metadata.labels.as_ref().unwrap()["app"] == app;
    assert!(!cluster.all::<Pod>().await.iter().any(of("front")));

    cluster
        .api::<Deployment>()
        .delete("loose", &DeleteParams::orphan())
        .await
        .unwrap();
    cluster
        .until_none("the deployment", |_: &Deployment| true)
        .await;
    let set = cluster
        .until("a set of its own", |set: &ReplicaSet| {
            set.metadata
                .owner_references
                .as_ref()
                .is_none_or(Vec::is_empty)
        })
        .await;
    assert_eq!(
        cluster
            .all::<Pod>()
            .await
            .iter()
            .filter(|pod| of("loose")(pod))
            .count(),
        2
    );
    // A new deployment adopts the replica set.
    cluster.create::<Deployment>(deployment("loose", 2)).await;
    let adopted = cluster
        .until("an adopted set", |set: &ReplicaSet| {
            set.metadata
                .owner_references
                .as_ref()
                .is_some_and(|owners| !owners.is_empty())
        })
        .await;
    assert_eq!(adopted.metadata.uid, set.metadata.uid);
    cluster.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let cluster = Cluster::start().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces
        .create(
            &PostParams::default(),
            &object(json!({"metadata": {"name": "room"}})),
        )
        .await
        .unwrap();
    let inside = |namespace: &Option<String>| namespace.as_deref() == Some("room");
    cluster
        .until("an account", |a: &ServiceAccount| {
            inside(&a.metadata.namespace)
        })
        .await;
    let map = cluster
        .until("the CA", |m: &ConfigMap| inside(&m.metadata.namespace))
        .await;
    assert!(map.data.unwrap()["ca.crt"].contains("BEGIN CERTIFICATE"));
    Api::<Deployment>::namespaced(cluster.client.clone(), "room")
        .create(&PostParams::default(), &object(deployment("web", 2)))
        .await
        .unwrap();
    cluster
        .until("pods", |pod: &Pod| inside(&pod.metadata.namespace))
        .await;
    namespaces
        .delete("room", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .until_none("the namespace", |n: &Namespace| {
            n.metadata.name.as_deref() == Some("room")
        })
        .await;
    assert!(
        !cluster
            .all::<Pod>()
            .await
            .iter()
            .any(|pod| inside(&pod.metadata.namespace))
    );
    cluster.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_leads_to_ready_pods() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment("web", 2)).await;
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]},
    });
    cluster.create::<Service>(service).await;
    let slice = cluster
        .until("a slice", |slice: &EndpointSlice| {
            let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
                endpoint
                    .conditions
                    .as_ref()
                    .is_some_and(|conditions| conditions.ready == Some(true))
            });
            ready.count() == 2
        })
        .await;
    assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
    let endpoints = cluster
        .until("endpoints", |endpoints: &Endpoints| {
            let subset = endpoints
                .subsets
                .as_ref()
                .and_then(|subsets| subsets.first());
            endpoints.metadata.name.as_deref() == Some("web")
                && subset.is_some_and(|subset| {
                    subset.addresses.as_ref().is_some_and(|all| all.len() == 2)
                })
        })
        .await;
    assert_eq!(
        endpoints.subsets.unwrap()[0].ports.as_ref().unwrap()[0].port,
        8080
    );
    let budget = json!({
        "metadata": {"name": "web"},
        "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}},
    });
    cluster.create::<PodDisruptionBudget>(budget).await;
    cluster
        .until(
            "a disruption that is allowed",
            |budget: &PodDisruptionBudget| {
                budget
                    .status
                    .as_ref()
                    .is_some_and(|status| status.disruptions_allowed == Some(1))
            },
        )
        .await;
    cluster.is_quiet().await;
    cluster
        .api::<Service>()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    let ours = |name: &Option<String>| name.as_deref().is_some_and(|name| name.starts_with("web"));
    cluster
        .until_none("slices", |slice: &EndpointSlice| ours(&slice.metadata.name))
        .await;
    cluster
        .until_none("endpoints", |endpoints: &Endpoints| {
            ours(&endpoints.metadata.name)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_count_their_pods() {
    let cluster = Cluster::start().await;
    let job = |name: &str, end: &str| {
        let mut template = template(name, &[("ends", end)]);
        template["spec"]["restartPolicy"] = json!("Never");
        json!({
            "metadata": {"name": name},
            "spec": {"completions": 3, "parallelism": 2, "backoffLimit": 0, "template": template},
        })
    };
    cluster.create::<Job>(job("good", "Succeeded")).await;
    cluster.create::<Job>(job("bad", "Failed")).await;
    let over = |name: &'static str, kind: &'static str| {
        move |job: &Job| {
            let conditions = job
                .status
                .as_ref()
                .and_then(|status| status.conditions.clone())
                .unwrap_or_default();
            job.metadata.name.as_deref() == Some(name)
                && conditions
                    .iter()
                    .any(|condition| condition.type_ == kind && condition.status == "True")
        }
    };
    let good = cluster
        .until("a complete job", over("good", "Complete"))
        .await;
    assert_eq!(good.status.unwrap().succeeded, Some(3));
    let bad = cluster.until("a failed job", over("bad", "Failed")).await;
    assert!(bad.status.unwrap().failed.unwrap() >= 1);
    cluster.is_quiet().await;
    for name in ["good", "bad"] {
        cluster
            .api::<Job>()
            .delete(name, &DeleteParams::background())
            .await
            .unwrap();
    }
    cluster.until_none("pods", |_: &Pod| true).await;
    cluster.until_none("jobs", |_: &Job| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_pods_have_volumes_of_their_own() {
    let cluster = Cluster::start().await;
    let template = template("db", &[]);
    let set = json!({
        "metadata": {"name": "db"},
        "spec": {
            "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template,
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }],
        },
    });
    cluster.create::<StatefulSet>(set).await;
    cluster
        .until("a whole set", |set: &StatefulSet| {
            set.status.as_ref().is_some_and(|status| {
                status.available_replicas == Some(2)
                    && status.current_revision == status.update_revision
            })
        })
        .await;
    for name in ["data-db-0", "data-db-1"] {
        let claim = cluster
            .until("a bound claim", |claim: &PersistentVolumeClaim| {
                claim.metadata.name.as_deref() == Some(name)
                    && claim
                        .status
                        .as_ref()
                        .and_then(|status| status.phase.as_deref())
                        == Some("Bound")
            })
            .await;
        assert_eq!(
            claim.spec.unwrap().storage_class_name.as_deref(),
            Some("standard")
        );
    }
    cluster.is_quiet().await;
    let scale = json!({"spec": {"replicas": 0}});
    cluster
        .api::<StatefulSet>()
        .patch("db", &PatchParams::default(), &Patch::Merge(scale))
        .await
        .unwrap();
    cluster.until_none("pods", |_: &Pod| true).await;
    assert_eq!(cluster.all::<PersistentVolumeClaim>().await.len(), 2);
    // Nor does a volume vanish that is deleted before its claim.
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let first = volumes.list(&ListParams::default()).await.unwrap();
    let first = first.items[0].metadata.name.clone().unwrap();
    volumes
        .delete(&first, &DeleteParams::default())
        .await
        .unwrap();
    for name in ["data-db-0", "data-db-1"] {
        cluster
            .api::<PersistentVolumeClaim>()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }
    cluster
        .until_none("claims", |_: &PersistentVolumeClaim| true)
        .await;
    // Volumes stay as long as their data may be there: these nodes do not answer.
    cluster
        .until(
            "a volume that cannot be deleted",
            |volume: &PersistentVolume| {
                let status = volume.status.as_ref();
                status.and_then(|s| s.phase.as_deref()) == Some("Failed")
                    && volume.metadata.name.as_ref() == Some(&first)
                    && volume.metadata.deletion_timestamp.is_some()
            },
        )
        .await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    for name in NODES {
        nodes.delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster
        .until_none("volumes", |_: &PersistentVolume| true)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_has_its_daemon_and_its_addresses() {
    let cluster = Cluster::start().await;
    let set = json!({
        "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", &[])},
    });
    cluster.create::<DaemonSet>(set).await;
    cluster
        .until("daemons", |set: &DaemonSet| {
            set.status.as_ref().is_some_and(|status| {
                status.desired_number_scheduled == 2 && status.number_available == Some(2)
            })
        })
        .await;
    let mut nodes: Vec<_> = cluster
        .all::<Pod>()
        .await
        .into_iter()
        .map(|pod| pod.spec.unwrap().node_name.unwrap())
        .collect();
    nodes.sort();
    assert_eq!(nodes, NODES);
    let ranges: std::collections::BTreeSet<_> = cluster
        .all::<Node>()
        .await
        .into_iter()
        .filter_map(|node| node.spec.unwrap().pod_cidr)
        .collect();
    assert_eq!(ranges.len(), 2);
    cluster.is_quiet().await;
    // A node that its agent reports as not ready is tainted immediately and permanently.
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes
        .patch_status("n1", &PatchParams::default(), &Patch::Strategic(status))
        .await
        .unwrap();
    cluster
        .until("a tainted node", |node: &Node| {
            let taints = node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default();
            taints
                .iter()
                .filter(|taint| taint.key == "node.kubernetes.io/not-ready")
                .count()
                == 2
        })
        .await;
    cluster.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_quotas_and_certificates() {
    let cluster = Cluster::start().await;
    cluster
        .until("an aggregated role", |role: &ClusterRole| {
            role.metadata.name.as_deref() == Some("view")
                && role.rules.as_ref().is_some_and(|rules| !rules.is_empty())
        })
        .await;
    let quota = json!({
        "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "5", "configmaps": "10", "count/deployments.apps": "3"}},
    });
    cluster.create::<ResourceQuota>(quota).await;
    cluster.create::<Deployment>(deployment("web", 2)).await;
    let used = |pods: &'static str| {
        move |quota: &ResourceQuota| {
            let used = quota
                .status
                .as_ref()
                .and_then(|status| status.used.clone())
                .unwrap_or_default();
            used.get("pods").is_some_and(|amount| amount.0 == pods)
        }
    };
    cluster.until("a used quota", used("2")).await;
    cluster
        .api::<Deployment>()
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    cluster.until("a free quota", used("0")).await;
    quotas_count_what_their_selectors_select(&cluster).await;

    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "bob");
    let request = params
        .serialize_request(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    let request = CertificateSigningRequest {
        metadata: kube::core::ObjectMeta {
            name: Some("bob".into()),
            ..Default::default()
        },
        spec: k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec {
            request: k8s_openapi::ByteString(request.pem().unwrap().into_bytes()),
            signer_name: "kubernetes.io/kube-apiserver-client".into(),
            usages: Some(vec!["client auth".into()]),
            ..Default::default()
        },
        status: None,
    };
    let requests: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let mut made = requests
        .create(&PostParams::default(), &request)
        .await
        .unwrap();
    made.status = Some(object(
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": "yes"}]}),
    ));
    requests
        .replace_subresource::<CertificateSigningRequest>(
            "approval",
            "bob",
            &PostParams::default(),
            &made,
        )
        .await
        .map(drop)
        .unwrap();
    cluster
        .until("a certificate", |request: &CertificateSigningRequest| {
            request
                .status
                .as_ref()
                .is_some_and(|status| status.certificate.is_some())
        })
        .await;
    cluster.is_quiet().await;
}

async fn quotas_count_what_their_selectors_select(cluster: &Cluster) {
    for (name, resource, scope) in [
        (
            "ends",
            "pods",
            json!({"scopeName": "Terminating", "operator": "Exists"}),
        ),
        (
            "stays",
            "pods",
            json!({"scopeName": "NotTerminating", "operator": "Exists"}),
        ),
        (
            "gold",
            "persistentvolumeclaims",
            json!({"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["gold"]}),
        ),
    ] {
        let quota = json!({
            "metadata": {"name": name},
            "spec": {"hard": {resource: "5"}, "scopeSelector": {"matchExpressions": [scope]}},
        });
        cluster.create::<ResourceQuota>(quota).await;
    }
    let used = |name: &'static str, amount: &'static str| {
        move |quota: &ResourceQuota| {
            let used = quota
                .status
                .as_ref()
                .and_then(|status| status.used.as_ref());
            let mut amounts = used.into_iter().flatten();
            quota.metadata.name.as_deref() == Some(name)
                && amounts.any(|(_, used)| used.0 == amount)
        }
    };
    for name in ["ends", "stays", "gold"] {
        cluster.until("an empty quota", used(name, "0")).await;
    }
    let containers = json!([{"name": "c", "image": "i"}]);
    for (name, spec) in [
        (
            "a",
            json!({"containers": containers, "activeDeadlineSeconds": 3600}),
        ),
        (
            "b",
            json!({"containers": containers, "activeDeadlineSeconds": 3600}),
        ),
        ("c", json!({"containers": containers})),
    ] {
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        cluster.create::<Pod>(pod).await;
    }
    let claim = json!({
        "metadata": {"name": "gold"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": "gold",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    cluster.create::<PersistentVolumeClaim>(claim).await;
    cluster.until("two that end", used("ends", "2")).await;
    cluster.until("one that stays", used("stays", "1")).await;
    cluster.until("one of gold", used("gold", "1")).await;
    for name in ["a", "b", "c"] {
        let now = DeleteParams::default().grace_period(0);
        cluster.api::<Pod>().delete(name, &now).await.unwrap();
    }
    let claims = cluster.api::<PersistentVolumeClaim>();
    claims
        .delete("gold", &DeleteParams::default())
        .await
        .unwrap();
    for name in ["ends", "stays", "gold"] {
        cluster.until("an empty quota", used(name, "0")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_collected_too() {
    let cluster = Cluster::start().await;
    // A quota of what is not served yet.
    let quota = json!({
        "metadata": {"name": "boats"}, "spec": {"hard": {"count/boats.example.com": "2"}},
    });
    cluster.create::<ResourceQuota>(quota).await;
    let has_status = |quota: &ResourceQuota| {
        let status = quota.status.as_ref();
        status.is_some_and(|status| status.hard.is_some() && status.used.is_none())
    };
    cluster
        .until("a quota that counts nothing", has_status)
        .await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    });
    let send = |method: http::Method, path: String, body: Value| {
        let client = cluster.client.clone();
        async move {
            let request = http::Request::builder()
                .method(method)
                .uri(path)
                .header("content-type", "application/json")
                .body(body.to_string().into_bytes())
                .unwrap();
            client.request::<Value>(request).await
        }
    };
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned();
    send(http::Method::POST, path, definition).await.unwrap();
    let counts = |quota: &ResourceQuota| {
        let used = quota
            .status
            .as_ref()
            .and_then(|status| status.used.as_ref());
        used.is_some_and(|used| used.contains_key("count/boats.example.com"))
    };
    cluster.until("a quota that counts boats", counts).await;
    let boats = "/apis/example.com/v1/namespaces/default/boats".to_owned();
    let boat = json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "a"}});
    let begin = tokio::time::Instant::now();
    let boat = loop {
        match send(http::Method::POST, boats.clone(), boat.clone()).await {
            Ok(boat) => break boat,
            Err(error) => assert!(begin.elapsed() < WAIT_TIMEOUT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let map = json!({
        "metadata": {"name": "cargo", "ownerReferences": [{
            "apiVersion": "example.com/v1", "kind": "Boat", "name": "a", "uid": boat["metadata"]["uid"],
        }]},
    });
    cluster.create::<ConfigMap>(map).await;
    cluster.is_quiet().await;
    let cargo = |map: &ConfigMap| map.metadata.name.as_deref() == Some("cargo");
    assert!(cluster.all::<ConfigMap>().await.iter().any(cargo));
    send(http::Method::DELETE, format!("{boats}/a"), json!({}))
        .await
        .unwrap();
    cluster.until_none("the boat's cargo", cargo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scheduler_needs_no_more_than_its_role() {
    let cluster = Cluster::start().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let status = json!({"status": {
        "capacity": {"cpu": "1", "memory": "1Gi", "pods": "10"},
        "allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"},
    }});
    nodes
        .patch_status("n1", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    let pod = |name: &str, cpu: &str| -> Pod {
        object(json!({"metadata": {"name": name}, "spec": {
            "schedulerName": SCHEDULER,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}],
        }}))
    };
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    for (name, cpu) in [("small", "100m"), ("large", "9223372036854775807")] {
        pods.create(&PostParams::default(), &pod(name, cpu))
            .await
            .unwrap();
    }
    cluster
        .until::<Pod>("the small pod to be bound", |pod| {
            let spec = pod.spec.as_ref().unwrap();
            pod.metadata.name.as_deref() == Some("small") && spec.node_name.as_deref() == Some("n1")
        })
        .await;
    for (pod, reason) in [("small", "Scheduled"), ("large", "FailedScheduling")] {
        cluster
            .until::<Event>(reason, |event| {
                event.involved_object.name.as_deref() == Some(pod)
                    && event.reason.as_deref() == Some(reason)
                    && event.reporting_component.as_deref() == Some(SCHEDULER)
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_number_stops_no_controller() {
    let cluster = Cluster::start().await;
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), "default");
    let job = |name: &str, deadline: i64| -> Job {
        object(json!({"metadata": {"name": name}, "spec": {
            "activeDeadlineSeconds": deadline,
            "template": {
                "metadata": {"labels": {"ends": "Succeeded"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
            },
        }}))
    };
    for (name, deadline) in [("huge", i64::MAX), ("usual", 600)] {
        jobs.create(&PostParams::default(), &job(name, deadline))
            .await
            .unwrap();
    }
    for name in ["huge", "usual"] {
        cluster
            .until::<Job>(name, |job| {
                let status = job.status.clone().unwrap_or_default();
                job.metadata.name.as_deref() == Some(name) && status.completion_time.is_some()
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_in_secrets_come_and_go_with_their_account() {
    let cluster = Cluster::start().await;
    let secret = |name: &str, account: &str| {
        json!({
            "metadata": {
                "name": name,
                "annotations": {"kubernetes.io/service-account.name": account},
            },
            "type": "kubernetes.io/service-account-token",
        })
    };
    let account = json!({"metadata": {"name": "robot"}, "secrets": [{"name": "t1"}]});
    let account: ServiceAccount = cluster.create(account).await;
    for (name, owner) in [("t1", "robot"), ("t2", "robot"), ("nobodys", "unknown")] {
        cluster.create::<Secret>(secret(name, owner)).await;
    }
    let name_is = |secret: &Secret, name: &str| secret.metadata.name.as_deref() == Some(name);
    for name in ["t1", "t2"] {
        let filled = cluster
            .until("a token", |secret: &Secret| {
                let data = secret.data.as_ref();
                name_is(secret, name) && data.is_some_and(|data| data.contains_key("token"))
            })
            .await;
        let data = filled.data.unwrap();
        assert_eq!(data["namespace"].0, b"default");
        assert!(data["ca.crt"].0.starts_with(b"-----BEGIN CERTIFICATE-----"));
        let uid = &filled.metadata.annotations.unwrap()["kubernetes.io/service-account.uid"];
        assert_eq!(Some(uid), account.metadata.uid.as_ref());
    }
    cluster
        .until_none("a secret without account", |secret: &Secret| {
            name_is(secret, "nobodys")
        })
        .await;
    // The account forgets a deleted secret.
    let secrets = cluster.api::<Secret>();
    secrets
        .delete("t1", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .until(
            "an account without the secret",
            |account: &ServiceAccount| {
                account.metadata.name.as_deref() == Some("robot")
                    && account.secrets.as_ref().is_none_or(Vec::is_empty)
            },
        )
        .await;
    let accounts = cluster.api::<ServiceAccount>();
    accounts
        .delete("robot", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .until_none("a token of a deleted account", |secret: &Secret| {
            name_is(secret, "t2")
        })
        .await;
    cluster.is_quiet().await;
}
