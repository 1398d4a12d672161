//! An external etcd as the cluster's store: checked when the cluster is created, cleared when it is
//! deleted.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rkube_config::StoreConfig;
use rkube_failure::Failure;
use rkube_failure::{Kind, Source};
use rkube_store::{EtcdOptions, EtcdStore, StoreError};

use crate::files::{io_failure, write_private};

/// The time that an endpoint may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// An etcd cluster, as given on the command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreOptions {
    /// `http://` or `https://` URLs.
    pub endpoints: Vec<String>,
    /// CA certificate that signed etcd's server certificate (PEM).
    pub ca: Option<PathBuf>,
    /// The client's certificate (PEM).
    pub cert: Option<PathBuf>,
    /// The key of `cert` (PEM).
    pub key: Option<PathBuf>,
}

fn usage(message: String) -> Failure {
    Failure::new(Source::Program, Kind::Usage, message)
}

impl StoreOptions {
    /// Parses the option `--store`: `etcd=URL[,URL…]`, or `embedded`, which returns `None`.
    ///
    /// # Errors
    /// Returns a usage failure for any other value.
    pub fn parse(
        text: &str,
        ca: Option<PathBuf>,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Option<Self>, Failure> {
        if text == "embedded" {
            if ca.is_some() || cert.is_some() || key.is_some() {
                return Err(usage(
                    "--store-ca, --store-cert and --store-key are for --store etcd=…".into(),
                ));
            }
            return Ok(None);
        }
        let Some(urls) = text.strip_prefix("etcd=").filter(|urls| !urls.is_empty()) else {
            return Err(usage(format!(
                "--store: '{text}' is neither 'embedded' nor 'etcd=https://HOST:2379[,…]'"
            )));
        };
        let endpoints: Vec<String> = urls.split(',').map(str::to_owned).collect();
        for url in &endpoints {
            rkube_store::etcd::host_and_port(url).map_err(|e| usage(format!("--store: {e}")))?;
        }
        let secure = endpoints.iter().all(|url| url.starts_with("https://"));
        if secure != endpoints.iter().any(|url| url.starts_with("https://")) {
            return Err(usage(
                "--store: the endpoints must be all http or all https".into(),
            ));
        }
        if secure && ca.is_none() {
            return Err(usage(
                "--store: etcd over https needs --store-ca, the authority of its certificate"
                    .into(),
            ));
        }
        if cert.is_some() != key.is_some() {
            return Err(usage("--store-cert and --store-key go together".into()));
        }
        Ok(Some(Self {
            endpoints,
            ca,
            cert,
            key,
        }))
    }

    /// Returns the configuration for the profile.
    pub fn config(&self, profile: &str) -> StoreConfig {
        StoreConfig {
            endpoints: self.endpoints.clone(),
            root: format!("/rkube/{profile}"),
        }
    }

    /// Fails unless at least one endpoint accepts connections.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let mut reasons = Vec::new();
        for url in &self.endpoints {
            let reason = rkube_store::etcd::host_and_port(url)
                .map_err(|e| e.to_string())
                .and_then(|(host, port)| {
                    let mut addresses = (host.as_str(), port)
                        .to_socket_addrs()
                        .map_err(|e| e.to_string())?;
                    let address = addresses.next().ok_or("no address")?;
                    TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map_err(|e| e.to_string())
                });
            match reason {
                Ok(_) => return Ok(()),
                Err(why) => reasons.push(format!("{url}: {why}")),
            }
        }
        Err(Failure::new(
            Source::Program,
            Kind::Unavailable,
            format!("etcd cannot be reached: {}", reasons.join("; ")),
        )
        .advise("start it, or name one that runs with --store"))
    }

    /// Copies the files to the profile's PKI directory.
    pub(crate) fn keep_files(&self, pki: &Path) -> Result<(), Failure> {
        for (source, name) in [
            (&self.ca, "etcd-ca.crt"),
            (&self.cert, "etcd-client.crt"),
            (&self.key, "etcd-client.key"),
        ] {
            if let Some(source) = source {
                let content = std::fs::read(source).map_err(|e| io_failure("read", source, &e))?;
                write_private(&pki.join(name), &content)?;
            }
        }
        Ok(())
    }
}

/// Removes the keys of a deleted cluster from etcd.
pub(crate) async fn wipe(config: &StoreConfig, pki: &Path) -> Result<(), StoreError> {
    let store = EtcdStore::open(EtcdOptions::with_files(
        config.endpoints.clone(),
        config.root.clone(),
        pki,
    ))
    .await?;
    store.wipe().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_read() {
        let parse = |text: &str, ca: Option<&str>| {
            StoreOptions::parse(text, ca.map(Into::into), None, None)
        };
        assert_eq!(parse("embedded", None).unwrap(), None);
        let one = parse("etcd=http://10.0.0.1:2379", None).unwrap().unwrap();
        assert_eq!(one.endpoints, ["http://10.0.0.1:2379"]);
        let two = parse("etcd=https://a:2379,https://b:2379", Some("ca.crt"));
        assert_eq!(two.unwrap().unwrap().endpoints.len(), 2);
        for (wrong, ca) in [
            ("etcd", None),
            ("etcd=", None),
            ("etcd=a:2379", None),
            ("etcd=https://a:2379", None),
            ("etcd=https://a,http://b", Some("ca.crt")),
            ("embedded", Some("ca.crt")),
        ] {
            assert_eq!(parse(wrong, ca).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }
}
