//! CEL expressions are compiled, estimated and run. Every evaluation ends within its
//! budget.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_cel::{Env, Type, Unknown, Value};
use serde_json::json;

const LIMIT: u64 = 100_000;

fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else {
        return;
    };
    let document = json!({
        "a": {"b": {"c": "deep"}, "i": 1}, "list": [1, 2, 3], "s": "hello",
        "n": 2, "f": 1.5, "nothing": null, "m": {"k": "v"},
    });
    let env = Env::new().variable("self", Type::Dyn);
    let Ok(compiled) = env.compile(source) else {
        return;
    };
    let _ = compiled.estimate(&Unknown);
    let Ok(program) = compiled.program() else {
        return;
    };
    let run = program.run(&[Value::json(&document)], LIMIT);
    if let Ok(value) = run.outcome {
        assert!(run.cost <= LIMIT, "{} is over the limit", run.cost);
        let _ = value.to_json();
    }
});
