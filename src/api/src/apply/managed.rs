//! `metadata.managedFields`: the managers of an object and the fields that they own.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::Object;
use crate::meta;

use super::set::FieldSet;

/// The largest number of managers that are recorded for updates; the oldest are merged.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that merged managers become.
const ANCIENT_CHANGES: &str = "ancient-changes";

/// The operation of a manager, ordered as upstream sorts entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// The identity of a manager. For appliers the version is not a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub name: String,
    pub operation: Operation,
    /// Empty for appliers.
    pub api_version: String,
    pub subresource: String,
}

impl Manager {
    pub fn new(name: &str, operation: Operation, api_version: &str, subresource: &str) -> Self {
        Self {
            name: if name.is_empty() { "unknown" } else { name }.to_owned(),
            operation,
            api_version: if operation == Operation::Apply {
                ""
            } else {
                api_version
            }
            .to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// Formats the manager as in conflicts.
    pub fn describe(&self) -> String {
        let mut text = crate::text::quote(&self.name);
        if !self.subresource.is_empty() {
            text.push_str(" with subresource ");
            text.push_str(&crate::text::quote(&self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(" using ");
            text.push_str(&self.api_version);
        }
        text
    }
}

/// The fields that a manager owns, their version, and the time of the last change.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Owned {
    pub set: FieldSet,
    pub api_version: String,
    pub time: Option<String>,
}

/// The managers of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Managed {
    pub entries: BTreeMap<Manager, Owned>,
}

impl Managed {
    /// Decodes an object's `managedFields`.
    pub fn decode(entries: &[Value]) -> Result<Self, String> {
        let mut managed = Self::default();
        for (i, entry) in entries.iter().enumerate() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".into()),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".into());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
                other => {
                    return Err(format!(
                        "invalid fieldsType {} in managed fields entry {i}",
                        crate::text::quote(other)
                    ));
                }
            }
            let set = FieldSet::from_fields_v1(entry.get("fieldsV1").unwrap_or(&Value::Null))
                .map_err(|e| format!("error decoding set: {e}"))?;
            let manager = Manager {
                name: text("manager").to_owned(),
                operation,
                api_version: if operation == Operation::Apply {
                    ""
                } else {
                    api_version
                }
                .to_owned(),
                subresource: text("subresource").to_owned(),
            };
            let time = Some(text("time"))
                .filter(|t| !t.is_empty())
                .map(str::to_owned);
            managed.entries.insert(
                manager,
                Owned {
                    set,
                    api_version: api_version.to_owned(),
                    time,
                },
            );
        }
        Ok(managed)
    }

    /// Returns the managers of an object; none if they cannot be decoded.
    pub fn from_object(object: Option<&Object>) -> Self {
        object
            .map(meta::managed_fields)
            .and_then(|entries| Self::decode(entries).ok())
            .unwrap_or_default()
    }

    /// Encodes the managers into an object.
    pub fn encode_into(&self, object: &mut Object) {
        if self.entries.is_empty() {
            meta::remove(object, "managedFields");
            return;
        }
        let mut entries: Vec<(&Manager, &Owned)> = self.entries.iter().collect();
        let seconds = |owned: &Owned| {
            owned
                .time
                .as_deref()
                .and_then(meta::parse_time)
                .map_or(0, jiff::Timestamp::as_second)
        };
        entries.sort_by(|(a, x), (b, y)| {
            a.operation
                .cmp(&b.operation)
                .then_with(|| seconds(x).cmp(&seconds(y)))
                .then_with(|| a.name.cmp(&b.name))
                .then_with(|| x.api_version.cmp(&y.api_version))
                .then_with(|| a.subresource.cmp(&b.subresource))
        });
        let entries: Vec<Value> = entries
            .into_iter()
            .map(|(manager, owned)| encode(manager, owned))
            .collect();
        meta::metadata_mut(object).insert("managedFields".into(), entries.into());
    }

    /// Merges the oldest managers of updates while there are more than
    /// [`MAX_UPDATE_MANAGERS`].
    pub fn merge_oldest(&mut self) {
        let mut updaters: Vec<(i64, Manager)> = self
            .entries
            .iter()
            .filter(|(manager, _)| manager.operation == Operation::Update)
            .map(|(manager, owned)| {
                let time = owned.time.as_deref().and_then(meta::parse_time);
                (time.map_or(0, jiff::Timestamp::as_second), manager.clone())
            })
            .collect();
        let mut count = updaters.len();
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        updaters.sort();
        let mut first_of: BTreeMap<String, Manager> = BTreeMap::new();
        for (_, manager) in updaters {
            if count <= MAX_UPDATE_MANAGERS {
                break;
            }
            let Some(owned) = self.entries.get(&manager).cloned() else {
                continue;
            };
            let bucket = Manager::new(ANCIENT_CHANGES, Operation::Update, &owned.api_version, "");
            let Some(first) = first_of.get(&owned.api_version) else {
                first_of.insert(owned.api_version.clone(), manager);
                continue;
            };
            if manager == bucket {
                continue;
            }
            if !self.entries.contains_key(&bucket)
                && let Some(first) = self.entries.remove(first)
            {
                self.entries.insert(bucket.clone(), first);
            }
            if let Some(into) = self.entries.get_mut(&bucket) {
                into.set = std::mem::take(&mut into.set).union(&owned.set);
                into.time = owned.time;
                self.entries.remove(&manager);
                count -= 1;
            }
        }
    }
}

fn encode(manager: &Manager, owned: &Owned) -> Value {
    let mut entry = Map::new();
    if !manager.name.is_empty() {
        entry.insert("manager".into(), manager.name.as_str().into());
    }
    entry.insert("operation".into(), manager.operation.name().into());
    entry.insert("apiVersion".into(), owned.api_version.as_str().into());
    if let Some(time) = &owned.time {
        entry.insert("time".into(), time.as_str().into());
    }
    entry.insert("fieldsType".into(), json!("FieldsV1"));
    entry.insert("fieldsV1".into(), owned.set.to_fields_v1());
    if !manager.subresource.is_empty() {
        entry.insert("subresource".into(), manager.subresource.as_str().into());
    }
    Value::Object(entry)
}
