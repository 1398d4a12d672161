//! Scripts that show every kind as tables and as metadata.

use serde_json::json;
use std::collections::BTreeMap;

use crate::generate::Generator;
use crate::step::{Script, Step};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

/// Returns a script for each valid object of the generator.
///
/// # Errors
/// The list of valid objects is malformed.
pub fn scripts() -> anyhow::Result<Vec<Script>> {
    let generator = Generator::new(1, "")?;
    Ok((0..generator.valid())
        .map(|number| {
            let case = generator.case(number);
            let resource = case.resource;
            let root = resource.group_version_path();
            let collection = match resource.namespaced {
                true => format!("{root}/namespaces/@ns@/{}", resource.plural),
                false => format!("{root}/{}", resource.plural),
            };
            let name = format!("table-{number}");
            let mut object = case.object;
            let metadata = json!({"name": name, "labels": {"table": format!("t{number}")}});
            match object["metadata"].as_object_mut() {
                Some(own) => own.extend(metadata.as_object().cloned().unwrap_or_default()),
                None => object["metadata"] = metadata,
            }
            let text = object.to_string().replace("NAMESPACE", "@ns@");
            let create = Step {
                text: Some(text),
                ..Step::new(format!("POST {collection}"))
            };
            let of = format!("?labelSelector=table=t{number}");
            let get = |query: &str, accept: &str| {
                Step::new(format!("GET {collection}{query}")).accepting(accept)
            };
            Script {
                name: format!(
                    "tables of {}/{} {number}",
                    resource.api_version(),
                    resource.kind
                ),
                vars: BTreeMap::new(),
                made: vec![format!("{collection}/{name}")],
                steps: vec![
                    create,
                    get(&format!("/{name}"), TABLE),
                    get(&format!("{of}&includeObject=None"), TABLE),
                    get(&format!("{of}&includeObject=Object"), TABLE),
                    get(&of, "application/json"),
                    get(&of, METADATA_LIST),
                    get(&format!("/{name}"), METADATA),
                    Step {
                        until: Some("ADDED".into()),
                        ..get(&format!("{of}&watch=1&timeoutSeconds=2"), TABLE)
                    },
                    Step {
                        until: Some("ADDED".into()),
                        ..get(&format!("{of}&watch=1&timeoutSeconds=2"), METADATA)
                    },
                ],
            }
        })
        .collect())
}
