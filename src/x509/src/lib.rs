//! Verification of X.509 certificates by the rules of Go's `crypto/x509`.
//!
//! Programs around Kubernetes are written in Go, and certificates that they accept or refuse must be
//! accepted or refused here. The verifier of rustls differs: it refuses certificates of version 1,
//! CA certificates of servers and RSA keys below 2048 bits. It trusts the name and key of a root
//! alone, and ignores the root's dates and usages.
//!
//! Two of Go's checks are narrower here: a critical extension for policy constraints makes a
//! certificate invalid, and P-224 keys are unknown.

mod certificate;
mod constraints;
mod hosts;
mod issue;
mod key;
mod renewable;
#[cfg(test)]
mod tests;
mod tls;
mod verify;

pub use certificate::Certificate;
pub use issue::{Issuer, LIFETIME, to_pem};
pub use renewable::{Renewable, renewable_client};
pub use tls::{
    AnyServer, Identity, RequestedClient, ServerVerifier, client_config, provider, reason,
};
pub use verify::{Roots, Usage, verify};

/// Why a certificate is not accepted. The texts are those of Go, which users search for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The certificate cannot be parsed.
    #[error("x509: malformed certificate: {0}")]
    Malformed(String),
    /// A bundle contains no certificate.
    #[error("x509: the bundle contains no valid certificate")]
    EmptyBundle,
    /// The current time is not in the certificate's period of validity.
    #[error("x509: certificate has expired or is not yet valid: current time {0}")]
    Expired(String),
    /// A certificate of the chain is not that of a CA.
    #[error("x509: certificate is not authorized to sign other certificates")]
    NotAuthorizedToSign,
    /// More CAs follow than a CA of the chain permits.
    #[error("x509: too many intermediates for path length constraint")]
    TooManyIntermediates,
    /// A CA of the chain may not sign for a name of the certificate.
    #[error(
        "x509: a root or intermediate certificate is not authorized to sign for this name: {0}"
    )]
    NameNotPermitted(String),
    /// The certificate or a CA of its chain is for other uses.
    #[error("x509: certificate specifies an incompatible key usage")]
    IncompatibleUsage,
    /// The certificate has a critical extension that is not understood.
    #[error("x509: unhandled critical extension")]
    UnhandledCriticalExtension,
    /// No chain leads to a trusted certificate. The text in parentheses, which may be empty, is the
    /// reason why a candidate was not its issuer.
    #[error("x509: certificate signed by unknown authority{0}")]
    UnknownAuthority(String),
    /// The certificate is not valid for the server's name.
    #[error("x509: {0}")]
    Host(String),
    /// A signature is wrong, or its algorithm is not supported.
    #[error("x509: {0}")]
    Signature(&'static str),
}
