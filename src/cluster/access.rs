//! Reaching a cluster from the host: its API and its nodes' shells.

use std::net::SocketAddr;
use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig as ClientConfig};
use rkube_config::failure::{Kind, Source};
use rkube_config::{Failure, ports};
use rkube_ssh::client::Session;

use crate::files::{Home, io_failure};
use crate::kubeconfig::Entry;
use crate::pki::Pki;
use crate::profile::{Node, Profile};

/// The API server's address as the host reaches it.
pub fn server(profile: &Profile) -> String {
    format!(
        "https://{}:{}",
        profile.control_plane().ip,
        ports::API_SERVER
    )
}

/// The profile's kubeconfig entry.
pub(crate) fn entry(profile: &Profile, pki: &Pki) -> Result<Entry, Failure> {
    let (certificate, key) = pki.admin()?;
    Ok(Entry {
        name: profile.name.clone(),
        server: server(profile),
        ca: pki.ca_certificate()?,
        certificate,
        key,
    })
}

/// A client with the administrator's rights, whatever the user's kubeconfig says.
pub async fn client(home: &Home, profile: &Profile) -> Result<kube::Client, Failure> {
    let pki = Pki::open(&home.profile_dir(&profile.name).join("pki"))?;
    let entry = entry(profile, &pki)?;
    let failed = |e: String| {
        Failure::new(
            Source::ControlPlane,
            Kind::Config,
            format!("cannot make an API client: {e}"),
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
    kube::Client::try_from(config).map_err(|e| failed(e.to_string()))
}

/// The user's SSH key of a profile.
pub fn ssh_key(home: &Home, profile: &Profile) -> PathBuf {
    home.profile_dir(&profile.name).join("ssh/id_ed25519")
}

/// Where a node's SSH server listens.
pub fn ssh_address(node: &Node) -> SocketAddr {
    SocketAddr::from((node.ip, ports::SSH))
}

/// Opens an SSH connection to a node, pinned to the host key that it was given.
pub async fn ssh(home: &Home, profile: &Profile, node: &Node) -> Result<Session, Failure> {
    let dir = home.profile_dir(&profile.name);
    let host_key = dir
        .join("nodes")
        .join(&node.name)
        .join("etc/ssh/ssh_host_ed25519_key.pub");
    let host_key =
        std::fs::read_to_string(&host_key).map_err(|e| io_failure("read", &host_key, &e))?;
    let address = ssh_address(node);
    Session::connect(address, "root", &ssh_key(home, profile), &host_key)
        .await
        .map_err(|e| {
            Failure::new(
                Source::Guest,
                Kind::Unavailable,
                format!("cannot reach node {} at {address}: {e}", node.name),
            )
            .advise(format!(
                "see whether it runs: rkube status -p {}",
                profile.name
            ))
        })
}
