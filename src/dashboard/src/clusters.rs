//! Clients of the profiles' API servers, created on first use.

use std::collections::HashMap;

use http::StatusCode;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig as ClientConfig};
use parking_lot::Mutex;
use rkube_cluster::{Home, Profile};
use rkube_failure::Failure;

/// The clients, by profile.
pub struct Clusters {
    home: Home,
    clients: Mutex<HashMap<String, (String, Client)>>,
}

impl Clusters {
    /// Creates an empty set of clients.
    pub fn new(home: Home) -> Self {
        Self {
            home,
            clients: Mutex::default(),
        }
    }

    /// Returns the directory of the profiles.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Loads the profile with that name.
    pub fn profile(&self, name: &str) -> Result<Profile, Failure> {
        Profile::load(&self.home, name)
    }

    /// Returns the profile's client. It uses the credentials of the kubeconfig's context, or the
    /// profile's credentials if the kubeconfig has no such context.
    pub async fn client(&self, name: &str) -> Result<Client, Failure> {
        let profile = self.profile(name)?;
        // A cluster that was deleted and created again has a new certificate authority.
        let mark = profile_mark(&self.home, name);
        if let Some((known, client)) = self.clients.lock().get(name)
            && *known == mark
        {
            return Ok(client.clone());
        }
        let client =
            match from_kubeconfig(name, &rkube_cluster::server(&self.home, &profile)?).await {
                Some(client) => client,
                None => rkube_cluster::client(&self.home, &profile).await?,
            };
        self.clients
            .lock()
            .insert(name.to_owned(), (mark, client.clone()));
        Ok(client)
    }

    /// Removes the client of a profile whose server did not respond.
    pub fn forget(&self, name: &str) {
        self.clients.lock().remove(name);
    }
}

/// Returns a value that changes when a profile is created again.
fn profile_mark(home: &Home, name: &str) -> String {
    let ca = home.profile_dir(name).join("pki/ca.crt");
    std::fs::metadata(ca)
        .and_then(|m| m.modified())
        .map_or_else(|e| e.to_string(), |time| format!("{time:?}"))
}

/// Returns a client with the user's credentials, if the kubeconfig has a context with the profile's
/// name for the same server.
async fn from_kubeconfig(name: &str, server: &str) -> Option<Client> {
    let path = rkube_cluster::default_kubeconfig().ok()?;
    let document = ClientConfig::read_from(path).ok()?;
    let cluster = document
        .contexts
        .iter()
        .find(|c| c.name == name)?
        .context
        .as_ref()?
        .cluster
        .clone();
    let leads_here = document
        .clusters
        .iter()
        .filter(|c| c.name == cluster)
        .filter_map(|c| c.cluster.as_ref()?.server.as_deref())
        .any(|s| s.trim_end_matches('/') == server);
    if !leads_here {
        return None;
    }
    let options = KubeConfigOptions {
        context: Some(name.to_owned()),
        ..KubeConfigOptions::default()
    };
    let mut config = kube::Config::from_custom_kubeconfig(document, &options)
        .await
        .ok()?;
    config.connect_timeout = Some(std::time::Duration::from_secs(2));
    // Nodes are never reached through a proxy of the environment.
    config.proxy_url = None;
    Client::try_from(config).ok()
}

/// Returns the HTTP status for a failure.
pub fn status_of(failure: &Failure) -> StatusCode {
    use rkube_failure::Kind;
    match failure.kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Usage | Kind::Config => StatusCode::BAD_REQUEST,
        Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::NotRunning | Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
