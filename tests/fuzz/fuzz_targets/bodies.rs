//! Bodies in JSON and YAML are parsed, checked against a kind, written, and parsed again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_api::schema::Schema;
use rkube_api::{codec, fields};
use rkube_fuzz::{KINDS, Source};
use serde_json::Value;

fn has_whole_float(value: &Value) -> bool {
    match value {
        Value::Number(n) => n.is_f64() && n.as_f64().is_some_and(|f| f.fract() == 0.0),
        Value::Array(items) => items.iter().any(has_whole_float),
        Value::Object(fields) => fields.values().any(has_whole_float),
        _ => false,
    }
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let (_, _, definition) = KINDS[source.below(KINDS.len())];
    let ty = Schema::builtin().definition(definition).expect(definition);
    let _ = fields::yaml_duplicate(data);
    let mut objects = vec![source.of_type(ty.into(), 0)];
    objects.extend(fields::parse_json(data).ok().map(|(object, _)| object));
    objects.extend(fields::parse_yaml(data).ok().map(|(object, _)| object));
    for mut object in objects {
        let json = codec::to_json(&object);
        let (read, _) = fields::parse_json(&json).expect("what was written can be read");
        assert_eq!(read, object);
        let yaml = codec::to_yaml(&object);
        // As upstream, a whole number is an integer once it was YAML.
        if !has_whole_float(&object)
            && let Ok((read, _)) = fields::parse_yaml(yaml.as_bytes())
        {
            assert_eq!(read, object, "{yaml}");
        }
        if fields::check(ty, &mut object).is_ok() {
            let before = object.clone();
            let unknown = fields::check(ty, &mut object).expect("it was checked before");
            assert_eq!(unknown, Vec::<String>::new());
            assert_eq!(object, before, "what was checked stays as it is");
        }
    }
});
