//! Certificates: parsing and verification end, whatever a peer sends, and trust nobody by
//! accident.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rkube_x509::{Certificate, Roots, Usage, verify};

/// A server's certificate and those of the authorities above it, in DER.
static CHAIN: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let authority = || {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let (root_key, middle_key, leaf_key) = (key(), key(), key());
    let root = authority().self_signed(&root_key).expect("a root");
    let issuer = Issuer::new(authority(), root_key);
    let middle = authority().signed_by(&middle_key, &issuer).expect("a CA");
    let issuer = Issuer::new(authority(), middle_key);
    let leaf = CertificateParams::new(["example.com".to_owned()])
        .and_then(|params| params.signed_by(&leaf_key, &issuer))
        .expect("a leaf");
    [&leaf, &middle, &root].map(|certificate| certificate.der().to_vec())
});

/// Returns where the signed part of a certificate ends: after two headers of four bytes, the
/// second of which has the length.
fn signed_part(der: &[u8]) -> usize {
    8 + usize::from(u16::from_be_bytes([der[6], der[7]]))
}

fuzz_target!(|data: &[u8]| {
    // Each four bytes change one byte of the chain; a value of zero ends a certificate there.
    let mut chain = CHAIN.clone();
    for edit in data.chunks_exact(4) {
        let [which, high, low, value] = [edit[0], edit[1], edit[2], edit[3]];
        let der = &mut chain[usize::from(which) % 3];
        let at = usize::from(u16::from_be_bytes([high, low]));
        if value == 0 {
            der.truncate(at);
        } else if let Some(byte) = der.get_mut(at) {
            *byte ^= value;
        }
    }
    let signed = signed_part(&CHAIN[0]);
    let changed = chain[0].get(..signed) != CHAIN[0].get(..signed);
    let parsed: Vec<_> = chain.iter().map(|der| Certificate::parse(der)).collect();
    let Ok(leaf) = &parsed[0] else { return };
    let intermediates: Vec<_> = parsed[1..].iter().flatten().cloned().collect();
    let mut roots = Roots::default();
    roots.add(&CHAIN[2]).expect("the root is right");
    let now = leaf.not_before();
    for usage in [Usage::Client, Usage::Server] {
        let nobody = verify(&Roots::default(), leaf, &intermediates, now, usage, None);
        assert!(nobody.is_err(), "nothing is trusted without roots");
        let result = verify(&roots, leaf, &intermediates, now, usage, None);
        // A signature protects each byte that it covers.
        assert!(
            !changed || result.is_err(),
            "a changed certificate is trusted"
        );
    }
});
