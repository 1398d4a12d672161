//! Object metadata.

use serde_json::json;

use super::{patched, summary};
use crate::{NameRule, validate_metadata, validate_metadata_update};

#[test]
fn new_objects() {
    let base = json!({"metadata": {"name": "a.b-c", "namespace": "n"}});
    for (patch, want) in [
        (r#"{}"#, ""),
        (r#"{"metadata": {"name": null}}"#, "Required metadata.name"),
        (r#"{"metadata": {"name": "A"}}"#, "Invalid metadata.name"),
        (
            r#"{"metadata": {"namespace": null}}"#,
            "Required metadata.namespace",
        ),
        (
            r#"{"metadata": {"namespace": "a.b"}}"#,
            "Invalid metadata.namespace",
        ),
        (
            r#"{"metadata": {"generation": -1}}"#,
            "Invalid metadata.generation",
        ),
        (
            r#"{"metadata": {"labels": {"example.com/name": "value", "b": ""}}}"#,
            "",
        ),
        (
            r#"{"metadata": {"labels": {"-a": "b"}}}"#,
            "Invalid metadata.labels",
        ),
        (
            r#"{"metadata": {"labels": {"a": "b c"}}}"#,
            "Invalid metadata.labels",
        ),
        (
            r#"{"metadata": {"labels": {"Example.com/a": "b"}}}"#,
            "Invalid metadata.labels",
        ),
        (
            r#"{"metadata": {"annotations": {"Mixed.Case/Key": "any text"}}}"#,
            "",
        ),
        (
            r#"{"metadata": {"annotations": {"a b": ""}}}"#,
            "Invalid metadata.annotations",
        ),
        (
            r#"{"metadata": {"finalizers": ["example.com/f", "kubernetes"]}}"#,
            "",
        ),
        (
            r#"{"metadata": {"finalizers": ["a b/c"]}}"#,
            "Invalid metadata.finalizers",
        ),
        (
            r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}}"#,
            "",
        ),
        (
            r#"{"metadata": {"ownerReferences": [{"apiVersion": "", "kind": "", "name": "", "uid": ""}]}}"#,
            "Invalid metadata.ownerReferences.apiVersion, Invalid metadata.ownerReferences.kind, \
             Invalid metadata.ownerReferences.name, Invalid metadata.ownerReferences.uid",
        ),
        (
            r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"}]}}"#,
            "Invalid metadata.ownerReferences",
        ),
        (
            r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "p", "uid": "u", "controller": true},
                {"apiVersion": "v1", "kind": "B", "name": "q", "uid": "v", "controller": true}]}}"#,
            "Invalid metadata.ownerReferences",
        ),
    ] {
        let errors = validate_metadata(&patched(&base, patch), true, NameRule::Dns1123Subdomain);
        assert_eq!(summary(&errors), want, "{patch}");
    }
    let clustered = validate_metadata(&base, false, NameRule::Dns1123Subdomain);
    assert_eq!(summary(&clustered), "Forbidden metadata.namespace");
}

#[test]
fn names() {
    for (rule, good, bad) in [
        (
            NameRule::Dns1123Subdomain,
            &["a", "a.b", "1-2", "a.1"][..],
            &["A", "a_b", "-a", "a..b", "a."][..],
        ),
        (
            NameRule::Dns1123Label,
            &["a", "1a", "a-b"],
            &["a.b", "A", "-a"],
        ),
        (
            NameRule::PathSegment,
            &["A", "system:node", "a b"],
            &[".", "..", "a/b", "a%b"],
        ),
    ] {
        let errors =
            |name: &str| validate_metadata(&json!({"metadata": {"name": name}}), false, rule);
        for name in good {
            assert_eq!(summary(&errors(name)), "", "{rule:?} {name}");
        }
        for name in bad {
            assert!(!errors(name).is_empty(), "{rule:?} {name}");
        }
    }
}

#[test]
fn changed_objects() {
    let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1",
        "creationTimestamp": "2024-01-01T00:00:00Z", "generation": 2}});
    for (patch, want) in [
        (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
        (r#"{"metadata": {"name": "b"}}"#, "Invalid metadata.name"),
        (
            r#"{"metadata": {"namespace": "m"}}"#,
            "Invalid metadata.namespace",
        ),
        (r#"{"metadata": {"uid": "v"}}"#, "Invalid metadata.uid"),
        (
            r#"{"metadata": {"creationTimestamp": "2025-01-01T00:00:00Z"}}"#,
            "Invalid metadata.creationTimestamp",
        ),
        (
            r#"{"metadata": {"generation": 1}}"#,
            "Invalid metadata.generation",
        ),
    ] {
        let errors = validate_metadata_update(&patched(&old, patch), &old);
        assert_eq!(summary(&errors), want, "{patch}");
    }
}
