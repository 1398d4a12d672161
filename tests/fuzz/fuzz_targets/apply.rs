//! Server-side apply: applying the same configuration again changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_api::apply::{Request, apply, update};
use rkube_api::fields;
use rkube_api::schema::Schema;
use rkube_fuzz::{KINDS, Source, has_keys};
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let (api_version, kind, definition) = KINDS[source.below(KINDS.len())];
    let ty = Schema::builtin().definition(definition).expect(definition);
    let request = |manager| Request {
        ty: ty.into(),
        api_version,
        manager,
        subresource: None,
        now: "2020-01-01T00:00:00Z",
        versions: None,
        reset_fields: &[],
    };
    let named = |mut object: Value| {
        if !object.is_object() {
            object = json!({});
        }
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        object["metadata"]["name"] = "x".into();
        object["metadata"]
            .as_object_mut()
            .map(|m| m.remove("managedFields"));
        object
    };
    let first = named(source.of_type(ty.into(), 0));
    let second = named(source.of_type(ty.into(), 0));
    let other = named(source.any(0));

    // One manager: the second configuration replaces the first.
    if has_keys(ty.into(), &first)
        && has_keys(ty.into(), &second)
        && let Ok(mut live) = apply(&request("m"), None, &first, false)
        && fields::check(ty, &mut live).is_ok()
        && let Ok(mut changed) = apply(&request("m"), Some(&live), &second, false)
        && fields::check(ty, &mut changed).is_ok()
        // A manager of no field is forgotten. The next apply to an object without managers
        // then records what is there as `before-first-apply`, as upstream does.
        && changed["metadata"].get("managedFields").is_some()
    {
        let again = |live: &Value| {
            let again = apply(&request("m"), Some(live), &second, false);
            let mut again = again.expect("it could be applied before");
            fields::check(ty, &mut again).ok().map(|_| again)
        };
        // A struct that becomes empty is removed with its fields, as upstream does, and there
        // after the next apply. From then on nothing changes.
        if let Some(settled) = again(&changed)
            && let Some(once_more) = again(&settled)
        {
            assert_eq!(once_more, settled, "applied once more: {second}");
        }
    }
    // Several managers with updates in between and objects of any shape: apply must only
    // terminate.
    let live = update(&request("u"), None, other.clone());
    let live = apply(&request("m"), Some(&live), &first, true).unwrap_or(live);
    let live = update(&request("u"), Some(&live), named(second.clone()));
    let _ = apply(&request("m"), Some(&live), &other, false);
});
