//! A page in the Prometheus text format under construction.

use std::fmt::Write as _;

use http::{Response, header};

use super::super::answer::{Answer, full};

/// A label and its value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// A page of metrics.
#[derive(Default)]
pub(super) struct Page(String);

/// Appends a label value, escaped.
fn push_escaped(page: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => page.push_str("\\\\"),
            '"' => page.push_str("\\\""),
            '\n' => page.push_str("\\n"),
            other => page.push(other),
        }
    }
}

impl Page {
    /// Begins a family.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample, taken at `ms` milliseconds since the epoch if that is known.
    pub(super) fn sample(&mut self, name: &str, labels: &[Label<'_>], value: f64, ms: Option<i64>) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            push_escaped(&mut self.0, value);
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        // Writing to a string cannot fail.
        let _ = match ms {
            Some(ms) => writeln!(self.0, " {value} {ms}"),
            None => writeln!(self.0, " {value}"),
        };
    }

    /// Returns the page's text.
    #[cfg(test)]
    pub(super) fn into_text(self) -> String {
        self.0
    }

    /// Returns the page as a response.
    pub(super) fn into_answer(self) -> Answer {
        let mut response = Response::new(full(self.0));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        );
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_escaped() {
        let mut page = Page::default();
        page.sample("m", &[("l", "a\"b\n\\"), ("k", "")], 1.5, Some(7));
        page.sample("n", &[], 2.0, None);
        assert_eq!(
            page.into_text(),
            "m{l=\"a\\\"b\\n\\\\\",k=\"\"} 1.5 7\nn 2\n"
        );
    }
}
