//! Public keys and signatures.

use ring::digest;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::num_bigint::BigUint;
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::Error;

/// The shortest and the longest RSA keys in bits.
const RSA_BITS: std::ops::RangeInclusive<u64> = 1024..=8192;
/// RSA keys of at least so many bits are verified by ring.
const RING_BITS: u64 = 2048;

/// The hash function of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// An algorithm of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rsa(Hash),
    /// The salt is as long as the hash.
    RsaPss(Hash),
    Ecdsa(Hash),
    Ed25519,
}

/// A curve of ECDSA keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

/// A public key.
#[derive(Clone, Debug)]
pub(crate) enum PublicKey {
    Rsa {
        modulus: BigUint,
        exponent: BigUint,
        der: Vec<u8>,
    },
    Ec(Curve, Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Hash {
    fn of(kind: &Oid<'_>) -> Option<Self> {
        [
            (oid!(2.16.840.1.101.3.4.2.1), Hash::Sha256),
            (oid!(2.16.840.1.101.3.4.2.2), Hash::Sha384),
            (oid!(2.16.840.1.101.3.4.2.3), Hash::Sha512),
        ]
        .into_iter()
        .find_map(|(known, hash)| (known == *kind).then_some(hash))
    }

    fn function(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
            Hash::Sha512 => &digest::SHA512,
        }
    }

    fn length(self) -> usize {
        self.function().output_len()
    }

    fn digest(self, data: &[u8]) -> digest::Digest {
        digest::digest(self.function(), data)
    }

    /// Returns the DER before the hash in a signature of PKCS #1 version 1.5.
    fn prefix(self) -> [u8; 19] {
        let (kind, length) = match self {
            Hash::Sha256 => (1, 32),
            Hash::Sha384 => (2, 48),
            Hash::Sha512 => (3, 64),
        };
        [
            0x30,
            17 + length,
            0x30,
            13,
            6,
            9,
            0x60,
            0x86,
            0x48,
            1,
            0x65,
            3,
            4,
            2,
            kind,
            5,
            0,
            4,
            length,
        ]
    }
}

impl Algorithm {
    /// Returns the algorithm of an identifier, `None` if it is not supported. SHA-1 and older
    /// hash functions are not.
    pub(crate) fn of(identifier: &AlgorithmIdentifier<'_>) -> Option<Self> {
        let known = [
            (oid!(1.2.840.113549.1.1.11), Algorithm::Rsa(Hash::Sha256)),
            (oid!(1.2.840.113549.1.1.12), Algorithm::Rsa(Hash::Sha384)),
            (oid!(1.2.840.113549.1.1.13), Algorithm::Rsa(Hash::Sha512)),
            (oid!(1.2.840.10045.4.3.2), Algorithm::Ecdsa(Hash::Sha256)),
            (oid!(1.2.840.10045.4.3.3), Algorithm::Ecdsa(Hash::Sha384)),
            (oid!(1.2.840.10045.4.3.4), Algorithm::Ecdsa(Hash::Sha512)),
            (oid!(1.3.101.112), Algorithm::Ed25519),
        ];
        let found = known
            .into_iter()
            .find_map(|(kind, algorithm)| (kind == identifier.algorithm).then_some(algorithm));
        if found.is_some() || identifier.algorithm != oid!(1.2.840.113549.1.1.10) {
            return found;
        }
        let Ok(SignatureAlgorithm::RSASSA_PSS(params)) = SignatureAlgorithm::try_from(identifier)
        else {
            return None;
        };
        let hash = Hash::of(params.hash_algorithm_oid())?;
        let mask = params.mask_gen_algorithm().ok()?;
        let usual = Hash::of(&mask.hash) == Some(hash)
            && mask.mgf == oid!(1.2.840.113549.1.1.8)
            && params.salt_length() as usize == hash.length()
            && params.trailer_field() == 1;
        usual.then_some(Algorithm::RsaPss(hash))
    }
}

impl PublicKey {
    /// Returns a certificate's key, `None` if its kind is not supported.
    pub(crate) fn of(info: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let bytes = info.subject_public_key.data.to_vec();
        if info.algorithm.algorithm == oid!(1.3.101.112) {
            return Some(Self::Ed25519(bytes));
        }
        match info.parsed().ok()? {
            ParsedKey::RSA(rsa) => {
                let modulus = BigUint::from_bytes_be(rsa.modulus);
                let exponent = BigUint::from_bytes_be(rsa.exponent);
                let usual = RSA_BITS.contains(&modulus.bits())
                    && exponent.bits() <= 31
                    && exponent.bit(0)
                    && exponent.bits() > 1;
                usual.then_some(Self::Rsa {
                    modulus,
                    exponent,
                    der: bytes,
                })
            }
            ParsedKey::EC(_) => {
                let parameters = info.algorithm.parameters.as_ref()?;
                let kind = parameters.as_oid().ok()?;
                let curve = [
                    (oid!(1.2.840.10045.3.1.7), Curve::P256),
                    (oid!(1.3.132.0.34), Curve::P384),
                    (oid!(1.3.132.0.35), Curve::P521),
                ]
                .into_iter()
                .find_map(|(known, curve)| (known == kind).then_some(curve))?;
                Some(Self::Ec(curve, bytes))
            }
            _ => None,
        }
    }

    /// Verifies a signature.
    pub(crate) fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        let good = match (self, algorithm) {
            (Self::Rsa { modulus, der, .. }, Algorithm::Rsa(hash) | Algorithm::RsaPss(hash))
                if modulus.bits() >= RING_BITS =>
            {
                let pss = matches!(algorithm, Algorithm::RsaPss(_));
                ring_verifies(rsa_algorithm(hash, pss), der, message, signature)
            }
            (
                Self::Rsa {
                    modulus, exponent, ..
                },
                Algorithm::Rsa(hash) | Algorithm::RsaPss(hash),
            ) => {
                let pss = matches!(algorithm, Algorithm::RsaPss(_));
                short_rsa(modulus, exponent, hash, pss, message, signature).is_some()
            }
            (Self::Ec(curve, point), Algorithm::Ecdsa(hash)) => {
                ecdsa(*curve, hash, point, message, signature)
            }
            (Self::Ed25519(key), Algorithm::Ed25519) => {
                ring_verifies(&signature::ED25519, key, message, signature)
            }
            _ => {
                return Err(Error::Signature(
                    "signature algorithm does not fit the public key",
                ));
            }
        };
        if good {
            Ok(())
        } else {
            Err(Error::Signature("the signature is wrong"))
        }
    }
}

fn ring_verifies(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let key = UnparsedPublicKey::new(algorithm, key);
    key.verify(message, signature).is_ok()
}

fn rsa_algorithm(hash: Hash, pss: bool) -> &'static dyn VerificationAlgorithm {
    match (hash, pss) {
        (Hash::Sha256, false) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (Hash::Sha384, false) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (Hash::Sha512, false) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (Hash::Sha256, true) => &signature::RSA_PSS_2048_8192_SHA256,
        (Hash::Sha384, true) => &signature::RSA_PSS_2048_8192_SHA384,
        (Hash::Sha512, true) => &signature::RSA_PSS_2048_8192_SHA512,
    }
}

fn ecdsa(curve: Curve, hash: Hash, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let algorithm: &'static dyn VerificationAlgorithm = match (curve, hash) {
        (Curve::P256, Hash::Sha256) => &signature::ECDSA_P256_SHA256_ASN1,
        (Curve::P256, Hash::Sha384) => &signature::ECDSA_P256_SHA384_ASN1,
        (Curve::P384, Hash::Sha256) => &signature::ECDSA_P384_SHA256_ASN1,
        (Curve::P384, Hash::Sha384) => &signature::ECDSA_P384_SHA384_ASN1,
        _ => return other_ecdsa(curve, hash, point, message, signature).is_some(),
    };
    ring_verifies(algorithm, point, message, signature)
}

/// Verifies signatures with combinations of curve and hash that ring does not have.
fn other_ecdsa(
    curve: Curve,
    hash: Hash,
    point: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Option<()> {
    use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
    // Go and ring take uncompressed points only.
    if point.first() != Some(&4) {
        return None;
    }
    // A hash is a number, of which leading zeros change nothing. The crates refuse hashes that are
    // shorter than half of the curve's field.
    let digest = hash.digest(message);
    let mut number = vec![0; 48_usize.saturating_sub(digest.as_ref().len())];
    number.extend_from_slice(digest.as_ref());
    match curve {
        Curve::P256 => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?;
            let signature = p256::ecdsa::Signature::from_der(signature).ok()?;
            key.verify_prehash(digest.as_ref(), &signature).ok()
        }
        Curve::P384 => {
            let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?;
            let signature = p384::ecdsa::Signature::from_der(signature).ok()?;
            key.verify_prehash(digest.as_ref(), &signature).ok()
        }
        Curve::P521 => {
            let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?;
            let signature = p521::ecdsa::Signature::from_der(signature).ok()?;
            key.verify_prehash(&number, &signature).ok()
        }
    }
}

/// Verifies the signature of an RSA key below 2048 bits, which ring does not do for all forms.
/// All inputs are public, so the time that it takes may depend on them.
fn short_rsa(
    modulus: &BigUint,
    exponent: &BigUint,
    hash: Hash,
    pss: bool,
    message: &[u8],
    signature: &[u8],
) -> Option<()> {
    let bits = usize::try_from(modulus.bits()).ok()?;
    let number = BigUint::from_bytes_be(signature);
    if signature.len() != bits.div_ceil(8) || number >= *modulus {
        return None;
    }
    let plain = number.modpow(exponent, modulus).to_bytes_be();
    let digest = hash.digest(message);
    if pss {
        return pss_fits(&plain, bits - 1, hash, digest.as_ref()).then_some(());
    }
    // RFC 8017, 9.2: 0, 1, bytes 255, 0, the hash's prefix and the hash; the first 0 is no digit of
    // the number.
    let tail = [&hash.prefix()[..], digest.as_ref()].concat();
    let filling = (signature.len() - 1).checked_sub(tail.len() + 2)?;
    let mut expected = vec![1];
    expected.resize(1 + filling, 255);
    expected.push(0);
    expected.extend(tail);
    (filling >= 8 && plain == expected).then_some(())
}

/// Checks an encoded message of `bits` bits (RFC 8017, 9.1.2) with a salt as long as the hash.
fn pss_fits(plain: &[u8], bits: usize, hash: Hash, digest: &[u8]) -> bool {
    let (length, size) = (bits.div_ceil(8), hash.length());
    if plain.len() > length || length < 2 * size + 2 {
        return false;
    }
    let mut encoded = vec![0; length - plain.len()];
    encoded.extend_from_slice(plain);
    let (masked, rest) = encoded.split_at(length - size - 1);
    let (found, trailer) = rest.split_at(size);
    // The leftmost bits beyond the message's length are zero.
    let unused = 0xff_u8
        .checked_shl(8 - (8 * length - bits) as u32)
        .unwrap_or(0);
    if trailer != [0xbc] || masked[0] & unused != 0 {
        return false;
    }
    let mut data: Vec<u8> = masked
        .iter()
        .zip(mask(found, masked.len(), hash))
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    data[0] &= !unused;
    let (padding, salt) = data.split_at(data.len() - size);
    let Some((one, zeros)) = padding.split_last() else {
        return false;
    };
    let again = hash.digest(&[&[0; 8], digest, salt].concat());
    *one == 1 && zeros.iter().all(|byte| *byte == 0) && again.as_ref() == found
}

/// Returns `length` bytes of the mask generation function MGF1 (RFC 8017, B.2.1).
fn mask(seed: &[u8], length: usize, hash: Hash) -> Vec<u8> {
    let blocks = (0_u32..).map(|counter| hash.digest(&[seed, &counter.to_be_bytes()].concat()));
    let mut mask = Vec::new();
    for block in blocks.take(length.div_ceil(hash.length())) {
        mask.extend_from_slice(block.as_ref());
    }
    mask.truncate(length);
    mask
}
