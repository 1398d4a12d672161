//! Default objects of rkube clusters, in addition to those that every Kubernetes API server
//! creates.
//!
//! Existing objects are not changed, so that users can edit them. Deleted ones are created again at
//! the next start.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Service};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use rkube_config::ClusterConfig;
use serde_json::json;

/// The namespace of the objects.
const SYSTEM: &str = "kube-system";

/// The time to wait before what failed is tried again, and its maximum.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
const MAX_RETRY_PERIOD: Duration = Duration::from_secs(60);

/// Creates the default objects that do not exist. What fails keeps nothing else from being created,
/// and is tried again until all are there.
///
/// # Errors
///
/// Fails if an object has not the form of its kind.
pub async fn ensure(client: &Client, cluster: &ClusterConfig) -> anyhow::Result<()> {
    let objects = Objects::new(cluster)?;
    let mut wait = RETRY_PERIOD;
    loop {
        let results = [
            create(client, &objects.dns).await,
            create(client, &objects.endpoints).await,
            create(client, &objects.corefile).await,
            create(client, &objects.role).await,
            create(client, &objects.binding).await,
        ];
        let mut complete = true;
        for error in results.into_iter().filter_map(Result::err) {
            complete = false;
            tracing::warn!("cannot create a default object, trying again: {error:#}");
        }
        if complete {
            return Ok(());
        }
        tokio::time::sleep(wait).await;
        wait = MAX_RETRY_PERIOD.min(wait * 2);
    }
}

/// The default objects.
struct Objects {
    dns: Service,
    endpoints: Endpoints,
    corefile: ConfigMap,
    /// Lets the nodes' service proxies read the Corefile for their name servers.
    role: Role,
    binding: RoleBinding,
}

impl Objects {
    fn new(cluster: &ClusterConfig) -> anyhow::Result<Self> {
        let meta = json!({
            "name": "kube-dns",
            "namespace": SYSTEM,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        });
        let addresses = cluster.dns_ips();
        let endpoints: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let ports = json!([
            { "name": "dns", "port": 53, "protocol": "UDP" },
            { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
        ]);
        let text = rkube_network::dns::corefile::default_text(&cluster.dns_domain);
        Ok(Self {
            // Each node runs its own DNS server. The service and its endpoints exist for software
            // that looks up the address of the cluster DNS.
            dns: serde_json::from_value(json!({
                "metadata": meta,
                "spec": {
                    "clusterIP": addresses.first(),
                    "clusterIPs": addresses,
                    "ipFamilyPolicy": if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" },
                    "ports": ports,
                },
            }))?,
            // Every node serves this address itself, so pods of all nodes reach it.
            endpoints: serde_json::from_value(json!({
                "metadata": meta,
                "subsets": [{ "addresses": endpoints, "ports": ports }],
            }))?,
            corefile: serde_json::from_value(json!({
                "metadata": { "name": "coredns", "namespace": SYSTEM },
                "data": { "Corefile": text },
            }))?,
            role: serde_json::from_value(json!({
                "metadata": { "name": "rkube:coredns", "namespace": SYSTEM },
                "rules": [{
                    "apiGroups": [""],
                    "resources": ["configmaps"],
                    "resourceNames": ["coredns"],
                    "verbs": ["get", "list", "watch"],
                }],
            }))?,
            binding: serde_json::from_value(json!({
                "metadata": { "name": "rkube:coredns", "namespace": SYSTEM },
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Role",
                    "name": "rkube:coredns",
                },
                "subjects": [{
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "User",
                    "name": "system:kube-proxy",
                }],
            }))?,
        })
    }
}

/// Creates `object` unless an object of its name exists.
///
/// It is looked up first: the addresses of a service are checked before its name.
async fn create<K>(client: &Client, object: &K) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let name = object.meta().name.as_deref().unwrap_or_default();
    let what = || format!("{} {name}", K::kind(&()));
    let api: Api<K> = Api::namespaced(client.clone(), SYSTEM);
    let found = api.get_metadata_opt(name).await;
    if found.with_context(what)?.is_some() {
        return Ok(());
    }
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if e.reason == "AlreadyExists" => Ok(()),
        // The address may already belong to a service that the user created.
        Err(kube::Error::Api(e)) if e.code == 422 => {
            tracing::warn!("cannot create a default object: {}", e.message);
            Ok(())
        }
        Err(e) => Err(e).with_context(what),
    }
}
