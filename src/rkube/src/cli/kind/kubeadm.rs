//! The patches of kubeadm's configuration that have a meaning here: labels and taints of nodes.

use std::collections::BTreeMap;

use rkube_cluster::labels;
use rkube_config::Taint;
use serde_yaml::{Mapping, Value};

use super::super::yaml::{is_empty, scalar};

/// The settings of nodes in a patch.
#[derive(Debug, Default, PartialEq)]
pub struct Patch {
    /// Whether it is for workers, else for the control-plane node.
    pub worker: bool,
    /// Labels to add.
    pub labels: BTreeMap<String, String>,
    /// All taints, instead of the default ones.
    pub taints: Option<Vec<Taint>>,
    /// Taints to add.
    pub more_taints: Vec<Taint>,
}

/// Reads the documents of a patch.
///
/// # Errors
/// Fails with a message if it has anything else than labels and taints.
pub fn read(text: &str) -> Result<Vec<Patch>, String> {
    let mut patches = Vec::new();
    for document in rkube_cluster::yaml::documents(text) {
        let value = document.and_then(serde_yaml::to_value);
        match value.map_err(|e| e.to_string())? {
            Value::Null => {}
            Value::Mapping(fields) => patches.push(patch(&fields)?),
            _ => return Err("it is not a mapping".to_owned()),
        }
    }
    Ok(patches)
}

fn patch(fields: &Mapping) -> Result<Patch, String> {
    let kind = fields
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let worker = match kind {
        "InitConfiguration" => false,
        "JoinConfiguration" => true,
        _ => {
            return Err(unknown(if kind.is_empty() {
                "a patch without a kind"
            } else {
                kind
            }));
        }
    };
    let mut patch = Patch {
        worker,
        ..Patch::default()
    };
    for (key, value) in named(fields)? {
        match key {
            "kind" | "apiVersion" | "metadata" => {}
            "nodeRegistration" => {
                let fields = value
                    .as_mapping()
                    .ok_or("nodeRegistration is not a mapping")?;
                registration(fields, &mut patch)?;
            }
            _ if is_empty(value) => {}
            other => return Err(unknown(&format!("{kind}.{other}"))),
        }
    }
    Ok(patch)
}

fn registration(fields: &Mapping, patch: &mut Patch) -> Result<(), String> {
    for (key, value) in named(fields)? {
        match key {
            "kubeletExtraArgs" => {
                for (name, value) in arguments(value)? {
                    argument(&name, &value, patch)?;
                }
            }
            "taints" => {
                let mut taints = Vec::new();
                for taint in value.as_sequence().into_iter().flatten() {
                    let taint: Taint = serde_yaml::from_value(taint.clone())
                        .map_err(|e| format!("nodeRegistration.taints: {e}"))?;
                    labels::check_taint(&taint)?;
                    taints.push(taint);
                }
                patch.taints = Some(taints);
            }
            _ if is_empty(value) => {}
            other => return Err(unknown(&format!("nodeRegistration.{other}"))),
        }
    }
    Ok(())
}

/// Reads an argument of the kubelet.
fn argument(name: &str, value: &str, patch: &mut Patch) -> Result<(), String> {
    match name {
        "node-labels" => patch.labels.extend(parse_labels(value)?),
        "register-with-taints" => {
            let taints = value.split(',').filter(|text| !text.is_empty());
            let taints: Result<Vec<Taint>, String> = taints.map(labels::parse_taint).collect();
            patch.more_taints.extend(taints?);
        }
        other => return Err(unknown(&format!("the kubelet's argument {other}"))),
    }
    Ok(())
}

fn unknown(what: &str) -> String {
    format!(
        "{what} is not supported: rkube sets nodes up itself, without kubeadm; labels (kubeletExtraArgs.node-labels) and taints of nodes are understood"
    )
}

fn named(fields: &Mapping) -> Result<Vec<(&str, &Value)>, String> {
    let name = |(key, value)| Some((Value::as_str(key)?, value));
    let named: Option<Vec<_>> = fields.iter().map(name).collect();
    named.ok_or_else(|| "a field's name is not text".to_owned())
}

/// Returns the arguments of a component: a mapping, or since v1beta4 a list of names and values.
fn arguments(value: &Value) -> Result<Vec<(String, String)>, String> {
    let text = |value: &Value| scalar(value).ok_or("an argument is not text");
    let mut found = Vec::new();
    match value {
        Value::Null => {}
        Value::Mapping(fields) => {
            for (name, value) in named(fields)? {
                found.push((name.to_owned(), text(value)?));
            }
        }
        Value::Sequence(items) => {
            for item in items {
                let part = |key: &str| item.get(key).ok_or("an argument has no name or no value");
                found.push((text(part("name")?)?, text(part("value")?)?));
            }
        }
        _ => return Err("kubeletExtraArgs is neither a mapping nor a list".to_owned()),
    }
    Ok(found)
}

/// Parses labels as the kubelet's flag has them, `a=b,c=d`.
fn parse_labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        labels::check(key.trim(), value.trim())?;
        found.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_arguments_are_read() {
        let old = "kind: JoinConfiguration\nnodeRegistration:\n  kubeletExtraArgs:\n    node-labels: 'a=b'\n    register-with-taints: 'k=v:NoSchedule,x:NoExecute'\n";
        let new = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\nnodeRegistration:\n  kubeletExtraArgs:\n  - {name: node-labels, value: 'a=b'}\n  - {name: register-with-taints, value: 'k=v:NoSchedule,x:NoExecute'}\n";
        assert_eq!(read(old).unwrap(), read(new).unwrap());
        let patch = &read(old).unwrap()[0];
        assert!(patch.worker && patch.labels["a"] == "b" && patch.more_taints.len() == 2);
        let none = read("kind: InitConfiguration\nnodeRegistration: {taints: []}").unwrap();
        assert_eq!(none[0].taints, Some(Vec::new()));
    }

    #[test]
    fn the_rest_is_refused() {
        for text in [
            "kind: ClusterConfiguration\napiServer: {extraArgs: {v: '9'}}",
            "kind: KubeletConfiguration\nmaxPods: 200",
            "kind: InitConfiguration\nskipPhases: [x]",
            "kind: InitConfiguration\nnodeRegistration: {kubeletExtraArgs: {v: '9'}}",
            "kind: InitConfiguration\nnodeRegistration: {kubeletExtraArgs: {node-labels: 'a b=c'}}",
            "kind: InitConfiguration\nnodeRegistration: {taints: [{key: a, effect: Never}]}",
            "[]",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
