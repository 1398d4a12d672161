//! Names of images, as far as it matters which of them are the same.

/// Digits of an image's ID in a tag.
const DIGITS: usize = 12;

/// Splits a name into repository, tag and digest.
fn split(image: &str) -> (&str, Option<&str>, Option<&str>) {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    match name.rsplit_once(':') {
        // A colon before a slash belongs to the port of a registry.
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag), digest),
        _ => (name, None, digest),
    }
}

/// Returns a repository with its registry, as Docker completes it.
fn complete(repository: &str) -> String {
    let (host, rest) = match repository.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("docker.io", repository),
    };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    match host == "docker.io" && !rest.contains('/') {
        true => format!("{host}/library/{rest}"),
        false => format!("{host}/{rest}"),
    }
}

/// Returns whether `image`, the name in a manifest, means the image that is built as `built`: the
/// repositories are the same, and so is the tag if `built` has one.
pub fn matches(built: &str, image: &str) -> bool {
    let ((repository, tag, _), (other, other_tag, _)) = (split(built), split(image));
    complete(repository) == complete(other)
        && tag.is_none_or(|tag| tag == other_tag.unwrap_or("latest"))
}

/// Returns the name under which a built image is used: the tag follows from its ID, so that
/// another content has another name.
pub fn by_content(built: &str, id: &str) -> String {
    let (repository, ..) = split(built);
    let digits = id.trim_start_matches("sha256:");
    let digits = digits.get(..DIGITS).unwrap_or(digits);
    format!("{repository}:dev-{digits}")
}

/// Returns whether a name is that of a build of `built`, as [`by_content`] makes it.
pub fn is_build_of(built: &str, name: &str) -> bool {
    let ((repository, ..), (other, tag, _)) = (split(built), split(name));
    repository == other && tag.is_some_and(|tag| tag.starts_with("dev-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_match_by_repository_or_name() {
        for (built, image, expected) in [
            ("app", "app", true),
            ("app", "app:1.2", true),
            ("app", "docker.io/library/app@sha256:00", true),
            ("index.docker.io/library/app", "app", true),
            ("app", "application", false),
            ("app", "team/app", false),
            ("team/app", "docker.io/team/app:x", true),
            ("localhost:5000/app", "localhost:5000/app:x", true),
            ("localhost:5000/app", "localhost:5001/app", false),
            ("ghcr.io/a/b", "ghcr.io/a/b:v1@sha256:00", true),
            ("app:1", "app:1", true),
            ("app:1", "app:2", false),
            ("app:1", "app", false),
            ("app:latest", "app", true),
        ] {
            assert_eq!(matches(built, image), expected, "{built} {image}");
        }
    }

    #[test]
    fn tags_follow_from_the_content() {
        let id = "sha256:0123456789abcdef0123";
        assert_eq!(by_content("app:1", id), "app:dev-0123456789ab");
        assert_eq!(
            by_content("localhost:5000/a/b", id),
            "localhost:5000/a/b:dev-0123456789ab"
        );
        assert_eq!(by_content("a", "sha256:01"), "a:dev-01");
        assert!(is_build_of("app:1", &by_content("app:1", id)));
        assert!(!is_build_of("app", "app:1") && !is_build_of("app", "apps:dev-01"));
    }
}
