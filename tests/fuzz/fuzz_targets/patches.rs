//! The three patch types, applied to objects of their kind and to any JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_api::patch::{json_patch, merge_patch, strategic_merge};
use rkube_api::schema::Schema;
use rkube_fuzz::{KINDS, Source};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let (_, _, definition) = KINDS[source.below(KINDS.len())];
    let ty = Schema::builtin().definition(definition).expect(definition);
    let object = source.of_type(ty.into(), 0);
    let patch = if source.chance(2) {
        source.of_type(ty.into(), 0)
    } else {
        source.any(0)
    };
    if let Ok(patched) = merge_patch(&object, &patch) {
        let again = merge_patch(&patched, &patch).expect("it could be merged before");
        assert_eq!(again, patched, "merging once more changes nothing: {patch}");
    }
    let _ = strategic_merge(ty, &object, &patch);
    let operations = Value::Array((0..source.below(4)).map(|_| source.operation()).collect());
    let _ = json_patch(&object, &operations);
    let _ = json_patch(&object, &patch);
});
