//! What Ingresses say about TLS: certificates, and which requests are redirected.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::Ingress;
use rustls::sign::CertifiedKey;

use crate::certificates;
use crate::compile::{Compiler, Current};
use crate::table::TlsNames;

impl<'a> Compiler<'a> {
    /// Sets which requests are redirected to HTTPS. Only rules that the Ingress takes part in are
    /// concerned: whoever lists a name need not own it.
    pub(crate) fn add_tls_names(
        &mut self,
        current: &Current<'_>,
        rules: &[&str],
        ingress: &Ingress,
    ) {
        let entries = ingress.spec.iter().flat_map(|s| s.tls.iter().flatten());
        let (mut listed, mut all) = (TlsNames::default(), false);
        for entry in entries {
            match entry.hosts.as_deref() {
                Some(hosts) if !hosts.is_empty() => hosts.iter().for_each(|host| listed.add(host)),
                _ => all = true,
            }
        }
        let whole: &[&str] = if rules.is_empty() && !all {
            &[""]
        } else {
            rules
        };
        for rule in whole {
            let Some(host) = self.table.known_host(rule) else {
                continue;
            };
            let names = host.tls.entry(current.namespace.into()).or_default();
            names.all |= all || listed.all;
            if rule.is_empty() || rule.starts_with("*.") {
                names.exact.extend(listed.exact.iter().cloned());
                names.wildcard.extend(listed.wildcard.iter().cloned());
            } else {
                names.all |= listed.contains(&rule.to_ascii_lowercase());
            }
        }
    }

    pub(crate) fn add_tls(
        &mut self,
        current: &Current<'_>,
        rules: &[&'a str],
        ingress: &'a Ingress,
    ) {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let entries = ingress.spec.iter().flat_map(|s| s.tls.iter().flatten());
        for entry in entries {
            let secret = entry.secret_name.as_deref().filter(|s| !s.is_empty());
            let pair = secret.map(|secret| self.pair(namespace, secret));
            let pair = match pair {
                Some(Ok(pair)) => Some(pair),
                Some(Err(why)) => {
                    self.report(&current.name, "Certificate", why);
                    None
                }
                None => None,
            };
            let listed: Vec<&'a str> = match entry.hosts.as_deref() {
                Some(hosts) if !hosts.is_empty() => hosts.iter().map(String::as_str).collect(),
                _ => rules.to_vec(),
            };
            if let Some(pair) = &pair {
                self.check_names(current, secret.unwrap_or_default(), pair, &listed);
            }
            for host in &listed {
                match (&pair, host.is_empty()) {
                    (Some(pair), false) => self.table.certificates.add(host, pair),
                    (_, true) => {
                        let known = self.default_certificate.take();
                        self.default_certificate = known.or_else(|| pair.clone());
                    }
                    (None, false) => self.without_certificate.push(host),
                }
            }
            if let (Some(pair), true) = (&pair, listed.is_empty()) {
                self.default_certificate.get_or_insert_with(|| pair.clone());
            }
        }
    }

    /// Reports hosts that a certificate is not for. It is used all the same, as clients see why.
    fn check_names(
        &mut self,
        current: &Current<'_>,
        secret: &str,
        pair: &CertifiedKey,
        hosts: &[&str],
    ) {
        let names = certificates::names(pair);
        for host in hosts.iter().filter(|host| !host.is_empty()) {
            let parent = host.split_once('.').map(|(_, parent)| parent);
            let fits = names.iter().any(|name| {
                let wild = name.strip_prefix("*.");
                name.eq_ignore_ascii_case(host)
                    || (wild.is_some()
                        && wild.map(str::to_ascii_lowercase) == parent.map(str::to_ascii_lowercase))
            });
            if !fits {
                let message = format!("the certificate in the secret {secret} is not for {host}");
                self.report(&current.name, "Certificate", message);
            }
        }
    }

    fn pair(&mut self, namespace: &'a str, name: &'a str) -> Result<Arc<CertifiedKey>, String> {
        let key = (namespace, name);
        if let Some(known) = self.pairs.get(&key) {
            return known.clone();
        }
        let read = match self.secrets.get(&key) {
            None => Err("it does not exist".to_owned()),
            Some(secret) => {
                let meta = &secret.metadata;
                match (meta.uid.clone(), meta.resource_version.clone()) {
                    (Some(uid), Some(version)) => {
                        self.cache.pairs.get((uid, version), || read_secret(secret))
                    }
                    _ => read_secret(secret),
                }
            }
        };
        let read = read.map_err(|why| {
            format!("the secret {name} cannot be used for TLS: {why}; the default certificate takes its place")
        });
        self.pairs.insert(key, read.clone());
        read
    }
}

fn read_secret(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let data = secret.data.as_ref();
    let part = |name: &str| data.and_then(|d| d.get(name)).map(|b| b.0.as_slice());
    match (part("tls.crt"), part("tls.key")) {
        (Some(certificate), Some(key)) => certificates::read(certificate, key),
        _ => Err("it needs the keys tls.crt and tls.key".into()),
    }
}
