//! Objects that every rkube cluster begins with, besides those that every
//! Kubernetes API server makes.
//!
//! They are made once and then the user's: one that was changed stays so, and
//! one that was deleted comes back at the next start.

use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, Client};
use rkube_config::ClusterConfig;
use serde_json::json;

/// Makes what is not there yet.
pub async fn ensure(client: &Client, cluster: &ClusterConfig) -> anyhow::Result<()> {
    // Names are answered on every node itself: the service is there for those
    // who look for its address, and has no endpoints.
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

async fn create<K>(api: &Api<K>, object: &K) -> anyhow::Result<()>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if e.reason == "AlreadyExists" => Ok(()),
        // The address was handed to a service of the user's before this one was there.
        Err(kube::Error::Api(e)) if e.code == 422 => {
            tracing::warn!(
                "an object that every cluster begins with cannot be made: {}",
                e.message
            );
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}
