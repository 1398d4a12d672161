use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, json};

use super::table::{Holder, Shape};
use super::*;
use crate::registry;
use crate::schema::{Kind, Schema, Type};

fn bytes(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, number, content);
    out
}

fn number(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_varint(&mut out, number, value);
    out
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
    for version in ["v1", "apps/v1", "meta.k8s.io/v1"] {
        let options = number(1, (-1i64) as u64);
        let object = decode(&envelope(version, "DeleteOptions", &options)).unwrap();
        assert_eq!(object["gracePeriodSeconds"], -1);
    }
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

/// Go's encoding of a namespace, byte by byte.
#[test]
fn what_go_holds_by_value_is_written_when_empty() {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    let meta = [
        bytes(1, b"a"),
        bytes(2, b""),
        bytes(3, b""),
        bytes(4, b""),
        bytes(5, b""),
        bytes(6, b""),
        number(7, 0),
        bytes(8, b""),
    ]
    .concat();
    let raw = [bytes(1, &meta), bytes(2, b""), bytes(3, &bytes(1, b""))].concat();
    let encoded = encode(&object).unwrap();
    assert_eq!(encoded.raw(), raw);
    assert_eq!(encoded.body, envelope("v1", "Namespace", &raw));
    assert_eq!(&encoded.body[..16], b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Name");
}

#[test]
fn lists_and_events_are_framed() {
    let item = encode(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}))
        .unwrap();
    let list = encode_list(
        "v1",
        "ConfigMapList",
        &json!({"resourceVersion": "7"}),
        [item.raw()].into_iter(),
    )
    .unwrap();
    assert_eq!(
        decode(&list).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"},
            "items": [{"metadata": {"name": "a"}}],
        })
    );
    let mut frame = Vec::new();
    watch_frame("ADDED", &item.body, &mut frame);
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    assert_eq!(length, frame.len() - 4);
    assert_eq!(
        frame[4..],
        [bytes(1, b"ADDED"), bytes(2, &bytes(1, &item.body))].concat()
    );
}

#[test]
fn what_is_not_of_its_type_is_refused() {
    for object in [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": 1}}),
        json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "***"}}),
        json!({"apiVersion": "v1", "kind": "Pod", "spec": []}),
        json!({"apiVersion": "example.com/v1", "kind": "Thing"}),
        json!({}),
    ] {
        assert_eq!(encode(&object).unwrap_err().code, 500, "{object}");
    }
}

/// A built-in kind with all that it is made of.
fn reachable(ty: Type<'_>, seen: &mut BTreeSet<String>) {
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

/// The fields of a message as JSON shows them.
fn flat(message: Message, out: &mut Vec<table::Field>) {
    for field in message.fields() {
        match (field.holder, field.shape) {
            (Holder::Inline, Shape::Message(inner)) => flat(inner, out),
            _ => out.push(*field),
        }
    }
}

fn agrees(shape: Shape, ty: Type<'_>) -> bool {
    match ty.kind() {
        Kind::String => shape == Shape::Text,
        Kind::Bytes => shape == Shape::Bytes,
        Kind::Integer if ty.is_int32() => shape == Shape::Int32,
        Kind::Integer => shape == Shape::Int64,
        Kind::Number => shape == Shape::Double,
        Kind::Boolean => shape == Shape::Flag,
        Kind::IntOrString => shape == Shape::IntOrString,
        Kind::Quantity => shape == Shape::Quantity,
        Kind::Time => shape == Shape::Time,
        Kind::MicroTime => shape == Shape::MicroTime,
        Kind::Any => shape == Shape::Raw,
        Kind::Array => shape == Shape::Texts,
        Kind::Object => matches!(shape, Shape::Message(_)),
        Kind::SchemaOr => matches!(
            shape,
            Shape::SchemaOrSchemas | Shape::SchemaOrFlag | Shape::SchemaOrTexts
        ),
        Kind::Map => false,
    }
}

/// The table and the schema come from different places and must say the same.
#[test]
fn table_and_schema_agree() {
    let mut seen = BTreeSet::new();
    for row in registry::builtin() {
        let ty = Schema::builtin().definition(&row.definition).unwrap();
        reachable(Type::Builtin(ty), &mut seen);
        assert!(
            message(&row.api_version(), &row.kind).is_some(),
            "{}",
            row.definition
        );
        if row.is_stored() {
            assert!(
                message(&row.api_version(), &row.list_kind).is_some(),
                "{}",
                row.list_kind
            );
        }
        for subresource in &row.subresources {
            let kind = &subresource.kind;
            let version = crate::gvk::api_version(&kind.group, &kind.version);
            if !kind.kind.ends_with("Options") {
                assert!(message(&version, &kind.kind).is_some(), "{kind:?}");
            }
        }
    }
    assert!(seen.len() > 300, "{}", seen.len());
    let messages: std::collections::HashMap<String, Message> = table::all().collect();
    let mut wrong = Vec::new();
    for definition in &seen {
        let key = definition.strip_prefix("io.k8s.").unwrap_or(definition);
        let Some(message) = messages.get(key) else {
            wrong.push(format!("{definition} has no message"));
            continue;
        };
        let ty = Type::Builtin(Schema::builtin().definition(definition).unwrap());
        let mut fields = Vec::new();
        flat(*message, &mut fields);
        for field in ty.fields() {
            if matches!(field.name, "apiVersion" | "kind")
                && !fields.iter().any(|f| f.name == field.name)
            {
                continue;
            }
            let Some(found) = fields.iter().find(|f| f.name == field.name) else {
                wrong.push(format!("{definition}: {} has no number", field.name));
                continue;
            };
            let fits = match (found.holder, found.shape) {
                (Holder::List, shape) => {
                    field.ty.kind() == Kind::Array && agrees(shape, field.ty.element().unwrap())
                }
                (Holder::Map, shape) => {
                    field.ty.kind() == Kind::Map && agrees(shape, field.ty.element().unwrap())
                }
                (_, shape) => agrees(shape, field.ty),
            };
            if !fits {
                wrong.push(format!("{definition}: {} {found:?}", field.name));
            }
        }
        for field in &fields {
            if ty.field(field.name).is_none() {
                wrong.push(format!("{definition}: {} is not declared", field.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn numbers_are_in_order() {
    for (name, message) in table::all() {
        let numbers: Vec<u32> = message.fields().iter().map(|f| f.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{name}");
    }
}

#[test]
fn what_is_broken_is_refused() {
    assert!(decode(b"").is_err());
    assert!(decode(b"k8s\0\x0a\xff").is_err());
    assert!(decode(&envelope("v1", "Nope", b"")).is_err());
    assert!(decode(&envelope("v1", "Pod", &number(1, 5))).is_err());
    // A schema of schemas, deeper than the server follows.
    let mut nested = Vec::new();
    for _ in 0..500 {
        nested = bytes(28, &nested);
    }
    let version = bytes(4, &bytes(1, &nested));
    let crd = bytes(2, &bytes(7, &version));
    assert!(
        decode(&envelope(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            &crd
        ))
        .is_err()
    );
}

/// A stream of random choices: the shape of an object follows from it.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }
}

/// A random value. Zero values are not among them, as Go distinguishes them from
/// nothing only where it holds pointers.
fn random(shape: Shape, pointer: bool, choices: &mut Choices<'_>, depth: usize) -> Value {
    let pick = choices.next();
    match shape {
        Shape::Text if pointer && pick < 40 => "".into(),
        Shape::Text => format!("t{pick}é").into(),
        Shape::Flag => (!pointer || pick.is_multiple_of(2)).into(),
        Shape::Int32 | Shape::Int64 => {
            let number = i64::from(pick) - 100;
            if number == 0 && !pointer { 7 } else { number }.into()
        }
        Shape::Double => (f64::from(pick) + 0.5).into(),
        Shape::Bytes => ["AAEC", "/w==", "aGk="][usize::from(pick % 3)].into(),
        Shape::Quantity => ["1", "100m", "2Gi", "1e3"][usize::from(pick % 4)].into(),
        Shape::IntOrString if pick.is_multiple_of(2) => "http".into(),
        Shape::IntOrString => (i32::from(pick) - 5).into(),
        Shape::Time => {
            ["2024-02-29T12:00:00Z", "1969-12-31T23:59:59Z"][usize::from(pick % 2)].into()
        }
        Shape::MicroTime => "2024-02-29T12:00:00.123456Z".into(),
        Shape::Raw => json!({"any": [pick, null, {"b": "c"}]}),
        Shape::Texts => json!([format!("v{pick}"), "w"]),
        Shape::SchemaOrFlag if pick.is_multiple_of(2) => pick.is_multiple_of(4).into(),
        Shape::SchemaOrTexts if pick.is_multiple_of(2) => json!(["a", "b"]),
        Shape::SchemaOrSchemas if pick.is_multiple_of(2) => json!([{"type": "object"}]),
        Shape::SchemaOrFlag | Shape::SchemaOrTexts | Shape::SchemaOrSchemas => {
            json!({"type": "string", "maxLength": 0})
        }
        Shape::Message(inner) => {
            let mut map = Map::new();
            fill(inner, choices, depth + 1, &mut map);
            Value::Object(map)
        }
    }
}

fn fill(message: Message, choices: &mut Choices<'_>, depth: usize, map: &mut Map<String, Value>) {
    for field in message.fields() {
        let Field { name, shape, .. } = *field;
        // Half of the fields near the root, fewer and fewer below.
        let wanted = choices.next() as usize > 100 + depth * 20;
        match field.holder {
            Holder::Inline => {
                if let Shape::Message(inner) = shape {
                    fill(inner, choices, depth, map);
                }
            }
            // Structs, and what JSON always shows, are there in any case.
            Holder::Value => {
                let unset_shows = match shape {
                    Shape::Message(_) | Shape::Quantity | Shape::IntOrString => true,
                    Shape::Text | Shape::Flag | Shape::Int32 | Shape::Int64 | Shape::Double => {
                        field.always
                    }
                    _ => false,
                };
                if unset_shows || wanted {
                    map.insert(name.into(), random(shape, field.always, choices, depth));
                }
            }
            _ if !wanted => {}
            Holder::Pointer => {
                map.insert(name.into(), random(shape, true, choices, depth));
            }
            Holder::List => {
                let count = 1 + choices.next() % 2;
                let items = (0..count).map(|_| random(shape, true, choices, depth));
                map.insert(name.into(), items.collect());
            }
            Holder::Map => {
                let count = 1 + choices.next() % 2;
                let entries: Map<String, Value> = (0..count)
                    .map(|i| (format!("k{i}"), random(shape, true, choices, depth)))
                    .collect();
                map.insert(name.into(), entries.into());
            }
        }
    }
}

use super::table::Field;

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..crate::testing::config() })]

    /// Every kind: an object of its shape comes back as it was.
    #[test]
    fn every_kind_comes_back(seed in proptest::collection::vec(any::<u8>(), 4000)) {
        for row in registry::builtin() {
            let message = message(&row.api_version(), &row.kind).unwrap();
            let mut map = Map::new();
            fill(message, &mut Choices(seed.iter()), 0, &mut map);
            let mut object = Value::Object(map);
            crate::meta::set_type(&mut object, &row.api_version(), &row.kind);
            let encoded = encode(&object).unwrap();
            let back = decode(&encoded.body).unwrap();
            prop_assert_eq!(&back, &object, "{}", row.kind);
            // The decoded object is encoded to the same bytes.
            prop_assert_eq!(encode(&back).unwrap(), encoded);
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::config())]

    #[test]
    fn nothing_makes_the_decoder_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&raw);
        for (version, kind) in [
            ("v1", "Pod"),
            ("apps/v1", "Deployment"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
            ("v1", "DeleteOptions"),
        ] {
            if let Ok(object) = decode(&envelope(version, kind, &raw)) {
                // A decoded object can be encoded.
                prop_assert!(encode(&object).is_ok(), "{}", object);
            }
        }
    }

    /// Bytes that are right but for a few of them.
    #[test]
    fn nothing_broken_makes_it_panic(
        pod in crate::testing::pod(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut body = encode(&pod).unwrap().body;
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let _ = decode(&body);
    }

    #[test]
    fn nothing_makes_the_encoder_panic(object in crate::testing::pod_like()) {
        if let Ok(encoded) = encode(&object) {
            prop_assert!(decode(&encoded.body).is_ok());
        }
    }
}

/// Go's JSON has null for lists and times that are not set.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Upstream's own files of every kind with every field set, where a checkout
/// of Kubernetes is at hand: `RKUBE_KUBERNETES_SOURCE` names it.
#[test]
fn bytes_are_upstreams() {
    let Some(root) = std::env::var_os("RKUBE_KUBERNETES_SOURCE") else {
        rkube_testing::not_applicable("RKUBE_KUBERNETES_SOURCE is not set");
        return;
    };
    let folder = std::path::Path::new(&root).join("staging/src/k8s.io/api/testdata/HEAD");
    let mut compared = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let mut object: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        without_nulls(&mut object);
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        if message(&text("apiVersion"), &text("kind")).is_none() {
            continue;
        }
        let theirs = std::fs::read(path.with_extension("pb")).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        match encode(&object) {
            Ok(ours) if ours.body == theirs => {}
            Ok(_) => wrong.push(format!("{name}: other bytes")),
            Err(status) => wrong.push(format!("{name}: {}", status.message)),
        }
        match decode(&theirs) {
            Ok(back) if back == object => {}
            Ok(back) => wrong.push(format!("{name}: {back}, not {object}")),
            Err(status) => wrong.push(format!("{name}: {}", status.message)),
        }
        compared += 1;
    }
    eprintln!("{compared} kinds compared");
    assert!(compared > 60, "{compared}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
