//! `rkube schema`: JSON Schemas of what commands print with `-o json`.

use rkube_failure::{Failure, Kind, Source};
use serde_json::{Map, Value};

use super::Output;
use super::output::table;

/// One schema per output, and what they share.
const OUTPUTS: &str = include_str!("outputs.json");

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Command::List)
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the commands whose output has a schema of its own
    List,
    /// Print the JSON Schema of a command's output
    ///
    /// All other commands print events, one per line: rkube schema show events.
    Show {
        /// Words of the command, such as node list
        #[arg(required = true)]
        name: Vec<String>,
    },
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), Failure> {
    let document = document()?;
    match &args.command {
        Command::List => {
            list(&document, output);
            Ok(())
        }
        Command::Show { name } => {
            let name = name.join(" ");
            let schema = schema(&document, &name).ok_or_else(|| {
                Failure::new(
                    Source::Program,
                    Kind::NotFound,
                    format!("the output of '{name}' has no schema of its own"),
                )
                .advise("list those that have one with: rkube schema list; all other commands print events: rkube schema show events")
            })?;
            // A schema is JSON, unless YAML is asked for.
            output.result(&schema, || format!("{schema:#}"));
            Ok(())
        }
    }
}

fn document() -> Result<Value, Failure> {
    serde_json::from_str(OUTPUTS).map_err(|e| {
        let message = format!("the schemas of this program are damaged: {e}");
        Failure::new(Source::Program, Kind::Error, message)
    })
}

fn list(document: &Value, output: &Output) {
    let outputs = document["outputs"].as_object().into_iter().flatten();
    let rows: Vec<(&str, &str)> = outputs
        .map(|(name, schema)| {
            let title = schema["title"].as_str().unwrap_or_default();
            (name.as_str(), title)
        })
        .collect();
    let value: Vec<Value> = rows
        .iter()
        .map(|(name, title)| serde_json::json!({ "name": name, "description": title }))
        .collect();
    output.result(&value, || {
        let head = ["OUTPUT OF", "DESCRIPTION"].map(str::to_owned).to_vec();
        let rows = rows
            .iter()
            .map(|(name, title)| vec![(*name).to_owned(), (*title).to_owned()]);
        table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
    });
}

/// Returns the schema of an output as a document of its own.
fn schema(document: &Value, name: &str) -> Option<Value> {
    let name = match name {
        "event" => "events",
        name => name,
    };
    let output = document["outputs"].get(name)?.as_object()?;
    let mut schema = Map::new();
    let dialect = "https://json-schema.org/draft/2020-12/schema";
    schema.insert("$schema".into(), dialect.into());
    let id = format!(
        "https://rkube.dev/schemas/output/{}.json",
        name.replace(' ', "-")
    );
    schema.insert("$id".into(), id.into());
    schema.extend(output.clone());
    let mut used = Map::new();
    collect(
        &document["$defs"],
        &Value::Object(output.clone()),
        &mut used,
    );
    if !used.is_empty() {
        schema.insert("$defs".into(), used.into());
    }
    Some(Value::Object(schema))
}

/// Collects the definitions that a schema refers to, also through others.
fn collect(all: &Value, schema: &Value, used: &mut Map<String, Value>) {
    match schema {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            if let Some(name) = reference.and_then(|r| r.strip_prefix("#/$defs/"))
                && !used.contains_key(name)
                && let Some(definition) = all.get(name)
            {
                used.insert(name.to_owned(), definition.clone());
                collect(all, definition, used);
            }
            fields.values().for_each(|value| collect(all, value, used));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(all, value, used)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Commands that print text of other programs or for them, or nothing; all others that have no
    /// schema of their own print events.
    const OTHERS: &[&str] = &[
        "completion",
        "kubectl",
        "ssh",
        "kind",
        "podman-env",
        "cache",
        "help",
    ];

    /// Commands that print events alone: what they do, not what they found.
    const EVENTS: &[&str] = &[
        "stop",
        "delete",
        "pause",
        "unpause",
        "cp",
        "tunnel",
        "update-context",
        "node add",
        "node delete",
        "node start",
        "node stop",
        "image load",
        "image pull",
        "image rm",
        "image tag",
        "image save",
        "image prune",
        "snapshot save",
        "snapshot restore",
        "snapshot delete",
        "addons enable",
        "addons disable",
        "addons configure",
        "addons open",
        "certs renew",
        "config set",
        "config unset",
        "export logs",
        "dev",
        "image cache prune",
        "image cache serve",
        "port add",
        "port remove",
        "port serve",
        "registry create",
        "registry delete",
        "registry serve",
    ];

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let children: Vec<_> = command.get_subcommands().collect();
        let runs = command.get_positionals().next().is_some() || children.is_empty();
        if runs && !path.is_empty() {
            found.push(path.to_owned());
        }
        for child in children {
            leaves(child, format!("{path} {}", child.get_name()).trim(), found);
        }
    }

    #[test]
    fn every_command_has_a_schema_or_is_known_to_print_events() {
        let document = document().unwrap();
        let mut found = Vec::new();
        leaves(&crate::cli::Cli::command(), "", &mut found);
        for name in found {
            let top = name.split(' ').next().unwrap_or_default();
            let known = OTHERS.contains(&top)
                || EVENTS.contains(&name.as_str())
                || top == "ctl"
                || schema(&document, &name).is_some();
            assert!(known, "'{name}' has no schema");
        }
    }

    #[test]
    fn schemas_are_for_commands_that_exist() {
        let document = document().unwrap();
        for name in document["outputs"].as_object().unwrap().keys() {
            if name == "events" {
                continue;
            }
            let mut command = crate::cli::Cli::command();
            for word in name.split(' ') {
                let next = command.find_subcommand(word).cloned();
                command = next.unwrap_or_else(|| panic!("there is no command '{name}'"));
            }
        }
    }

    #[test]
    fn a_schema_is_a_document_of_its_own() {
        let document = document().unwrap();
        for name in document["outputs"].as_object().unwrap().keys() {
            let schema = schema(&document, name).unwrap();
            let text = schema.to_string();
            for (at, _) in text.match_indices("#/$defs/") {
                let rest = &text[at + "#/$defs/".len()..];
                let definition = &rest[..rest.find('"').unwrap()];
                assert!(
                    schema["$defs"].get(definition).is_some(),
                    "{name}: {definition}"
                );
            }
        }
        assert!(
            schema(&document, "node list").unwrap()["$defs"]
                .get("node")
                .is_some()
        );
        assert!(schema(&document, "nonsense").is_none());
    }
}
