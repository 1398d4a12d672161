//! The default pull policy of images, by their names' syntax
//! (<https://github.com/distribution/reference>).

/// Most characters of a repository's name.
const MAX_REPOSITORY: usize = 255;

/// Returns the default pull policy: `Always` for the tag `latest` and for images without tag and
/// digest, `IfNotPresent` otherwise. Malformed names have no tag.
pub(crate) fn pull_policy(image: &str) -> &'static str {
    match parse(image) {
        Some((Some("latest"), _) | (None, false)) => "Always",
        _ => "IfNotPresent",
    }
}

/// Returns the tag of an image's name and whether it has a digest; nothing if it is malformed.
fn parse(image: &str) -> Option<(Option<&str>, bool)> {
    let is_id = image.len() == 64
        && image
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if is_id {
        return None;
    }
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if !digest.is_none_or(is_digest) {
        return None;
    }
    let (domain, rest) = match name.split_once('/') {
        Some((first, rest)) if is_domain_like(first) => (first, rest),
        _ => ("docker.io", name),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let official = matches!(domain, "docker.io" | "index.docker.io") && !path.contains('/');
    let length = domain.len() + 1 + path.len() + if official { "library/".len() } else { 0 };
    let fine = is_domain(domain)
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && length <= MAX_REPOSITORY;
    fine.then_some((tag, digest.is_some()))
}

/// Returns whether the first part of a name is a registry, and not a part of a path.
fn is_domain_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => {
                let address = |b: u8| b.is_ascii_hexdigit() || b == b':';
                if host.is_empty() || !host.bytes().all(address) {
                    return false;
                }
                (
                    "v6",
                    port.strip_prefix(':')
                        .or(Some(port).filter(|p| !p.is_empty())),
                )
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |label: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    host.split('.').all(label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Returns whether a text is a part of a path: lower-case letters and digits, with single
/// separators `.`, `_`, `__` or any number of `-` between them.
fn is_component(component: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = component.starts_with(plain) && component.ends_with(plain);
    ends && component.split(plain).all(|between| {
        matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let length = match digest.split_once(':') {
        Some(("sha256", hex)) => (hex, 64),
        Some(("sha384", hex)) => (hex, 96),
        Some(("sha512", hex)) => (hex, 128),
        _ => return false,
    };
    let (hex, length) = length;
    hex.len() == length
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (image, want) in [
            ("i".to_owned(), "Always"),
            ("i:latest".to_owned(), "Always"),
            ("i:1".to_owned(), "IfNotPresent"),
            (format!("i@{digest}"), "IfNotPresent"),
            (format!("i:latest@{digest}"), "Always"),
            ("localhost:5000/a/b".to_owned(), "Always"),
            ("localhost:5000/a/b:v1".to_owned(), "IfNotPresent"),
            ("a__b--c/d.e".to_owned(), "Always"),
            ("[::1]:5000/a".to_owned(), "Always"),
            // Text that is no name has no tag.
            (String::new(), "IfNotPresent"),
            ("A".to_owned(), "IfNotPresent"),
            (" i".to_owned(), "IfNotPresent"),
            ("a/B".to_owned(), "IfNotPresent"),
            ("a..b".to_owned(), "IfNotPresent"),
            ("i@sha256:1".to_owned(), "IfNotPresent"),
            ("i:".to_owned(), "IfNotPresent"),
            ("0".repeat(64), "IfNotPresent"),
            ("a".repeat(300), "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(&image), want, "{image}");
        }
    }
}
