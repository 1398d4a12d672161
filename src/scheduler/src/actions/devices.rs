//! Requests about resource claims.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Error;
use kube::api::{Api, Patch, PatchParams, PostParams};
use rkube_device_allocation::FINALIZER;
use serde_json::json;

use super::{Actions, api_message, is_gone};
use crate::devices::{Reservation, allocation, full_name};
use crate::model::PodInfo;

/// Number of attempts to write a claim that others change at the same time.
const ATTEMPTS: usize = 5;

/// Why a claim was not written.
enum Problem {
    /// Somebody else changed the claim.
    Conflict(String),
    /// Another attempt would not help.
    Final(String),
}

fn problem(error: &Error, what: String) -> Problem {
    let text = format!("{what}: {}", api_message(error));
    match error {
        Error::Api(status) if status.code == 409 => Problem::Conflict(text),
        _ => Problem::Final(text),
    }
}

fn name(claim: &ResourceClaim) -> &str {
    claim.metadata.name.as_deref().unwrap_or_default()
}

impl Actions {
    fn claims(&self, claim: &ResourceClaim) -> Api<ResourceClaim> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Reads a claim.
    ///
    /// # Errors
    ///
    /// Returns the message of the server.
    pub async fn read_claim(&self, claim: &ResourceClaim) -> Result<ResourceClaim, String> {
        let read = self.claims(claim).get(name(claim)).await;
        read.map_err(|error| api_message(&error))
    }

    /// Writes the chosen devices to a claim and reserves it for a pod.
    ///
    /// # Errors
    ///
    /// Returns why that is not possible, in upstream's words.
    pub async fn reserve(
        &self,
        pod: &PodInfo,
        reservation: &Reservation,
    ) -> Result<ResourceClaim, String> {
        let mut claim = (*reservation.claim).clone();
        let full = full_name(&claim);
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                let wait = std::time::Duration::from_millis(10 << attempt);
                tokio::time::sleep(wait).await;
                let again = self.read_claim(&claim).await;
                claim = again
                    .map_err(|why| format!("get updated claim {full} after conflict: {why}"))?;
            }
            match self.try_reserve(pod, &mut claim, reservation).await {
                Ok(written) => return Ok(written),
                Err(Problem::Final(why)) => return Err(why),
                Err(Problem::Conflict(why)) => last = why,
            }
        }
        Err(last)
    }

    async fn try_reserve(
        &self,
        pod: &PodInfo,
        claim: &mut ResourceClaim,
        reservation: &Reservation,
    ) -> Result<ResourceClaim, Problem> {
        let full = full_name(claim);
        let params = PostParams::default();
        if claim.metadata.deletion_timestamp.is_some() {
            let why = format!("claim {full} got deleted in the meantime");
            return Err(Problem::Final(why));
        }
        if let Some(devices) = &reservation.allocation {
            if allocation(claim).is_some() {
                let why = format!("claim {full} got allocated elsewhere in the meantime");
                return Err(Problem::Final(why));
            }
            let finalizers = claim.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|f| f == FINALIZER) {
                finalizers.push(FINALIZER.to_owned());
                let written = self
                    .claims(claim)
                    .replace(name(claim), &params, claim)
                    .await;
                *claim = written
                    .map_err(|error| problem(&error, format!("add finalizer to claim {full}")))?;
            }
            claim.status.get_or_insert_default().allocation = Some(devices.clone());
        }
        let status = claim.status.get_or_insert_default();
        let Some(devices) = &mut status.allocation else {
            let why = format!("claim {full} got deallocated elsewhere in the meantime");
            return Err(Problem::Final(why));
        };
        let now = Timestamp::now();
        let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
        devices.allocation_timestamp.get_or_insert(Time(second));
        let users = status.reserved_for.get_or_insert_default();
        users.push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        });
        let what = match reservation.allocation {
            Some(_) => format!("add allocation and reservation to claim {full}"),
            None => format!("add reservation to claim {full}"),
        };
        let written = self.claims(claim);
        let written = written.replace_status(name(claim), &params, claim).await;
        written.map_err(|error| problem(&error, what))
    }

    /// Takes the reservation of a pod back. An error is logged: once the pod is gone, the controller
    /// of resource claims does it.
    pub async fn unreserve(&self, claim: &ResourceClaim, pod: &str, uid: &str) {
        let patch = json!({"metadata": {"uid": claim.metadata.uid},
            "status": {"reservedFor": [{"$patch": "delete", "uid": uid}]}});
        let done = self.claims(claim);
        let done = done
            .patch_status(
                name(claim),
                &PatchParams::default(),
                &Patch::Strategic(&patch),
            )
            .await;
        if let Err(error) = done
            && !is_gone(&error)
        {
            tracing::warn!(claim = name(claim), pod, %error, "could not take a reservation back");
        }
    }

    /// Takes the devices of a claim back that keep its only pod from all nodes. An error is logged:
    /// the next attempt to schedule the pod tries again.
    pub async fn deallocate(&self, claim: &ResourceClaim) {
        let mut free = claim.clone();
        free.status = None;
        let done = self.claims(claim);
        let done = done
            .replace_status(name(claim), &PostParams::default(), &free)
            .await;
        if let Err(error) = done
            && !is_gone(&error)
        {
            tracing::warn!(claim = name(claim), %error, "could not take the devices of a claim back");
        }
    }
}
