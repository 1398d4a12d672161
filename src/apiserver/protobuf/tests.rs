use super::*;

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
    [
        varint(number << 3 | 2),
        varint(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

fn number(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [
        b"k8s\0".to_vec(),
        bytes(1, &type_meta),
        bytes(2, raw),
        bytes(3, b""),
        bytes(4, b""),
    ]
    .concat()
}

#[test]
fn a_deployment_is_read() {
    let port = [number(3, 8080), bytes(4, b"TCP")].concat();
    let limits = bytes(
        1,
        &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat(),
    );
    let http = [
        bytes(1, b"/"),
        bytes(2, &[number(1, 0), number(2, 80)].concat()),
    ]
    .concat();
    let probe = [bytes(1, &bytes(2, &http)), number(2, 5)].concat();
    let container = [
        bytes(1, b"web"),
        bytes(2, b"img"),
        bytes(6, &port),
        bytes(8, &limits),
        bytes(10, &probe),
    ]
    .concat();
    let volume = [bytes(1, b"v"), bytes(2, &bytes(2, b""))].concat();
    let pod_spec = [bytes(1, &volume), bytes(2, &container)].concat();
    let labels = bytes(11, &[bytes(1, b"app"), bytes(2, b"web")].concat());
    let template = [
        bytes(1, &[labels, bytes(8, b"")].concat()),
        bytes(2, &pod_spec),
    ]
    .concat();
    let spec = [number(1, 2), bytes(3, &template)].concat();
    let deployment = [bytes(1, &bytes(1, b"web")), bytes(2, &spec)].concat();
    let object = decode(&envelope("apps/v1", "Deployment", &deployment)).unwrap();
    assert_eq!(
        object,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 2, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "volumes": [{"name": "v", "emptyDir": {}}],
                    "containers": [{
                        "name": "web", "image": "img", "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                        "resources": {"limits": {"cpu": "100m"}},
                        "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "initialDelaySeconds": 5},
                    }],
                },
            }},
        })
    );
}

#[test]
fn secrets_times_and_negative_numbers() {
    let data = bytes(2, &[bytes(1, b"k"), bytes(2, &[0, 255])].concat());
    let object = decode(&envelope("v1", "Secret", &data)).unwrap();
    assert_eq!(object["data"]["k"], "AP8=");
    let meta = bytes(8, &number(1, 1_700_000_000));
    let object = decode(&envelope("v1", "Secret", &bytes(1, &meta))).unwrap();
    assert_eq!(
        object["metadata"]["creationTimestamp"],
        "2023-11-14T22:13:20Z"
    );
    let options = number(1, (-1i64) as u64);
    let object = decode(&envelope("v1", "DeleteOptions", &options)).unwrap();
    assert_eq!(object["gracePeriodSeconds"], -1);
}

#[test]
fn unset_fields_are_left_out_and_pointers_kept() {
    let spec = [number(1, 0), number(5, 0)].concat();
    let meta = [bytes(1, b"d"), bytes(2, b""), number(7, 0), bytes(8, b"")].concat();
    let object = decode(&envelope(
        "apps/v1",
        "Deployment",
        &[bytes(1, &meta), bytes(2, &spec)].concat(),
    ))
    .unwrap();
    assert_eq!(object["metadata"], json!({"name": "d"}));
    assert_eq!(object["spec"], json!({"replicas": 0}));
}

/// A built-in kind with all that it is made of, but for lists of it and what
/// protobuf has no message for.
fn reachable(ty: Type<'_>, seen: &mut std::collections::BTreeSet<String>) {
    match ty.kind() {
        Kind::Array | Kind::Map => {
            if let Some(element) = ty.element() {
                reachable(element, seen);
            }
        }
        Kind::Object => {
            let Type::Builtin(reference) = ty else { return };
            let Some(name) = reference.definition_name() else {
                return;
            };
            if seen.insert(name.to_owned()) {
                for field in ty.fields() {
                    reachable(field.ty, seen);
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_of_a_stored_kind_has_a_number() {
    let mut seen = std::collections::BTreeSet::new();
    for row in registry::builtin() {
        if let Some(ty) = Schema::builtin().definition(&row.definition) {
            reachable(Type::Builtin(ty), &mut seen);
        }
    }
    fn names(message: &str, out: &mut Vec<&'static str>) {
        let fields = MESSAGES.get(message).copied().unwrap_or_default();
        for field in fields.split(' ').filter(|f| !f.is_empty()) {
            let (_, name) = field.trim_end_matches('*').split_once(':').unwrap();
            match name.strip_prefix('>') {
                Some(inner) => names(inner, out),
                None => out.push(name),
            }
        }
    }
    let mut missing = Vec::new();
    for definition in &seen {
        let Some(ty) = Schema::builtin().definition(definition) else {
            continue;
        };
        let mut known = vec!["apiVersion", "kind"];
        names(
            definition.strip_prefix("io.k8s.").unwrap_or(definition),
            &mut known,
        );
        for field in Type::Builtin(ty).fields() {
            if !known.contains(&field.name) {
                missing.push(format!("{definition}: {}", field.name));
            }
        }
    }
    assert!(seen.len() > 300, "{}", seen.len());
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn what_is_broken_is_refused() {
    assert!(decode(b"").is_err());
    assert!(decode(b"k8s\0\x0a\xff").is_err());
    assert!(decode(&envelope("v1", "Nope", b"")).is_err());
    assert!(decode(&envelope("v1", "Pod", &number(1, 5))).is_err());
    let mut nested = Vec::new();
    for _ in 0..500 {
        nested = bytes(1, &bytes(5, &nested));
    }
    assert!(
        decode(&envelope("v1", "Pod", &nested)).is_ok()
            || decode(&envelope("v1", "Pod", &nested)).is_err()
    );
}

#[test]
fn every_stored_kind_has_its_numbers() {
    for row in registry::builtin() {
        let key = row
            .definition
            .strip_prefix("io.k8s.")
            .unwrap_or(&row.definition);
        assert!(MESSAGES.contains_key(key), "{}", row.definition);
    }
}

#[test]
fn every_number_leads_to_a_declared_field() {
    for (message, fields) in MESSAGES.iter() {
        let Some(ty) = Schema::builtin().definition(&format!("io.k8s.{message}")) else {
            continue;
        };
        for field in fields.split(' ').filter(|f| !f.is_empty()) {
            let (_, name) = field.trim_end_matches('*').split_once(':').unwrap();
            if let Some(inner) = name.strip_prefix('>') {
                assert!(MESSAGES.contains_key(inner), "{message}: {inner}");
            } else {
                assert!(Type::Builtin(ty).field(name).is_some(), "{message}: {name}");
            }
        }
    }
}

proptest::proptest! {
    #[test]
    fn nothing_makes_it_panic(raw in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = decode(&raw);
        let _ = decode(&envelope("v1", "Pod", &raw));
        let _ = decode(&envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &raw));
    }
}
