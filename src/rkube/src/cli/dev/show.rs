//! What a session tells: lines for people, events for programs.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rkube_failure::Failure;
use serde_json::{Value, json};

use crate::cli::output::print_out;

/// Colours of prefixes: cyan, green, yellow, blue, magenta, and their bright forms.
const COLOURS: [&str; 8] = ["36", "32", "33", "34", "35", "96", "92", "94"];

/// Prints messages, from several tasks at once. Messages go to standard error and logs to standard
/// output; events go to standard output, one per line, in the form of the other commands' events.
pub struct Show {
    json: bool,
    count: AtomicU32,
    /// The workloads whose pods have printed something; their places choose the colours.
    seen: Mutex<Vec<String>>,
    coloured_logs: bool,
    coloured_messages: bool,
}

impl Show {
    pub fn new(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let coloured = |terminal: bool| terminal && !plain && !cfg!(windows);
        Self {
            json,
            count: AtomicU32::new(0),
            seen: Mutex::new(Vec::new()),
            coloured_logs: coloured(std::io::stdout().is_terminal()),
            coloured_messages: coloured(std::io::stderr().is_terminal()),
        }
    }

    /// Whether programs read the output.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Tells an event: its name and data for programs, a message for people.
    pub fn event(&self, name: &str, message: &str, mut data: Value) {
        if self.json {
            if !message.is_empty() {
                data["message"] = message.into();
            }
            self.print(&format!("dev.rkube.dev.{name}"), &data);
            return;
        }
        if !message.is_empty() {
            eprintln!("{} {message}", self.paint("»", "1"));
        }
    }

    /// Tells an event without data.
    pub fn say(&self, name: &str, message: &str) {
        self.event(name, message, json!({}));
    }

    /// Tells a problem that the session goes on with.
    pub fn warn(&self, message: &str) {
        if self.json {
            let kind = "io.k8s.sigs.minikube.warning";
            self.print(kind, &json!({ "message": message }));
            return;
        }
        eprintln!("{} {message}", self.paint("!", "33"));
    }

    /// Tells a failure that the session goes on after.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            let data = json!({
                "name": failure.name(),
                "message": failure.message,
                "advice": failure.advice.as_deref().unwrap_or_default(),
            });
            self.print("dev.rkube.dev.failed", &data);
            return;
        }
        eprintln!("{} {}", self.paint("error:", "1;31"), failure.message);
        if let Some(advice) = &failure.advice {
            eprintln!("  {} {advice}", self.paint("→", "1"));
        }
    }

    /// Prints a line that a step of a build has printed.
    pub fn building(&self, image: &str, line: &str) {
        if self.json {
            self.event("building", "", json!({ "image": image, "line": line }));
            return;
        }
        eprintln!("{} {line}", self.paint(&format!("{image} |"), "2"));
    }

    /// Prints a line of a container's log.
    pub fn log(&self, source: &LogSource, line: &str) {
        if self.json {
            let data = json!({
                "namespace": source.namespace,
                "pod": source.pod,
                "container": source.container,
                "line": line,
            });
            self.print("dev.rkube.dev.log", &data);
            return;
        }
        let prefix = match source.alone {
            true => format!("{} |", source.pod),
            false => format!("{} {} |", source.pod, source.container),
        };
        let prefix = match self.coloured_logs {
            true => format!("\x1b[{}m{prefix}\x1b[0m", self.colour(&source.workload)),
            false => prefix,
        };
        print_out(&format!("{prefix} {line}\n"));
    }

    /// Returns the colour of a workload: the next one for a new workload.
    fn colour(&self, workload: &str) -> &'static str {
        let mut seen = match self.seen.lock() {
            Ok(seen) => seen,
            Err(poisoned) => poisoned.into_inner(),
        };
        let place = seen.iter().position(|known| known == workload);
        let place = place.unwrap_or_else(|| {
            seen.push(workload.to_owned());
            seen.len() - 1
        });
        COLOURS[place % COLOURS.len()]
    }

    fn paint(&self, text: &str, code: &str) -> String {
        match self.coloured_messages {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn print(&self, kind: &str, data: &Value) {
        let id = self.count.fetch_add(1, Ordering::Relaxed);
        let event = json!({
            "specversion": "1.0",
            "id": format!("{}-dev-{id}", std::process::id()),
            "source": "https://rkube.dev/",
            "type": kind,
            "datacontenttype": "application/json",
            "data": data,
        });
        print_out(&format!("{event}\n"));
    }
}

/// The container that a line of a log comes from.
#[derive(Clone, Debug)]
pub struct LogSource {
    /// The namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// The workload that the pod belongs to.
    pub workload: String,
    /// Whether the pod has no other container.
    pub alone: bool,
}
