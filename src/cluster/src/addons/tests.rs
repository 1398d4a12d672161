//! Tests addons with the real API server and its controllers, in one process.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt};
use rkube_apiserver::{ApiServer, Config, Pki};
use rkube_store::{EmbeddedOptions, EmbeddedStore};
use serde_json::json;

use super::*;

/// Starts an HTTP server that returns one response per path. `answers` start with their status
/// code. The server runs until the process ends.
pub(super) fn serve(answers: &'static [(&'static str, &'static str)]) -> String {
    let answer = |path: &str| {
        let answer = answers.iter().find(|(p, _)| *p == path);
        let answer = answer.map_or("404 Not Found\r\n\r\n", |(_, a)| *a);
        answer.as_bytes().to_vec()
    };
    serve_with(answer)
}

fn serve_with(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default();
            let mut whole = b"HTTP/1.0 ".to_vec();
            whole.extend(answer(path));
            // A client that has read enough may have disconnected.
            let _ = stream.write_all(&whole);
        }
    });
    format!("http://{address}")
}

struct Cluster {
    client: Client,
    home: Home,
    _directory: tempfile::TempDir,
}

/// Records the steps that are reported.
#[derive(Default)]
struct RecordedSteps(Mutex<Vec<String>>);

impl Progress for RecordedSteps {
    fn step(&self, name: &str, _: &str) {
        self.0.lock().unwrap().push(name.to_owned());
    }
    fn warn(&self, message: &str) {
        panic!("{message}");
    }
}

impl Cluster {
    async fn start() -> Self {
        let (cluster, server, ca) = Self::without_controllers().await;
        let client = server.client("system:kube-controller-manager", &["system:masters"]);
        let settings = rkube_controllers::Config::new(ca, None, "10.244.0.0/16".parse().unwrap());
        tokio::spawn(rkube_controllers::run(client, settings));
        cluster
    }

    async fn without_controllers() -> (Self, Arc<ApiServer>, String) {
        let directory = tempfile::tempdir().unwrap();
        let store =
            EmbeddedStore::open(&directory.path().join("store"), EmbeddedOptions::default());
        let (pki, ca) = authority();
        let config = Config {
            store: store.unwrap(),
            pki,
            version: "v1.36.0+rkube0.0.0".into(),
            dns_domain: "cluster.local".into(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_ports: (30000, 32767),
            advertise_ip: "192.168.49.2".parse().unwrap(),
            advertise_port: 8443,
            audit: None,
        };
        let server = ApiServer::new(config).await.unwrap();
        let cluster = Self {
            client: server.client("tester", &["system:masters"]),
            home: Home::at(directory.path().join("home")),
            _directory: directory,
        };
        (cluster, server, ca)
    }

    /// Writes an addon to the user's directory of addons.
    fn write(&self, name: &str, manifests: &[&str], files: &[(&str, &str)]) {
        let dir = self.home.addons_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut text = format!("name: {name}\ndescription: Mine\nversion: v1\nmanifests:\n");
        for manifest in manifests {
            text.push_str(&format!("- {manifest}\n"));
        }
        std::fs::write(dir.join("addon.yaml"), text).unwrap();
        for (name, content) in files {
            std::fs::write(dir.join(name), content).unwrap();
        }
    }

    async fn enable(&self, name: &str) -> Result<Vec<String>, Failure> {
        let steps = RecordedSteps::default();
        let addon = find(&self.home, name)?;
        enable::enable(self.client.clone(), &addon, &steps).await?;
        Ok(steps.0.into_inner().unwrap())
    }

    async fn disable(&self, name: &str) -> Result<Option<()>, Failure> {
        remove::disable(self.client.clone(), name, &RecordedSteps::default()).await
    }

    async fn status(&self, name: &str) -> Status {
        let parents = server::parents(self.client.clone()).await.unwrap();
        let entries = entries(catalogue::read_all(&self.home).unwrap(), Some(&parents));
        entries.iter().find(|e| e.name == name).unwrap().status
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn create_namespace(&self, name: &str) {
        let object = json!({"metadata": {"name": name, "labels": {"mine": "yes"}}});
        Api::<Namespace>::all(self.client.clone())
            .create(
                &PostParams::default(),
                &serde_json::from_value(object).unwrap(),
            )
            .await
            .unwrap();
    }

    /// Returns all objects that belong to an addon, and the parents of the sets.
    async fn members(&self) -> BTreeSet<String> {
        let kinds = kube::discovery::Discovery::new(self.client.clone());
        let kinds = kinds.run_aggregated().await.unwrap();
        let mut found = BTreeSet::new();
        for (resource, capabilities) in kinds.groups().flat_map(|g| g.recommended_resources()) {
            // Addons cannot own objects of kinds that cannot be deleted.
            if !["list", "delete"]
                .iter()
                .all(|v| capabilities.supports_operation(v))
            {
                continue;
            }
            let api: Api<kube::api::DynamicObject> = Api::all_with(self.client.clone(), &resource);
            for label in [applyset::PART_OF, applyset::ID] {
                let listed = api
                    .list_metadata(&ListParams::default().labels(label))
                    .await;
                for object in listed.unwrap().items {
                    found.insert(format!("{}/{}", resource.kind, object.name_any()));
                }
            }
        }
        found
    }
}

/// Creates the files of a certificate authority for a control plane. Returns its certificate.
fn authority() -> (Pki, String) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "test-ca");
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::from_params(&params, &key);
    let sign = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (serving_cert, serving_key) = sign("kube-apiserver");
    let (kubelet_cert, kubelet_key) = sign("kubelet-client");
    let tokens = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pki = Pki {
        ca_cert: ca.clone().into(),
        serving_cert: serving_cert.into(),
        serving_key: serving_key.into(),
        kubelet_client_cert: kubelet_cert.into(),
        kubelet_client_key: kubelet_key.into(),
        front_proxy_ca_cert: None,
        front_proxy_client_cert: None,
        front_proxy_client_key: None,
        service_account_key: tokens.serialize_pem().into(),
        service_account_pub: tokens.public_key_pem().into(),
    };
    (pki, ca)
}

const DEFINITION: &str = "
apiVersion: example.com/v1
kind: Thing
metadata: {name: one, namespace: things}
spec: {size: 3}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer}}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_addon_comes_changes_and_goes() {
    let cluster = Cluster::start().await;
    let base = serve(&[(
        "/more.yaml",
        "200 OK\r\n\r\n{apiVersion: v1, kind: ConfigMap, metadata: {name: fetched}, data: {a: b}}\n",
    )]);
    let here = "
{apiVersion: v1, kind: Namespace, metadata: {name: things}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: things}}
---
{apiVersion: v1, kind: Secret, metadata: {name: old, namespace: default}}
";
    let url = format!("url: {base}/more.yaml");
    let manifests = ["file: things.yaml", "file: here.yaml", url.as_str()];
    let files = [("things.yaml", DEFINITION), ("here.yaml", here)];
    cluster.write("things", &manifests, &files);
    assert_eq!(cluster.status("things").await, Status::Disabled);
    let steps = cluster.enable("things").await.unwrap();
    assert_eq!(steps, ["download", "apply", "definitions", "apply"]);
    assert_eq!(cluster.status("things").await, Status::Enabled);
    let all = [
        "ConfigMap/fetched",
        "ConfigMap/rkube-addon-things",
        "CustomResourceDefinition/things.example.com",
        "Namespace/things",
        "Secret/old",
        "ServiceAccount/default",
        "Thing/one",
    ];
    assert_eq!(cluster.members().await, all.map(str::to_owned).into());
    let parent: ConfigMap = cluster
        .api("kube-system")
        .get("rkube-addon-things")
        .await
        .unwrap();
    let annotation = |name: &str| parent.annotations()[name].clone();
    assert_eq!(
        annotation("applyset.kubernetes.io/additional-namespaces"),
        "default,things"
    );
    assert_eq!(
        annotation("applyset.kubernetes.io/contains-group-kinds"),
        "ConfigMap,CustomResourceDefinition.apiextensions.k8s.io,Namespace,Secret,ServiceAccount,Thing.example.com"
    );

    // Objects that are missing in a new version are removed, and manual changes are reverted.
    let config = cluster.api::<ConfigMap>("default");
    let mut changed = config.get("fetched").await.unwrap();
    changed
        .data
        .as_mut()
        .unwrap()
        .insert("a".into(), "c".into());
    config
        .replace("fetched", &PostParams::default(), &changed)
        .await
        .unwrap();
    let fewer = here.rsplit_once("---").unwrap().0;
    cluster.write("things", &manifests, &[("here.yaml", fewer)]);
    let steps = cluster.enable("things").await.unwrap();
    assert_eq!(steps.last().unwrap(), "prune");
    assert!(
        cluster
            .api::<Secret>("default")
            .get_opt("old")
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(config.get("fetched").await.unwrap().data.unwrap()["a"], "b");

    // Also without the addon's directory.
    std::fs::remove_dir_all(cluster.home.addons_dir()).unwrap();
    assert_eq!(cluster.status("things").await, Status::Enabled);
    assert_eq!(cluster.disable("things").await.unwrap(), Some(()));
    assert_eq!(cluster.members().await, BTreeSet::new());
    assert_eq!(cluster.disable("things").await.unwrap(), None);
}

/// Without a garbage collector: nothing of the addon waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_addon_without_objects_is_disabled_at_once() {
    let (cluster, _server, _) = Cluster::without_controllers().await;
    let refused = "{apiVersion: v1, kind: Secret, metadata: {name: -, namespace: default}}";
    cluster.write("a", &["file: a.yaml"], &[("a.yaml", refused)]);
    cluster.enable("a").await.unwrap_err();
    assert_eq!(cluster.status("a").await, Status::Incomplete);
    cluster.disable("a").await.unwrap().unwrap();
    assert_eq!(cluster.status("a").await, Status::Disabled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_other_owners_stay() {
    let cluster = Cluster::start().await;
    cluster.create_namespace("shared").await;
    let objects = "
{apiVersion: v1, kind: Namespace, metadata: {name: shared, labels: {mine: changed}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: first, namespace: shared}}
---
{apiVersion: v1, kind: Secret, metadata: {name: second, namespace: shared}}
";
    cluster.write("a", &["file: a.yaml"], &[("a.yaml", objects)]);
    // An object of the user causes a conflict: the addon is incomplete.
    let secrets = cluster.api::<Secret>("shared");
    let second = serde_json::from_value(json!({"metadata": {"name": "second"}})).unwrap();
    secrets
        .create(&PostParams::default(), &second)
        .await
        .unwrap();
    let failure = cluster.enable("a").await.unwrap_err();
    assert_eq!(failure.exit_code(), 101, "{failure}");
    assert!(
        failure.message.contains("Secret shared/second"),
        "{failure}"
    );
    assert_eq!(cluster.status("a").await, Status::Incomplete);
    secrets
        .delete("second", &DeleteParams::default())
        .await
        .unwrap();
    cluster.enable("a").await.unwrap();
    // Objects of another addon cause a conflict as well.
    cluster.write("b", &["file: a.yaml"], &[("a.yaml", objects)]);
    let failure = cluster.enable("b").await.unwrap_err();
    assert!(
        failure.message.contains("part of another addon"),
        "{failure}"
    );
    cluster.disable("b").await.unwrap().unwrap();
    assert_eq!(
        secrets
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        2
    );
    cluster.disable("a").await.unwrap().unwrap();
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let shared = namespaces.get("shared").await.unwrap();
    assert_eq!(shared.labels()["mine"], "yes");
    assert_eq!(
        secrets
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_cannot_be_applied_are_named() {
    let cluster = Cluster::start().await;
    let cases = [
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: many}}",
            108,
            "cannot apply Deployment default/web:",
        ),
        (
            "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: nowhere}}",
            105,
            "cannot apply Secret nowhere/s: namespaces \"nowhere\" not found",
        ),
        (
            "{apiVersion: example.com/v1, kind: Thing, metadata: {name: one}}",
            105,
            "no kind Thing in example.com/v1",
        ),
        ("a: [", 18, "document 1 of x.yaml"),
    ];
    for (text, code, part) in cases {
        cluster.write("x", &["file: x.yaml"], &[("x.yaml", text)]);
        let failure = cluster.enable("x").await.unwrap_err();
        assert_eq!(failure.exit_code(), code, "{failure}");
        assert!(failure.message.contains(part), "{failure}");
    }
    cluster.disable("x").await.unwrap().unwrap();
    assert_eq!(cluster.members().await, BTreeSet::new());
    // A parent object that rkube did not create is not overwritten.
    let theirs = json!({"metadata": {"name": "rkube-addon-x"}});
    let api = cluster.api::<ConfigMap>("kube-system");
    let theirs = serde_json::from_value(theirs).unwrap();
    api.create(&PostParams::default(), &theirs).await.unwrap();
    let text = "{apiVersion: v1, kind: Secret, metadata: {name: s}}";
    cluster.write("x", &["file: x.yaml"], &[("x.yaml", text)]);
    let failure = cluster.enable("x").await.unwrap_err();
    assert_eq!(failure.exit_code(), 101, "{failure}");
    assert_eq!(cluster.disable("x").await.unwrap_err().exit_code(), 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_is_as_the_server_wants_it() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.enable("demo").await.unwrap(), ["apply"]);
    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> = cluster.api("rkube-demo");
    let kubia = deployments.get("kubia").await.unwrap();
    assert_eq!(kubia.spec.unwrap().replicas, Some(3));
    // The namespace enforces the restricted pod security standard.
    let replica_sets: Api<k8s_openapi::api::apps::v1::ReplicaSet> = cluster.api("rkube-demo");
    loop {
        let sets = replica_sets
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        let made = sets
            .first()
            .and_then(|s| s.status.as_ref().map(|s| s.replicas));
        if made == Some(3) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.disable("demo").await.unwrap().unwrap();
    assert_eq!(cluster.members().await, BTreeSet::new());
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    assert!(namespaces.get_opt("rkube-demo").await.unwrap().is_none());
}

/// Applies the built-in addons from downloaded files. `RKUBE_ADDONS_SOURCE` is a directory with the
/// files at the paths of their URLs, `HOST/PATH`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_addons_are_applied_whole() {
    let Some(root) = std::env::var_os("RKUBE_ADDONS_SOURCE") else {
        rkube_testing::not_applicable("RKUBE_ADDONS_SOURCE is not set");
        return;
    };
    let root = std::path::PathBuf::from(root);
    let cluster = Cluster::start().await;
    let files = root.clone();
    let base = serve_with(move |path| {
        let mut answer = b"200 OK\r\n\r\n".to_vec();
        answer.extend(std::fs::read(files.join(&path[1..])).unwrap());
        answer
    });
    for found in catalogue::read_all(&cluster.home).unwrap() {
        let mut addon = found.unwrap();
        let mut missing = false;
        for manifest in &mut addon.manifests {
            if let Manifest::Url(url, _) = manifest {
                let path = url.strip_prefix("https://").unwrap();
                missing |= !root.join(path).exists();
                *url = format!("{base}/{path}");
            }
        }
        if missing {
            rkube_testing::not_applicable(&format!("no download of {}", addon.name));
            continue;
        }
        for _ in 0..2 {
            let enabled =
                enable::enable(cluster.client.clone(), &addon, &RecordedSteps::default()).await;
            enabled.unwrap_or_else(|e| panic!("{}: {e}", addon.name));
        }
        cluster.disable(&addon.name).await.unwrap().unwrap();
        assert_eq!(cluster.members().await, BTreeSet::new(), "{}", addon.name);
        eprintln!("{} came and went", addon.name);
    }
}

#[test]
fn images_are_those_of_containers_and_volumes() {
    let text = r#"{"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"},
        "spec": {"jobTemplate": {"spec": {"template": {"spec": {
            "initContainers": [{"name": "i", "image": "init:1"}],
            "containers": [{"name": "a", "image": "app:1"}, {"name": "b"}, {"name": "d", "image": ""}],
            "volumes": [{"name": "v", "image": {"reference": "data:1"}}, {"name": "e", "emptyDir": {}}]
        }}}}}}"#;
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "app:1"}]}}"#;
    let texts = [text, pod].map(|text| objects::Text {
        name: "f".to_owned(),
        text: text.to_owned(),
    });
    let found = images_of(&objects::read(&texts).unwrap());
    assert_eq!(found, ["app:1", "data:1", "init:1"]);
}
