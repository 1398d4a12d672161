//! `rkube status`

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use rkube_cluster::{
    ClusterStatus, Home, Kubeconfig, NodeStatus, Profile, Progress, default_kubeconfig,
};
use rkube_failure::Failure;
use serde_json::{Value, json};

use super::template::Template;
use super::values::parse_duration;
use super::{Global, Output, usage_failure};

#[derive(clap::Args)]
pub struct Args {
    /// Go template to print for the control-plane node, or for --node, such as '{{.Host}}'
    ///
    /// Fields: Name, IP, Host, Kubelet, APIServer, Kubeconfig, Worker, TimeToStop, PausedNamespaces.
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Layout of JSON: one object per node, or one for the cluster
    #[arg(short, long, default_value = "nodes", value_name = "LAYOUT")]
    layout: Layout,
    /// Name of the node [default: all nodes]
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
    /// Print the status again and again, at this interval [default: 1s]
    #[arg(
        short,
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1s",
        value_name = "TIME",
        value_parser = parse_duration
    )]
    watch: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Layout {
    /// One object per node
    Nodes,
    /// One object for the cluster
    Cluster,
    /// One object for the cluster with the nodes' objects, for the dashboard
    #[value(hide = true)]
    Profile,
}

/// The fields of a template; minikube's and the address.
const FIELDS: &[&str] = &[
    "Name",
    "IP",
    "Host",
    "Kubelet",
    "APIServer",
    "Kubeconfig",
    "Worker",
    "TimeToStop",
    "PausedNamespaces",
    // These are always empty.
    "DockerEnv",
    "PodManEnv",
];

/// Runs the command.
pub async fn run(
    home: &Home,
    global: &Global,
    args: Args,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let template = match &args.format {
        Some(_) if !output.text() => {
            return Err(usage_failure("--format and --output cannot be combined"));
        }
        Some(text) => Some(Template::parse(text, FIELDS).map_err(usage_failure)?),
        None => None,
    };
    loop {
        let profile = Profile::load(home, &global.profile)?;
        let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
        let mut status = rkube_cluster::status(home, &profile, &kubeconfig).await?;
        let only = match (&args.node, &template) {
            (None, None) => None,
            (node, _) => Some(profile.node(node.as_deref())?.name.clone()),
        };
        status
            .nodes
            .retain(|node| only.as_ref().is_none_or(|only| node.name == *only));
        print(&status, args.layout, template.as_ref(), output)?;
        if status.nodes.iter().any(|n| n.kubeconfig == "Misconfigured") && output.text() {
            output.warn(&format!(
                "the kubeconfig does not refer to this cluster; correct it with: {}",
                rkube_failure::command("update-context", &profile.name)
            ));
        }
        match args.watch.filter(|interval| !interval.is_zero()) {
            Some(interval) => tokio::time::sleep(interval).await,
            None => return Ok(ExitCode::from(status.exit_code())),
        }
    }
}

fn print(
    status: &ClusterStatus,
    layout: Layout,
    template: Option<&Template>,
    output: &Output,
) -> Result<(), Failure> {
    if let Some(template) = template {
        for node in &status.nodes {
            super::output::print_out(&template.render(|field| value(node, field)));
        }
        return Ok(());
    }
    match (layout, status.nodes.as_slice()) {
        (Layout::Cluster, _) => output.result(&cluster(status), || text(status)),
        (Layout::Profile, nodes) => {
            let (name, driver) = (&status.name, &status.driver);
            let value = json!({ "Name": name, "Driver": driver, "Nodes": nodes });
            output.result(&value, || text(status));
        }
        // An object for a single node, so that scripts read `.Host`.
        (Layout::Nodes, [node]) => output.result(node, || text(status)),
        (Layout::Nodes, nodes) => output.result(&nodes, || text(status)),
    }
    Ok(())
}

fn value(node: &NodeStatus, field: &str) -> String {
    match field {
        "Name" => node.name.clone(),
        "IP" => node.ip.clone(),
        "Host" => node.host.to_owned(),
        "Kubelet" => node.kubelet.to_owned(),
        "APIServer" => node.api_server.to_owned(),
        "Kubeconfig" => node.kubeconfig.to_owned(),
        "Worker" => node.worker.to_string(),
        "TimeToStop" => node.time_to_stop.clone().unwrap_or_default(),
        "PausedNamespaces" => node.paused_namespaces.join(","),
        _ => String::new(),
    }
}

fn text(status: &ClusterStatus) -> String {
    let mut text = String::new();
    for node in &status.nodes {
        let role = if node.worker {
            "Worker"
        } else {
            "Control Plane"
        };
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{}\ntype: {role}\nhost: {}\nkubelet: {}\n",
            node.name, node.host, node.kubelet
        );
        if !node.worker {
            let _ = write!(
                text,
                "apiserver: {}\nkubeconfig: {}\n",
                node.api_server, node.kubeconfig
            );
        }
        if !node.paused_namespaces.is_empty() {
            let _ = writeln!(
                text,
                "pausedNamespaces: {}",
                node.paused_namespaces.join(", ")
            );
        }
        if let Some(time) = &node.time_to_stop {
            let _ = writeln!(text, "timeToStop: {time}");
        }
        let _ = writeln!(text, "address: {}\n", node.ip);
    }
    text.truncate(text.trim_end().len());
    text
}

/// Returns the code and the name of a state, as in minikube's layout `cluster`.
pub fn code(state: &str) -> (u16, &'static str) {
    match state {
        "Running" | "Configured" => (200, "OK"),
        "Degraded" => (204, "Degraded"),
        "Stopped" => (405, "Stopped"),
        "Paused" => (418, "Paused"),
        "Misconfigured" => (500, "Error"),
        _ => (520, "Unknown"),
    }
}

fn component(name: &str, state: &str) -> Value {
    let (code, title) = code(state);
    json!({ "Name": name, "StatusCode": code, "StatusName": title })
}

/// Returns minikube's layout `cluster`.
fn cluster(status: &ClusterStatus) -> Value {
    let first = status.nodes.iter().find(|node| !node.worker);
    let state = first.map_or("Unknown", |node| node.api_server);
    let nodes = status.nodes.iter().map(|node| {
        let mut entry = component(&node.name, node.host);
        entry["Components"] = json!({ "kubelet": component("kubelet", node.kubelet) });
        if !node.worker {
            entry["Components"]["apiserver"] = component("apiserver", node.api_server);
        }
        entry
    });
    let mut value = component(&status.name, state);
    value["BinaryVersion"] = format!("v{}", env!("CARGO_PKG_VERSION")).into();
    value["Components"] = json!({
        "kubeconfig": component("kubeconfig", first.map_or("Unknown", |node| node.kubeconfig)),
    });
    value["Nodes"] = nodes.collect();
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_of_clusters_is_minikubes() {
        let node = |name: &str, worker| NodeStatus {
            name: name.into(),
            ip: "192.168.49.2".into(),
            host: "Running",
            kubelet: if worker { "Stopped" } else { "Running" },
            api_server: if worker { "Irrelevant" } else { "Running" },
            kubeconfig: if worker {
                "Irrelevant"
            } else {
                "Misconfigured"
            },
            worker,
            time_to_stop: None,
            paused_namespaces: Vec::new(),
        };
        let value = cluster(&ClusterStatus {
            name: "a".into(),
            driver: "native".into(),
            nodes: vec![node("a", false), node("a-m02", true)],
        });
        assert_eq!(value["StatusName"], "OK");
        assert_eq!(value["Components"]["kubeconfig"]["StatusCode"], 500);
        assert_eq!(
            value["Nodes"][0]["Components"]["apiserver"]["StatusCode"],
            200
        );
        assert_eq!(
            value["Nodes"][1]["Components"]["kubelet"]["StatusName"],
            "Stopped"
        );
        assert_eq!(value["Nodes"][1]["Components"]["apiserver"], Value::Null);
    }
}
