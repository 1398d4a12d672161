//! Config maps, secrets, quotas, limit ranges and other parts of the core group.

use serde_json::json;

use super::{assert_create, assert_update};

#[test]
fn config_maps() {
    assert_create(
        "",
        "ConfigMap",
        json!({"data": {"key": "value"}}),
        &[
            (r#"{"data": {"_.a-B9": ""}}"#, ""),
            (r#"{"data": {"a/b": ""}}"#, "Invalid data[a/b]"),
            (r#"{"data": {"..": ""}}"#, "Invalid data[..]"),
            (r#"{"binaryData": {"b c": ""}}"#, "Invalid binaryData[b c]"),
            (r#"{"binaryData": {"key": "AA=="}}"#, "Invalid data[key]"),
        ],
    );
    assert_update(
        "",
        "ConfigMap",
        json!({"data": {"key": "value"}, "immutable": true}),
        &[
            (r#"{"metadata": {"labels": {"a": "b"}}}"#, ""),
            (r#"{"immutable": null}"#, "Forbidden immutable"),
            (r#"{"data": {"key": "other"}}"#, "Forbidden data"),
            (r#"{"binaryData": {"b": "AA=="}}"#, "Forbidden binaryData"),
        ],
    );
}

#[test]
fn secrets() {
    assert_create(
        "",
        "Secret",
        json!({"data": {"key": "AA=="}}),
        &[
            (r#"{"data": {"a b": "AA=="}}"#, "Invalid data[a b]"),
            (
                r#"{"type": "kubernetes.io/dockerconfigjson"}"#,
                "Required data[.dockerconfigjson]",
            ),
            (
                r#"{"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eA=="}}"#,
                "Invalid data[.dockerconfigjson]",
            ),
            (
                r#"{"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}"#,
                "",
            ),
            (
                r#"{"type": "kubernetes.io/dockercfg"}"#,
                "Required data[.dockercfg]",
            ),
            (
                r#"{"type": "kubernetes.io/ssh-auth"}"#,
                "Required data[ssh-privatekey]",
            ),
            (
                r#"{"type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": "AA=="}}"#,
                "",
            ),
            (
                r#"{"type": "kubernetes.io/tls"}"#,
                "Required data[tls.crt], Required data[tls.key]",
            ),
            (
                r#"{"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}"#,
                "",
            ),
            (
                r#"{"type": "kubernetes.io/service-account-token"}"#,
                "Required metadata.annotations[kubernetes.io/service-account.name]",
            ),
        ],
    );
    assert_update(
        "",
        "Secret",
        json!({"data": {"key": "AA=="}, "immutable": true}),
        &[
            (r#"{"immutable": false}"#, "Forbidden immutable"),
            (r#"{"data": {"key": "AQ=="}}"#, "Forbidden data"),
            (r#"{"type": "other"}"#, "Invalid type"),
        ],
    );
}

#[test]
fn quotas() {
    assert_create(
        "",
        "ResourceQuota",
        json!({"spec": {"hard": {"cpu": "1", "pods": "10", "requests.example.com/gpu": "2"}}}),
        &[
            (
                r#"{"spec": {"hard": {"cpu": "-1"}}}"#,
                "Invalid spec.hard[cpu]",
            ),
            (
                r#"{"spec": {"hard": {"pods": "500m"}}}"#,
                "Invalid spec.hard[pods]",
            ),
            (r#"{"spec": {"hard": {"count/jobs.batch": "5"}}}"#, ""),
            (
                r#"{"spec": {"hard": {"what": "5"}}}"#,
                "Invalid spec.hard[what], Invalid spec.hard[what]",
            ),
            (r#"{"spec": {"scopes": ["Terminating"]}}"#, ""),
            (
                r#"{"spec": {"hard": {"secrets": "5"}, "scopes": ["Terminating"]}}"#,
                "Invalid spec.scopes",
            ),
            (
                r#"{"spec": {"hard": {"requests.example.com/gpu": null}, "scopes": ["Terminating"]}}"#,
                "",
            ),
            (
                r#"{"spec": {"hard": {"requests.example.com/gpu": null}, "scopes": ["Terminating", "NotTerminating"]}}"#,
                "Invalid spec.scopes",
            ),
            (
                r#"{"spec": {"scopes": ["Unknown"]}}"#,
                "Invalid spec.scopes",
            ),
        ],
    );
}

#[test]
fn limit_ranges() {
    assert_create(
        "",
        "LimitRange",
        json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"},
            "default": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}}]}}),
        &[
            (
                r#"{"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}]}}"#,
                "Invalid spec.limits[0].min[cpu]",
            ),
            (
                r#"{"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}, {"type": "Pod", "max": {"cpu": "1"}}]}}"#,
                "Duplicate spec.limits[1].type",
            ),
            (
                r#"{"spec": {"limits": [{"type": "Pod", "default": {"cpu": "1"}}]}}"#,
                "Forbidden spec.limits[0].default",
            ),
            (
                r#"{"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "2"}}]}}"#,
                "Invalid spec.limits[0].default[cpu]",
            ),
            (
                r#"{"spec": {"limits": [{"type": "Container", "maxLimitRequestRatio": {"cpu": "800m"}}]}}"#,
                "Invalid spec.limits[0].maxLimitRequestRatio[cpu]",
            ),
            (
                r#"{"spec": {"limits": [{"type": "PersistentVolumeClaim"}]}}"#,
                "Required spec.limits[0].limits",
            ),
        ],
    );
}

#[test]
fn endpoints() {
    assert_create(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "p", "port": 80, "protocol": "TCP"}]}]}),
        &[
            (
                r#"{"subsets": [{"ports": [{"port": 80, "protocol": "TCP"}]}]}"#,
                "Required subsets[0]",
            ),
            (
                r#"{"subsets": [{"addresses": [{"ip": "x"}], "ports": [{"port": 80, "protocol": "TCP"}]}]}"#,
                "Invalid subsets[0].addresses[0].ip, Invalid subsets[0].addresses[0].ip",
            ),
            (
                r#"{"subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}]}"#,
                "Invalid subsets[0].addresses[0].ip",
            ),
            (
                r#"{"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 66000, "protocol": "TCP"}]}]}"#,
                "Invalid subsets[0].ports[0].port",
            ),
            (
                r#"{"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "X"}]}]}"#,
                "NotSupported subsets[0].ports[0].protocol",
            ),
            (
                r#"{"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}]}"#,
                "Required subsets[0].ports[0].name, Required subsets[0].ports[1].name",
            ),
        ],
    );
}
