//! Collects what is needed to see afterwards what happened in a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, ResourceExt};
use rkube_drivers::NodeState;
use rkube_failure::Failure;
use serde::Deserialize;
use serde_json::Value;

use crate::files::{Home, io_failure};
use crate::kubeconfig::Kubeconfig;
use crate::profile::Profile;
use crate::{Progress, access};

/// The time that the API server may take for one answer.
const API_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest part of a container's log that is kept, in bytes: the end.
const LOG_LIMIT: usize = 16 << 20;

/// Objects that are written, with the path of their list: names, and paths of the API. Secrets
/// are left out, because the result is meant to be shown to others.
const KINDS: &[(&str, &str)] = &[
    ("nodes", "/api/v1/nodes"),
    ("namespaces", "/api/v1/namespaces"),
    ("pods", "/api/v1/pods"),
    ("services", "/api/v1/services"),
    ("endpointslices", "/apis/discovery.k8s.io/v1/endpointslices"),
    ("deployments", "/apis/apps/v1/deployments"),
    ("replicasets", "/apis/apps/v1/replicasets"),
    ("statefulsets", "/apis/apps/v1/statefulsets"),
    ("daemonsets", "/apis/apps/v1/daemonsets"),
    ("jobs", "/apis/batch/v1/jobs"),
    ("cronjobs", "/apis/batch/v1/cronjobs"),
    ("ingresses", "/apis/networking.k8s.io/v1/ingresses"),
    ("persistentvolumes", "/api/v1/persistentvolumes"),
    ("persistentvolumeclaims", "/api/v1/persistentvolumeclaims"),
    ("storageclasses", "/apis/storage.k8s.io/v1/storageclasses"),
    (
        "customresourcedefinitions",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    ),
    ("apiservices", "/apis/apiregistration.k8s.io/v1/apiservices"),
    ("events", "/api/v1/events"),
];

/// The result of an export.
#[derive(Debug)]
pub struct Exported {
    /// Number of files.
    pub files: usize,
    /// Items that could not be read, with the reasons.
    pub missing: Vec<String>,
}

/// A directory that is filled.
struct Target<'a> {
    dir: &'a Path,
    done: Exported,
}

impl Target<'_> {
    fn write(&mut self, name: impl AsRef<Path>, content: &[u8]) -> Result<(), Failure> {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| io_failure("create", parent, &e))?;
        }
        std::fs::write(&path, content).map_err(|e| io_failure("write", &path, &e))?;
        self.done.files += 1;
        Ok(())
    }

    fn lacks(&mut self, what: &str, why: impl std::fmt::Display) {
        self.done.missing.push(format!("{what}: {why}"));
    }
}

/// Writes the logs of nodes and pods, objects, events and versions to files below `dir`. What
/// cannot be had is noted and left out, so that a broken cluster can be exported.
///
/// # Errors
/// Fails if the files cannot be written.
pub async fn export(
    home: &Home,
    profile: &Profile,
    kubeconfig: &Kubeconfig,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Exported, Failure> {
    let mut target = Target {
        dir,
        done: Exported {
            files: 0,
            missing: Vec::new(),
        },
    };
    progress.step("nodes", "Reading the logs of the nodes");
    describe(home, profile, kubeconfig, &mut target).await?;
    node_logs(home, profile, &mut target).await?;
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let states = driver.states(&profile.plan(home)).await?;
    if states.first() == Some(&NodeState::Running) {
        progress.step("objects", "Reading the objects and the logs of the pods");
        let client = access::client(home, profile).await?;
        objects(&client, &mut target).await?;
        pod_logs(&client, &mut target).await?;
    } else {
        let why = match states.first() {
            Some(NodeState::Paused) => "the cluster is paused",
            _ => "the cluster is not running",
        };
        target.lacks("objects and logs of pods", why);
    }
    if !target.done.missing.is_empty() {
        let text = target.done.missing.join("\n") + "\n";
        target.write("missing.txt", text.as_bytes())?;
    }
    Ok(target.done)
}

/// Writes the versions, the profile and the status.
async fn describe(
    home: &Home,
    profile: &Profile,
    kubeconfig: &Kubeconfig,
    target: &mut Target<'_>,
) -> Result<(), Failure> {
    let version = format!(
        "rkube v{}\nkubernetes {}\nsystem {} {}\nkernel {}\n",
        env!("CARGO_PKG_VERSION"),
        rkube_config::VERSION,
        std::env::consts::OS,
        std::env::consts::ARCH,
        std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_else(|_| "unknown".into())
            .trim(),
    );
    target.write("version.txt", version.as_bytes())?;
    match serde_yaml::to_string(profile) {
        Ok(text) => target.write("profile.yaml", text.as_bytes())?,
        Err(e) => target.lacks("profile.yaml", e),
    }
    match crate::status(home, profile, kubeconfig).await {
        Ok(status) => {
            let text = serde_json::to_vec_pretty(&status.nodes).unwrap_or_default();
            target.write("status.json", &text)?;
        }
        Err(e) => target.lacks("status.json", e.message),
    }
    Ok(())
}

async fn node_logs(home: &Home, profile: &Profile, target: &mut Target<'_>) -> Result<(), Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let plan = profile.plan(home);
    match driver.driver_logs(&plan).await {
        Ok(logs) => {
            for log in logs {
                target.write(format!("{}.log", log.name), &log.content)?;
            }
        }
        Err(e) => target.lacks("logs of the driver", e.message),
    }
    for node in &profile.nodes {
        match driver.logs(&plan, &node.name).await {
            Ok(logs) => {
                for log in logs {
                    let path = Path::new(&node.name).join(format!("{}.log", log.name));
                    target.write(path, &log.content)?;
                }
            }
            Err(e) => target.lacks(&format!("logs of the node {}", node.name), e.message),
        }
    }
    Ok(())
}

/// The answer to a list request for a table.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
}

#[derive(Deserialize)]
struct Row {
    cells: Vec<Value>,
    #[serde(default)]
    object: Value,
}

/// Why objects cannot be exported.
#[derive(Debug, thiserror::Error)]
enum MissingError {
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error(transparent)]
    Refused(#[from] kube::Error),
    #[error("the API server does not answer")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Unreadable(#[from] serde_json::Error),
    #[error(transparent)]
    Unwritable(#[from] serde_yaml::Error),
}

/// Reads a document of the API server.
async fn get<T: serde::de::DeserializeOwned>(
    client: &Client,
    path: &str,
    accept: &str,
) -> Result<T, MissingError> {
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, accept)
        .body(Vec::new())?;
    let text = tokio::time::timeout(API_TIMEOUT, client.request_text(request)).await??;
    Ok(serde_json::from_str(&text)?)
}

/// Writes every kind twice: as `kubectl get -o wide` prints it, and as YAML.
async fn objects(client: &Client, target: &mut Target<'_>) -> Result<(), Failure> {
    for (name, path) in KINDS {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        match get(client, path, accept).await {
            Ok(table) => {
                target.write(format!("objects/{name}.txt"), text_of(&table).as_bytes())?;
            }
            Err(e) => {
                target.lacks(name, e);
                continue;
            }
        }
        let list: Result<Value, _> = get(client, path, "application/json").await;
        match list.and_then(|list| Ok(crate::yaml::to_string(&list)?)) {
            Ok(text) => target.write(format!("objects/{name}.yaml"), text.as_bytes())?,
            Err(e) => target.lacks(name, e),
        }
    }
    Ok(())
}

/// Returns a table as text, with the objects' namespaces if they have any.
fn text_of(table: &Table) -> String {
    let namespace = |row: &Row| {
        let name = row.object["metadata"]["namespace"].as_str();
        name.map(str::to_owned)
    };
    let namespaced = table.rows.iter().any(|row| namespace(row).is_some());
    let cell = |value: &Value| match value {
        Value::String(text) => text.replace('\n', " "),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    };
    let head = table
        .column_definitions
        .iter()
        .map(|c| c.name.to_uppercase());
    let mut lines = vec![head.collect::<Vec<_>>()];
    lines.extend(
        table
            .rows
            .iter()
            .map(|row| row.cells.iter().map(cell).collect()),
    );
    if namespaced {
        let names = table
            .rows
            .iter()
            .map(|row| namespace(row).unwrap_or_default());
        let names = std::iter::once("NAMESPACE".to_owned()).chain(names);
        for (line, name) in lines.iter_mut().zip(names) {
            line.insert(0, name);
        }
    }
    let mut widths: Vec<usize> = Vec::new();
    for line in &lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += cells.join("   ").trim_end();
        text.push('\n');
    }
    text
}

/// Writes the logs of all containers, also those of the instances before the last restart.
async fn pod_logs(client: &Client, target: &mut Target<'_>) -> Result<(), Failure> {
    let all: Api<Pod> = Api::all(client.clone());
    let listed = tokio::time::timeout(API_TIMEOUT, all.list(&ListParams::default())).await;
    let pods = match listed {
        Ok(Ok(pods)) => pods,
        Ok(Err(e)) => {
            target.lacks("logs of pods", e);
            return Ok(());
        }
        Err(_) => {
            target.lacks("logs of pods", "the API server does not answer");
            return Ok(());
        }
    };
    for pod in pods {
        let namespace = pod.namespace().unwrap_or_default();
        let name = pod.name_any();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        for (container, restarts) in containers(&pod) {
            for previous in [false, true] {
                if previous && restarts == 0 {
                    continue;
                }
                let options = LogParams {
                    container: Some(container.clone()),
                    previous,
                    timestamps: true,
                    ..LogParams::default()
                };
                let end = if previous { ".previous.log" } else { ".log" };
                let file: PathBuf = [
                    "pods",
                    &format!("{namespace}_{name}"),
                    &format!("{container}{end}"),
                ]
                .iter()
                .collect();
                match tokio::time::timeout(API_TIMEOUT, api.logs(&name, &options)).await {
                    Ok(Ok(text)) => target.write(file, end_of(text.as_bytes()))?,
                    // A container that has not started yet, or a node that is down.
                    Ok(Err(e)) => target.lacks(&file.display().to_string(), e),
                    Err(_) => target.lacks(&file.display().to_string(), "no answer"),
                }
            }
        }
    }
    Ok(())
}

/// Returns the end of a log, of whole lines.
fn end_of(text: &[u8]) -> &[u8] {
    let Some(surplus) = text.len().checked_sub(LOG_LIMIT) else {
        return text;
    };
    let rest = &text[surplus..];
    let line = rest.iter().position(|b| *b == b'\n').map_or(0, |i| i + 1);
    &rest[line..]
}

/// Returns the containers of a pod that have run, and how often each was restarted.
fn containers(pod: &Pod) -> Vec<(String, i32)> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let started = |state: &k8s_openapi::api::core::v1::ContainerStatus| {
        state.restart_count > 0
            || state
                .state
                .as_ref()
                .is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    };
    all.into_iter()
        .flatten()
        .flatten()
        .filter(|state| started(state))
        .map(|state| (state.name.clone(), state.restart_count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_kubectls() {
        let table: Table = serde_json::from_value(serde_json::json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Age"}],
            "rows": [
                {"cells": ["web", "5m"], "object": {"metadata": {"namespace": "default"}}},
                {"cells": ["a", null], "object": {"metadata": {"namespace": "x"}}},
            ],
        }))
        .unwrap();
        assert_eq!(
            text_of(&table),
            "NAMESPACE   NAME   AGE\ndefault     web    5m\nx           a      <none>\n"
        );
    }

    #[test]
    fn only_the_end_of_a_long_log_is_kept() {
        assert_eq!(end_of(b"a\nb\n"), b"a\nb\n");
        let long = "0123456789\n".repeat(2 << 20);
        let kept = end_of(long.as_bytes());
        assert!(kept.len() <= LOG_LIMIT && kept.starts_with(b"0123"));
    }
}
