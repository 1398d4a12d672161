//! Forwarded requests: to node agents (logs, exec, attach, port-forward, node proxy), pods and
//! services.

mod forward;
mod html;
pub mod location;
mod target;
mod transport;
mod websocket;

use http::{HeaderValue, Method, Response, StatusCode, header};
use rkube_api::GroupResource;
use rkube_api::status::Status;

use crate::backend::Backend;
use crate::body::{self, Body};
use crate::cache::Cache;
use crate::call::{Call, Incoming};
use crate::storage::RestStorage;
use rkube_request::{RequestInfo, encode, encode_path};

pub use forward::{forwarded_headers, is_upgrade, join, returned};
use target::Target;
pub use transport::{HttpClient, Transports, client_for};

/// Returns whether the request is forwarded instead of handled.
pub fn is_connect(info: &RequestInfo) -> bool {
    info.group.is_empty()
        && info.version == "v1"
        && matches!(
            (info.resource.as_str(), info.subresource.as_str()),
            ("pods", "log" | "exec" | "attach" | "portforward" | "proxy")
                | ("services" | "nodes", "proxy")
        )
}

/// Serves a request by forwarding it.
pub async fn handle(
    storage: &RestStorage,
    transports: &Transports,
    call: &Call,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let backend = &storage.backend;
    let info = &call.info;
    let resource = GroupResource::new("", info.resource.clone());
    let supported = match info.subresource.as_str() {
        "log" => call.method == Method::GET,
        "exec" | "attach" | "portforward" => matches!(call.method, Method::GET | Method::POST),
        _ => true,
    };
    if !supported {
        return Err(Status::method_not_supported(&resource, info.verb));
    }
    backend.cache.consistent().await;
    match (info.resource.as_str(), info.subresource.as_str()) {
        ("pods", "log") => logs(backend, transports, call, request).await,
        ("pods", "exec" | "attach" | "portforward") => {
            admit(storage, call).await?;
            let target = pod_stream(&backend.cache, info)?;
            forward::forward(
                transports,
                &backend.shutdown,
                call,
                request,
                target,
                forward::Style::Stream,
            )
            .await
        }
        (_, _) => {
            admit(storage, call).await?;
            let target = match info.resource.as_str() {
                "pods" => location::pod(&backend.cache, info)?,
                "services" => location::service(&backend.cache, info)?,
                _ => location::node(&backend.cache, info).await?,
            };
            // Redirect to the path with a trailing slash, so that relative links in the page
            // resolve.
            if info.rest.is_empty()
                && matches!(call.method, Method::GET | Method::HEAD)
                && !forward::is_upgrade(&call.headers)
            {
                return Ok(redirect(call));
            }
            forward::forward(
                transports,
                &backend.shutdown,
                call,
                request,
                target,
                forward::Style::Proxy,
            )
            .await
        }
    }
}

/// Runs admission for the connection.
async fn admit(storage: &RestStorage, call: &Call) -> Result<(), Status> {
    let info = &call.info;
    let kind = match (info.resource.as_str(), info.subresource.as_str()) {
        (_, "exec") => "PodExecOptions",
        (_, "attach") => "PodAttachOptions",
        (_, "portforward") => "PodPortForwardOptions",
        ("pods", _) => "PodProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    };
    storage
        .admission
        .admit_connection(&storage.backend, call, kind)
        .await
}

fn redirect(call: &Call) -> Response<Body> {
    let query = call.info.query.encoded();
    let place = format!(
        "{}/{}{query}",
        encode_path(&call.info.path),
        if query.is_empty() { "" } else { "?" }
    );
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(value) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// Returns the node agent's endpoint for exec, attach or port-forward.
fn pod_stream(cache: &Cache, info: &RequestInfo) -> Result<Target, Status> {
    let pod = location::get_pod(cache, &info.namespace, &info.name)?;
    let mut query = Vec::new();
    let path = match info.subresource.as_str() {
        "portforward" => {
            for port in info.query.all("ports").flat_map(|p| p.split(',')) {
                query.push(format!("port={}", encode(port)));
            }
            format!("/portForward/{}/{}", info.namespace, info.name)
        }
        verb => {
            let container = location::container(&pod, info)?;
            let flags = [
                ("stdin", "input"),
                ("stdout", "output"),
                ("stderr", "error"),
                ("tty", "tty"),
            ];
            // As in the defaults of PodAttachOptions, output is attached unless disabled.
            for (asked, passed) in flags {
                let default =
                    matches!(asked, "stdout" | "stderr") && info.query.get(asked).is_none();
                if info.query.is_true(asked) || default {
                    query.push(format!("{passed}=1"));
                }
            }
            if verb == "exec" {
                query.extend(
                    info.query
                        .all("command")
                        .map(|c| format!("command={}", encode(c))),
                );
            }
            format!(
                "/{verb}/{}/{}/{}",
                info.namespace,
                info.name,
                encode(&container)
            )
        }
    };
    location::agent_of_pod(cache, &pod, &path, &query.join("&"))
}

/// Serves a container's log from the node agent.
async fn logs(
    backend: &Backend,
    transports: &Transports,
    call: &Call,
    mut request: Incoming,
) -> Result<Response<Body>, Status> {
    let info = &call.info;
    let socket = websocket::Handshake::of(call, &mut request)?;
    location::validate_log_options(info)?;
    let pod = location::get_pod(&backend.cache, &info.namespace, &info.name)?;
    let container = location::container(&pod, info)?;
    let passed = [
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    let query: Vec<String> = passed
        .iter()
        .filter_map(|key| {
            let value = info.query.non_empty(key)?;
            let flag = matches!(*key, "follow" | "previous" | "timestamps");
            match (flag, info.query.is_true(key)) {
                (true, true) => Some(format!("{key}=true")),
                (true, false) => None,
                (false, _) => Some(format!("{key}={}", encode(value))),
            }
        })
        .collect();
    let path = format!(
        "/containerLogs/{}/{}/{}",
        info.namespace,
        info.name,
        encode(&container)
    );
    let target = location::agent_of_pod(&backend.cache, &pod, &path, &query.join("&"))?;
    let answer = forward::forward(
        transports,
        &backend.shutdown,
        call,
        request,
        target,
        forward::Style::Log,
    )
    .await?;
    Ok(match socket {
        Some(socket) => socket.serve(answer, backend.shutdown.clone()),
        None => answer,
    })
}
