//! TLS clients for remote API servers.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rkube_x509::{AnyServer, Renewable, Roots, ServerVerifier, client_config, renewable_client};
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::ServerName;
use serde_json::Value;

use crate::connect::{self, HttpClient};

/// Idle connections to remote servers are closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The front proxy's client certificate, if the cluster has one.
pub struct Tls {
    identity: Option<Arc<Renewable>>,
}

impl Tls {
    /// Returns the clients' part that shows `identity`.
    pub fn new(identity: Option<Arc<Renewable>>) -> Self {
        Self { identity }
    }

    /// Returns a client for the server of an `APIService` spec. The error is reported to requests
    /// for that server.
    pub fn client(&self, spec: &Value, ca_cert: &[u8]) -> Result<HttpClient, String> {
        let verifier: Arc<dyn ServerCertVerifier> = if spec["insecureSkipTLSVerify"] == true {
            Arc::new(AnyServer)
        } else {
            let pem = match spec["caBundle"].as_str().filter(|b| !b.is_empty()) {
                Some(bundle) => base64::engine::general_purpose::STANDARD
                    .decode(bundle)
                    .map_err(|e| format!("caBundle: {e}"))?,
                None => ca_cert.to_vec(),
            };
            let roots = Roots::from_pem(&pem).map_err(|e| format!("caBundle: {e}"))?;
            ServerVerifier::new(roots)
        };
        let tls = match self.identity.clone() {
            Some(identity) => renewable_client(verifier, identity),
            None => client_config(verifier, None),
        };
        let tls = tls.map_err(|e| e.to_string())?;
        let text = |field: &str| spec["service"][field].as_str().unwrap_or_default();
        let name = format!("{}.{}.svc", text("name"), text("namespace"));
        let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
        Ok(connect::client_for(tls, Some(name), IDLE_TIMEOUT))
    }
}
