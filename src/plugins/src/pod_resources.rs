//! The socket on which monitoring programs ask which container has which device.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::UnixListener;

use crate::api::pod_resources as api;
use crate::devices::{self, NO_NUMA};
use crate::grpc::{self, Code, Reply, Service, Status, answer};
use crate::wire::Message;
use crate::{claims, wire};

/// Calls per second, and calls at once.
const RATE: (f64, f64) = (100.0, 10.0);

/// A pod that runs on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its sidecars and main containers.
    pub containers: Vec<PodContainer>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodContainer {
    /// Its name.
    pub name: String,
    /// Names of the claims that it uses.
    pub claims: Vec<String>,
    /// Whether it is a sidecar.
    pub is_sidecar: bool,
    /// Processors that it alone uses.
    pub cpus: Vec<i64>,
}

/// The pods of the node.
pub trait Pods: Send + Sync + 'static {
    /// Returns the pods that have not ended.
    fn active(&self) -> Vec<Pod>;
    /// Returns the pod of this name.
    fn find(&self, namespace: &str, name: &str) -> Option<Pod>;
    /// Returns the processors that containers can have for themselves.
    fn cpus(&self) -> Vec<i64> {
        Vec::new()
    }
}

/// The service.
pub struct Lister {
    /// The pods.
    pub pods: Box<dyn Pods>,
    /// Their devices.
    pub devices: Arc<devices::Manager>,
    /// Their claims.
    pub claims: Arc<claims::Manager>,
}

/// Serves the socket until the future is dropped.
pub async fn serve(listener: UnixListener, lister: Lister) {
    let limited = Limited {
        lister: Arc::new(lister),
        bucket: Mutex::new((RATE.1, Instant::now())),
    };
    grpc::serve(listener, Arc::new(limited)).await;
}

/// Devices by NUMA node as the API has them: one entry per resource and node.
fn entries(resource: &str, by_numa: &BTreeMap<i64, Vec<String>>) -> Vec<api::ContainerDevices> {
    let mut nodes: BTreeMap<&String, Vec<i64>> = BTreeMap::new();
    for (numa, ids) in by_numa {
        for id in ids {
            let of_device = nodes.entry(id).or_default();
            if *numa != NO_NUMA {
                of_device.push(*numa);
            }
        }
    }
    let entry = |(id, numa): (&String, Vec<i64>)| api::ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id.clone()],
        topology: (!numa.is_empty()).then(|| api::TopologyInfo {
            nodes: numa.into_iter().map(|id| api::NumaNode { id }).collect(),
        }),
    };
    nodes.into_iter().map(entry).collect()
}

impl Lister {
    fn container(&self, pod: &Pod, container: &PodContainer) -> api::ContainerResources {
        let held = self.devices.held(&pod.uid, &container.name);
        let dynamic = container.claims.iter().filter_map(|claim| {
            let devices = self.claims.devices(&pod.namespace, claim).ok()?;
            let resource = |(driver, device): (String, claims::ClaimDevice)| api::ClaimResource {
                cdi_devices: device
                    .cdi_device_ids
                    .into_iter()
                    .map(|name| api::CdiDevice { name })
                    .collect(),
                driver_name: driver,
                pool_name: device.pool_name,
                device_name: device.device_name,
                share_id: device.share_id,
            };
            Some(api::DynamicResource {
                claim_name: claim.clone(),
                claim_namespace: pod.namespace.clone(),
                claim_resources: devices.into_iter().map(resource).collect(),
            })
        });
        api::ContainerResources {
            name: container.name.clone(),
            devices: held
                .iter()
                .flat_map(|(resource, ids)| entries(resource, ids))
                .collect(),
            cpu_ids: container.cpus.clone(),
            memory: Vec::new(),
            dynamic_resources: dynamic.collect(),
        }
    }

    fn pod(&self, pod: &Pod) -> api::PodResources {
        let containers = pod.containers.iter().map(|c| self.container(pod, c));
        api::PodResources {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            containers: containers.collect(),
        }
    }

    fn list(&self) -> api::ListPodResourcesResponse {
        api::ListPodResourcesResponse {
            pod_resources: self.pods.active().iter().map(|pod| self.pod(pod)).collect(),
        }
    }

    /// Returns what version `v1alpha1` has: main containers with their devices.
    fn list_alpha(&self) -> api::ListPodResourcesResponse {
        let mut list = api::ListPodResourcesResponse::default();
        for mut pod in self.pods.active() {
            pod.containers.retain(|c| !c.is_sidecar);
            let mut resources = self.pod(&pod);
            for container in &mut resources.containers {
                container.cpu_ids.clear();
                container.dynamic_resources.clear();
                for devices in &mut container.devices {
                    devices.topology = None;
                }
            }
            list.pod_resources.push(resources);
        }
        list
    }

    fn get(&self, request: &api::GetPodResourcesRequest) -> Result<Reply, Status> {
        let (name, namespace) = (&request.pod_name, &request.pod_namespace);
        let pod = self.pods.find(namespace, name).ok_or_else(|| {
            Status::new(
                Code::Unknown,
                format!("pod {name} in namespace {namespace} not found"),
            )
        })?;
        answer(&api::GetPodResourcesResponse {
            pod_resources: Some(self.pod(&pod)),
        })
    }

    fn allocatable(&self) -> api::AllocatableResourcesResponse {
        let mut devices = Vec::new();
        for (resource, known) in self.devices.healthy() {
            let mut by_numa: BTreeMap<i64, Vec<String>> = BTreeMap::new();
            for (id, device) in known {
                let none = [NO_NUMA];
                let nodes = if device.numa.is_empty() {
                    &none[..]
                } else {
                    &device.numa
                };
                for node in nodes {
                    by_numa.entry(*node).or_default().push(id.clone());
                }
            }
            devices.extend(entries(&resource, &by_numa));
        }
        api::AllocatableResourcesResponse {
            devices,
            cpu_ids: self.pods.cpus(),
            memory: Vec::new(),
        }
    }

    fn answer(&self, method: &str, request: &[u8]) -> Option<Result<Reply, Status>> {
        Some(match method {
            api::LIST => answer(&self.list()),
            api::LIST_ALPHA => answer(&self.list_alpha()),
            api::ALLOCATABLE => answer(&self.allocatable()),
            api::GET => match api::GetPodResourcesRequest::decode(request) {
                Ok(request) => self.get(&request),
                Err(wire::Malformed(why)) => Err(Status::new(Code::Internal, why)),
            },
            _ => return None,
        })
    }
}

/// A lister that answers only so many calls.
struct Limited {
    lister: Arc<Lister>,
    bucket: Mutex<(f64, Instant)>,
}

impl Limited {
    fn may_call(&self) -> bool {
        let mut bucket = self.bucket.lock();
        let now = Instant::now();
        let (left, at) = *bucket;
        let left = (left + now.duration_since(at).as_secs_f64() * RATE.0).min(RATE.1);
        let may = left >= 1.0;
        *bucket = (if may { left - 1.0 } else { left }, now);
        may
    }
}

impl Service for Limited {
    fn call(
        &self,
        method: &str,
        request: Bytes,
    ) -> Option<BoxFuture<'static, Result<Reply, Status>>> {
        let reply = if self.may_call() {
            self.lister.answer(method, &request)?
        } else {
            Err(Status::new(
                Code::ResourceExhausted,
                "rejected by rate limit",
            ))
        };
        Some(Box::pin(std::future::ready(reply)))
    }
}
