//! Makes cases: an object of a known kind with a few changes.

use rkube_api::registry::{self, Resource};
use rkube_api::schema::{Kind, Type};
use serde_json::{Map, Value, json};

use crate::random::Random;

/// Numbers at the ends of ranges and around defaults.
const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    80,
    65_535,
    65_536,
    i32::MAX as i64,
    i32::MIN as i64,
    i32::MAX as i64 + 1,
    i64::MAX,
    i64::MIN,
];
/// Strings that are names, and strings that are not.
const STRINGS: &[&str] = &[
    "",
    "a",
    "a-b.c",
    "A_b",
    "-a",
    " a ",
    "a/b",
    "example.com/a",
    "Always",
    "None",
    "TCP",
    "10.0.0.1",
    "10.0.0.1/8",
    "fd00::1",
    "\u{a0}é\u{200b}",
    "a\nb",
    "$(A)",
    "true",
    "1",
];
const QUANTITIES: &[&str] = &[
    "0", "1", "100m", "1Gi", "1.5", "-1", "1e3", "x", "", "0.0001",
];
const TIMES: &[&str] = &[
    "2026-01-01T00:00:00Z",
    "2026-01-01T00:00:00.123456Z",
    "2026-01-01T00:00:00+02:00",
    "0001-01-01T00:00:00Z",
    "yesterday",
];
/// Maximum depth of a change below the object.
const DEPTH: usize = 9;

/// A request body with its kind.
#[derive(Clone, Debug)]
pub struct Case {
    /// The number of the case in its run.
    pub number: u64,
    /// The kind's resource.
    pub resource: &'static Resource,
    /// The object, without a name.
    pub object: Value,
    /// The changes that were made to the valid object, for people.
    pub changes: Vec<String>,
}

/// Makes cases from a seed.
#[derive(Debug)]
pub struct Generator {
    seed: u64,
    seeds: Vec<(&'static Resource, Value)>,
}

/// A change of one place.
#[derive(Clone, Copy, Debug)]
enum Change {
    Null,
    Zero,
    Filled,
    WrongType,
    Unknown,
    Twice,
    Remove,
}

const CHANGES: &[Change] = &[
    Change::Null,
    Change::Zero,
    Change::Zero,
    Change::Filled,
    Change::Filled,
    Change::Filled,
    Change::WrongType,
    Change::Unknown,
    Change::Twice,
    Change::Remove,
];

impl Generator {
    /// Creates a generator of cases of all kinds whose `apiVersion/kind` contains `only`.
    ///
    /// # Errors
    /// The list of valid objects names a kind that is not built in.
    pub fn new(seed: u64, only: &str) -> anyhow::Result<Self> {
        let all: Vec<Value> = serde_yaml::from_str(include_str!("seeds.yaml"))?;
        let mut seeds = Vec::new();
        for object in all {
            let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
            let (version, kind) = (text("apiVersion"), text("kind"));
            let (group, number) = version.rsplit_once('/').unwrap_or(("", &version));
            let resource = registry::find_kind(group, number, &kind)
                .ok_or_else(|| anyhow::anyhow!("there is no kind {version} {kind}"))?;
            if format!("{version}/{kind}").contains(only) {
                seeds.push((resource, object));
            }
        }
        anyhow::ensure!(!seeds.is_empty(), "no kind's name contains '{only}'");
        Ok(Self { seed, seeds })
    }

    /// Returns the number of valid objects; the cases of these numbers have no changes.
    pub fn valid(&self) -> u64 {
        self.seeds.len() as u64
    }

    /// Makes the case of a number.
    pub fn case(&self, number: u64) -> Case {
        let index = number as usize % self.seeds.len();
        let (resource, object) = &self.seeds[index];
        let mut case = Case {
            number,
            resource,
            object: object.clone(),
            changes: Vec::new(),
        };
        let Some(schema) = resource.schema().filter(|_| number >= self.valid()) else {
            return case;
        };
        let mut random = Random::new(self.seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        for _ in 0..1 + random.below(3) {
            let mut path = String::new();
            let change = *random.pick(CHANGES);
            descend(
                &mut case.object,
                schema.into(),
                change,
                &mut random,
                &mut path,
                0,
            );
            case.changes.push(format!("{change:?}{path}"));
        }
        case
    }
}

/// Walks to a random place of a value of type `ty`, which it makes on its way, and changes it.
fn descend(
    value: &mut Value,
    ty: Type<'_>,
    change: Change,
    random: &mut Random,
    path: &mut String,
    depth: usize,
) {
    let ends = depth >= DEPTH || (depth > 1 && random.below(4) == 0);
    match ty.kind() {
        Kind::Object if !ends => {
            let fields = ty.fields();
            let known: Vec<_> = fields
                .iter()
                .filter(|f| depth > 0 || !matches!(f.name, "apiVersion" | "kind"))
                .collect();
            if known.is_empty() {
                return apply(value, ty, change, random);
            }
            let field = random.pick(&known);
            // Fields that the server sets tell little, and the name identifies the case.
            if depth == 1 && path == ".metadata" && !is_set_by_clients(field.name) {
                return;
            }
            if !value.is_object() {
                *value = json!({});
            }
            if let Change::Unknown = change
                && random.below(2) == 0
            {
                value["notAField"] = json!(1);
                return;
            }
            path.push('.');
            path.push_str(field.name);
            let object = value.as_object_mut().expect("made above");
            if let Change::Remove = change
                && random.below(2) == 0
            {
                object.remove(field.name);
                return;
            }
            let place = object.entry(field.name).or_insert(Value::Null);
            descend(place, field.ty, change, random, path, depth + 1);
        }
        Kind::Array if !ends => {
            let Some(element) = ty.element() else { return };
            if !value.is_array() {
                *value = json!([]);
            }
            let items = value.as_array_mut().expect("made above");
            if let (Change::Twice, Some(last)) = (change, items.last().cloned()) {
                items.push(last);
                return;
            }
            if items.is_empty() {
                items.push(filled(element, random, depth));
            }
            let index = random.below(items.len());
            path.push_str(&format!("[{index}]"));
            descend(&mut items[index], element, change, random, path, depth + 1);
        }
        Kind::Map if !ends => {
            let Some(element) = ty.element() else { return };
            if !value.is_object() {
                *value = json!({});
            }
            let key = *random.pick(&["a", "example.com/k", "cpu", "-bad-", "memory"]);
            path.push_str(&format!("[{key}]"));
            let object = value.as_object_mut().expect("made above");
            let place = object.entry(key).or_insert(Value::Null);
            descend(place, element, change, random, path, depth + 1);
        }
        _ => apply(value, ty, change, random),
    }
}

/// Returns whether clients set a field of the metadata.
fn is_set_by_clients(field: &str) -> bool {
    matches!(
        field,
        "labels"
            | "annotations"
            | "finalizers"
            | "ownerReferences"
            | "generation"
            | "creationTimestamp"
    )
}

fn apply(value: &mut Value, ty: Type<'_>, change: Change, random: &mut Random) {
    *value = match change {
        Change::Null => Value::Null,
        Change::Zero | Change::Remove => zero(ty.kind()),
        Change::Filled | Change::Unknown | Change::Twice => filled(ty, random, DEPTH - 1),
        Change::WrongType => match ty.kind() {
            Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime => json!(5),
            Kind::Integer | Kind::Number => random.pick(&[json!("5"), json!(1.5)]).clone(),
            Kind::Boolean => random.pick(&[json!("true"), json!(1)]).clone(),
            Kind::Array => random.pick(&[json!({}), json!("a"), json!([null])]).clone(),
            _ => random.pick(&[json!([]), json!("a"), json!(true)]).clone(),
        },
    };
}

fn zero(kind: Kind) -> Value {
    match kind {
        Kind::Object | Kind::Map | Kind::Any | Kind::SchemaOr => json!({}),
        Kind::Array => json!([]),
        Kind::Integer | Kind::Number | Kind::IntOrString => json!(0),
        Kind::Boolean => json!(false),
        Kind::Quantity => json!("0"),
        Kind::String | Kind::Bytes => json!(""),
        Kind::Time | Kind::MicroTime => Value::Null,
    }
}

/// Returns a value of a type, with its required fields.
fn filled(ty: Type<'_>, random: &mut Random, depth: usize) -> Value {
    match ty.kind() {
        Kind::String => json!(random.pick(STRINGS)),
        Kind::Bytes => json!(random.pick(&["", "YQ==", "YWI=\n", "?"])),
        Kind::Integer => json!(random.pick(NUMBERS)),
        Kind::Number => random.pick(&[json!(0.5), json!(1e3), json!(-1)]).clone(),
        Kind::Boolean => json!(random.below(2) == 0),
        Kind::IntOrString => random
            .pick(&[json!(1), json!("50%"), json!("http"), json!("")])
            .clone(),
        Kind::Quantity => match random.below(5) {
            0 => json!(1),
            1 => json!(0.5),
            _ => json!(random.pick(QUANTITIES)),
        },
        Kind::Time | Kind::MicroTime => json!(random.pick(TIMES)),
        Kind::Any => random
            .pick(&[json!({"a": 1.0}), json!([1, null]), json!("x")])
            .clone(),
        Kind::SchemaOr => json!({"type": "string"}),
        Kind::Array => match ty.element() {
            Some(element) if depth < DEPTH => json!([filled(element, random, depth + 1)]),
            _ => json!([]),
        },
        Kind::Map => match ty.element() {
            Some(element) if depth < DEPTH => json!({"a": filled(element, random, depth + 1)}),
            _ => json!({}),
        },
        Kind::Object => {
            let mut object = Map::new();
            for field in ty.fields().iter().filter(|f| f.required && depth < DEPTH) {
                object.insert(field.name.into(), filled(field.ty, random, depth + 1));
            }
            Value::Object(object)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_cases_again() {
        let (one, two) = (
            Generator::new(7, "").unwrap(),
            Generator::new(7, "").unwrap(),
        );
        let other = Generator::new(8, "").unwrap();
        let mut differ = 0;
        for number in 0..500 {
            let case = one.case(number);
            assert_eq!(case.object, two.case(number).object);
            differ += usize::from(case.object != other.case(number).object);
            assert_eq!(case.changes.is_empty(), number < one.valid());
        }
        assert!(differ > 300, "{differ}");
    }

    #[test]
    fn kinds_can_be_chosen() {
        let pods = Generator::new(1, "v1/Pod").unwrap();
        assert!((0..50).all(|n| pods.case(n).resource.kind.starts_with("Pod")));
        assert!(Generator::new(1, "Nothing").is_err());
    }
}
