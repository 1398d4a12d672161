//! Reservations of service addresses and node ports in the store.

use std::collections::HashMap;
use std::sync::Arc;

use rkube_store::{EmbeddedOptions, EmbeddedStore, Expect, ListOptions, Store};
use serde_json::{Value, json};

use super::support::{TestServer, config, make_pki, start};
use crate::{ApiServer, Config};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const PORTS: &str = "/registry/core/servicenodeports/";

/// Starts servers on one store, with small ranges of addresses and ports.
async fn servers(count: usize) -> Vec<TestServer> {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> =
        EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
    let keys = make_pki();
    let mut all = Vec::new();
    for _ in 0..count {
        let own = tempfile::tempdir().unwrap();
        let config = Config {
            store: store.clone(),
            service_cidrs: vec!["10.96.0.0/26".parse().unwrap()],
            node_ports: (30000, 30039),
            ..config(own.path(), keys.pki.clone())
        };
        all.push(TestServer {
            server: ApiServer::new(config).await.unwrap(),
            pki: make_pki(),
            folder: own,
        });
    }
    // The directory of the store lives as long as the first server.
    all[0].folder = folder;
    all
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

fn node_port(name: &str) -> Value {
    service(name, json!({"type": "NodePort", "ports": [{"port": 80}]}))
}

async fn ports(t: &TestServer) -> Vec<String> {
    let page = t
        .server
        .backend()
        .store
        .list(PORTS, ListOptions::default())
        .await;
    let items = page.unwrap().items;
    items
        .iter()
        .map(|kv| kv.key[PORTS.len()..].to_owned())
        .collect()
}

async fn addresses(t: &TestServer) -> Vec<String> {
    let (code, list) = t.get(ADDRESSES).await;
    assert_eq!(code, 200);
    let items = list["items"].as_array().unwrap();
    let name = |i: &Value| i["metadata"]["name"].as_str().unwrap().to_owned();
    items.iter().map(name).collect()
}

#[tokio::test]
async fn servers_on_one_store_give_nothing_twice() {
    let servers = servers(2).await;
    let creations = (0..30).map(|i| {
        let t = &servers[i % 2];
        async move { t.post(SERVICES, node_port(&format!("s{i}"))).await }
    });
    let mut seen: HashMap<String, String> = HashMap::new();
    for (code, made) in futures::future::join_all(creations).await {
        assert_eq!(code, 201, "{made}");
        let name = made["metadata"]["name"].to_string();
        for had in [
            made["spec"]["clusterIP"].to_string(),
            made["spec"]["ports"][0]["nodePort"].to_string(),
        ] {
            let other = seen.insert(had.clone(), name.clone());
            assert_eq!(other, None, "{had} was given to {name} too");
        }
    }
    // Concurrent requests for the same address on both servers: one succeeds.
    let asked = |i: usize| {
        let spec = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
        let t = &servers[i % 2];
        async move {
            t.post(SERVICES, service(&format!("asked{i}"), spec))
                .await
                .0
        }
    };
    let mut codes = futures::future::join_all((0..6).map(asked)).await;
    codes.sort();
    assert_eq!(codes, [201, 422, 422, 422, 422, 422]);
    assert_eq!(addresses(&servers[0]).await.len(), 1 + 30 + 1);
    assert_eq!(ports(&servers[1]).await.len(), 30);
    // The node ports are exhausted before the addresses; failed requests leave no reservations.
    let mut given = 30;
    loop {
        let (code, answer) = servers[given % 2]
            .post(SERVICES, node_port(&format!("s{given}")))
            .await;
        if code != 201 {
            assert!(
                answer["message"]
                    .as_str()
                    .unwrap()
                    .contains("range is full"),
                "{answer}"
            );
            break;
        }
        given += 1;
    }
    assert_eq!(given, 40);
    assert_eq!(addresses(&servers[1]).await.len(), 1 + 40 + 1);
    // A value released by one server can be allocated by the other.
    assert_eq!(servers[0].delete(&format!("{SERVICES}/s3")).await.0, 200);
    assert_eq!(servers[1].post(SERVICES, node_port("again")).await.0, 201);
}

#[tokio::test]
async fn an_address_is_an_object() {
    let t = start().await;
    let (_, made) = t
        .post(SERVICES, service("a", json!({"ports": [{"port": 80}]})))
        .await;
    let address = made["spec"]["clusterIP"].as_str().unwrap();
    let (code, entry) = t.get(&format!("{ADDRESSES}/{address}")).await;
    assert_eq!(code, 200);
    assert_eq!(entry["kind"], "IPAddress");
    assert_eq!(
        entry["metadata"]["labels"],
        json!({
            "ipaddress.kubernetes.io/ip-family": "IPv4",
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        })
    );
    assert_eq!(
        entry["spec"],
        json!({"parentRef": {"resource": "services", "namespace": "default", "name": "a"}})
    );
    assert!(entry["metadata"]["uid"].is_string());
    // Reservations created by users count.
    let own = json!({"metadata": {"name": "10.96.0.77"}, "spec": {"parentRef": {"group": "g", "resource": "gateways", "name": "x"}}});
    assert_eq!(t.post(ADDRESSES, own).await.0, 201);
    let asked = service(
        "b",
        json!({"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}),
    );
    assert_eq!(t.post(SERVICES, asked).await.0, 422);
}

#[tokio::test]
async fn what_is_not_needed_is_given_back() {
    let t = start().await;
    let base = addresses(&t).await.len();
    let held = async || (addresses(&t).await.len() - base, ports(&t).await.len());
    // Dry runs and rejected requests reserve nothing.
    let dry = format!("{SERVICES}?dryRun=All");
    assert_eq!(t.post(&dry, node_port("a")).await.0, 201);
    let bad = json!({"type": "NodePort", "sessionAffinity": "Nope", "ports": [{"port": 80}]});
    assert_eq!(t.post(SERVICES, service("a", bad)).await.0, 422);
    assert_eq!(held().await, (0, 0));
    assert_eq!(t.post(SERVICES, node_port("a")).await.0, 201);
    assert_eq!(held().await, (1, 1));
    assert_eq!(
        t.post(SERVICES, node_port("a")).await.0,
        409,
        "there is one"
    );
    assert_eq!(held().await, (1, 1));
    // Changes of the service type.
    let path = format!("{SERVICES}/a");
    let patch = async |patch: Value| t.patch(&path, "merge-patch+json", patch).await;
    let (code, changed) = patch(json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(held().await, (1, 0));
    let balanced = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}});
    assert_eq!(patch(balanced).await.0, 200);
    assert_eq!(held().await, (1, 2), "a port, and one to ask for health");
    let external = json!({"spec": {"type": "ExternalName", "externalName": "x.y", "externalTrafficPolicy": null,
        "internalTrafficPolicy": null, "clusterIP": null, "clusterIPs": null, "allocateLoadBalancerNodePorts": null}});
    let (code, changed) = patch(external).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(held().await, (0, 0));
    let (code, changed) = patch(json!({"spec": {"type": "NodePort", "externalName": null}})).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(held().await, (1, 1));
    assert_eq!(t.delete(&path).await.0, 200);
    assert_eq!(held().await, (0, 0));
    // The address of the service `kubernetes` is never allocated to another service.
    t.delete(&format!("{SERVICES}/kubernetes")).await;
    assert!(addresses(&t).await.contains(&"10.96.0.1".to_owned()));
}

#[tokio::test]
async fn services_from_before_get_their_reservations() {
    let folder = tempfile::tempdir().unwrap();
    let keys = make_pki();
    let before = config(folder.path(), keys.pki.clone());
    for i in 1..=3 {
        let old = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("old{i}"), "namespace": "default"},
            "spec": {"type": "NodePort", "clusterIP": format!("10.96.9.{i}"), "clusterIPs": [format!("10.96.9.{i}")],
                "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000 + i}]}});
        let key = format!("/registry/core/services/default/old{i}");
        before
            .store
            .put(&key, old.to_string().into(), Expect::Absent)
            .await
            .unwrap();
    }
    let t = TestServer {
        server: ApiServer::new(before).await.unwrap(),
        pki: keys,
        folder,
    };
    assert_eq!(ports(&t).await, ["30001", "30002", "30003"]);
    assert_eq!(
        addresses(&t).await,
        ["10.96.0.1", "10.96.9.1", "10.96.9.2", "10.96.9.3"]
    );
    for spec in [
        json!({"clusterIP": "10.96.9.2", "ports": [{"port": 80}]}),
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30003}]}),
    ] {
        let (code, refused) = t.post(SERVICES, service("new", spec)).await;
        assert_eq!(code, 422);
        assert!(
            refused["message"]
                .as_str()
                .unwrap()
                .contains("already allocated")
        );
    }
}

#[tokio::test]
async fn what_was_left_behind_or_deleted_is_repaired() {
    let t = start().await;
    let (_, made) = t.post(SERVICES, node_port("a")).await;
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    // A deleted entry does not make the address available.
    assert_eq!(t.delete(&format!("{ADDRESSES}/{address}")).await.0, 200);
    let asked = service("b", json!({"clusterIP": address, "ports": [{"port": 80}]}));
    assert_eq!(t.post(SERVICES, asked).await.0, 422);
    // An entry left behind by a server that crashed before it stored the service.
    let leak = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {
        "name": "10.96.3.3", "creationTimestamp": "2020-01-01T00:00:00Z",
        "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}});
    let key = "/registry/networking.k8s.io/ipaddresses/10.96.3.3";
    let bytes = leak.to_string().into();
    t.server
        .backend()
        .store
        .put(key, bytes, Expect::Absent)
        .await
        .unwrap();
    let now = jiff::Timestamp::now();
    crate::services::repair(t.server.backend(), now)
        .await
        .unwrap();
    let mut wanted = vec!["10.96.0.1".to_owned(), address];
    wanted.sort();
    assert_eq!(addresses(&t).await, wanted);
    assert_eq!(ports(&t).await.len(), 1);
}

#[tokio::test]
async fn ranges_can_be_added() {
    let t = start().await;
    let asked = |name: &str| {
        service(
            name,
            json!({"clusterIP": "10.77.0.9", "ports": [{"port": 80}]}),
        )
    };
    let (code, answer) = t.post(SERVICES, asked("a")).await;
    assert_eq!(code, 422);
    let text = answer["message"].as_str().unwrap();
    assert!(
        text.ends_with(
            "failed to allocate IP 10.77.0.9: the provided network does not match the current range"
        ),
        "{text}"
    );
    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.77.0.0/24"]}});
    let path = "/apis/networking.k8s.io/v1/servicecidrs";
    assert_eq!(t.post(path, range).await.0, 201);
    t.server.backend().cache.consistent().await;
    let (code, answer) = t.post(SERVICES, asked("a")).await;
    assert_eq!(code, 201, "{answer}");
}
