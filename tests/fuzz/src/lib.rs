//! Builds objects from a fuzzer's bytes. Most follow the schema of their kind, so that they
//! pass the first checks; some deviate from it.

use rkube_api::schema::{Kind, Type};
use serde_json::{Map, Value, json};

/// Kinds that together have every feature of a schema: keyed lists, sets, maps, unions,
/// quantities, free-form parts. Each entry is `apiVersion`, kind and definition.
pub const KINDS: [(&str, &str, &str); 10] = [
    ("v1", "Pod", "io.k8s.api.core.v1.Pod"),
    ("v1", "Service", "io.k8s.api.core.v1.Service"),
    ("v1", "ConfigMap", "io.k8s.api.core.v1.ConfigMap"),
    ("v1", "Secret", "io.k8s.api.core.v1.Secret"),
    ("v1", "Node", "io.k8s.api.core.v1.Node"),
    ("apps/v1", "Deployment", "io.k8s.api.apps.v1.Deployment"),
    ("batch/v1", "CronJob", "io.k8s.api.batch.v1.CronJob"),
    (
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "io.k8s.api.networking.v1.NetworkPolicy",
    ),
    (
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    ),
    (
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    ),
];

const TEXTS: [&str; 14] = [
    "", "a", "b", "c", "1", "1Gi", "100m", "-1", "80%", "TCP", "x/y", "2020-01-01T00:00:00Z", "aGk=",
    "\u{fffd}é\n",
];
const NAMES: [&str; 16] = [
    "a",
    "b",
    "name",
    "metadata",
    "spec",
    "containers",
    "ports",
    "labels",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "finalizers",
    "managedFields",
    "status",
    "x/y",
];
const DEPTH: usize = 12;

/// The fuzzer's bytes as a source of decisions. Once they are used up, every decision is
/// the first choice, so that generation terminates.
pub struct Source<'d>(&'d [u8]);

impl<'d> Source<'d> {
    /// Creates a source from all of the fuzzer's bytes.
    pub fn new(data: &'d [u8]) -> Self {
        Self(data)
    }

    /// Returns the unused bytes.
    pub fn rest(self) -> &'d [u8] {
        self.0
    }

    fn byte(&mut self) -> usize {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        usize::from(*first)
    }

    /// Returns a number below `n`. `n` must be at most 256.
    pub fn below(&mut self, n: usize) -> usize {
        self.byte() % n.max(1)
    }

    /// Returns true for one of `n` values of the next byte, and false once the bytes are
    /// used up.
    pub fn chance(&mut self, n: usize) -> bool {
        self.byte() % n == n - 1
    }

    /// Returns the next bytes, at most `n`.
    pub fn take(&mut self, n: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Returns a number: mostly a small one, or one at the ends of the range.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            0xff => u64::MAX,
            0xfe => i64::MAX as u64,
            0xfd => i64::MAX as u64 + 1,
            0xfc => u64::from(u32::MAX),
            0xfb => 0,
            small => small as u64,
        }
    }

    /// Returns one of `all`.
    pub fn one_of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }

    fn text(&mut self) -> Value {
        TEXTS[self.below(TEXTS.len())].into()
    }

    /// Returns any JSON value.
    pub fn any(&mut self, depth: usize) -> Value {
        let most = if depth > DEPTH { 5 } else { 8 };
        match self.below(most) {
            0 => Value::Null,
            1 => self.text(),
            2 => self.chance(2).into(),
            3 => (self.byte() as i64 - 100).into(),
            4 => json!(self.byte() as f64 / 8.0),
            5 => (0..self.below(4)).map(|_| self.any(depth + 1)).collect(),
            _ => (0..self.below(5))
                .map(|_| {
                    let name = NAMES[self.below(NAMES.len())];
                    (name.to_owned(), self.any(depth + 1))
                })
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    /// Returns a value of the type `ty`, or in one of 32 cases any JSON value.
    pub fn of_type(&mut self, ty: Type<'_>, depth: usize) -> Value {
        if self.chance(32) {
            return self.any(depth);
        }
        let deep = depth > DEPTH;
        match ty.kind() {
            Kind::Object => {
                let fields = ty.fields();
                let count = if deep { 0 } else { self.below(6) };
                let mut map = Map::new();
                for _ in 0..count {
                    let field = match fields.len() {
                        0 => break,
                        n => fields[self.below(n)],
                    };
                    let value = self.of_type(field.ty, depth + 1);
                    map.insert(field.name.to_owned(), value);
                }
                if self.chance(16) {
                    let name = NAMES[self.below(NAMES.len())];
                    map.insert(name.to_owned(), self.any(depth + 1));
                }
                map.into()
            }
            Kind::Array if deep => json!([]),
            Kind::Array => match ty.element() {
                Some(element) => (0..self.below(4))
                    .map(|_| self.of_type(element, depth + 1))
                    .collect(),
                None => json!([]),
            },
            Kind::Map if deep => json!({}),
            Kind::Map => match ty.element() {
                Some(element) => (0..self.below(4))
                    .map(|_| {
                        let name = TEXTS[self.below(TEXTS.len())];
                        (name.to_owned(), self.of_type(element, depth + 1))
                    })
                    .collect::<Map<_, _>>()
                    .into(),
                None => json!({}),
            },
            Kind::Boolean => self.chance(2).into(),
            Kind::Integer => (self.byte() as i64 - 20).into(),
            Kind::Number => json!(self.byte() as f64 / 8.0),
            Kind::IntOrString if self.chance(2) => (self.byte() as i64).into(),
            Kind::Any => self.any(depth + 1),
            _ => self.text(),
        }
    }

    /// Returns one operation of a JSON Patch, which may be invalid.
    pub fn operation(&mut self) -> Value {
        const OPERATIONS: [&str; 7] = ["add", "remove", "replace", "move", "copy", "test", "nope"];
        let operation = OPERATIONS[self.below(OPERATIONS.len())];
        let (path, from) = (self.pointer(), self.pointer());
        json!({"op": operation, "path": path, "from": from, "value": self.any(DEPTH - 2)})
    }

    fn pointer(&mut self) -> String {
        const STEPS: [&str; 8] = ["0", "1", "-", "~1", "~0", "-1", "01", "99999999999999999999"];
        let mut pointer = String::new();
        for _ in 0..self.below(5) {
            let step = match self.chance(3) {
                true => STEPS[self.below(STEPS.len())],
                false => NAMES[self.below(NAMES.len())],
            };
            pointer.push('/');
            pointer.push_str(step);
        }
        pointer
    }
}

/// Returns whether every item of a keyed list has its keys. Of those with defaults one may
/// be left out, if another key is there.
///
/// Validation refuses other items. As upstream, server-side apply takes them and loses some. A key
/// that is zero is dropped from the object, and the item is not found the next time.
pub fn has_keys(ty: Type<'_>, value: &Value) -> bool {
    match (ty.kind(), value) {
        (Kind::Array, Value::Array(items)) => {
            let Some(element) = ty.element() else {
                return true;
            };
            let keys = ty.list_map_keys();
            let is_set = |item: &Value, key: &str| item.get(key).is_some_and(|key| !key.is_null());
            let is_zero = |item: &Value, key: &str| match item.get(key) {
                Some(Value::String(text)) => text.is_empty(),
                Some(Value::Number(number)) => number.as_f64() == Some(0.0),
                _ => false,
            };
            items.iter().all(|item| {
                let zero = keys.iter().any(|key| is_zero(item, key));
                let any = keys.is_empty() || keys.iter().any(|key| is_set(item, key));
                let required = keys
                    .iter()
                    .all(|key| is_set(item, key) || element.field_default(key).is_some());
                !zero && any && required && has_keys(element, item)
            })
        }
        (Kind::Object, Value::Object(map)) => map
            .iter()
            .all(|(key, value)| ty.field(key).is_none_or(|field| has_keys(field.ty, value))),
        (Kind::Map, Value::Object(map)) => map
            .values()
            .all(|value| ty.element().is_none_or(|element| has_keys(element, value))),
        _ => true,
    }
}
