//! Creation and deletion of pods on behalf of controllers, with the corresponding events.

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::common::owners;
use crate::context::{Context, Deletion, Result};
use crate::events::Severity::{Normal, Warning};
use crate::informers::Object;

/// Returns the pod that `owner` creates from `template`. The API server completes its name from
/// `generateName`.
pub fn from_template<O: Object>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let meta = owner.metadata();
    let given = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", meta.name.as_deref().unwrap_or_default())),
            namespace: meta.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            finalizers: given.finalizers,
            owner_references: Some(vec![owners::control_by(owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates `pod` for `owner` and reports the outcome as an event on `owner`.
pub async fn create<O: Object>(
    ctx: &Context,
    component: &'static str,
    owner: &O,
    pod: &Pod,
) -> Result<Arc<Pod>> {
    match ctx.create(&ctx.informers.pods, pod).await {
        Ok(pod) => {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            ctx.recorder.event(
                component,
                owner,
                Normal,
                "SuccessfulCreate",
                format!("Created pod: {name}"),
            );
            Ok(pod)
        }
        Err(error) => {
            if !error.is_namespace_terminating() {
                ctx.recorder.event(
                    component,
                    owner,
                    Warning,
                    "FailedCreate",
                    format!("Error creating: {error}"),
                );
            }
            Err(error)
        }
    }
}

/// Deletes `pod` for `owner` and reports the outcome as an event on `owner`. Succeeds if the pod is
/// already gone.
pub async fn delete<O: Object>(
    ctx: &Context,
    component: &'static str,
    owner: &O,
    pod: &Pod,
) -> Result<()> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match ctx
        .delete(&ctx.informers.pods, &pod.metadata, &Deletion::default())
        .await
    {
        Ok(()) => {
            ctx.recorder.event(
                component,
                owner,
                Normal,
                "SuccessfulDelete",
                format!("Deleted pod: {name}"),
            );
            Ok(())
        }
        // Gone, or replaced by another pod of that name (the UID is a precondition).
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => {
            ctx.recorder.event(
                component,
                owner,
                Warning,
                "FailedDelete",
                format!("Error deleting: {error}"),
            );
            Err(error)
        }
    }
}

/// Runs `work` for the indexes `0..count` in concurrent batches of 1, 2, 4, …, and stops after the
/// first batch with a failure.
///
/// This limits the requests that fail for a common reason, such as an exhausted quota. Returns the
/// number of successes and the outcome.
pub async fn slow_start<F, Fut>(count: usize, work: F) -> (usize, Result<()>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let (mut done, mut batch) = (0, 1);
    let mut next = 0;
    while next < count {
        let size = batch.min(count - next);
        let outcomes = join_all((next..next + size).map(&work)).await;
        next += size;
        let mut failed = None;
        for outcome in outcomes {
            match outcome {
                Ok(()) => done += 1,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return (done, Err(error));
        }
        batch *= 2;
    }
    (done, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Error;
    use std::cell::RefCell;

    #[tokio::test]
    async fn batches_grow_and_stop_at_a_failure() {
        let tried = RefCell::new(Vec::new());
        let (done, outcome) = slow_start(20, |i| {
            tried.borrow_mut().push(i);
            let outcome = (i != 4).then_some(()).ok_or_else(|| Error::other("no"));
            async move { outcome }
        })
        .await;
        assert_eq!((done, tried.borrow().len()), (6, 7)); // 1 + 2 + 4
        assert!(outcome.is_err());
        let (done, outcome) = slow_start(5, |_| async { Ok(()) }).await;
        assert_eq!(done, 5);
        assert!(outcome.is_ok());
    }
}
