//! Label and field selectors: parsing and matching.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rkube_api::selector::{FieldSelector, LabelSelector};
use rkube_fuzz::Source;
use serde_json::json;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(selector) = LabelSelector::parse(text) {
            let labels = json!({"a": "b", "x": "1"});
            let labels = labels.as_object();
            let first = selector.matches(labels);
            assert_eq!(first, selector.matches(labels));
            if selector.is_empty() {
                assert!(first, "nothing asked for matches everything");
            }
            if selector.is_nothing() {
                assert!(!first);
            }
        }
        if let Ok(selector) = FieldSelector::parse(text) {
            let value = |field: &str| field.starts_with('m').then(|| "x".to_owned());
            let _ = selector.matches(value);
            for requirement in selector.requirements() {
                let _ = format!("{requirement:?}");
            }
        }
    }
    let _ = LabelSelector::from_value(&Source::new(data).any(0));
});
