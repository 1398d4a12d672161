//! Names of the distribution specification: repositories, tags and digests.

use std::fmt;

use ring::digest::{Context, SHA256, SHA512};

/// Maximum length of a repository's name, as in other registries.
const MAX_REPOSITORY: usize = 255;
/// Maximum length of a tag.
const MAX_TAG: usize = 128;

/// The name of a repository, such as `team/app`. No part of it begins with `_`, `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(String);

impl Repository {
    /// Parses a name; `None` if it does not have the form that the specification demands.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() <= MAX_REPOSITORY && text.split('/').all(is_component);
        fits.then(|| Self(text.to_owned()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let word = rest.iter().take_while(|b| alphanumeric(**b)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        let separator = rest.iter().take_while(|b| !alphanumeric(**b)).count();
        let (between, after) = rest.split_at(separator);
        match between {
            b"" => return true,
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|b| *b == b'-') => {}
            _ => return false,
        }
        rest = after;
    }
}

/// Whether a text is a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= MAX_TAG
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

/// A hash function of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, which everybody uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Returns the name in digests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns the algorithm with that name, if it is supported.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Begins a hash.
    pub(crate) fn begin(self) -> Context {
        Context::new(match self {
            Self::Sha256 => &SHA256,
            Self::Sha512 => &SHA512,
        })
    }

    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A digest, `sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    /// The hash function.
    pub algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// Parses a digest; `None` if it has another form or an unknown algorithm.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, hex) = text.split_once(':')?;
        let algorithm = Algorithm::parse(name)?;
        Self::from_hex(algorithm, hex)
    }

    /// Returns the digest with these digits; `None` if they are not as many as they must be.
    pub(crate) fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let fits = hex.len() == algorithm.digits()
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }

    /// Computes the digest of bytes.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut context = algorithm.begin();
        context.update(bytes);
        Self::finish(algorithm, context)
    }

    /// Ends a hash.
    pub(crate) fn finish(algorithm: Algorithm, context: Context) -> Self {
        Self {
            algorithm,
            hex: hex::encode(context.finish()),
        }
    }

    /// Returns the digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// What names a manifest in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A tag.
    Tag(String),
    /// The manifest's digest.
    Digest(Digest),
}

impl Reference {
    /// Parses a tag or a digest.
    pub fn parse(text: &str) -> Option<Self> {
        if text.contains(':') {
            return Digest::parse(text).map(Self::Digest);
        }
        is_tag(text).then(|| Self::Tag(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_repositories() {
        for good in [
            "a",
            "0",
            "a/b/c",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "team-1/app.x",
        ] {
            assert!(Repository::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a..b",
            "a___b",
            "a._b",
            "-a",
            "a-",
            ".a",
            "a.",
            "_a",
            "..",
            "a/../b",
            "a/.",
            "a/_blobs/b",
            "a\\b",
            "a b",
            "ä",
            "a%2fb",
            "a\0",
        ] {
            assert!(Repository::parse(bad).is_none(), "{bad}");
        }
        assert!(Repository::parse(&"a".repeat(255)).is_some());
        assert!(Repository::parse(&"a".repeat(256)).is_none());
    }

    #[test]
    fn tags_and_digests() {
        for good in ["a", "_", "V1.0-x_y", "0"] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "..", "a b", "ä"] {
            assert!(!is_tag(bad), "{bad}");
        }
        assert!(is_tag(&"a".repeat(128)) && !is_tag(&"a".repeat(129)));
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), empty);
        assert_eq!(Digest::parse(empty).unwrap().to_string(), empty);
        assert!(Digest::parse(&empty.to_uppercase()).is_none());
        assert!(Digest::parse(&empty[..70]).is_none());
        assert!(Digest::parse("md5:d41d8cd98f00b204e9800998ecf8427e").is_none());
        assert!(Digest::parse("sha256:../../../etc/passwd").is_none());
        let long = Digest::of(Algorithm::Sha512, b"a").to_string();
        assert_eq!(Digest::parse(&long).unwrap().to_string(), long);
        assert_eq!(Reference::parse("sha256:x"), None);
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_directory(text in "[a-z./_%\\\\\0-]{0,12}") {
            if let Some(name) = Repository::parse(&text) {
                let path = std::path::Path::new(name.as_str());
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert!(!text.contains("/_") && !text.starts_with('_'));
            }
        }
    }
}
