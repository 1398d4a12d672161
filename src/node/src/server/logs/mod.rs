//! Serves container logs for `kubectl logs`.
//!
//! - [`options`] are what a request asks for.
//! - [`reader`] copies a log to the response, from the line that [`tail`] finds; [`watch`] tells it
//!   of changes.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rkube_runtime::ContainerState;
use tokio::sync::mpsc::channel;

mod options;
mod reader;
mod tail;
mod watch;

use super::answer::{Answer, no_pod, text};
use super::query::Query;
use crate::kinds::*;
use crate::pods::container_id;
use crate::pods::instance::Instance;
use crate::pods::paths::log_path;
use crate::server::endpoint::Endpoint;
use options::LogOptions;
use reader::{Out, Reader};

/// Serves `/containerLogs`. With `follow`, the response ends with the container.
pub(crate) fn serve(
    endpoint: &Endpoint,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Answer {
    let options = match LogOptions::from_query(query) {
        Ok(options) => options,
        Err(e) => return text(StatusCode::BAD_REQUEST, e),
    };
    let Some(found) = endpoint.pods.find(namespace, pod, None) else {
        return no_pod(namespace, pod);
    };
    if found.pod.container(container).is_none() {
        return text(
            StatusCode::NOT_FOUND,
            format!("container {container:?} not found in pod {pod:?}"),
        );
    }
    let attempts = found
        .instances
        .get(container)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let previous = query.is_set(&["previous"]);
    let instance = if previous {
        ended_before(&found.pod, attempts, container)
    } else {
        latest_started(attempts)
    };
    let instance = match instance {
        Some(instance) => instance,
        None if previous => {
            return text(
                StatusCode::BAD_REQUEST,
                format!("previous terminated container {container:?} in pod {pod:?} not found"),
            );
        }
        None => {
            let reason = waiting_reason(&found.pod, container);
            return text(
                StatusCode::BAD_REQUEST,
                format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"),
            );
        }
    };
    let path = log_path(&found.pod, container, instance.attempt);
    let (sender, receiver) = channel::<Result<Frame<Bytes>, std::io::Error>>(4);
    let reader = Reader {
        runtime: endpoint.runtime.clone(),
        id: instance.id.clone(),
        path,
        options,
        out: Out::new(sender),
        mid_line: false,
    };
    tokio::spawn(reader.run());
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let frame = receiver.recv().await?;
        Some((frame, receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain"),
    );
    response
}

/// Returns the latest attempt that was started.
fn latest_started(attempts: &[Instance]) -> Option<&Instance> {
    let started = |i: &&Instance| i.state != ContainerState::Created;
    attempts.iter().rev().find(started)
}

/// Returns the attempt of the container's `lastState`: the latest one that has ended and is not
/// its current state. While the container waits for a restart, that is the latest attempt.
fn ended_before<'a>(pod: &Pod, attempts: &'a [Instance], container: &str) -> Option<&'a Instance> {
    let last = container_status(pod, container)?.last_state.as_ref()?;
    let id = last.terminated.as_ref()?.container_id.as_ref()?;
    attempts.iter().find(|i| container_id(&i.id) == *id)
}

/// Returns the status of an init, main or ephemeral container.
fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten()
        .find(|s| s.name == name)
}

fn waiting_reason(pod: &Pod, container: &str) -> String {
    container_status(pod, container)
        .and_then(|s| s.state.as_ref()?.waiting.as_ref())
        .map(|w| match (&w.reason, &w.message) {
            (Some(r), Some(m)) if matches!(r.as_str(), "ErrImagePull" | "ImagePullBackOff") => {
                format!("trying and failing to pull image: {m}")
            }
            (Some(r), _) => r.clone(),
            _ => "ContainerCreating".into(),
        })
        .unwrap_or_else(|| "ContainerCreating".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(states: &[ContainerState]) -> Vec<Instance> {
        states
            .iter()
            .zip(0..)
            .map(|(state, attempt)| Instance {
                attempt,
                ..crate::pods::instance::testing::instance("c", "s", *state, 0)
            })
            .collect()
    }

    #[test]
    fn the_latest_attempt_that_ran_is_shown() {
        use ContainerState::{Created, Exited, Running};
        for (states, attempt) in [
            (&[][..], None),
            (&[Created], None),
            (&[Running], Some(0)),
            (&[Exited, Running], Some(1)),
            (&[Exited, Created], Some(0)),
        ] {
            let attempts = attempts(states);
            let shown = latest_started(&attempts).map(|i| i.attempt);
            assert_eq!(shown, attempt, "{states:?}");
        }
    }

    #[test]
    fn the_previous_attempt_is_that_of_the_last_state() {
        use ContainerState::{Exited, Running};
        let pod = |last: Option<&str>| {
            let terminated = last.map(|id| ContainerStateTerminated {
                container_id: Some(container_id(id)),
                ..Default::default()
            });
            Pod {
                status: Some(PodStatus {
                    container_statuses: Some(vec![ContainerStatus {
                        name: "c".into(),
                        last_state: Some(k8s_openapi::api::core::v1::ContainerState {
                            terminated,
                            ..Default::default()
                        }),
                        ..Default::default()
                    }]),
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let mut attempts = attempts(&[Exited, Running]);
        attempts[1].id = "second".into();
        let shown = |pod: &Pod| ended_before(pod, &attempts, "c").map(|i| i.attempt);
        assert_eq!(shown(&pod(Some("c-id"))), Some(0));
        // Waiting for a restart: the attempt that ended last.
        assert_eq!(shown(&pod(Some("second"))), Some(1));
        assert_eq!(shown(&pod(Some("collected"))), None);
        assert_eq!(shown(&pod(None)), None);
        assert_eq!(shown(&Pod::default()), None);
    }

    #[test]
    fn waiting_containers_have_a_reason() {
        let pod = |reason: &str, message: Option<&str>| Pod {
            status: Some(PodStatus {
                container_statuses: Some(vec![ContainerStatus {
                    name: "c".into(),
                    state: Some(k8s_openapi::api::core::v1::ContainerState {
                        waiting: Some(ContainerStateWaiting {
                            reason: Some(reason.into()),
                            message: message.map(Into::into),
                        }),
                        ..Default::default()
                    }),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(waiting_reason(&Pod::default(), "c"), "ContainerCreating");
        let crashed = pod("CrashLoopBackOff", Some("back-off"));
        assert_eq!(waiting_reason(&crashed, "c"), "CrashLoopBackOff");
        assert_eq!(waiting_reason(&crashed, "d"), "ContainerCreating");
        assert_eq!(
            waiting_reason(&pod("ErrImagePull", Some("not found")), "c"),
            "trying and failing to pull image: not found"
        );
    }
}
