use super::*;
use proptest::prelude::*;

#[test]
fn expands_as_upstream() {
    let v = |n: &str| (n == "A").then(|| "1".to_owned());
    for (text, want) in [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("", ""),
    ] {
        assert_eq!(expand(text, v), want, "{text}");
    }
}

proptest! {
    #[test]
    fn expansion_takes_any_text(text in ".*") {
        let out = expand(&text, |_| None);
        prop_assert!(out.len() <= text.len());
    }
}

#[test]
fn fields() {
    let pod = Pod {
        metadata: ObjectMeta {
            name: Some("p".into()),
            labels: Some([("a".to_owned(), "x\"y".to_owned())].into()),
            ..Default::default()
        },
        ..Default::default()
    };
    let f = Fields {
        pod: &pod,
        node_name: "n",
        node_ips: vec![[1, 2, 3, 4].into()],
        pod_ips: vec![],
    };
    assert_eq!(f.get("metadata.name").unwrap(), "p");
    assert_eq!(f.get("metadata.labels['a']").unwrap(), "x\"y");
    assert_eq!(f.get("metadata.labels").unwrap(), "a=\"x\\\"y\"");
    assert_eq!(f.get("status.hostIP").unwrap(), "1.2.3.4");
    assert!(f.get("spec.nothing").is_err());
    assert_eq!(divide_up(1500, 1000), "2");
}

/// Cases of upstream's expansion tests.
#[test]
fn references_are_expanded_as_upstream_does() {
    let value = |n: &str| match n {
        "VAR_A" => Some("A".to_owned()),
        "VAR_B" => Some("B".to_owned()),
        "VAR_C" => Some("C".to_owned()),
        "VAR_REF" => Some("$(VAR_A)".to_owned()),
        "VAR_EMPTY" => Some(String::new()),
        _ => None,
    };
    for (text, expected) in [
        ("foo $(VAR_A) bar", "foo A bar"),
        ("___$(VAR_B)___", "___B___"),
        ("$(VAR_A)-$(VAR_A)", "A-A"),
        ("$(VAR_B)_$(VAR_A)", "B_A"),
        ("$$(VAR_B)_$(VAR_A)", "$(VAR_B)_A"),
        ("$$$(VAR_B)_$(VAR_A)", "$B_A"),
        ("$$$$(VAR_C)", "$$(VAR_C)"),
        ("$$$$$$$(VAR_A)", "$$$A"),
        ("f000-$$VAR_A", "f000-$VAR_A"),
        ("foo\\$(VAR_C)bar", "foo\\Cbar"),
        ("$(VAR_REF)", "$(VAR_A)"),
        ("foo$(VAR_EMPTY)bar", "foobar"),
        ("$(VAR_DNE)", "$(VAR_DNE)"),
        ("$(VAR_Blah", "$(VAR_Blah"),
        ("$?_boo_$!", "$?_boo_$!"),
        ("$VAR_A", "$VAR_A"),
        ("$(foo$$var)", "$(foo$$var)"),
        ("(VAR_A)", "(VAR_A)"),
        ("foo$$$$bar", "foo$$bar"),
        ("$", "$"),
        ("$(", "$("),
        ("$()", "$()"),
    ] {
        assert_eq!(expand(text, value), expected, "{text}");
    }
}

#[test]
fn later_definitions_win_in_the_first_place() {
    let mut v = Variables::default();
    v.set("A", "1".into());
    v.set("B", "2".into());
    v.set("A", "3".into());
    v.set_default("B".into(), "4".into());
    v.set_default("C".into(), "5".into());
    let list: Vec<_> = v.list.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(list, ["A=3", "B=2", "C=5"]);
}

#[test]
fn variables_refer_to_earlier_ones_of_any_origin() {
    let services = HashMap::from([("WEB_PORT", "80"), ("A", "service")]);
    let mut v = Variables::default();
    v.set("PASS", "from a secret".into());
    v.set("A", "own".into());
    for (text, expected) in [
        ("db://u:$(PASS)@h", "db://u:from a secret@h"),
        ("$(A)", "own"),
        ("$(WEB_PORT)", "80"),
        ("$(LATER) $$(A)", "$(LATER) $(A)"),
    ] {
        assert_eq!(v.expand(text, &services), expected);
    }
}

#[test]
fn values_of_secrets_are_text() {
    assert_eq!(secret_text("s", "k", b"\xc3\xa9"), Ok("\u{e9}".to_owned()));
    assert_eq!(
        secret_text("s", "k", b"\xff"),
        Err("the value of key k in secret \"s\" contains invalid UTF-8".to_owned())
    );
}

#[test]
fn names_are_printable_ascii() {
    for (name, valid) in [
        ("A", true),
        ("a.b-c_1", true),
        ("1A", true),
        ("with space", true),
        ("", false),
        ("A=B", false),
        ("\u{e9}", false),
        ("a\n", false),
    ] {
        assert_eq!(valid_name(name), valid, "{name:?}");
    }
}

#[test]
fn resources_of_a_container() {
    let node = Allocatable {
        cpu_millis: 4000,
        memory: 8 << 30,
        storage: 100 << 30,
        ..Default::default()
    };
    let list = |l: &[(&str, &str)]| {
        Some(
            l.iter()
                .map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())))
                .collect(),
        )
    };
    let limited = Container {
        resources: Some(ResourceRequirements {
            requests: list(&[("cpu", "100m"), ("memory", "100Mi")]),
            limits: list(&[
                ("cpu", "1500m"),
                ("memory", "1Gi"),
                ("hugepages-2Mi", "4Mi"),
            ]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let value = |c: &Container, resource: &str, divisor: Option<&str>| {
        let field = ResourceFieldSelector {
            resource: resource.into(),
            divisor: divisor.map(|d| Quantity(d.into())),
            ..Default::default()
        };
        resource_field(&node, &Pod::default(), c, &field)
    };
    for (resource, divisor, expected) in [
        ("limits.cpu", None, "2"),
        ("limits.cpu", Some("1m"), "1500"),
        ("requests.cpu", None, "1"),
        ("requests.cpu", Some("1m"), "100"),
        ("limits.memory", Some("1Mi"), "1024"),
        ("requests.memory", None, "104857600"),
        ("limits.ephemeral-storage", Some("1Gi"), "100"),
        ("requests.ephemeral-storage", None, "0"),
        ("limits.hugepages-2Mi", Some("1Mi"), "4"),
    ] {
        assert_eq!(
            value(&limited, resource, divisor).as_deref(),
            Ok(expected),
            "{resource} {divisor:?}"
        );
    }
    let free = Container::default();
    assert_eq!(value(&free, "limits.cpu", None).as_deref(), Ok("4"));
    assert_eq!(
        value(&free, "limits.memory", Some("1Gi")).as_deref(),
        Ok("8")
    );
    assert_eq!(
        value(&free, "limits.gpu", None).unwrap_err(),
        "unsupported container resource : limits.gpu"
    );
}

#[test]
fn fields_have_subscripts() {
    let mut pod = Pod::default();
    pod.metadata.annotations = Some([("a/b".to_owned(), "x\ny".to_owned())].into());
    pod.metadata.namespace = Some("ns".into());
    let f = Fields {
        pod: &pod,
        node_name: "n",
        node_ips: vec![[1, 2, 3, 4].into()],
        pod_ips: vec![[10, 0, 0, 1].into()],
    };
    for (path, expected) in [
        ("metadata.annotations['a/b']", "x\ny"),
        ("metadata.annotations['none']", ""),
        ("metadata.annotations", "a/b=\"x\\ny\""),
        ("metadata.namespace", "ns"),
        ("spec.nodeName", "n"),
        ("spec.restartPolicy", "Always"),
        ("status.podIP", "10.0.0.1"),
        ("status.podIPs", "10.0.0.1"),
    ] {
        assert_eq!(f.get(path).as_deref(), Ok(expected), "{path}");
    }
    assert_eq!(
        f.get("spec.containers['a']").unwrap_err(),
        "fieldPath \"spec.containers['a']\" does not support subscript"
    );
    assert_eq!(
        f.get("spec.x").unwrap_err(),
        "unsupported fieldPath: spec.x"
    );
}

/// Upstream's "should provide default limits.cpu/memory from pod level resources".
#[test]
fn limits_default_to_those_of_the_pod() {
    let node = Allocatable {
        cpu_millis: 4000,
        memory: 8 << 30,
        ..Default::default()
    };
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "spec": {
            "containers": [
                {"name": "free"},
                {"name": "limited", "resources": {"limits": {"cpu": "500m"}}},
            ],
            "resources": {"limits": {"cpu": "1250m", "memory": "64Mi"}},
        },
    }))
    .unwrap();
    let value = |container: usize, resource: &str| {
        let field = ResourceFieldSelector {
            resource: resource.into(),
            ..Default::default()
        };
        resource_field(&node, &pod, &pod.spec().containers[container], &field).unwrap()
    };
    assert_eq!(value(0, "limits.cpu"), "2");
    assert_eq!(value(0, "limits.memory"), "67108864");
    assert_eq!(value(1, "limits.cpu"), "1");
    assert_eq!(value(1, "limits.memory"), "67108864");
}
