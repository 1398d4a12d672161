//! Routes requests of the node's endpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use rkube_api::quantity::Format;
use rkube_config::{paths, ports};
use rkube_resource_managers::Settings;
use rkube_runtime::Runtime;

use super::answer::{Answer, full, json, no_pod, not_found, text};
use super::endpoint::Endpoint;
use super::identity::Identity;
use super::query::{self, Query};
use super::{files, forward, logs, metrics, remote, stats, volumes};
use crate::eviction::thresholds::HARD;
use crate::eviction::types::format_amount;
use crate::host::Host;
use crate::pods::instance;
use crate::pods::table::{PodTable, Snapshot};

/// Serves one request.
///
/// Clients that [`Access`](super::Access) does not admit get an error.
pub(super) async fn handle(
    endpoint: &Endpoint,
    identity: &Identity,
    request: Request<Incoming>,
) -> Answer {
    let path = request.uri().path().to_owned();
    let admitted = endpoint
        .access
        .admit(identity, request.method(), &path, request.headers());
    if let Err(answer) = admitted.await {
        return answer;
    }
    let parts: Vec<String> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(query::decode)
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let get = request.method() == Method::GET;
    match parts.as_slice() {
        // Paths that the kubelet does not have are for the control plane.
        ["rkube", ..] if *identity != Identity::Trusted => not_found(),
        ["healthz" | "livez" | "readyz", ..] => text(StatusCode::OK, "ok"),
        ["pods"] if get => pods(&endpoint.pods, false),
        ["runningpods"] if get => pods(&endpoint.pods, true),
        ["containerLogs", namespace, pod, container] if get => {
            logs::serve(endpoint, namespace, pod, container, &query)
        }
        [
            kind @ ("exec" | "attach" | "run"),
            namespace,
            pod,
            rest @ ..,
        ] => {
            let (uid, container) = match rest {
                [container] => (None, *container),
                [uid, container] => (Some(*uid), *container),
                _ => return not_found(),
            };
            let id = match endpoint.running_container(namespace, pod, uid, container) {
                Ok(id) => id,
                Err(e) => return text(StatusCode::NOT_FOUND, e),
            };
            let runtime = endpoint.runtime.clone();
            match *kind {
                "run" => run(&runtime, &id, &query).await,
                kind => remote::serve(runtime, kind == "attach", id, &query, request),
            }
        }
        ["portForward", namespace, pod, rest @ ..] => {
            let uid = rest.first().copied();
            let Some(found) = endpoint.pods.find(namespace, pod, uid) else {
                return no_pod(namespace, pod);
            };
            forward::serve(endpoint.runtime.clone(), &found, &query, request)
        }
        ["stats", "summary"] => {
            let only = matches!(
                query.get("only_cpu_and_memory"),
                Some("1" | "t" | "T" | "true" | "TRUE" | "True")
            );
            stats::summary(endpoint, only).await
        }
        ["metrics"] => metrics::agent(endpoint),
        ["metrics", "resource"] => metrics::resource(endpoint),
        ["metrics", "cadvisor"] => metrics::cadvisor(endpoint).await,
        ["metrics", "probes"] => metrics::probes(),
        ["configz"] => configz(&endpoint.host),
        ["logs", rest @ ..] => files::serve(Path::new("/var/log"), rest).await,
        ["rkube", "certificates"] if get => endpoint.certificates.show(),
        ["rkube", "certificates"] if request.method() == Method::PUT => {
            endpoint.certificates.replace(request.into_body()).await
        }
        ["rkube", "volumes", name] if request.method() == Method::DELETE => {
            volumes::delete(name, query.get("before")).await
        }
        ["checkpoint", ..] => text(
            StatusCode::NOT_FOUND,
            "rkube does not checkpoint containers\n",
        ),
        _ => not_found(),
    }
}

/// Returns the pods on this node as a `PodList`.
fn pods(table: &PodTable, only_running: bool) -> Answer {
    let items: Vec<_> = table
        .all()
        .into_iter()
        .filter(|s| !only_running || any_running(s))
        .map(|s| {
            let mut value = serde_json::to_value(&*s.pod).unwrap_or_default();
            if let Some(map) = value.as_object_mut() {
                map.remove("kind");
                map.remove("apiVersion");
            }
            value
        })
        .collect();
    json(&serde_json::json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items,
    }))
}

fn any_running(snapshot: &Snapshot) -> bool {
    snapshot
        .instances
        .values()
        .filter_map(|a| a.last())
        .any(instance::Instance::running)
}

/// Returns the command of a `/run` request: all `command` parameters, or `cmd` split at spaces.
fn run_command(query: &Query) -> Vec<String> {
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    match query.get("cmd") {
        Some(cmd) if command.is_empty() => cmd.split(' ').map(str::to_owned).collect(),
        _ => command,
    }
}

/// Runs a command in a container and responds with its output.
async fn run(runtime: &Runtime, id: &str, query: &Query) -> Answer {
    match runtime
        .exec_sync(id, &run_command(query), Duration::ZERO)
        .await
    {
        Ok(out) => {
            let mut bytes = out.stdout;
            bytes.extend_from_slice(&out.stderr);
            let mut response = Response::new(full(bytes));
            if out.exit_code != 0 {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// Returns the ranges as the kubelet's configuration has them.
fn join(ranges: &[ipnet::IpNet]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// Returns the kubelet configuration that corresponds to this agent's behavior.
fn configz(host: &Host) -> Answer {
    let config = &host.config;
    let eviction: BTreeMap<&str, String> = HARD
        .iter()
        .map(|threshold| (threshold.signal.as_str(), threshold.value_text()))
        .collect();
    let mut all = serde_json::json!({
        "enableServer": true,
        "port": ports::KUBELET,
        "readOnlyPort": 0,
        "address": config.any_address(),
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true, "cacheTTL": "2m0s"}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": true,
        "clusterDomain": config.cluster.dns_domain,
        "clusterDNS": config.cluster.dns_ips().get(..1),
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 5,
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "2m0s",
        "evictionHard": eviction,
        "evictionPressureTransitionPeriod": "5m0s",
        "maxPods": config.max_pods,
        "nodeLeaseDurationSeconds": 40,
        "nodeStatusReportFrequency": "5m0s",
        "nodeStatusUpdateFrequency": "10s",
        "podCIDR": join(&config.pod_cidrs()),
        "resolvConf": "/etc/resolv.conf",
        "podPidsLimit": config.kubelet.pod_pids_limit.unwrap_or(-1),
        "allowedUnsafeSysctls": config.kubelet.allowed_unsafe_sysctls,
        "seccompDefault": !config.kubelet.no_seccomp_default,
        "serializeImagePulls": false,
        "staticPodPath": paths::MANIFESTS,
        "fileCheckFrequency": "20s",
        "syncFrequency": "1m0s",
    });
    if let (Some(all), serde_json::Value::Object(more)) = (all.as_object_mut(), resources_of(host))
    {
        all.extend(more);
    }
    json(&serde_json::json!({"kubeletconfig": all}))
}

/// Returns the part of the configuration about the node's resources.
fn resources_of(host: &Host) -> serde_json::Value {
    let config = &host.config;
    let settings = &host.settings;
    let option_map = |name: &str| -> BTreeMap<String, String> {
        let pairs = config.kubelet.resources.get(name).split(',');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    serde_json::json!({
        "cpuManagerPolicy": settings.cpu_policy(),
        "cpuManagerPolicyOptions": option_map("cpu-manager-policy-options"),
        "cpuManagerReconcilePeriod": rkube_api::duration::format(settings.reconcile),
        "memoryManagerPolicy": settings.memory_policy(),
        "reservedMemory": reserved_memory(settings),
        "topologyManagerPolicy": settings.topology_policy(),
        "topologyManagerScope": settings.topology_scope(),
        "topologyManagerPolicyOptions": option_map("topology-manager-policy-options"),
        "systemReserved": settings.system.describe(),
        "kubeReserved": settings.kube.describe(),
        "reservedSystemCPUs": settings.reserved_cpus.to_string(),
        "enforceNodeAllocatable": [if settings.enforce_pods { "pods" } else { "none" }],
        "memorySwap": {"swapBehavior": if settings.limited_swap { "LimitedSwap" } else { "NoSwap" }},
        "failSwapOn": false,
    })
}

/// Returns the reserved memory of NUMA nodes in the configuration's form.
fn reserved_memory(settings: &Settings) -> serde_json::Value {
    let mut nodes: BTreeMap<usize, BTreeMap<&str, String>> = BTreeMap::new();
    for ((node, name), bytes) in &settings.reserved_memory {
        let amount = format_amount(*bytes, Format::BinarySi);
        nodes.entry(*node).or_default().insert(name, amount);
    }
    let each = nodes
        .into_iter()
        .map(|(node, limits)| serde_json::json!({"numaNode": node, "limits": limits}));
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_as_parameters_or_as_one_text() {
        for (query, command) in [
            ("command=ls&command=-l", &["ls", "-l"][..]),
            ("cmd=ls%20-l", &["ls", "-l"]),
            ("cmd=a&command=b", &["b"]),
            ("", &[]),
        ] {
            assert_eq!(run_command(&Query::parse(query)), command, "{query}");
        }
    }
}
