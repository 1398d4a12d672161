use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::compile::{Compiled, Objects, compile};
use crate::table::{Table, host_name, normalize};

/// Returns an object.
pub fn object<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// Returns the class of this controller.
pub fn class() -> Arc<IngressClass> {
    object(json!({
        "metadata": {
            "name": "rkube",
            "annotations": { "ingressclass.kubernetes.io/is-default-class": "true" },
        },
        "spec": { "controller": "rkube.dev/ingress" },
    }))
}

/// Returns an Ingress from rules `(host, type, path, service)`; `age` orders them.
pub fn ingress(name: &str, age: u32, rules: &[(&str, &str, &str, &str)]) -> Value {
    let rules: Vec<Value> = rules
        .iter()
        .map(|(host, kind, path, service)| {
            json!({
                "host": (!host.is_empty()).then_some(host),
                "http": { "paths": [{
                    "pathType": kind,
                    "path": path,
                    "backend": { "service": { "name": service, "port": { "number": 80 } } },
                }] },
            })
        })
        .collect();
    json!({
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "creationTimestamp": format!("2026-01-{:02}T00:00:00Z", 28 - age),
        },
        "spec": { "ingressClassName": "rkube", "rules": rules },
    })
}

pub fn compiled(ingresses: Vec<Value>) -> Compiled {
    let objects = Objects {
        ingresses: ingresses.into_iter().map(object::<Ingress>).collect(),
        classes: vec![class()],
        ..Objects::default()
    };
    compile(&objects)
}

/// Returns the service that a request goes to.
pub fn service(table: &Table, host: &str, path: &str) -> Option<String> {
    let path = normalize(path)?;
    let found = table.find(&host_name(host), &path)?;
    let name = &found.route.backend.name;
    Some(
        name.strip_prefix("default-")?
            .strip_suffix("-80")?
            .to_owned(),
    )
}

/// Rules, as type, path and service; a request's path; the service that gets it.
type Case = (
    &'static [(&'static str, &'static str, &'static str)],
    &'static str,
    Option<&'static str>,
);

#[test]
fn paths_match_as_the_api_says() {
    // The examples of the API's documentation, and of the conformance tests.
    let cases: &[Case] = &[
        (&[("Prefix", "/", "a")], "/any/path", Some("a")),
        (&[("Exact", "/foo", "a")], "/foo", Some("a")),
        (&[("Exact", "/foo", "a")], "/bar", None),
        (&[("Exact", "/foo", "a")], "/foo/", None),
        (&[("Exact", "/foo", "a")], "/FOO", None),
        (&[("Exact", "/foo/", "a")], "/foo", None),
        (&[("Exact", "/foo/", "a")], "/foo/", Some("a")),
        (&[("Prefix", "/foo", "a")], "/foo", Some("a")),
        (&[("Prefix", "/foo", "a")], "/foo/", Some("a")),
        (&[("Prefix", "/foo", "a")], "/FOO", None),
        (&[("Prefix", "/foo/", "a")], "/foo", Some("a")),
        (&[("Prefix", "/foo/", "a")], "/foo/", Some("a")),
        (&[("Prefix", "/aaa/bb", "a")], "/aaa/bbb", None),
        (&[("Prefix", "/aaa/bbb", "a")], "/aaa/bbb", Some("a")),
        (&[("Prefix", "/aaa/bbb/", "a")], "/aaa/bbb", Some("a")),
        (&[("Prefix", "/aaa/bbb", "a")], "/aaa/bbb/", Some("a")),
        (&[("Prefix", "/aaa/bbb", "a")], "/aaa/bbb/ccc", Some("a")),
        (&[("Prefix", "/aaa/bbb", "a")], "/aaa/bbbxyz", None),
        (
            &[("Prefix", "/", "a"), ("Prefix", "/aaa", "b")],
            "/aaa/ccc",
            Some("b"),
        ),
        (
            &[("Prefix", "/aaa", "a"), ("Prefix", "/", "b")],
            "/ccc",
            Some("b"),
        ),
        (
            &[
                ("Prefix", "/", "a"),
                ("Prefix", "/aaa", "b"),
                ("Prefix", "/aaa/bbb", "c"),
            ],
            "/aaa/bbb",
            Some("c"),
        ),
        (&[("Prefix", "/aaa", "a")], "/ccc", None),
        (
            &[("Prefix", "/foo", "a"), ("Exact", "/foo", "b")],
            "/foo",
            Some("b"),
        ),
        (
            &[("Prefix", "/foo", "a"), ("Exact", "/foo", "b")],
            "/foo/",
            Some("a"),
        ),
        (
            &[("ImplementationSpecific", "/foo", "a")],
            "/foo/bar",
            Some("a"),
        ),
        (&[("ImplementationSpecific", "/foo", "a")], "/foobar", None),
        // What a server would resolve does not lead around rules.
        (
            &[("Prefix", "/", "a"), ("Prefix", "/admin", "b")],
            "/x/../admin",
            Some("b"),
        ),
        (
            &[("Prefix", "/", "a"), ("Prefix", "/admin", "b")],
            "//admin/x",
            Some("b"),
        ),
        (
            &[("Prefix", "/", "a"), ("Prefix", "/admin", "b")],
            "/%61dmin",
            Some("b"),
        ),
        (
            &[("Prefix", "/", "a"), ("Prefix", "/admin", "b")],
            "/x/%2e%2E/admin",
            Some("b"),
        ),
        (&[("Prefix", "/", "a")], "/../x", None),
        (&[("Prefix", "/caf\u{e9}", "a")], "/caf%c3%a9", Some("a")),
    ];
    for (rules, path, expected) in cases {
        let rules: Vec<_> = rules
            .iter()
            .map(|(kind, path, service)| ("", *kind, *path, *service))
            .collect();
        let table = compiled(vec![ingress("i", 0, &rules)]).table;
        let found = service(&table, "any.test", path);
        assert_eq!(found.as_deref(), *expected, "{rules:?} {path}");
    }
}

#[test]
fn hosts_match_as_the_api_says() {
    let rules = [
        ("foo.test", "Prefix", "/", "exact"),
        ("*.foo.test", "Prefix", "/", "wildcard"),
        ("bar.foo.test", "Prefix", "/bar", "bar"),
        ("", "Prefix", "/", "any"),
    ];
    let table = compiled(vec![ingress("i", 0, &rules)]).table;
    for (host, path, expected) in [
        ("foo.test", "/", Some("exact")),
        ("FOO.test:8080", "/", Some("exact")),
        ("foo.test.", "/", Some("exact")),
        ("a.foo.test", "/", Some("wildcard")),
        // One label only.
        ("a.b.foo.test", "/", Some("any")),
        (".foo.test", "/", Some("any")),
        // An exact host is not mixed with others.
        ("bar.foo.test", "/bar", Some("bar")),
        ("bar.foo.test", "/", None),
        ("other.test", "/", Some("any")),
        ("[::1]:80", "/", Some("any")),
        ("", "/", Some("any")),
    ] {
        assert_eq!(
            service(&table, host, path).as_deref(),
            expected,
            "{host}{path}"
        );
    }
}

#[test]
fn the_oldest_ingress_wins_and_the_other_hears_of_it() {
    let new = ingress("a", 0, &[("x.test", "Prefix", "/", "new")]);
    let old = ingress("b", 1, &[("x.test", "Prefix", "/", "old")]);
    let compiled = compiled(vec![new, old]);
    assert_eq!(
        service(&compiled.table, "x.test", "/").as_deref(),
        Some("old")
    );
    let conflict = compiled
        .findings
        .iter()
        .find(|f| f.reason == "Conflict")
        .unwrap();
    assert_eq!(&*conflict.ingress, "default/a");
    assert!(
        conflict
            .message
            .contains("x.test/ belongs to the older Ingress default/b")
    );
}

#[test]
fn default_backends_take_the_rest() {
    let backend = |name: &str| json!({ "service": { "name": name, "port": { "number": 80 } } });
    let mut hosted = ingress("a", 2, &[("x.test", "Prefix", "/a", "a")]);
    hosted["spec"]["defaultBackend"] = backend("hosted");
    let mut pure = ingress("b", 1, &[]);
    pure["spec"]["defaultBackend"] = backend("pure");
    let other = ingress("c", 0, &[("y.test", "Exact", "/b", "b")]);
    let table = compiled(vec![hosted, pure, other]).table;
    for (host, path, expected) in [
        ("x.test", "/a", "a"),
        ("x.test", "/", "hosted"),
        ("y.test", "/b", "b"),
        ("y.test", "/", "pure"),
        ("z.test", "/", "pure"),
    ] {
        assert_eq!(
            service(&table, host, path).as_deref(),
            Some(expected),
            "{host}{path}"
        );
    }
}

#[test]
fn classes_decide_which_ingresses_are_served() {
    let with = |class: Value, annotations: Value| {
        let mut ingress = ingress("i", 0, &[("", "Prefix", "/", "a")]);
        ingress["spec"]["ingressClassName"] = class;
        ingress["metadata"]["annotations"] = annotations;
        object::<Ingress>(ingress)
    };
    let nginx = || {
        object::<IngressClass>(json!({
            "metadata": { "name": "nginx" }, "spec": { "controller": "k8s.io/ingress-nginx" },
        }))
    };
    let old = |name: &str| json!({ "kubernetes.io/ingress.class": name });
    for (ingress, classes, served) in [
        (with(json!("rkube"), json!({})), vec![class()], true),
        (with(json!("rkube"), json!({})), vec![], false),
        (with(json!("nginx"), json!({})), vec![class()], true),
        (
            with(json!("nginx"), json!({})),
            vec![class(), nginx()],
            false,
        ),
        (with(json!("other"), json!({})), vec![class()], false),
        (with(json!(null), json!({})), vec![class()], true),
        (with(json!(null), old("rkube")), vec![class()], true),
        (with(json!(null), old("nginx")), vec![class()], true),
        (with(json!(null), old("other")), vec![class()], false),
    ] {
        let objects = Objects {
            ingresses: vec![ingress.clone()],
            classes,
            ..Objects::default()
        };
        assert_eq!(
            compile(&objects).served.len() == 1,
            served,
            "{:?}",
            ingress.spec
        );
    }
}

#[test]
fn only_endpoints_that_take_requests_are_used() {
    let endpoint = |ip: &str, ready: bool, serving: bool, terminating: bool| {
        json!({
            "addresses": [ip],
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        })
    };
    let cases = [
        (
            vec![
                endpoint("10.0.0.1", true, true, false),
                endpoint("10.0.0.2", false, true, true),
            ],
            vec!["10.0.0.1:8080"],
        ),
        (
            vec![
                endpoint("10.0.0.1", false, false, false),
                endpoint("10.0.0.2", false, true, true),
            ],
            vec!["10.0.0.2:8080"],
        ),
        (vec![endpoint("10.0.0.1", false, false, true)], vec![]),
        (
            vec![json!({ "addresses": ["10.0.0.3"] })],
            vec!["10.0.0.3:8080"],
        ),
    ];
    for (endpoints, expected) in cases {
        let objects = Objects {
            ingresses: vec![object(ingress("i", 0, &[("", "Prefix", "/", "web")]))],
            classes: vec![class()],
            services: vec![object(json!({
                "metadata": { "name": "web", "namespace": "default" },
                "spec": { "ports": [
                    { "name": "other", "port": 81, "targetPort": 1 },
                    { "name": "http", "port": 80, "targetPort": "web" },
                ] },
            }))],
            slices: vec![object(json!({
                "metadata": {
                    "name": "web-1",
                    "namespace": "default",
                    "labels": { "kubernetes.io/service-name": "web" },
                },
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{ "name": "other", "port": 1 }, { "name": "http", "port": 8080 }],
            }))],
            ..Objects::default()
        };
        let compiled = compile(&objects);
        let found = compiled.table.find("x", "/").unwrap();
        let found: Vec<String> = found
            .route
            .backend
            .endpoints
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn certificates_are_chosen_by_name() {
    let pair = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let secret = |name: &str, (certificate, key): (String, String)| {
        let mut secret = k8s_openapi::api::core::v1::Secret::default();
        secret.metadata.name = Some(name.into());
        secret.metadata.namespace = Some("default".into());
        let bytes = |text: String| k8s_openapi::ByteString(text.into_bytes());
        secret.data = Some(
            [
                ("tls.crt".to_owned(), bytes(certificate)),
                ("tls.key".to_owned(), bytes(key)),
            ]
            .into(),
        );
        Arc::new(secret)
    };
    let (exact, wild) = (pair("a.test"), pair("*.b.test"));
    let broken = (exact.0.clone(), wild.1.clone());
    let mut with = ingress(
        "i",
        0,
        &[
            ("a.test", "Prefix", "/", "web"),
            ("c.test", "Prefix", "/", "web"),
        ],
    );
    with["spec"]["tls"] = json!([
        { "hosts": ["a.test"], "secretName": "exact" },
        { "hosts": ["*.b.test"], "secretName": "wild" },
        { "hosts": ["c.test"], "secretName": "broken" },
        { "hosts": ["d.test"], "secretName": "missing" },
        { "hosts": ["e.test"] },
        { "hosts": ["f.test"] },
    ]);
    let mut later = ingress("later", 0, &[]);
    with["metadata"]["creationTimestamp"] = json!("2025-01-01T00:00:00Z");
    later["spec"]["tls"] = json!([{ "hosts": ["f.test"], "secretName": "exact" }]);
    let fallback = crate::certificates::self_signed().unwrap();
    let objects = Objects {
        ingresses: vec![object(with), object(later)],
        classes: vec![class()],
        secrets: vec![
            secret("exact", exact),
            secret("wild", wild),
            secret("broken", broken),
        ],
        fallback: Some(fallback.clone()),
        ..Objects::default()
    };
    let compiled = compile(&objects);
    let names = |sni: Option<&str>| {
        crate::certificates::names(&compiled.table.certificates.find(sni).unwrap())
    };
    assert_eq!(names(Some("a.test")), ["a.test"]);
    assert_eq!(names(Some("A.test")), ["a.test"]);
    assert_eq!(names(Some("x.b.test")), ["*.b.test"]);
    // The older Ingress has no certificate for it.
    assert_eq!(names(Some("f.test")), ["a.test"]);
    for other in [
        Some("c.test"),
        Some("d.test"),
        Some("e.test"),
        Some("x.y.b.test"),
        None,
    ] {
        assert_eq!(
            names(other),
            crate::certificates::names(&fallback),
            "{other:?}"
        );
    }
    let messages: Vec<&str> = compiled
        .findings
        .iter()
        .map(|f| f.message.as_str())
        .collect();
    assert!(messages.iter().any(|m| m.contains("the secret broken cannot be used for TLS: tls.key is not the key")), "{messages:?}");
    assert!(
        messages
            .iter()
            .any(|m| m.contains("the secret missing cannot be used for TLS: it does not exist")),
        "{messages:?}"
    );
    assert!(compiled.table.find("c.test", "/").unwrap().tls);
}

#[test]
fn affinity_moves_few_clients() {
    use crate::table::{Affinity, Backend, Protocol, Target};
    let targets = |n: u8| -> Vec<Target> {
        (1..=n)
            .map(|i| Target::Address(([10, 0, 0, i], 80).into()))
            .collect()
    };
    let backend = |n| Backend::new("b".into(), Protocol::Http, targets(n), Affinity::ClientIp);
    let (four, five) = (backend(4), backend(5));
    let mut counts = [0; 5];
    let mut moved = 0;
    for i in 0..1000_u16 {
        let client = [10, 1, (i >> 8) as u8, i as u8].into();
        let (before, after) = (four.first(client, None), five.first(client, None));
        assert_eq!(after, five.first(client, None));
        counts[after] += 1;
        if before != after {
            assert_eq!(after, 4);
            moved += 1;
        }
    }
    assert!((120..280).contains(&moved), "{moved}");
    assert!(counts.iter().all(|n| (120..280).contains(n)), "{counts:?}");
}

/// The rules of the API, read word by word: the reference of the property.
fn naive<'a>(rules: &[(bool, String, &'a str)], path: &str) -> Option<&'a str> {
    let elements = |p: &str| -> Vec<String> {
        let trimmed = p.trim_end_matches('/');
        trimmed.split('/').skip(1).map(ToOwned::to_owned).collect()
    };
    let exact = rules.iter().find(|(exact, rule, _)| *exact && rule == path);
    if let Some((_, _, service)) = exact {
        return Some(service);
    }
    let path = elements(path);
    let prefixes = rules
        .iter()
        .filter(|(exact, rule, _)| !exact && path.starts_with(&elements(rule)));
    // The first of the longest.
    let mut best: Option<(usize, &str)> = None;
    for (_, rule, service) in prefixes {
        let length = elements(rule).len();
        if best.is_none_or(|(longest, _)| length > longest) {
            best = Some((length, service));
        }
    }
    best.map(|(_, service)| service)
}

proptest! {
    #[test]
    fn the_table_finds_what_the_rules_say(
        rules in proptest::collection::vec((any::<bool>(), "(/[ab]{0,2}){1,3}", "[a-f]"), 1..8),
        path in "(/[ab]{0,2}){1,4}",
    ) {
        let plain = |p: &str| normalize(p).unwrap().into_owned();
        let table = {
            let rules: Vec<_> = rules
                .iter()
                .map(|(exact, path, service)| {
                    ("", if *exact { "Exact" } else { "Prefix" }, path.as_str(), service.as_str())
                })
                .collect();
            compiled(vec![ingress("i", 0, &rules)]).table
        };
        let rules: Vec<_> = rules
            .iter()
            .map(|(exact, path, service)| (*exact, plain(path), service.as_str()))
            .collect();
        let found = service(&table, "x.test", &path);
        prop_assert_eq!(found.as_deref(), naive(&rules, &plain(&path)));
    }

    #[test]
    fn normal_paths_stay_and_have_nothing_to_resolve(path in "(/|/[.]{0,3}|/%2e|%2F|[a-c]|%[0-9a-f]{2}|%|\u{e9}){0,12}") {
        if let Some(once) = normalize(&path) {
            let once = once.into_owned();
            prop_assert!(once.starts_with('/') && !once.contains("//") && !once.contains("/../"));
            prop_assert!(!once.ends_with("/.."));
            let twice = normalize(&once).map(std::borrow::Cow::into_owned);
            prop_assert_eq!(twice, Some(once));
        }
    }

    #[test]
    fn reading_annotations_never_panics(name in "[a-z-]{1,20}", value in "\\PC{0,20}") {
        for (name, value) in [(name.as_str(), value.as_str()), ("proxy-body-size", &value), ("cors-allow-origin", &value)] {
            let key = format!("{}{name}", crate::settings::PREFIX);
            crate::settings::read(&[(key, value.to_owned())].into());
        }
    }
}
