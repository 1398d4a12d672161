//! Content digests, and readers and writers that compute them.

use std::fmt;
use std::io::{self, Read, Write};

use ring::digest::{Context, SHA256, SHA512};
use serde::{Deserialize, Serialize};

/// A digest of the form `sha256:…` or `sha512:…`, in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Parses a digest. Returns `None` if the algorithm is unknown, or if the digits have a wrong
    /// number or case.
    pub fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        let digits = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return None,
        };
        (hex.len() == digits && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .then(|| Self(text.to_string()))
    }

    /// Returns the SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the digest as text, such as `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the hexadecimal digits without the algorithm.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// Returns the algorithm's name.
    pub fn algorithm(&self) -> &str {
        self.0
            .split_once(':')
            .map_or("", |(algorithm, _)| algorithm)
    }

    /// Returns a hasher for the digest's algorithm.
    pub fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" {
            Hasher::sha512()
        } else {
            Hasher::sha256()
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("invalid digest {text:?}"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// An incremental computation of a digest.
pub struct Hasher {
    name: &'static str,
    context: Context,
}

impl Hasher {
    /// Returns a SHA-256 hasher.
    pub fn sha256() -> Self {
        Self {
            name: "sha256",
            context: Context::new(&SHA256),
        }
    }

    /// Returns a SHA-512 hasher.
    pub fn sha512() -> Self {
        Self {
            name: "sha512",
            context: Context::new(&SHA512),
        }
    }

    /// Adds bytes to the input.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// Returns the digest of the input.
    pub fn finish(self) -> Digest {
        Digest(format!(
            "{}:{}",
            self.name,
            hex::encode(self.context.finish())
        ))
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that hashes all bytes read from `inner`.
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> HashingReader<R> {
    /// Returns a reader of `inner` that uses `hasher`.
    pub fn new(inner: R, hasher: Hasher) -> Self {
        Self { inner, hasher }
    }

    /// Reads to the end and returns the digest of all bytes.
    pub fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        assert_eq!(Digest::parse(empty).unwrap().algorithm(), "sha256");
        for bad in ["", "sha256:", "md5:aa", &empty.to_uppercase(), &empty[..70]] {
            assert!(Digest::parse(bad).is_none());
        }
        let reader = HashingReader::new(&b"abc"[..], Hasher::sha256());
        assert_eq!(reader.finish().unwrap(), Digest::of(b"abc"));
    }
}
