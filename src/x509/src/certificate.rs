//! Parsed certificates.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer, TbsCertificate, X509Certificate, X509Extension};
use x509_parser::x509::X509Version;

use crate::Error;
use crate::constraints::Constraints;
use crate::key::{Algorithm, PublicKey};

/// The tag of a sequence in DER (X.690, 8.9): universal, constructed.
const SEQUENCE: u8 = 0x30;

/// The usages of an extended key usage extension.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usages {
    pub any: bool,
    pub server: bool,
    pub client: bool,
}

/// The subject's alternative names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub mail: Vec<String>,
    pub uris: Vec<String>,
}

/// A parsed certificate with what verification needs.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) signed: Vec<u8>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) signature: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) common_name: String,
    pub(crate) spki: Vec<u8>,
    pub(crate) key: Option<PublicKey>,
    pub(crate) version: u32,
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
    /// Whether it is a CA, and the number of CAs that may follow it; `None` without the extension.
    pub(crate) ca: Option<(bool, Option<u32>)>,
    /// Whether it may sign certificates; `None` without key usages.
    pub(crate) signs: Option<bool>,
    pub(crate) usages: Option<Usages>,
    pub(crate) names: Option<Names>,
    pub(crate) constraints: Option<Constraints>,
    pub(crate) unhandled: bool,
}

impl Certificate {
    /// Parses a certificate in DER.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if Go would not parse it.
    pub fn parse(der: &[u8]) -> Result<Self, Error> {
        let malformed = |why: &dyn std::fmt::Display| Error::Malformed(why.to_string());
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|e| malformed(&e))?;
        if !rest.is_empty() {
            return Err(malformed(&"trailing data"));
        }
        // The parser takes a primitive sequence, and bits that are not there.
        if der.first() != Some(&SEQUENCE) || parsed.signature_value.unused_bits != 0 {
            return Err(malformed(&"invalid DER"));
        }
        let tbs: &TbsCertificate<'_> = &parsed.tbs_certificate;
        if parsed.signature_algorithm != tbs.signature {
            return Err(malformed(
                &"inner and outer signature algorithm identifiers don't match",
            ));
        }
        if tbs.version().0 > X509Version::V3.0 {
            return Err(malformed(&"invalid version"));
        }
        if tbs
            .raw_serial()
            .first()
            .is_some_and(|byte| byte & 0x80 != 0)
        {
            return Err(malformed(&"negative serial number"));
        }
        let text = tbs.subject().iter_common_name().last();
        let mut certificate = Self {
            der: CertificateDer::from(der.to_vec()),
            signed: tbs.as_ref().to_vec(),
            algorithm: Algorithm::of(&parsed.signature_algorithm),
            signature: parsed.signature_value.data.to_vec(),
            issuer: tbs.issuer().as_raw().to_vec(),
            subject: tbs.subject().as_raw().to_vec(),
            common_name: text
                .and_then(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            spki: tbs.public_key().raw.to_vec(),
            key: PublicKey::of(tbs.public_key()),
            version: tbs.version().0 + 1,
            not_before: tbs.validity().not_before.timestamp(),
            not_after: tbs.validity().not_after.timestamp(),
            ca: None,
            signs: None,
            usages: None,
            names: None,
            constraints: None,
            unhandled: false,
        };
        if certificate.version > 1 {
            certificate.read_extensions(tbs.extensions())?;
        }
        Ok(certificate)
    }

    /// Parses the first certificate of a text in PEM.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if there is none, or Go would not parse it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        use rustls_pki_types::pem::PemObject as _;
        let der = CertificateDer::from_pem_slice(pem);
        Self::parse(&der.map_err(|e| Error::Malformed(e.to_string()))?)
    }

    /// Returns the end of the certificate's validity in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Returns the beginning of the certificate's validity in seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Returns the subject's last common name, which is the one that Go uses.
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    fn read_extensions(&mut self, extensions: &[X509Extension<'_>]) -> Result<(), Error> {
        let mut seen: Vec<&Oid<'_>> = Vec::new();
        for extension in extensions {
            if seen.contains(&&extension.oid) {
                return Err(Error::Malformed(
                    "certificate contains duplicate extensions".into(),
                ));
            }
            seen.push(&extension.oid);
            let handled = self.read_extension(extension)?;
            self.unhandled |= extension.critical && !handled;
        }
        Ok(())
    }

    /// Reads one extension. Returns whether its content was understood.
    fn read_extension(&mut self, extension: &X509Extension<'_>) -> Result<bool, Error> {
        match extension.parsed_extension() {
            ParsedExtension::ParseError { error } => {
                return Err(Error::Malformed(format!(
                    "extension {}: {error}",
                    extension.oid
                )));
            }
            ParsedExtension::BasicConstraints(basic) => {
                self.ca = Some((basic.ca, basic.path_len_constraint));
            }
            // Usages without a bit are no restriction.
            ParsedExtension::KeyUsage(usage) if usage.flags != 0 => {
                self.signs = Some(usage.key_cert_sign());
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.usages = Some(Usages {
                    any: usage.any,
                    server: usage.server_auth,
                    client: usage.client_auth,
                });
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let found = alternative_names(&names.general_names)?;
                let handled = found != Names::default();
                self.names = Some(found);
                return Ok(handled);
            }
            ParsedExtension::NameConstraints(constraints) => {
                let (found, handled) = Constraints::of(constraints)?;
                self.constraints = Some(found);
                return Ok(handled);
            }
            ParsedExtension::KeyUsage(_)
            | ParsedExtension::AuthorityKeyIdentifier(_)
            | ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::PolicyMappings(_)
            | ParsedExtension::InhibitAnyPolicy(_)
            | ParsedExtension::CRLDistributionPoints(_)
            | ParsedExtension::AuthorityInfoAccess(_) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn alternative_names(names: &[GeneralName<'_>]) -> Result<Names, Error> {
    let malformed = |what: &str| Error::Malformed(format!("SAN {what} is malformed"));
    let mut found = Names::default();
    for name in names {
        match name {
            GeneralName::DNSName(name) => found.dns.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => found.mail.push((*name).to_owned()),
            GeneralName::URI(uri) => found.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let address = address(bytes).ok_or_else(|| malformed("IP address"))?;
                found.addresses.push(address);
            }
            GeneralName::Invalid(..) => return Err(malformed("name")),
            _ => {}
        }
    }
    let ascii = |names: &[String]| names.iter().all(|name| name.is_ascii());
    if ascii(&found.dns) && ascii(&found.mail) && ascii(&found.uris) {
        Ok(found)
    } else {
        Err(malformed("name"))
    }
}

/// Reads an address of 4 or 16 bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(bytes));
    }
    let bytes = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::from(bytes).to_canonical())
}
