//! Requests to compare, and the scripts that list them.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A list of requests that belong together, as the files in `requests/` have them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The name, for people and for `--only`.
    pub name: String,
    /// Texts that `@name@` stands for, beside those of [`crate::script`].
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    /// Paths of objects that are deleted before and after.
    #[serde(default)]
    pub made: Vec<String>,
    /// The requests, in order.
    pub steps: Vec<Step>,
}

/// A request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The method and the path with the query.
    pub send: String,
    /// The body as a JSON value.
    pub json: Option<Value>,
    /// The body as text.
    pub text: Option<String>,
    /// The body as bytes.
    pub bytes: Option<Vec<u8>>,
    /// The body is the last object that was answered, with these changes: a JSON pointer and its
    /// new value; null removes the field.
    pub last: Option<BTreeMap<String, Value>>,
    /// The media type of the body.
    #[serde(rename = "type")]
    pub media: Option<String>,
    /// The media types of the answer.
    pub accept: Option<String>,
    /// More headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A name under which the resource version of the answer is kept.
    pub save: Option<String>,
    /// The type of the watch event that ends the request.
    pub until: Option<String>,
    /// The step is repeated with each of these texts as `@each@`.
    #[serde(default)]
    pub each: Vec<String>,
    /// JSON pointers into the answer's body that are not compared.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Both servers must succeed, or the script ends.
    #[serde(default)]
    pub must: bool,
}

impl Step {
    /// Creates a step without a body.
    pub fn new(send: impl Into<String>) -> Self {
        Self {
            send: send.into(),
            ..Self::default()
        }
    }

    /// Sets the media type and the JSON body.
    #[must_use]
    pub fn with(mut self, media: &str, json: Value) -> Self {
        self.media = Some(media.into());
        self.json = Some(json);
        self
    }

    /// Sets the accepted media types.
    #[must_use]
    pub fn accepting(mut self, accept: &str) -> Self {
        self.accept = Some(accept.into());
        self
    }
}

/// Returns the scripts of a file: one YAML document each.
///
/// # Errors
/// The file is not a list of scripts.
pub fn parse(name: &str, text: &str) -> Result<Vec<Script>> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Script::deserialize(document).with_context(|| name.to_owned()))
        .collect()
}

macro_rules! files {
    ($($name:literal)*) => {
        /// The files of scripts.
        const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../requests/", $name, ".yaml")))),*];
    };
}

files!(
    "updates" "patches" "apply" "subresources" "lists" "watches" "deletes" "discovery"
    "errors" "bodies" "definitions" "names"
);

/// Returns the scripts whose name contains a text.
///
/// # Errors
/// A file is not a list of scripts.
pub fn scripts(only: &str) -> Result<Vec<Script>> {
    let mut found = Vec::new();
    for (name, text) in FILES {
        found.extend(parse(name, text)?);
    }
    found.extend(crate::tables::scripts()?);
    found.extend(crate::openapi::scripts());
    found.retain(|script| script.name.contains(only));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_read_and_no_name_is_used_twice() {
        let mut names: Vec<String> = scripts("").unwrap().into_iter().map(|s| s.name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
