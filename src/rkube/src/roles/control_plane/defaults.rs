//! Default objects of rkube clusters, in addition to those that every Kubernetes API server
//! creates.
//!
//! Existing objects are not changed, so that users can edit them. Deleted ones are created again at
//! the next start.

use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use rkube_config::ClusterConfig;
use serde_json::json;

/// Creates the default objects that do not exist.
///
/// # Errors
///
/// Fails if a request fails, except when the object exists or the API server rejects it.
pub async fn ensure(client: &Client, cluster: &ClusterConfig) -> anyhow::Result<()> {
    // Each node runs its own DNS server. The service has no endpoints; it exists for
    // software that looks up the address of the cluster DNS.
    let dns: Service = serde_json::from_value(json!({
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": cluster.dns_ip,
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ],
        },
    }))?;
    create(&Api::namespaced(client.clone(), "kube-system"), &dns).await
}

/// Creates `object` unless an object of its name exists.
///
/// It is looked up first: the addresses of a service are checked before its name.
async fn create<K>(api: &Api<K>, object: &K) -> anyhow::Result<()>
where
    K: Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let name = object.meta().name.as_deref().unwrap_or_default();
    if api.get_metadata_opt(name).await?.is_some() {
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
        Err(e) => Err(e.into()),
    }
}
