//! Output of commands: text and progress for people, JSON for programs.
//!
//! With `-o json`, steps, warnings and errors go to standard output as
//! CloudEvents (<https://cloudevents.io>), one per line, with the types that
//! minikube uses. Results are plain JSON documents.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rkube_cluster::Progress;
use rkube_failure::Failure;
use serde::Serialize;

use super::messages;

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people
    // The names that minikube's commands have for it.
    #[value(aliases = ["table", "list", "short", "wide"])]
    Text,
    /// JSON for programs
    Json,
    /// Results as YAML
    Yaml,
    /// Names only, one per line; for lists
    Name,
}

/// The destination of messages. Results are always written to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// Standard error, as the output of progress.
    Stderr,
    /// Nowhere; progress and warnings neither.
    Nowhere,
}

/// Returns the names of the objects of a list, also of lists in the fields of an object.
fn names(value: &serde_json::Value) -> Vec<String> {
    use serde_json::Value;
    match value {
        Value::Array(items) => items.iter().flat_map(names).collect(),
        Value::Object(fields) => {
            let name = fields.get("name").or_else(|| fields.get("Name"));
            match name.and_then(Value::as_str) {
                Some(name) => vec![name.to_owned()],
                None => fields.values().flat_map(names).collect(),
            }
        }
        _ => Vec::new(),
    }
}

/// A command's output.
pub struct Output {
    format: Format,
    destination: Destination,
    count: AtomicU32,
    /// The steps that the command has, in order, if that is known before.
    plan: OnceLock<&'static [&'static str]>,
    /// The place in the plan of the step that has begun last.
    reached: AtomicUsize,
    running: Mutex<Option<(ProgressBar, String, Instant)>>,
}

impl Output {
    pub fn new(format: Format) -> Self {
        Self::at(format, Destination::Stdout)
    }

    /// Returns an output whose messages go to `destination`.
    pub fn at(format: Format, destination: Destination) -> Self {
        Self {
            format,
            destination,
            count: AtomicU32::new(0),
            plan: OnceLock::new(),
            reached: AtomicUsize::new(0),
            running: Mutex::new(None),
        }
    }

    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether results are text for people.
    pub fn text(&self) -> bool {
        self.format == Format::Text
    }

    /// Prints a command's result: `text` for people, `value` for programs.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        self.finish();
        // Plain data; a value that cannot be JSON or YAML is a bug that tests show.
        let mut text = match self.format {
            Format::Json => {
                serde_json::to_string_pretty(value).unwrap_or_else(|e| format!("\"{e}\""))
            }
            Format::Yaml => {
                rkube_cluster::yaml::to_string(value).unwrap_or_else(|e| format!("\"{e}\""))
            }
            Format::Name => {
                let value = serde_json::to_value(value).unwrap_or_default();
                names(&value).join("\n")
            }
            Format::Text => text(),
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        print_out(&text);
    }

    /// Prints a message about completed work.
    pub fn say(&self, message: &str) {
        self.finish();
        if self.json() {
            self.event(
                "io.k8s.sigs.minikube.info",
                &serde_json::json!({ "message": message }),
            );
            return;
        }
        let message = messages::text(message);
        match self.destination {
            Destination::Stdout => print_out(&format!("{message}\n")),
            Destination::Stderr => eprintln!("{message}"),
            Destination::Nowhere => {}
        }
    }

    /// Says which steps the command has, by their names for programs, so that these can tell how far it
    /// is. Only the first call has an effect.
    pub fn plan(&self, steps: &'static [&'static str]) {
        // A second plan would make the first one's numbers wrong.
        let _ = self.plan.set(steps);
    }

    /// Returns the data of the event of a step. Steps have minikube's numbers: the place among all steps
    /// that the command has, and their count. A step that was not planned belongs to the one before.
    fn step_data(&self, name: &str, message: &str) -> serde_json::Value {
        let Some(plan) = self.plan.get() else {
            let step = self.count.load(Ordering::Relaxed);
            return serde_json::json!({ "currentstep": step.to_string(), "name": name, "message": message });
        };
        if let Some(place) = plan.iter().position(|step| *step == name) {
            self.reached.store(place, Ordering::Relaxed);
        }
        serde_json::json!({
            "currentstep": self.reached.load(Ordering::Relaxed).to_string(),
            "totalsteps": plan.len().to_string(),
            "name": name,
            "message": message,
        })
    }

    /// Shows how far the current step is, on a terminal.
    pub fn update(&self, message: &str) {
        if let Ok(running) = self.running.lock()
            && let Some((bar, ..)) = running.as_ref()
        {
            bar.set_message(message.to_owned());
        }
    }

    /// Marks the current step as done.
    pub fn finish(&self) {
        let Some((bar, message, since)) = self.take() else {
            return;
        };
        let took = format_duration(since.elapsed());
        bar.finish_and_clear();
        eprintln!("  {} {message} {}", style("✓", "32"), style(&took, "2"));
    }

    /// Prints a failure and returns its exit code.
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        self.break_off();
        if self.json() {
            self.event(
                "io.k8s.sigs.minikube.error",
                &serde_json::json!({
                    "exitcode": failure.exit_code().to_string(),
                    "name": failure.name(),
                    "message": failure.message,
                    "advice": failure.advice.as_deref().unwrap_or_default(),
                }),
            );
        } else {
            let (mark, message) = (messages::text("error:"), messages::text(&failure.message));
            // The mark of another language has its own space.
            let space = if messages::active() { "" } else { " " };
            eprintln!("{}{space}{message}", style(&mark, "1;31"));
            if let Some(advice) = &failure.advice {
                eprintln!("  {} {}", style("→", "1"), messages::text(advice));
            }
        }
        ExitCode::from(failure.exit_code())
    }

    /// Reports that Ctrl-C ended the command.
    pub fn interrupted(&self) {
        self.break_off();
        if !self.json() {
            eprintln!("{}", messages::text("interrupted"));
        }
    }

    fn break_off(&self) {
        if let Some((bar, message, _)) = self.take() {
            bar.finish_and_clear();
            eprintln!("  {} {message}", style("✗", "31"));
        }
    }

    fn take(&self) -> Option<(ProgressBar, String, Instant)> {
        self.running.lock().ok()?.take()
    }

    fn event(&self, kind: &str, data: &serde_json::Value) {
        let id = self.count.fetch_add(1, Ordering::Relaxed);
        let event = serde_json::json!({
            "specversion": "1.0",
            "id": format!("{}-{id}", std::process::id()),
            "source": "https://rkube.dev/",
            "type": kind,
            "datacontenttype": "application/json",
            "data": data,
        });
        print_out(&format!("{event}\n"));
    }
}

impl Progress for Output {
    fn step(&self, name: &str, message: &str) {
        self.finish();
        if self.json() {
            self.event("io.k8s.sigs.minikube.step", &self.step_data(name, message));
            return;
        }
        if self.destination == Destination::Nowhere {
            return;
        }
        let message = messages::text(message);
        let bar = ProgressBar::new_spinner();
        if std::io::stderr().is_terminal() {
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
                bar.set_style(style);
            }
            bar.set_message(message.to_string());
            bar.enable_steady_tick(Duration::from_millis(80));
        }
        if let Ok(mut running) = self.running.lock() {
            *running = Some((bar, message.into_owned(), Instant::now()));
        }
    }

    fn warn(&self, message: &str) {
        if self.json() {
            self.event(
                "io.k8s.sigs.minikube.warning",
                &serde_json::json!({ "message": message }),
            );
            return;
        }
        if self.destination == Destination::Nowhere {
            return;
        }
        let message = messages::text(message);
        let print = || eprintln!("  {} {message}", style("!", "33"));
        match self.running.lock().ok().as_deref() {
            Some(Some((bar, ..))) => bar.suspend(print),
            _ => print(),
        }
    }
}

/// Colours text on terminals unless `NO_COLOR` is set (<https://no-color.org>). Windows
/// consoles print the escape sequences unless virtual terminal processing is enabled.
fn style(text: &str, code: &str) -> String {
    if !cfg!(windows)
        && std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
    {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn format_duration(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

/// Formats a table; each column is as wide as its widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| {
        rows.iter()
            .filter_map(|r| r.get(i))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            format!("{}\n", line.join("   ").trim_end())
        })
        .collect()
}

/// Writes to standard output. Ignores errors: a closed pipe (`rkube status | head`) must
/// not end the command's work.
pub fn print_out(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_names() {
        for value in [
            serde_json::json!([{"name": "a", "x": {"name": "no"}}, {"Name": "b"}]),
            serde_json::json!({"invalid": [{"Name": "a"}], "valid": [{"Name": "b", "Config": {"Name": "no"}}]}),
        ] {
            assert_eq!(names(&value), ["a", "b"]);
        }
    }

    #[test]
    fn planned_steps_have_a_place_and_a_count() {
        let output = Output::new(Format::Json);
        assert!(output.step_data("a", "").get("totalsteps").is_none());
        output.plan(&["a", "b", "c"]);
        for (name, place) in [("a", "0"), ("c", "2"), ("other", "2"), ("b", "1")] {
            let data = output.step_data(name, "m");
            assert_eq!(data["currentstep"], place, "{name}");
            assert_eq!(data["totalsteps"], "3", "{name}");
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["NAME".into(), "IP".into()],
            vec!["rkube-m02".into(), "1.2.3.4".into()],
        ];
        assert_eq!(table(&rows), "NAME        IP\nrkube-m02   1.2.3.4\n");
    }
}
