//! Refuses pods that ask for what this node cannot enforce.
//!
//! A field that is accepted and ignored would leave a pod less confined, or equipped, than its
//! author believes. Reasons and messages are those of an upstream node that lacks the feature.

use k8s_openapi::api::core::v1::AppArmorProfile;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;

use super::admission::refuse;
use super::reason::Reason;
use crate::kinds::*;

/// Names of the runtime's handlers that a `RuntimeClass` may select.
pub(crate) const RUNTIME_HANDLERS: [&str; 1] = ["runc"];
/// Prefix of the annotations that preceded `appArmorProfile`; the rest is a container's name.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Returns all containers of a pod.
fn containers(pod: &Pod) -> impl Iterator<Item = Container> {
    let ordinary = pod.init_containers().iter().chain(&pod.spec().containers);
    ordinary.cloned().chain(pod.ephemeral())
}

/// Refuses a pod that requires an AppArmor profile.
pub(super) fn app_armor(pod: &Pod) -> Result<(), Reason> {
    let context = pod.spec().security_context.as_ref();
    let by_pod = confined(context.and_then(|c| c.app_armor_profile.as_ref()));
    let by_container = || containers(pod).any(|c| container_profile(&c).is_some());
    let by_annotation = || {
        let annotations = pod.metadata.annotations.iter().flatten();
        annotations
            .into_iter()
            .any(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && value != "unconfined")
    };
    if by_pod || by_container() || by_annotation() {
        return Err(refuse(
            "AppArmor",
            "Cannot enforce AppArmor: AppArmor is not enabled on the host",
        ));
    }
    Ok(())
}

/// Returns the container's own AppArmor profile unless it is unconfined.
fn container_profile(container: &Container) -> Option<&AppArmorProfile> {
    let context = container.security_context.as_ref()?;
    let profile = context.app_armor_profile.as_ref();
    profile.filter(|p| confined(Some(p)))
}

fn confined(profile: Option<&AppArmorProfile>) -> bool {
    profile.is_some_and(|p| p.type_ != "Unconfined")
}

/// Refuses an ephemeral container, added after the pod's admission, that requires an AppArmor
/// profile.
pub(super) fn late_app_armor(container: &Container) -> Result<(), String> {
    match container_profile(container) {
        Some(_) => Err("apparmor is not supported".into()),
        None => Ok(()),
    }
}

/// Checks that the runtime can create the pod's sandbox: its `RuntimeClass` names a handler of the
/// runtime, and it needs no user namespace unless the node has them (`users`).
///
/// # Errors
///
/// Returns upstream's message; the sandbox may be possible later, as classes can change.
pub(super) async fn sandbox(client: &kube::Client, pod: &Pod, users: bool) -> Result<(), String> {
    let handler = match pod.spec().runtime_class_name.as_deref() {
        None | Some("") => String::new(),
        Some(name) => {
            let classes: Api<RuntimeClass> = Api::all(client.clone());
            let class = classes.get(name).await.map_err(|e| match e {
                kube::Error::Api(status) => status.message,
                e => format!("failed to lookup RuntimeClass {name}: {e}"),
            })?;
            class.handler
        }
    };
    check_sandbox(pod, &handler, users)
}

fn check_sandbox(pod: &Pod, handler: &str, users: bool) -> Result<(), String> {
    if pod.spec().host_users == Some(false) && !(users && is_handler(handler)) {
        let subject = match handler {
            "" => "runtime".to_owned(),
            handler => format!("RuntimeClass handler {handler:?}"),
        };
        return Err(format!(
            "can't set `spec.hostUsers: false`, {subject} does not support user namespaces"
        ));
    }
    if !is_handler(handler) {
        return Err(format!(
            "failed to get sandbox runtime: no runtime for {handler:?} is configured"
        ));
    }
    Ok(())
}

/// Returns whether the runtime has a handler of that name; without one, it is the default.
fn is_handler(name: &str) -> bool {
    name.is_empty() || RUNTIME_HANDLERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSecurityContext, SecurityContext};

    fn profile(type_: &str) -> Option<AppArmorProfile> {
        Some(AppArmorProfile {
            type_: type_.into(),
            localhost_profile: (type_ == "Localhost").then(|| "p".into()),
        })
    }

    fn pod(pod: Option<AppArmorProfile>, container: Option<AppArmorProfile>) -> Pod {
        Pod {
            spec: Some(PodSpec {
                security_context: Some(PodSecurityContext {
                    app_armor_profile: pod,
                    ..Default::default()
                }),
                containers: vec![Container {
                    security_context: Some(SecurityContext {
                        app_armor_profile: container,
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn confined_pods_are_refused() {
        for (of_pod, of_container, refused) in [
            (None, None, false),
            (profile("Unconfined"), profile("Unconfined"), false),
            (profile("RuntimeDefault"), None, true),
            (profile("RuntimeDefault"), profile("Unconfined"), true),
            (None, profile("RuntimeDefault"), true),
            (None, profile("Localhost"), true),
        ] {
            let pod = pod(of_pod, of_container);
            let answer = app_armor(&pod);
            assert_eq!(answer.is_err(), refused, "{:?}", pod.spec);
            if let Err(reason) = answer {
                assert_eq!(reason.reason, "AppArmor");
                assert_eq!(
                    reason.message,
                    "Cannot enforce AppArmor: AppArmor is not enabled on the host"
                );
            }
        }
    }

    #[test]
    fn annotations_confine_too() {
        for (value, refused) in [("unconfined", false), ("runtime/default", true)] {
            let mut pod = pod(None, None);
            let key = format!("{APP_ARMOR_ANNOTATION}c");
            pod.metadata.annotations = Some([(key, value.to_owned())].into());
            assert_eq!(app_armor(&pod).is_err(), refused, "{value}");
        }
    }

    #[test]
    fn late_containers_are_refused() {
        let container = |p| pod(None, p).spec().containers[0].clone();
        assert_eq!(late_app_armor(&container(None)), Ok(()));
        assert_eq!(late_app_armor(&container(profile("Unconfined"))), Ok(()));
        assert_eq!(
            late_app_armor(&container(profile("Localhost"))),
            Err("apparmor is not supported".to_owned())
        );
    }

    /// Returns a client whose server knows one `RuntimeClass`, with this handler.
    fn server_with_class(handler: &'static str) -> kube::Client {
        let service = tower::service_fn(
            move |request: http::Request<kube::client::Body>| async move {
                let known = request.uri().path() == "/apis/node.k8s.io/v1/runtimeclasses/known";
                let (code, body) = if known {
                    let body = serde_json::json!({
                        "apiVersion": "node.k8s.io/v1",
                        "kind": "RuntimeClass",
                        "metadata": {"name": "known"},
                        "handler": handler,
                    });
                    (200, body)
                } else {
                    let body = serde_json::json!({
                        "kind": "Status",
                        "apiVersion": "v1",
                        "metadata": {},
                        "status": "Failure",
                        "message": "runtimeclasses.node.k8s.io \"none\" not found",
                        "reason": "NotFound",
                        "code": 404,
                    });
                    (404, body)
                };
                let body = kube::client::Body::from(body.to_string().into_bytes());
                let response = http::Response::builder().status(code).body(body);
                response.map_err(std::io::Error::other)
            },
        );
        kube::Client::new(service, "default")
    }

    #[tokio::test]
    async fn handlers_are_those_of_the_class() {
        for (class, handler, message) in [
            (None, "", None),
            (Some(""), "", None),
            (Some("known"), "runc", None),
            (
                Some("known"),
                "kata",
                Some("failed to get sandbox runtime: no runtime for \"kata\" is configured"),
            ),
            (
                Some("none"),
                "runc",
                Some("runtimeclasses.node.k8s.io \"none\" not found"),
            ),
        ] {
            let pod = Pod {
                spec: Some(PodSpec {
                    runtime_class_name: class.map(Into::into),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let answer = sandbox(&server_with_class(handler), &pod, true).await;
            assert_eq!(answer.err().as_deref(), message, "{class:?} {handler}");
        }
    }

    #[test]
    fn sandboxes_need_a_known_handler_and_a_node_with_user_namespaces() {
        let pod = |host_users| Pod {
            spec: Some(PodSpec {
                host_users,
                ..Default::default()
            }),
            ..Default::default()
        };
        for (host_users, handler, message) in [
            (None, "", None),
            (Some(true), "runc", None),
            (
                None,
                "gvisor",
                Some("failed to get sandbox runtime: no runtime for \"gvisor\" is configured"),
            ),
            (
                Some(false),
                "",
                Some("can't set `spec.hostUsers: false`, runtime does not support user namespaces"),
            ),
            (
                Some(false),
                "runc",
                Some(
                    "can't set `spec.hostUsers: false`, RuntimeClass handler \"runc\" does not support user namespaces",
                ),
            ),
        ] {
            let answer = check_sandbox(&pod(host_users), handler, false);
            assert_eq!(answer.err().as_deref(), message, "{host_users:?} {handler}");
        }
        for (handler, possible) in [("", true), ("runc", true), ("gvisor", false)] {
            let answer = check_sandbox(&pod(Some(false)), handler, true);
            assert_eq!(answer.is_ok(), possible, "{handler}");
        }
    }
}
