//! Laws that hold for every object on every API server.

use anyhow::Result;
use rkube_api::protobuf;
use serde_json::{Value, json};

use crate::compare::{differences, prune_nulls, settle};
use crate::generate::Case;
use crate::script::remove;
use crate::server::{Answer, Server, named};

/// A law that a server breaks.
#[derive(Clone, Debug)]
pub struct Breach {
    /// The law, for people.
    pub law: &'static str,
    /// The way in which it is broken.
    pub detail: String,
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// The outcome of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether the server accepted the object.
    pub accepted: bool,
    /// The laws that it breaks.
    pub breaches: Vec<Breach>,
}

struct Check<'a> {
    server: &'a Server,
    case: &'a Case,
    name: String,
    breaches: Vec<Breach>,
}

/// Creates the object of a case and checks all laws with it.
///
/// # Errors
/// The connection fails.
pub async fn run(server: &Server, case: &Case) -> Result<Outcome> {
    let mut check = Check {
        server,
        case,
        name: format!("l{}", case.number),
        breaches: Vec::new(),
    };
    check.modes_agree().await?;
    let created = check.post("", "application/json", &check.json()).await?;
    if created.is_ok() {
        check.after_creation(&created).await?;
        remove(server, check.path("")).await?;
    }
    Ok(Outcome {
        accepted: created.is_ok(),
        breaches: check.breaches,
    })
}

impl Check<'_> {
    fn json(&self) -> Vec<u8> {
        named(self.server, self.case, &self.name)
            .to_string()
            .into_bytes()
    }

    fn path(&self, query: &str) -> String {
        format!("{}/{}{query}", self.server.collection(self.case), self.name)
    }

    async fn post(&self, query: &str, media: &str, body: &[u8]) -> Result<Answer> {
        let path = format!("{}{query}", self.server.collection(self.case));
        self.server.send("POST", &path, media, body.to_vec()).await
    }

    fn breach(&mut self, law: &'static str, detail: String) {
        self.breaches.push(Breach { law, detail });
    }

    /// Requires that two objects are the same but for what servers choose, and for the status,
    /// which controllers write meanwhile.
    fn same(&mut self, law: &'static str, left: &Value, right: &Value) {
        let (mut left, mut right) = (left.clone(), right.clone());
        for object in [&mut left, &mut right] {
            settle(object);
            if object["kind"] != "Status"
                && let Some(fields) = object.as_object_mut()
            {
                fields.remove("status");
            }
        }
        let places = differences(&left, &right);
        if !places.is_empty() {
            self.breach(law, places.join("\n    "));
        }
    }

    /// Field validation decides whether unknown fields are refused, reported or dropped silently,
    /// and nothing else. The media type of the body makes no difference.
    async fn modes_agree(&mut self) -> Result<()> {
        let dry = |mode: &str| format!("?dryRun=All&fieldValidation={mode}");
        let body = self.json();
        let media = "application/json";
        let strict = self.post(&dry("Strict"), media, &body).await?;
        let warn = self.post(&dry("Warn"), media, &body).await?;
        let ignore = self.post(&dry("Ignore"), media, &body).await?;
        self.same("Warn and Ignore store the same", &warn.body, &ignore.body);
        if strict.is_ok() {
            self.same(
                "Strict and Ignore store the same",
                &strict.body,
                &ignore.body,
            );
        }
        let unknown = warn.warnings.iter().any(|w| w.contains("unknown field"));
        let message = strict.body["message"].as_str().unwrap_or_default();
        if unknown != message.contains("unknown field") {
            self.breach(
                "Strict refuses what Warn tells",
                format!("{message} | {:?}", warn.warnings),
            );
        }
        let yaml = rkube_api::codec::to_yaml(&named(self.server, self.case, &self.name));
        let yaml = self
            .post(&dry("Ignore"), "application/yaml", yaml.as_bytes())
            .await?;
        // As upstream, YAML makes an integer of 1.0, and JSON does not.
        let whole = has_whole_float(&named(self.server, self.case, &self.name));
        if !whole && (yaml.code != 400 || ignore.code != 400) {
            self.same("YAML means what JSON means", &yaml.body, &ignore.body);
        }
        if ignore.code >= 500 {
            self.breach("no request is the server's fault", ignore.body.to_string());
        }
        Ok(())
    }

    async fn after_creation(&mut self, created: &Answer) -> Result<()> {
        let read = self
            .server
            .send("GET", &self.path(""), "", Vec::new())
            .await?;
        self.same("what was created is read", &created.body, &read.body);
        self.lists(&read).await?;
        self.writes_that_change_nothing(&read).await?;
        self.protobuf().await?;
        self.applies().await
    }

    async fn lists(&mut self, read: &Answer) -> Result<()> {
        let path = format!(
            "{}?fieldSelector=metadata.name%3D{}",
            self.server.collection(self.case),
            self.name
        );
        let list = self.server.send("GET", &path, "", Vec::new()).await?;
        let mut item = list.body["items"][0].clone();
        for field in ["apiVersion", "kind"] {
            item[field] = read.body[field].clone();
        }
        self.same("a list has what a read has", &item, &read.body);
        Ok(())
    }

    async fn writes_that_change_nothing(&mut self, read: &Answer) -> Result<()> {
        let whole = read.body.to_string().into_bytes();
        for (law, method, media) in [
            (
                "an update with what was read changes nothing",
                "PUT",
                "application/json",
            ),
            (
                "a merge patch with what was read changes nothing",
                "PATCH",
                MERGE,
            ),
            (
                "a strategic merge patch with what was read changes nothing",
                "PATCH",
                STRATEGIC,
            ),
        ] {
            let answer = self
                .server
                .send(method, &self.path(""), media, whole.clone())
                .await?;
            if !self.unchanged(law, read, &answer) {
                // The other writes name a version that is gone now.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Requires that a write has changed nothing, and returns whether that is so.
    fn unchanged(&mut self, law: &'static str, before: &Answer, after: &Answer) -> bool {
        if after.version() == before.version() || lacks_keys(after) {
            return true;
        }
        // The API server itself writes the status of these, at any time.
        let told = matches!(
            &*self.case.resource.kind,
            "FlowSchema" | "PriorityLevelConfiguration" | "ValidatingAdmissionPolicy"
        );
        if told && after.code == 409 {
            return false;
        }
        let mut places = match after.is_ok() {
            true => differences(&before.body, &after.body),
            false => vec![after.body["message"].to_string()],
        };
        if told {
            let parts = [
                ".status",
                ".metadata.managedFields",
                ".metadata.resourceVersion",
            ];
            places.retain(|place| !parts.iter().any(|part| place.starts_with(part)));
        }
        if !places.is_empty() {
            self.breach(law, places.join("\n    "));
        }
        false
    }

    /// Protobuf has the same content as JSON, and can be written back.
    async fn protobuf(&mut self) -> Result<()> {
        let kind = self.case.resource;
        if protobuf::message(&kind.api_version(), &kind.kind).is_none() {
            return Ok(());
        }
        let read = self
            .server
            .send("GET", &self.path(""), "", Vec::new())
            .await?;
        let path = self.path("");
        let raw = self
            .server
            .send_accepting("GET", &path, "", Vec::new(), PROTOBUF)
            .await?;
        if !raw.is_ok() {
            self.breach(
                "what is stored has a protobuf form",
                raw.body["message"].to_string(),
            );
            return Ok(());
        }
        match protobuf::decode(&raw.bytes) {
            Ok(object) => {
                let (mut left, mut right) = (object, read.body.clone());
                for object in [&mut left, &mut right] {
                    prune_nulls(object);
                    forget_kinds(object);
                }
                self.same("protobuf has what JSON has", &left, &right);
            }
            Err(status) => self.breach("protobuf can be read", format!("{status:?}")),
        }
        let answer = self
            .server
            .send("PUT", &path, PROTOBUF, raw.bytes.clone())
            .await?;
        self.unchanged("an update in protobuf changes nothing", &read, &answer);
        Ok(())
    }

    /// Applying what was read changes nothing but the managed fields, and the second time not
    /// even those.
    async fn applies(&mut self) -> Result<()> {
        let read = self
            .server
            .send("GET", &self.path(""), "", Vec::new())
            .await?;
        let mut applied = read.body.clone();
        if let Some(metadata) = applied["metadata"].as_object_mut() {
            for field in [
                "managedFields",
                "resourceVersion",
                "uid",
                "creationTimestamp",
                "generation",
            ] {
                metadata.remove(field);
            }
        }
        if let Some(object) = applied.as_object_mut() {
            object.remove("status");
        }
        let path = self.path("?fieldManager=laws&force=true");
        let body = applied.to_string().into_bytes();
        let first = self
            .server
            .send("PATCH", &path, APPLY, body.clone())
            .await?;
        // As upstream, an apply is YAML, which makes an integer of 1.0.
        let whole = has_whole_float(&applied);
        if lacks_keys(&first) || whole && !first.is_ok() {
            return Ok(());
        }
        if !first.is_ok() {
            self.breach(
                "what was read can be applied",
                first.body["message"].to_string(),
            );
            return Ok(());
        }
        let mut without = (read.body.clone(), first.body.clone());
        for object in [&mut without.0, &mut without.1] {
            object["metadata"]["managedFields"] = json!(null);
        }
        self.same(
            "applying what was read changes no field",
            &without.0,
            &without.1,
        );
        let second = self.server.send("PATCH", &path, APPLY, body).await?;
        self.unchanged("applying twice changes nothing", &first, &second);
        Ok(())
    }
}

/// Returns whether a patch is refused because an item of a list lacks the key by which items are
/// merged, or has that of another item. Such objects can be created, but not patched.
fn lacks_keys(answer: &Answer) -> bool {
    let message = answer.body["message"].as_str().unwrap_or_default();
    [
        "declared merge key",
        "omits all key fields",
        "omits key field",
        "duplicate entries for key",
    ]
    .iter()
    .any(|part| message.contains(part))
}

/// Returns whether a number in a value is written with a fraction, but has none.
fn has_whole_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_f64() && number.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        Value::Array(items) => items.iter().any(has_whole_float),
        Value::Object(fields) => fields.values().any(has_whole_float),
        _ => false,
    }
}

/// Removes the kinds of claim templates, for which protobuf has no place.
fn forget_kinds(object: &mut Value) {
    let templates = object.pointer_mut("/spec/volumeClaimTemplates");
    for template in templates
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(fields) = template.as_object_mut() {
            fields.remove("apiVersion");
            fields.remove("kind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_floats_are_numbers() {
        assert!(has_whole_float(&json!({"a": [{"b": 1.0}]})));
        assert!(!has_whole_float(&json!({"a": ["10.0.0.1", 1, 1.5]})));
    }
}
