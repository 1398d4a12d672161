//! Addresses of services of type LoadBalancer: the part of a cloud's load balancers that assigns
//! them. Nodes answer for the addresses (see `rkube-network`, module `balance`).

mod decide;

use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service};

use self::decide::{Decision, FINALIZER, decide};
use crate::context::{Context, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::{Normal, Warning};
use crate::informers::Key;
use crate::queue::Queue;

/// The name in events and logs, upstream's.
const NAME: &str = "service-controller";

/// The controller of load balancers' addresses.
pub struct LoadBalancerController {
    ctx: Context,
    queue: Queue<Key>,
}

impl LoadBalancerController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }

    /// Writes the address, if any, and the finalizer that goes with it.
    async fn write(&self, service: &Service, address: Option<Ipv4Addr>) -> Result<bool> {
        let mut changed = service.clone();
        let finalizers = changed.metadata.finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if address.is_some() {
            finalizers.push(FINALIZER.into());
        }
        let status = changed.status.get_or_insert_default();
        status.load_balancer = Some(LoadBalancerStatus {
            ingress: address.map(|ip| {
                vec![LoadBalancerIngress {
                    ip: Some(ip.to_string()),
                    ip_mode: Some("VIP".into()),
                    ..LoadBalancerIngress::default()
                }]
            }),
        });
        let store = &self.ctx.informers.services;
        // The finalizer is written with the status, as upstream does.
        let written = optional(self.ctx.update_status(store, &changed).await)?;
        Ok(written.is_some())
    }

    async fn fail(&self, service: &Service, why: String) -> Result<()> {
        self.ctx.recorder.event(
            NAME,
            service,
            Warning,
            "SyncLoadBalancerFailed",
            format!("Error syncing load balancer: failed to ensure load balancer: {why}"),
        );
        // An address may become free without a change of this service.
        Err(Error::other(format!(
            "no address for the service {}: {why}",
            service.metadata.name.as_deref().unwrap_or_default()
        )))
    }
}

impl Controller for LoadBalancerController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    /// One, so that no address is given to two services.
    fn workers(&self) -> usize {
        1
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let services = self.ctx.informers.services.clone();
        watches.watches(&self.ctx.informers.services, move |change, queue| {
            queue.add(Key::of(&change.object().metadata));
            if !change
                .states()
                .any(|state| decide::address_of(state).is_some())
            {
                return;
            }
            // The address may have become free for others.
            let all = services.list().into_iter();
            for other in all.filter(|other| decide::waits(other)) {
                queue.add(Key::of(&other.metadata));
            }
        });
        // Their addresses are not given away.
        watches.reads(&self.ctx.informers.nodes);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let services = &self.ctx.informers.services;
        let Some(service) = services.by_key(&key) else {
            return Ok(());
        };
        let config = &self.ctx.config;
        let all: Vec<Arc<Service>> = services.list();
        let nodes = self.ctx.informers.nodes.list();
        let hosts = decide::addresses_of(&nodes);
        match decide(
            &service,
            &all,
            config.load_balancers,
            config.node_cidr,
            &hosts,
        ) {
            Decision::Nothing => Ok(()),
            Decision::Release => {
                if self.write(&service, None).await? {
                    let message = "Deleted load balancer";
                    let recorder = &self.ctx.recorder;
                    recorder.event(NAME, &*service, Normal, "DeletedLoadBalancer", message);
                }
                Ok(())
            }
            Decision::Assign(address) => {
                let is_new = decide::address_of(&service) != Some(address);
                if self.write(&service, Some(address)).await? && is_new {
                    let message = "Ensured load balancer";
                    let recorder = &self.ctx.recorder;
                    recorder.event(NAME, &*service, Normal, "EnsuredLoadBalancer", message);
                }
                Ok(())
            }
            Decision::Refuse { release, why } => {
                if release {
                    self.write(&service, None).await?;
                }
                self.fail(&service, why).await
            }
        }
    }
}
