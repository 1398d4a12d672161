//! Every kind with every field, and its numbers at the limits of their types.

use rkube_api::registry;
use rkube_api::schema::{Kind, Type};
use serde_json::{Map, Value, json};

use crate::{Context, Object, Subresource, strategy_for};

/// Numbers at which sums, products and negations overflow.
const LIMITS: [i64; 7] = [
    i64::MIN,
    i32::MIN as i64,
    -1,
    0,
    1,
    i32::MAX as i64,
    i64::MAX,
];

/// The parts from which a value of every type is made.
#[derive(Clone, Copy)]
struct Fill {
    number: i64,
    text: &'static str,
    quantity: &'static str,
}

impl Fill {
    /// Returns a value of the type that has every field, and one item in every list and map.
    /// `within` are the types around it; none, as a JSON schema, is put into itself.
    fn value(self, ty: Type<'_>, within: &mut Vec<String>) -> Value {
        match ty.kind() {
            Kind::Object => {
                let name = ty.go_name();
                if within.contains(&name) {
                    return Value::Null;
                }
                within.push(name);
                let fields: Map<String, Value> = ty
                    .fields()
                    .into_iter()
                    .map(|field| (field.name.to_owned(), self.value(field.ty, within)))
                    .filter(|(_, value)| !value.is_null())
                    .collect();
                within.pop();
                fields.into()
            }
            Kind::Map => match ty.element() {
                Some(element) => json!({"cpu": self.value(element, within)}),
                None => json!({}),
            },
            Kind::Array => match ty.element() {
                Some(element) => json!([self.value(element, within)]),
                None => json!([]),
            },
            Kind::Boolean => true.into(),
            Kind::Integer if ty.is_int32() => self
                .number
                .clamp(i64::from(i32::MIN), i64::from(i32::MAX))
                .into(),
            Kind::Integer => self.number.into(),
            Kind::IntOrString => self
                .number
                .clamp(i64::from(i32::MIN), i64::from(i32::MAX))
                .into(),
            Kind::Number => json!(self.number as f64),
            Kind::Quantity => self.quantity.into(),
            Kind::Time => "9999-12-31T23:59:59Z".into(),
            Kind::MicroTime => "9999-12-31T23:59:59.999999Z".into(),
            Kind::Bytes => "YQ==".into(),
            Kind::String => self.text.into(),
            Kind::Any | Kind::SchemaOr => Value::Null,
        }
    }
}

/// Calls everything that a strategy does with objects.
fn exercise(group: &str, kind: &str, new: &Object, old: &Object) {
    let ctx = Context::new(jiff::Timestamp::UNIX_EPOCH, "somebody");
    let strategy = strategy_for(group, kind);
    let mut created = new.clone();
    strategy.default(&mut created);
    strategy.prepare_create(&ctx, &mut created);
    // Whether it is valid does not matter here, nor what the errors are.
    drop(crate::validate_metadata(
        &created,
        true,
        strategy.name_rule(),
    ));
    drop(strategy.validate_create(&created));
    drop(strategy.warnings(&created, Some(old)));
    let mut updated = new.clone();
    strategy.default(&mut updated);
    strategy.prepare_update(&ctx, &mut updated, old);
    drop(crate::validate_metadata_update(&updated, old));
    drop(strategy.validate_update(&updated, old));
    let mut status = new.clone();
    strategy.prepare_status_update(&ctx, &mut status, old);
    drop(strategy.validate_status_update(&status, old));
    for part in [
        Subresource::EphemeralContainers,
        Subresource::Resize,
        Subresource::Approval,
        Subresource::Finalize,
    ] {
        let mut changed = new.clone();
        strategy.prepare_subresource_update(&ctx, part, &mut changed, old);
        drop(strategy.validate_subresource_update(part, &changed, old));
    }
    for grace in LIMITS {
        let period = strategy.grace_period(new, Some(grace));
        assert!(
            period.is_none_or(|n| n >= 0),
            "{kind}: {grace} gives {period:?}"
        );
    }
    let period = strategy.grace_period(new, None);
    assert!(period.is_none_or(|n| n >= 0), "{kind}: {period:?}");
    if let Some(scale) = strategy.scale(new) {
        let mut scaled = old.clone();
        drop(strategy.set_scale(&mut scaled, &scale));
    }
}

/// Returns the object of a resource's kind that [`Fill`] makes.
fn full(resource: &registry::Resource, fill: Fill) -> Option<Object> {
    let ty = resource.schema()?;
    let mut object = fill.value(Type::Builtin(ty), &mut Vec::new());
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.clone().into();
    Some(object)
}

#[test]
fn numbers_at_their_limits_never_panic() {
    for resource in registry::builtin() {
        let objects: Vec<Object> = LIMITS
            .into_iter()
            .flat_map(|number| {
                full(
                    resource,
                    Fill {
                        number,
                        text: "a",
                        quantity: "1",
                    },
                )
            })
            .collect();
        let Some(middle) = objects.get(LIMITS.len() / 2) else {
            continue;
        };
        for object in &objects {
            exercise(&resource.group, &resource.kind, object, middle);
        }
    }
}

#[test]
fn texts_and_quantities_of_any_form_never_panic() {
    let texts = [
        "",
        "\u{e9}",
        "/..\u{1f600}",
        "-1",
        "* * * * *",
        "100%",
        "[",
        "a/b/c",
        ".",
        "::",
    ];
    let quantities = [
        "0",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "1e99",
        "-1e-99",
        "9999999999999999999999E",
        "1n",
        "",
    ];
    for resource in registry::builtin() {
        let plain = Fill {
            number: 1,
            text: "a",
            quantity: "1",
        };
        let Some(base) = full(resource, plain) else {
            continue;
        };
        let fills = texts.into_iter().map(|text| Fill { text, ..plain }).chain(
            quantities
                .into_iter()
                .map(|quantity| Fill { quantity, ..plain }),
        );
        for object in fills.filter_map(|fill| full(resource, fill)) {
            exercise(&resource.group, &resource.kind, &object, &base);
        }
    }
}

#[test]
fn defaults_of_full_objects_are_final() {
    for resource in registry::builtin() {
        for number in LIMITS {
            let fill = Fill {
                number,
                text: "a",
                quantity: "1",
            };
            let Some(mut object) = full(resource, fill) else {
                continue;
            };
            let strategy = strategy_for(&resource.group, &resource.kind);
            strategy.default(&mut object);
            let once = object.clone();
            strategy.default(&mut object);
            assert_eq!(object, once, "{}", resource.kind);
        }
    }
}
