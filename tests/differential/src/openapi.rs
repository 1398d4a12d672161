//! Scripts that read discovery and OpenAPI documents of every group.

use rkube_api::registry;
use std::collections::{BTreeMap, BTreeSet};

use crate::step::{Script, Step};

/// Returns a script for the documents of each group version.
pub fn scripts() -> Vec<Script> {
    let paths: BTreeSet<String> = registry::builtin()
        .iter()
        .map(|r| r.group_version_path())
        .collect();
    let script = |name: String, steps: Vec<Step>| Script {
        name,
        vars: BTreeMap::new(),
        made: Vec::new(),
        steps,
    };
    let mut found = vec![script(
        "openapi v2".into(),
        vec![Step::new("GET /openapi/v2")],
    )];
    for path in paths {
        let mut group = Step::new(format!("GET {path}"));
        group.accept = Some("application/json".into());
        let get = Step::new(format!("GET /openapi/v3{path}"));
        found.push(script(format!("documents of {path}"), vec![group, get]));
    }
    found
}
