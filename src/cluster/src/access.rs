//! Access to a cluster from the host: its API server, its logs and SSH to its nodes.

use std::net::SocketAddr;
use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig as ClientConfig};
use rkube_config::ports;
use rkube_drivers::{Endpoints, NodeState};
use rkube_failure::Failure;
use rkube_failure::{Kind, Source, command};
use rkube_ssh::client::Session;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::files::{Home, io_failure};
use crate::kubeconfig::Entry;
use crate::pki;
use crate::profile::{Node, Profile};

/// Returns the addresses at which the host reaches the cluster.
pub fn endpoints(home: &Home, profile: &Profile) -> Result<Endpoints, Failure> {
    Ok(rkube_drivers::by_name(&profile.driver)?.endpoints(&profile.plan(home)))
}

/// Returns the API server's URL for the host.
pub fn server(home: &Home, profile: &Profile) -> Result<String, Failure> {
    let api = endpoints(home, profile)?.api;
    // Where the driver leads to the node itself, users see the address that the API shows.
    let node = profile.control_plane();
    let api = match api.ip() == std::net::IpAddr::from(node.ip) {
        true => SocketAddr::new(profile.node_ip(node), api.port()),
        false => api,
    };
    Ok(format!("https://{api}"))
}

/// Returns the profile's kubeconfig entry.
pub(crate) fn entry(home: &Home, profile: &Profile) -> Result<Entry, Failure> {
    let credentials = pki::credentials(&home.profile_dir(&profile.name).join("pki"))?;
    Ok(Entry {
        name: profile.context(),
        server: server(home, profile)?,
        ca: credentials.ca,
        certificate: credentials.certificate,
        key: credentials.key,
    })
}

/// Returns a kubeconfig for the cluster's administrator alone, as YAML. With `internal`, the address
/// of the API server is that for containers in the cluster's network.
pub fn kubeconfig(home: &Home, profile: &Profile, internal: bool) -> Result<String, Failure> {
    entry_for(home, profile, internal)?.to_yaml()
}

/// Returns the profile's kubeconfig entry, for this machine or for the cluster's network.
pub(crate) fn entry_for(home: &Home, profile: &Profile, internal: bool) -> Result<Entry, Failure> {
    let mut entry = entry(home, profile)?;
    if internal {
        let address = SocketAddr::from((profile.control_plane().ip, ports::API_SERVER));
        entry.server = format!("https://{address}");
    }
    Ok(entry)
}

/// Creates a client with the cluster administrator's credentials, independent of the
/// user's kubeconfig.
pub async fn client(home: &Home, profile: &Profile) -> Result<kube::Client, Failure> {
    let entry = entry(home, profile)?;
    let failed = |e: String| {
        Failure::new(
            Source::ControlPlane,
            Kind::Config,
            format!("cannot create an API client: {e}"),
        )
    };
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let document = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "rkube",
        "clusters": [{"name": "rkube", "cluster": {
            "server": entry.server, "certificate-authority-data": encode(&entry.ca)}}],
        "users": [{"name": "rkube", "user": {
            "client-certificate-data": encode(&entry.certificate), "client-key-data": encode(&entry.key)}}],
        "contexts": [{"name": "rkube", "context": {"cluster": "rkube", "user": "rkube"}}],
    });
    let document: ClientConfig =
        serde_json::from_value(document).map_err(|e| failed(e.to_string()))?;
    let mut config = kube::Config::from_custom_kubeconfig(document, &KubeConfigOptions::default())
        .await
        .map_err(|e| failed(e.to_string()))?;
    config.connect_timeout = Some(std::time::Duration::from_secs(2));
    // Nodes are never reached through a proxy of the environment.
    config.proxy_url = None;
    kube::Client::try_from(config).map_err(|e| failed(e.to_string()))
}

/// Whether the cluster runs.
pub async fn runs(home: &Home, profile: &Profile) -> bool {
    match rkube_drivers::by_name(&profile.driver) {
        Ok(driver) => driver.is_up(&profile.plan(home)).await,
        // What this build has no driver for does not run here.
        Err(_) => false,
    }
}

/// Returns the logs of the cluster's processes with their titles: those of one node, or those of
/// all nodes and of the driver.
pub async fn logs(
    home: &Home,
    profile: &Profile,
    node: Option<&str>,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let plan = profile.plan(home);
    let mut found = Vec::new();
    let nodes: Vec<&Node> = match node {
        Some(name) => vec![profile.node(Some(name))?],
        None => {
            let logs = driver.driver_logs(&plan).await?;
            found.extend(logs.into_iter().map(|log| (log.name, log.content)));
            profile.nodes.iter().collect()
        }
    };
    for node in nodes {
        for log in driver.logs(&plan, &node.name).await? {
            found.push((format!("{} {}", node.name, log.name), log.content));
        }
    }
    Ok(found)
}

/// Returns the path of the user's SSH key for a profile.
pub fn ssh_key(home: &Home, profile: &Profile) -> PathBuf {
    home.profile_dir(&profile.name).join("ssh/id_ed25519")
}

/// Returns the address of a node's SSH server.
pub fn ssh_address(home: &Home, profile: &Profile, node: &Node) -> Result<SocketAddr, Failure> {
    let endpoints = endpoints(home, profile)?;
    Ok(endpoints
        .ssh
        .get(&node.name)
        .copied()
        .unwrap_or_else(|| SocketAddr::from((node.ip, ports::SSH))))
}

/// Runs a command on a node with `input` and writes its output to `output`. Returns its
/// exit code and error message.
pub async fn on_node(
    home: &Home,
    profile: &Profile,
    node: &Node,
    command: &str,
    input: Option<impl AsyncRead + Unpin>,
    output: impl AsyncWrite + Unpin,
) -> Result<(i32, String), Failure> {
    let mut stderr = Vec::new();
    let code = stream_on_node(home, profile, node, command, input, (output, &mut stderr)).await?;
    Ok((code, error_message(&String::from_utf8_lossy(&stderr))))
}

/// Returns what a command has said on standard error without what marks it as an error.
pub fn error_message(stderr: &str) -> String {
    let error = stderr.trim();
    error.trim_start_matches("error: ").to_owned()
}

/// Runs a command on a node with `input`, and writes what it prints and its errors to `outputs` as they
/// come. Returns its exit code.
pub async fn stream_on_node(
    home: &Home,
    profile: &Profile,
    node: &Node,
    command: &str,
    input: Option<impl AsyncRead + Unpin>,
    (output, errors): (impl AsyncWrite + Unpin, impl AsyncWrite + Unpin),
) -> Result<i32, Failure> {
    let session = ssh(home, profile, node).await?;
    session
        .exec(command, input, output, errors)
        .await
        .map_err(|e| {
            Failure::new(
                Source::Guest,
                Kind::Error,
                format!("the connection to the node {} was lost: {e}", node.name),
            )
        })
}

/// Returns the public key of a node's SSH server, in OpenSSH's one-line format.
pub fn ssh_host_key(home: &Home, profile: &Profile, node: &Node) -> Result<String, Failure> {
    let path = home
        .profile_dir(&profile.name)
        .join("nodes")
        .join(&node.name)
        .join("etc/ssh/ssh_host_ed25519_key.pub");
    std::fs::read_to_string(&path).map_err(|e| io_failure("read", &path, &e))
}

/// Opens an SSH connection to a node; only the host key that rkube created is accepted.
pub async fn ssh(home: &Home, profile: &Profile, node: &Node) -> Result<Session, Failure> {
    crate::pause::refuse(home, profile, node).await?;
    let host_key = ssh_host_key(home, profile, node)?;
    let address = ssh_address(home, profile, node)?;
    let key = ssh_key(home, profile);
    let error = match Session::connect(address, "root", &key, &host_key).await {
        Ok(session) => return Ok(session),
        Err(e) => e,
    };
    // If the states are not available, the error of the connection is reported.
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let states = driver.states(&profile.plan(home)).await.unwrap_or_default();
    if let Some(failure) = stopped(profile, &states, node) {
        return Err(failure);
    }
    Err(Failure::new(
        Source::Guest,
        Kind::Unavailable,
        format!("cannot reach node {} at {address}: {error}", node.name),
    )
    .advise(format!(
        "check the status of the cluster: {}",
        command("status", &profile.name)
    )))
}

/// Returns the failure of a command on a node that is stopped, if it is.
fn stopped(profile: &Profile, states: &[NodeState], node: &Node) -> Option<Failure> {
    let mut nodes = profile.nodes.iter().zip(states);
    let (_, state) = nodes.find(|(other, _)| other.name == node.name)?;
    if *state != NodeState::Stopped {
        return None;
    }
    if states.iter().all(|state| *state == NodeState::Stopped) {
        return Some(not_running(&profile.name));
    }
    let what = format!("the node {}", node.name);
    let start = format!("node start {}", node.name);
    Some(not_started(&what, &start, &profile.name))
}

/// Returns the failure of a command that needs a running cluster.
pub(crate) fn not_running(profile: &str) -> Failure {
    not_started(&format!("the cluster '{profile}'"), "start", profile)
}

/// Returns the failure of a command that needs something which `start` starts.
fn not_started(what: &str, start: &str, profile: &str) -> Failure {
    let failure = Failure::new(
        Source::Guest,
        Kind::NotRunning,
        format!("{what} is not running"),
    );
    failure.advise(format!("start it with: {}", command(start, profile)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_nodes_are_said_to_be() {
        let node = |name: &str| {
            serde_json::json!({
                "name": name, "ip": "192.168.58.2", "podCidr": "10.244.0.0/24",
            })
        };
        let profile: Profile = serde_json::from_value(serde_json::json!({
            "format": 1, "name": "c", "driver": "native", "created": "",
            "nodeCidr": "192.168.58.0/24", "podCidr": "10.244.0.0/16",
            "serviceCidr": "10.96.0.0/12", "dnsDomain": "cluster.local",
            "nodes": [node("a"), node("b")],
        }))
        .unwrap();
        let said = |states: &[NodeState]| {
            stopped(&profile, states, &profile.nodes[1]).map(|failure| failure.message)
        };
        let (up, down) = (NodeState::Running, NodeState::Stopped);
        assert_eq!(
            said(&[down, down]).unwrap(),
            "the cluster 'c' is not running"
        );
        assert_eq!(said(&[up, down]).unwrap(), "the node b is not running");
        assert_eq!(said(&[down, up]), None);
        assert_eq!(said(&[]), None);
    }
}
