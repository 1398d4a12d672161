//! Chains from a certificate to a trusted one.

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::certificate::Certificate;
use crate::{Error, hosts};

/// Maximum number of signatures that are checked for one certificate.
const MAX_SIGNATURES: u32 = 100;

/// The purpose of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A TLS server.
    Server,
    /// A TLS client.
    Client,
}

/// Trusted certificates. Usually they are those of CAs, but a trusted certificate is accepted
/// itself, too.
#[derive(Clone, Debug, Default)]
pub struct Roots(Vec<Certificate>);

impl Roots {
    /// Reads a bundle in PEM. Blocks of other kinds and certificates that cannot be parsed are
    /// left out, as by Go's `AppendCertsFromPEM`.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyBundle`] if no certificate is left.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let mut roots = Self::default();
        if roots.add_pem(pem) == 0 {
            return Err(Error::EmptyBundle);
        }
        Ok(roots)
    }

    /// Adds the certificates of a bundle in PEM that can be parsed. Returns their number.
    pub fn add_pem(&mut self, pem: &[u8]) -> usize {
        let certificates = CertificateDer::pem_slice_iter(pem).flatten();
        let parsed: Vec<_> = certificates
            .filter_map(|der| Certificate::parse(&der).ok())
            .collect();
        let count = parsed.len();
        for certificate in parsed {
            self.push(certificate);
        }
        count
    }

    /// Adds a certificate in DER.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if it cannot be parsed.
    pub fn add(&mut self, der: &[u8]) -> Result<(), Error> {
        self.push(Certificate::parse(der)?);
        Ok(())
    }

    /// Returns whether nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the subjects in DER.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|root| &root.subject[..])
    }

    fn push(&mut self, certificate: Certificate) {
        if !self.contains(&certificate) {
            self.0.push(certificate);
        }
    }

    fn contains(&self, certificate: &Certificate) -> bool {
        self.0.iter().any(|root| root.der == certificate.der)
    }
}

/// The state of one verification.
struct Search<'a> {
    roots: &'a Roots,
    intermediates: &'a [Certificate],
    now: i64,
    usage: Usage,
    signatures: u32,
    /// The reason why the last candidate was refused.
    refused: Option<Error>,
    /// Whether a chain fits except for the usages of its certificates.
    incompatible: bool,
    hint: String,
}

/// Verifies that a certificate is valid at a time for a use, and that its chain leads to a trusted
/// one. `host` is the DNS name or the IP address of a server. `now` is in seconds since 1970.
///
/// # Errors
///
/// The first reason why the certificate is refused, as Go has it.
pub fn verify(
    roots: &Roots,
    leaf: &Certificate,
    intermediates: &[Certificate],
    now: i64,
    usage: Usage,
    host: Option<&str>,
) -> Result<(), Error> {
    let mut search = Search {
        roots,
        intermediates,
        now,
        usage,
        signatures: 0,
        refused: None,
        incompatible: false,
        hint: String::new(),
    };
    search.check(leaf, &[], false)?;
    if let Some(host) = host {
        hosts::check(leaf, host)?;
    }
    let found = if roots.contains(leaf) {
        search.fits_usage(&[leaf])
    } else {
        search.build(&mut vec![leaf])
    };
    if found {
        return Ok(());
    }
    if search.incompatible {
        return Err(Error::IncompatibleUsage);
    }
    Err(search
        .refused
        .unwrap_or(Error::UnknownAuthority(search.hint)))
}

impl<'a> Search<'a> {
    /// Looks for an issuer of the last certificate of a chain. Returns whether a chain is complete.
    fn build(&mut self, chain: &mut Vec<&'a Certificate>) -> bool {
        let (roots, intermediates) = (self.roots, self.intermediates);
        let candidates = roots.0.iter().map(|root| (root, true));
        let candidates = candidates.chain(intermediates.iter().map(|cert| (cert, false)));
        let Some(child) = chain.last().copied() else {
            return false;
        };
        for (candidate, is_root) in candidates {
            if candidate.subject != child.issuer || is_repeated(candidate, chain) {
                continue;
            }
            self.signatures += 1;
            if self.signatures > MAX_SIGNATURES {
                self.refused = Some(Error::Signature(
                    "signature check attempts limit reached while verifying certificate chain",
                ));
                return false;
            }
            if let Err(error) = check_signature(child, candidate) {
                self.hint = format!(
                    " (possibly because of {:?} while trying to verify candidate authority \
                     certificate {:?})",
                    error.to_string(),
                    candidate.common_name
                );
                continue;
            }
            if let Err(error) = self.check(candidate, chain, !is_root) {
                self.refused = Some(error);
                continue;
            }
            chain.push(candidate);
            let found = if is_root {
                self.fits_usage(chain)
            } else {
                self.build(chain)
            };
            chain.pop();
            if found {
                return true;
            }
        }
        false
    }

    /// Checks a certificate that follows a chain, which is empty for the leaf.
    fn check(
        &self,
        certificate: &Certificate,
        chain: &[&Certificate],
        intermediate: bool,
    ) -> Result<(), Error> {
        if certificate.unhandled {
            return Err(Error::UnhandledCriticalExtension);
        }
        let (from, to) = (certificate.not_before, certificate.not_after);
        if self.now < from {
            return Err(expired(self.now, "is before", from));
        }
        if self.now > to {
            return Err(expired(self.now, "is after", to));
        }
        if let Some(constraints) = &certificate.constraints {
            for names in chain.iter().filter_map(|c| c.names.as_ref()) {
                constraints.check(names)?;
            }
        }
        if intermediate && !certificate.ca.is_some_and(|(is_ca, _)| is_ca) {
            return Err(Error::NotAuthorizedToSign);
        }
        if let Some((_, Some(most))) = certificate.ca
            && chain.len().saturating_sub(1) > most as usize
        {
            return Err(Error::TooManyIntermediates);
        }
        Ok(())
    }

    /// Returns whether all certificates of a chain permit the use. Those without usages permit any.
    fn fits_usage(&mut self, chain: &[&Certificate]) -> bool {
        let usage = self.usage;
        let fits = chain.iter().all(|certificate| {
            certificate.usages.as_ref().is_none_or(|usages| {
                usages.any
                    || match usage {
                        Usage::Server => usages.server,
                        Usage::Client => usages.client,
                    }
            })
        });
        self.incompatible |= !fits;
        fits
    }
}

/// Returns whether a chain has a certificate of the same subject and key already.
fn is_repeated(candidate: &Certificate, chain: &[&Certificate]) -> bool {
    chain.iter().any(|certificate| {
        certificate.subject == candidate.subject
            && certificate.spki == candidate.spki
            && certificate.names == candidate.names
    })
}

/// Checks that `parent` may sign certificates and has signed `child`.
fn check_signature(child: &Certificate, parent: &Certificate) -> Result<(), Error> {
    let is_ca = match parent.ca {
        Some((is_ca, _)) => is_ca,
        // Certificates of older versions cannot say so.
        None => parent.version != 3,
    };
    if !is_ca || parent.signs == Some(false) {
        return Err(Error::Signature(
            "invalid signature: parent certificate cannot sign this kind of certificate",
        ));
    }
    let unsupported = Error::Signature(
        "cannot verify signature: algorithm unimplemented or insecure, as SHA-1 is",
    );
    let key = parent.key.as_ref().ok_or_else(|| unsupported.clone())?;
    let algorithm = child.algorithm.ok_or(unsupported)?;
    key.verify(algorithm, &child.signed, &child.signature)
}

fn expired(now: i64, relation: &str, limit: i64) -> Error {
    let text = |seconds| match Timestamp::from_second(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{seconds} s after 1970"),
    };
    Error::Expired(format!("{} {relation} {}", text(now), text(limit)))
}
