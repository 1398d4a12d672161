//! Progress of a build.

use std::collections::BTreeMap;

use rkube_build::BuildError;
use rkube_build::protocol::Event;

use super::build::Viewer;
use super::source::Context;
use crate::cli::output::print_out;

/// Shows progress as BuildKit's plain form does, on standard error.
pub struct Screen {
    quiet: bool,
    json: bool,
    names: BTreeMap<usize, String>,
    /// The last lines of each step, shown again if it fails.
    last: BTreeMap<usize, Vec<String>>,
    failed: Option<usize>,
    current: Option<usize>,
}

/// Lines of a failed step that are shown again.
const KEPT_LINES: usize = 12;

impl Screen {
    pub fn new(quiet: bool, json: bool) -> Self {
        Self {
            quiet,
            json,
            names: BTreeMap::new(),
            last: BTreeMap::new(),
            failed: None,
            current: None,
        }
    }

    /// Prints a line of a step, after its title if another step has printed last.
    fn line(&mut self, id: usize, text: &str) {
        if self.quiet {
            return;
        }
        if self.current != Some(id) {
            let name = self.names.get(&id).map_or("", String::as_str);
            if self.current.is_some() {
                eprintln!();
            }
            eprintln!("#{id} {name}");
            self.current = Some(id);
        }
        if !text.is_empty() {
            eprintln!("#{id} {text}");
        }
    }

    fn end(&mut self, id: usize, text: &str) {
        if !self.json {
            self.line(id, text);
        }
    }

    /// Prints why the build has failed: the end of the step's output, and the lines of the
    /// Dockerfile.
    pub fn explain(&self, error: &BuildError, context: &Context) {
        if self.json {
            let value = serde_json::json!({ "error": error });
            print_out(&format!("{value}\n"));
            return;
        }
        let mut text = String::new();
        if let Some(id) = self.failed {
            let name = self.names.get(&id).map_or("", String::as_str);
            text.push_str(&format!("------\n > {name}:\n"));
            for line in self.last.get(&id).into_iter().flatten() {
                text.push_str(&format!("{line}\n"));
            }
            text.push_str("------\n");
        }
        if let Some((first, last)) = error.lines {
            text.push_str(&format!("{}:{first}\n", context.dockerfile_name));
            text.push_str("--------------------\n");
            let shown = context
                .dockerfile
                .lines()
                .enumerate()
                .map(|(i, l)| (i + 1, l));
            for (number, line) in
                shown.filter(|(n, _)| (first.saturating_sub(2)..=last + 2).contains(n))
            {
                let mark = if (first..=last).contains(&number) {
                    ">>>"
                } else {
                    "   "
                };
                text.push_str(&format!("{number:>4} | {mark} {line}\n"));
            }
            text.push_str("--------------------\n");
        }
        let place = match error.lines {
            Some((first, _)) => format!("{}:{first}: ", context.dockerfile_name),
            None => String::new(),
        };
        eprint!("{text}");
        eprintln!("ERROR: failed to build: {place}{}", error.message);
    }
}

impl Viewer for Screen {
    fn note(&mut self, text: &str) {
        if !self.quiet && !self.json {
            eprintln!("#0 {text}");
        }
    }

    fn show(&mut self, event: &Event) {
        if self.json
            && !self.quiet
            && let Ok(text) = serde_json::to_string(event)
        {
            eprintln!("{text}");
        }
        match event {
            Event::Begin { id, name } => {
                self.names.insert(*id, name.clone());
                if !self.json {
                    self.line(*id, "");
                }
            }
            Event::Line { id, after, text } => {
                let kept = self.last.entry(*id).or_default();
                let line = format!("{:.3} {text}", *after as f64 / 1e3);
                if kept.len() == KEPT_LINES {
                    kept.remove(0);
                }
                kept.push(line.clone());
                self.end(*id, &line);
            }
            Event::Done { id, took } => {
                self.end(*id, &format!("DONE {:.1}s", *took as f64 / 1e3));
            }
            Event::Cached { id } => self.end(*id, "CACHED"),
            Event::Failed { id, message } => {
                self.failed = Some(*id);
                self.end(*id, &format!("ERROR: {message}"));
            }
            Event::Canceled { id } => self.end(*id, "CANCELED"),
            Event::Warning { text } => {
                if !self.json {
                    eprintln!("warning: {text}");
                }
            }
            Event::Error(_) | Event::Built(_) => {}
        }
    }
}
