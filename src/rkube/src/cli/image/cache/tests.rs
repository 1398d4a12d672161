use super::*;

#[test]
fn clusters_have_tokens_of_their_own() {
    let place = Place::new(1).unwrap();
    assert!(place.acceptor().is_ok());
    let cache = place.of_cluster("a");
    assert!(is_token_of(&place.secret, "a", &cache.token));
    for (profile, token) in [("b", cache.token.as_str()), ("a", ""), ("a", "AAAA")] {
        assert!(
            !is_token_of(&place.secret, profile, token),
            "{profile} {token}"
        );
    }
    // The size may change, nothing else.
    let larger = Place {
        limit: 2,
        ..place.clone()
    };
    assert!(larger.is_at(&place) && !Place::new(1).unwrap().is_at(&place));
}

#[test]
fn requests_are_understood() {
    for (path, expected) in [
        ("/v2/", Some(Wanted::Version)),
        ("/v2/a/b/manifests/1", Some(Wanted::Manifest("a/b", "1"))),
        ("/v2/a/blobs/sha256:0", Some(Wanted::Blob("a", "sha256:0"))),
        ("/v2/a/tags/list", None),
        ("/", None),
    ] {
        assert_eq!(wanted(path), expected, "{path}");
    }
    assert_eq!(
        namespace(Some("a=b&ns=r.example%3A5000")).as_deref(),
        Some("r.example:5000")
    );
    assert_eq!(namespace(Some("ns")), None);
}
