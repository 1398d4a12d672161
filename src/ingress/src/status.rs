//! Writes the addresses of the proxy: to the status of Ingresses, and as endpoint of its service.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

/// The field manager of the writes. What it wrote is removed when the addon is disabled.
pub const MANAGER: &str = "rkube-ingress";
/// Namespace and name of the service that leads to the proxy.
pub const SERVICE: (&str, &str) = ("kube-system", "ingress");
/// The delay of another attempt after a failure.
const RETRY: Duration = Duration::from_secs(3);

/// What is served at present.
#[derive(Clone)]
pub struct Wanted {
    /// The Ingresses.
    pub served: Vec<Arc<Ingress>>,
    /// Ingresses that have addresses of this controller and are not served any more.
    pub left: Vec<Arc<Ingress>>,
    /// The service that leads to the proxy.
    pub service: Option<Arc<Service>>,
    /// The endpoint of that.
    pub slice: Option<Arc<EndpointSlice>>,
}

/// The addresses of the proxy.
pub struct Addresses {
    /// The client.
    pub client: Client,
    /// The node's name.
    pub node: String,
    /// The node's address.
    pub ip: IpAddr,
}

impl Addresses {
    /// Writes what is wanted until the future is dropped.
    pub async fn run(self, mut wanted: watch::Receiver<Option<Wanted>>) {
        loop {
            let now = wanted.borrow_and_update().clone();
            let done = match &now {
                Some(now) => self.write(now).await,
                None => Ok(()),
            };
            let retry = async {
                match &done {
                    Ok(()) => std::future::pending().await,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
            if let Err(error) = &done {
                tracing::warn!(%error, "cannot write the addresses of Ingresses");
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() {
                    return;
                },
                () = retry => {}
            }
        }
    }

    async fn write(&self, now: &Wanted) -> kube::Result<()> {
        let uid = now.service.as_ref().and_then(|s| s.metadata.uid.clone());
        if let Some(uid) = uid.filter(|uid| !self.is_published(now.slice.as_deref(), uid)) {
            self.publish(&uid).await?;
        }
        for ingress in &now.left {
            self.set(ingress, &[]).await?;
        }
        let addresses = addresses(now.service.as_deref(), self.ip);
        for ingress in &now.served {
            if is_current(ingress, &addresses) {
                continue;
            }
            self.set(ingress, &addresses).await?;
        }
        Ok(())
    }

    /// Writes the addresses of an Ingress.
    async fn set(&self, ingress: &Ingress, addresses: &[Value]) -> kube::Result<()> {
        let meta = &ingress.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api: Api<Ingress> = Api::namespaced(self.client.clone(), namespace);
        let addresses = (!addresses.is_empty()).then_some(addresses);
        let status = json!({ "status": { "loadBalancer": { "ingress": addresses } } });
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let name = meta.name.as_deref().unwrap_or_default();
        match api.patch_status(name, &params, &Patch::Merge(status)).await {
            Ok(_) => Ok(()),
            // It was deleted in the meantime.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a slice is the endpoint of the service with this UID.
    fn is_published(&self, slice: Option<&EndpointSlice>, service: &str) -> bool {
        let Some(slice) = slice else {
            return false;
        };
        let owners = slice.metadata.owner_references.iter().flatten();
        let endpoints = slice.endpoints.iter().flatten();
        let leads_here = |e: &Endpoint| {
            e.addresses == [self.ip.to_string()] && e.node_name.as_ref() == Some(&self.node)
        };
        owners.map(|o| o.uid.as_str()).any(|uid| uid == service)
            && endpoints.map(leads_here).eq([true])
    }

    /// Writes the endpoint of the service, which goes with the service.
    async fn publish(&self, service: &str) -> kube::Result<()> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), SERVICE.0);
        let slice = self.slice(service);
        let params = PatchParams::apply(MANAGER).force();
        api.patch(SERVICE.1, &params, &Patch::Apply(slice)).await?;
        Ok(())
    }

    fn slice(&self, service: &str) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": SERVICE.1,
                "namespace": SERVICE.0,
                "labels": {
                    "kubernetes.io/service-name": SERVICE.1,
                    "endpointslice.kubernetes.io/managed-by": MANAGER,
                },
                "ownerReferences": [{
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": SERVICE.1,
                    "uid": service,
                }],
            },
            "addressType": if self.ip.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{
                "addresses": [self.ip],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": self.node,
            }],
            "ports": [
                { "name": "http", "port": 80, "protocol": "TCP" },
                { "name": "https", "port": 443, "protocol": "TCP" },
            ],
        })
    }
}

/// Returns the addresses for the status: those of the load balancer, or the node's.
fn addresses(service: Option<&Service>, node: IpAddr) -> Vec<Value> {
    let status = service.and_then(|s| s.status.as_ref()?.load_balancer.as_ref());
    let given = status.iter().flat_map(|l| l.ingress.iter().flatten());
    let found: Vec<Value> = given
        .filter_map(|point| match (&point.ip, &point.hostname) {
            (Some(ip), _) => Some(json!({ "ip": ip })),
            (None, Some(name)) => Some(json!({ "hostname": name })),
            (None, None) => None,
        })
        .collect();
    if found.is_empty() {
        vec![json!({ "ip": node })]
    } else {
        found
    }
}

/// Whether an Ingress has addresses that this controller wrote.
pub fn is_marked(ingress: &Ingress) -> bool {
    let status = ingress.status.as_ref();
    let balancer = status.and_then(|s| s.load_balancer.as_ref());
    let any = balancer.is_some_and(|b| b.ingress.as_ref().is_some_and(|list| !list.is_empty()));
    let managers = ingress.metadata.managed_fields.iter().flatten();
    any && managers
        .map(|entry| (entry.manager.as_deref(), entry.subresource.as_deref()))
        .any(|entry| entry == (Some(MANAGER), Some("status")))
}

/// Whether the status of an Ingress has exactly these addresses.
fn is_current(ingress: &Ingress, addresses: &[Value]) -> bool {
    let status = ingress
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let present = status.iter().flat_map(|l| l.ingress.iter().flatten());
    let present: Vec<Value> = present
        .map(
            |point: &IngressLoadBalancerIngress| match (&point.ip, &point.hostname) {
                (Some(ip), _) => json!({ "ip": ip }),
                (None, name) => json!({ "hostname": name }),
            },
        )
        .collect();
    present == addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_balancer_goes_before_the_node() {
        let node = IpAddr::from([10, 0, 0, 2]);
        let mut service: Service = serde_json::from_value(json!({})).unwrap();
        assert_eq!(addresses(None, node), [json!({ "ip": "10.0.0.2" })]);
        assert_eq!(
            addresses(Some(&service), node),
            [json!({ "ip": "10.0.0.2" })]
        );
        let status = json!({ "loadBalancer": { "ingress": [{ "ip": "10.9.9.9" }] } });
        service.status = Some(serde_json::from_value(status).unwrap());
        assert_eq!(
            addresses(Some(&service), node),
            [json!({ "ip": "10.9.9.9" })]
        );
    }
}
