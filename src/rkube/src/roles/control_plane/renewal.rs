//! Renews the certificates of the running cluster before they expire: those of the API server in
//! memory, those of node agents through the agents' endpoints. Keys stay where they are.
//!
//! The files in [`paths::PKI`](rkube_config::paths::PKI) are those of the last start, which renews
//! them on the host.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use rkube_apiserver::Certificates;
use rkube_x509::{Certificate, Issuer, LIFETIME, Renewable, Roots, Usage, to_pem, verify};

/// The period of the checks of certificates.
const RENEWAL_PERIOD: Duration = Duration::from_secs(3600);
/// The time limit for a node's answers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The signers of the cluster's certificates.
pub struct Renewal {
    ca: Issuer,
    roots: Roots,
    /// Clusters of earlier versions have no key of this CA on the node before their next start.
    front_proxy_ca: Option<Issuer>,
}

impl Renewal {
    /// Reads the CAs and their keys from a control-plane node's directory.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let issuer = |name: &str| -> anyhow::Result<Issuer> {
            let (certificate, key) = (read(&format!("{name}.crt"))?, read(&format!("{name}.key"))?);
            Issuer::from_pem(&certificate, &key)
                .map_err(|why| anyhow::anyhow!("the authority {name}: {why}"))
        };
        let has_key = dir.join("front-proxy-ca.key").exists();
        Ok(Self {
            ca: issuer("ca")?,
            roots: Roots::from_pem(&read("ca.crt")?)?,
            front_proxy_ca: has_key.then(|| issuer("front-proxy-ca")).transpose()?,
        })
    }

    /// Renews the API server's own certificates that are due.
    pub fn renew_own(&self, own: &Certificates) -> anyhow::Result<()> {
        let now = Timestamp::now().as_second();
        renew(&self.ca, &own.serving, now)?;
        renew(&self.ca, &own.kubelet_client, now)?;
        if let (Some(ca), Some(client)) = (&self.front_proxy_ca, &own.front_proxy) {
            renew(ca, client, now)?;
        }
        Ok(())
    }

    /// Renews certificates until the future is dropped. `client` may use the proxy of nodes.
    pub async fn run(self, own: Certificates, client: kube::Client) {
        loop {
            if let Err(error) = self.renew_own(&own) {
                tracing::error!("cannot renew the API server's certificates: {error:#}");
            }
            let nodes: Api<Node> = Api::all(client.clone());
            match nodes.list_metadata(&ListParams::default()).await {
                Ok(nodes) => {
                    let names = nodes
                        .items
                        .into_iter()
                        .filter_map(|node| node.metadata.name);
                    for name in names {
                        self.renew_nodes(&client, &name).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot list the nodes"),
            }
            tokio::time::sleep(RENEWAL_PERIOD).await;
        }
    }

    async fn renew_nodes(&self, client: &kube::Client, node: &str) {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.renew_node(client, node)).await {
            Ok(Ok(())) => {}
            // It is asked again.
            Ok(Err(error)) => tracing::debug!(node, "cannot look at certificates: {error:#}"),
            Err(_) => tracing::debug!(node, "the node does not tell its certificates"),
        }
    }

    async fn renew_node(&self, client: &kube::Client, node: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/nodes/{node}/proxy/rkube/certificates");
        let request = http::Request::get(&path).body(Vec::new())?;
        let present: BTreeMap<String, String> = client.request(request).await?;
        let due = self.due(node, &present, Timestamp::now().as_second())?;
        if due.is_empty() {
            return Ok(());
        }
        let names: Vec<&String> = due.keys().collect();
        tracing::info!(node, ?names, "renewing certificates");
        let request = http::Request::put(&path).body(serde_json::to_vec(&due)?)?;
        client.request_text(request).await?;
        Ok(())
    }

    /// Returns new certificates for those of a node that are due. A node may have none renewed but
    /// its own, and none that this CA would not accept.
    fn due(
        &self,
        node: &str,
        present: &BTreeMap<String, String>,
        now: i64,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let users = [
            format!("system:node:{node}"),
            "system:kube-proxy".to_owned(),
            "rkube:network-policy".to_owned(),
        ];
        let mut due = BTreeMap::new();
        for (name, pem) in present {
            let old = Certificate::from_pem(pem.as_bytes())?;
            if !old.is_due(now) {
                continue;
            }
            verify(&self.roots, &old, &[], now, Usage::Client, None)?;
            anyhow::ensure!(
                users.iter().any(|user| user == old.common_name()),
                "the certificate {name} is that of {}",
                old.common_name()
            );
            due.insert(name.clone(), to_pem(&self.ca.renew(&old, now, LIFETIME)?));
        }
        Ok(due)
    }
}

fn renew(ca: &Issuer, certificate: &Renewable, now: i64) -> anyhow::Result<()> {
    let old = Certificate::parse(&certificate.certificate())?;
    if !old.is_due(now) {
        return Ok(());
    }
    tracing::info!(subject = old.common_name(), "renewing a certificate");
    let new = ca.renew(&old, now, LIFETIME)?;
    certificate
        .replace(new)
        .map_err(|why| anyhow::anyhow!("{}: {why}", old.common_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn renewal(dir: &Path) -> (Renewal, rcgen::Issuer<'static, rcgen::KeyPair>) {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        std::fs::write(dir.join("ca.crt"), ca.pem()).unwrap();
        std::fs::write(dir.join("ca.key"), key.serialize_pem()).unwrap();
        (Renewal::read(dir).unwrap(), rcgen::Issuer::new(params, key))
    }

    #[test]
    fn nodes_get_their_own_certificates_only() {
        let dir = tempfile::tempdir().unwrap();
        let (renewal, issuer) = renewal(dir.path());
        let now = Timestamp::now().as_second();
        let other = tempfile::tempdir().unwrap();
        let (other, stranger) = self::renewal(other.path());
        let made = |signer: &rcgen::Issuer<'_, rcgen::KeyPair>, user: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, user);
            let key = rcgen::KeyPair::generate().unwrap();
            let made = params.signed_by(&key, signer).unwrap();
            Certificate::parse(made.der()).unwrap()
        };
        let aged = |user: &str, left: i64| {
            let begin = now + left - LIFETIME;
            let old = renewal.ca.renew(&made(&issuer, user), begin, LIFETIME);
            to_pem(&old.unwrap())
        };
        let due = |pem: String| {
            let present = [("agent".to_owned(), pem)].into();
            renewal.due("n1", &present, now)
        };
        assert!(due(aged("system:node:n1", 200 * DAY)).unwrap().is_empty());
        for user in ["system:node:n1", "system:kube-proxy"] {
            let renewed = due(aged(user, 10 * DAY)).unwrap();
            let new = Certificate::from_pem(renewed["agent"].as_bytes()).unwrap();
            assert_eq!((new.common_name(), new.not_after()), (user, now + LIFETIME));
        }
        for user in ["system:node:n2", "kubernetes-admin"] {
            assert!(due(aged(user, 10 * DAY)).is_err(), "{user}");
        }
        // Neither an expired certificate nor a stranger's is renewed.
        assert!(due(aged("system:node:n1", -DAY)).is_err());
        let strange = made(&stranger, "system:node:n1");
        let strange = other
            .ca
            .renew(&strange, now + 10 * DAY - LIFETIME, LIFETIME);
        assert!(due(to_pem(&strange.unwrap())).is_err());
    }
}
