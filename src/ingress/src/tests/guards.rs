use serde_json::{Value, json};

use super::matching::{compiled, ingress, service};
use crate::table::normalize;

#[test]
fn names_for_tls_take_nothing_from_other_rules() {
    let any = ingress(
        "any",
        9,
        &[
            ("", "Prefix", "/", "any"),
            ("*.w.test", "Prefix", "/", "wild"),
        ],
    );
    let owner = ingress("owner", 8, &[("own.test", "Prefix", "/", "own")]);
    let mut thief = ingress("thief", 7, &[("own.test", "Prefix", "/x", "thief")]);
    thief["metadata"]["namespace"] = json!("other");
    thief["spec"]["tls"] = json!([{ "hosts": ["own.test", "a.w.test", "free.test"] }]);
    let mut good = ingress("good", 6, &[("a.good.test", "Prefix", "/", "good")]);
    good["spec"]["tls"] = json!([{ "hosts": ["*.good.test"] }]);
    let table = compiled(vec![any, owner, thief, good]).table;
    for (host, expected, tls) in [
        ("free.test", "any", false),
        ("a.w.test", "wild", false),
        ("own.test", "own", false),
        ("a.good.test", "good", true),
        ("b.good.test", "any", false),
    ] {
        assert_eq!(
            service(&table, host, "/").as_deref(),
            Some(expected),
            "{host}"
        );
        assert_eq!(table.find(host, "/").unwrap().tls, tls, "{host}");
    }
}

#[test]
fn escaped_slashes_lead_around_no_rule() {
    let rules = [("", "Prefix", "/", "a"), ("", "Prefix", "/admin", "b")];
    let table = compiled(vec![ingress("i", 0, &rules)]).table;
    for (path, ambiguous) in [
        ("/public/..%2Fadmin", true),
        ("/public/..%5cadmin", true),
        ("/public\\..\\admin", true),
        ("/public%2f%2e%2e%2fadmin", true),
        ("/%2Fadmin", true),
        ("/..%2f", true),
        ("/@scope%2Fpackage", false),
        ("/admin%2Fx", true),
        ("/admin/a%2Fb", false),
        ("/a..b/c", false),
    ] {
        let path = normalize(path).unwrap();
        let found = table.find("x.test", &path).unwrap();
        assert_eq!(
            table.is_ambiguous("x.test", &path, &found),
            ambiguous,
            "{path}"
        );
    }
}

#[test]
fn each_ingress_hears_of_a_missing_service() {
    let found = compiled(vec![
        ingress("a", 1, &[("a.test", "Prefix", "/", "web")]),
        ingress("b", 0, &[("b.test", "Prefix", "/", "web")]),
    ]);
    assert_eq!(found.findings.len(), 2, "{:?}", found.findings);
}

#[test]
fn what_cannot_be_followed_is_reported() {
    let annotated = |annotations: Value| {
        let mut ingress = ingress(
            "i",
            0,
            &[("x.test", "ImplementationSpecific", "/a(b", "web")],
        );
        ingress["metadata"]["annotations"] = annotations;
        ingress
    };
    let prefix = "nginx.ingress.kubernetes.io/";
    let cases = [
        ("whitelist-source-range", ",", "all requests are refused"),
        (
            "configuration-snippet",
            "deny all;",
            "all requests are refused",
        ),
        ("enable-modsecurity", "true", "all requests are refused"),
        ("session-cookie-name", "c", "needs the annotation affinity"),
        (
            "permanent-redirect-code",
            "308",
            "needs the annotation permanent-redirect",
        ),
        ("cors-max-age", "5", "they need enable-cors"),
        ("rewrite-target", "https://x.test/", "other servers need"),
        (
            "limit-rps",
            "5",
            "annotation nginx.ingress.kubernetes.io/limit-rps has no effect",
        ),
        ("ssl-redirect", "yes", "neither \"true\" nor \"false\""),
        ("proxy-body-size", "8q", "it is not a size"),
        ("auth-url", "http://x", "all requests are refused"),
        (
            "whitelist-source-range",
            "10.0.0.0/8,x",
            "\"x\" is no address range",
        ),
        (
            "use-regex",
            "true",
            "the path /a(b is no regular expression",
        ),
        ("canary", "true", "canary Ingresses are not supported"),
    ];
    for (name, value, expected) in cases {
        let annotations = json!({ format!("{prefix}{name}"): value });
        let found = compiled(vec![annotated(annotations)]).findings;
        let any = found.iter().any(|f| f.message.contains(expected));
        assert!(any, "{name}: {found:?}");
    }
    let mut resource = ingress("i", 0, &[]);
    resource["spec"]["defaultBackend"] = json!({
        "resource": { "apiGroup": "x.test", "kind": "Bucket", "name": "b" },
    });
    let found = compiled(vec![resource]).findings;
    assert!(
        found[0]
            .message
            .contains("the resource backend Bucket b is not supported")
    );
    // A guard that is not understood keeps everybody out.
    let guarded = annotated(json!({ format!("{prefix}auth-type"): "basic" }));
    let compiled = compiled(vec![guarded]);
    let route = compiled.table.find("x.test", "/a(b").unwrap().route;
    assert!(route.settings.refused.is_some());
}
