//! Environments: references, fields of the pod, variables of services.

use super::super::env::{Fields, expand, format_map};
use super::pod;

/// `TestMapping` of the expansion package: a text and its expansion.
#[test]
fn references_are_expanded() {
    let value = |name: &str| {
        let value = match name {
            "VAR_A" => "A",
            "VAR_B" => "B",
            "VAR_C" => "C",
            "VAR_REF" => "$(VAR_A)",
            "VAR_EMPTY" => "",
            _ => return None,
        };
        Some(value.to_owned())
    };
    for (text, expanded) in [
        ("$(VAR_A)", "A"),
        ("$(VAR_A)-1", "A-1"),
        ("___$(VAR_C)", "___C"),
        ("$(VAR_A)_$(VAR_B)_$(VAR_C)", "A_B_C"),
        ("$$(VAR_A)_$$(VAR_B)", "$(VAR_A)_$(VAR_B)"),
        // Backslashes escape nothing.
        (r"foo\\$(VAR_C)bar", r"foo\\Cbar"),
        (r"foo\\\\$(VAR_A)bar", r"foo\\\\Abar"),
        // A reference ends at the first bracket, and values are not expanded again.
        ("$(VAR_A$(VAR_B))", "$(VAR_A$(VAR_B))"),
        ("$(VAR_A$(VAR_B)", "$(VAR_A$(VAR_B)"),
        ("%%$(VAR_REF)--$(VAR_REF)%%", "%%$(VAR_A)--$(VAR_A)%%"),
        // Text that is no reference stays.
        ("foo$(VAR_Awhoops!", "foo$(VAR_Awhoops!"),
        ("f00__(VAR_A)__", "f00__(VAR_A)__"),
        ("$VAR_A)", "$VAR_A)"),
        ("${VAR_A}", "${VAR_A}"),
        (r"foo-\$(VAR_A", r"foo-\$(VAR_A"),
        ("\n", "\n"),
        // Pairs of operators become one; an odd one begins a reference.
        ("$$$$$$(BIG_MONEY)", "$$$(BIG_MONEY)"),
        ("$$$$$$(VAR_A)", "$$$(VAR_A)"),
        ("$$$$$$$(GOOD_ODDS)", "$$$$(GOOD_ODDS)"),
        // Incomplete references.
        ("$(VAR_B)_______$(A", "B_______$(A"),
        ("$(VAR_C)_______$(", "C_______$("),
        ("$(VAR_A)foobarzab$", "Afoobarzab$"),
        ("--$($($($($--", "--$($($($($--"),
        ("$($($($($--foo$(", "$($($($($--foo$("),
        ("foo0--$($($($(", "foo0--$($($($("),
    ] {
        assert_eq!(expand(text, value), expanded, "{text}");
    }
}

/// `TestExtractFieldPathAsString` and `TestPodFieldSelectorRuntimeValue`: a path and its value, or
/// the message after `!`.
#[test]
fn fields_of_the_pod() {
    let mut pod = pod(
        r#"{"containers": [], "serviceAccountName": "sa", "schedulerName": "s", "restartPolicy": "Never"}"#,
    );
    let meta = r#"{"labels": {"b": "2", "a": "1"}, "annotations": {"ns.io/key": "v\n\"q\"", "k": "\u200b\u0007é"}}"#;
    let meta: serde_json::Value = serde_json::from_str(meta).expect("metadata");
    let map = |key: &str| serde_json::from_value(meta[key].clone()).expect("a map");
    (pod.metadata.labels, pod.metadata.annotations) = (map("labels"), map("annotations"));
    let fields = |ip: Option<&str>| {
        let fields = Fields {
            pod: &pod,
            node_name: "node",
            node_ips: vec![[10, 0, 0, 1].into()],
            pod_ips: ip
                .map(|ip| ip.parse().expect("an address"))
                .into_iter()
                .collect(),
        };
        move |path: &str| fields.get(path).unwrap_or_else(|e| format!("!{e}"))
    };
    let get = fields(Some("fd00::6"));
    for (path, value) in [
        ("metadata.name", "web"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u"),
        ("metadata.labels", "a=\"1\"\nb=\"2\""),
        // Values are quoted as Go does.
        (
            "metadata.annotations",
            "k=\"\\u200b\\aé\"\nns.io/key=\"v\\n\\\"q\\\"\"",
        ),
        ("metadata.labels['a']", "1"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['ns.io/key']", "v\n\"q\""),
        ("spec.nodeName", "node"),
        ("spec.serviceAccountName", "sa"),
        ("spec.schedulerName", "s"),
        ("spec.restartPolicy", "Never"),
        ("status.hostIP", "10.0.0.1"),
        ("status.hostIPs", "10.0.0.1"),
        ("status.podIP", "fd00::6"),
        ("status.podIPs", "fd00::6"),
        ("metadata.whoops", "!unsupported fieldPath: metadata.whoops"),
        (
            "metadata.name['a']",
            "!fieldPath \"metadata.name['a']\" does not support subscript",
        ),
    ] {
        assert_eq!(get(path), value, "{path}");
    }
    // Before the sandbox has an address.
    assert_eq!(fields(None)("status.podIP"), "");
}

/// `TestFormatMap`.
#[test]
fn maps_are_lines() {
    for (map, text) in [
        (&[][..], ""),
        (&[("foo", "bar")], "foo=\"bar\""),
        (&[("foo", "bar"), ("baz", "x")], "baz=\"x\"\nfoo=\"bar\""),
        (&[("k", "a\tb\\c")], "k=\"a\\tb\\\\c\""),
        (&[("k", "\u{1f600}\u{7f}")], "k=\"\u{1f600}\\x7f\""),
    ] {
        let map = map
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(format_map(Some(&map)), text);
    }
}
