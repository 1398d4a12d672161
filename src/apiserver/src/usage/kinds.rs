//! The kinds of the group `metrics.k8s.io`: resources, schemas and tables.

use std::sync::LazyLock;

use rkube_api::quantity::Quantity;
use rkube_api::registry::Resource as Row;
use rkube_api::{Object, meta};
use serde_json::{Value, json};

/// The API group.
pub const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// Returns the group's resources.
pub fn rows() -> Vec<Row> {
    let row = |plural: &'static str, kind: &'static str, list: &'static str| Row {
        group: GROUP.into(),
        version: VERSION.into(),
        plural: plural.into(),
        singular: "".into(),
        kind: kind.into(),
        list_kind: list.into(),
        namespaced: plural == "pods",
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: &["get", "list"],
        subresources: Vec::new(),
        definition: "".into(),
        storage_group: GROUP.into(),
        storage_version: VERSION.into(),
        selectable_fields: Vec::new(),
    };
    vec![
        row("nodes", "NodeMetrics", "NodeMetricsList"),
        row("pods", "PodMetrics", "PodMetricsList"),
    ]
}

/// Returns whether a resource is of this group.
pub fn is_of_group(resource: &Row) -> bool {
    resource.group == GROUP && resource.version == VERSION
}

fn schemas() -> &'static [Value; 2] {
    static SCHEMAS: LazyLock<[Value; 2]> = LazyLock::new(|| {
        let quantities = json!({
            "description": "Amounts by the resource's name: cpu and memory.",
            "type": "object",
            "additionalProperties": {"type": "string", "format": "quantity"},
        });
        let mut properties = json!({
            "timestamp": {
                "description": "The end of the window.", "type": "string", "format": "date-time",
            },
            "window": {
                "description": "The length of the window over which usage is averaged, as 15.1s.",
                "type": "string",
            },
        });
        let schema = |description: &str, field: &str, properties: Value| {
            json!({
                "description": description, "type": "object",
                "required": ["timestamp", "window", field], "properties": properties,
            })
        };
        let mut node = properties.clone();
        node["usage"] = quantities.clone();
        properties["containers"] = json!({
            "description": "The usage of the running containers.",
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "usage"],
                "properties": {"name": {"type": "string"}, "usage": quantities},
            },
        });
        [
            schema("The resource usage of a node.", "usage", node),
            schema("The resource usage of a pod.", "containers", properties),
        ]
    });
    &SCHEMAS
}

/// Returns the OpenAPI schema of a resource of this group.
pub fn schema(resource: &Row) -> &'static Value {
    &schemas()[usize::from(resource.namespaced)]
}

/// Returns the column definitions of the tables.
pub fn columns() -> Vec<Value> {
    let column = |name: &str, format: &str, description: &str| {
        json!({
            "name": name, "type": "string", "format": format,
            "description": description, "priority": 0,
        })
    };
    vec![
        column("Name", "name", "Name of the resource"),
        column("cpu", "quantity", ""),
        column("memory", "quantity", ""),
        column("Window", "duration", ""),
    ]
}

/// Returns the cells of a table's row.
pub fn cells(object: &Object) -> Value {
    let sum = |resource: &str| {
        let amount =
            |usage: &Value| Quantity::from_value(&usage[resource]).unwrap_or(Quantity::ZERO);
        match object["containers"].as_array() {
            Some(all) => all
                .iter()
                .map(|container| amount(&container["usage"]))
                .reduce(Quantity::add)
                .unwrap_or(Quantity::ZERO),
            None => amount(&object["usage"]),
        }
        .to_string()
    };
    json!([
        meta::name(object),
        sum("cpu"),
        sum("memory"),
        object["window"]
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_pods_have_the_sum_of_their_containers() {
        let pod = json!({"metadata": {"name": "p"}, "window": "10s", "containers": [
            {"name": "a", "usage": {"cpu": "1500m", "memory": "1Mi"}},
            {"name": "b", "usage": {"cpu": "500m", "memory": "1Mi"}},
        ]});
        assert_eq!(cells(&pod), json!(["p", "2", "2Mi", "10s"]));
        let node = json!({"metadata": {"name": "n"}, "window": "10s", "usage": {"cpu": "1n", "memory": "5"}});
        assert_eq!(cells(&node), json!(["n", "1n", "5", "10s"]));
    }
}
