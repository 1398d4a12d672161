//! The list of differences that are known, with their reasons.

use anyhow::{Context as _, Result};

/// The list that is used if no other is named.
pub const OWN: &str = include_str!("../known.txt");

/// A known difference.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownDifference {
    /// A text that lines of the difference contain; `*` stands for any text.
    pub text: String,
    /// Why it is there.
    pub reason: String,
}

/// Reads a list: on each line a text, ` # ` and the reason.
///
/// # Errors
/// A line has no reason.
pub fn parse(list: &str) -> Result<Vec<KnownDifference>> {
    let lines = list
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    let read = |line: &str| {
        let (text, reason) = line
            .rsplit_once(" # ")
            .with_context(|| format!("a known difference without a reason: {line}"))?;
        Ok(KnownDifference {
            text: text.trim_end().to_owned(),
            reason: reason.to_owned(),
        })
    };
    lines.map(read).collect()
}

/// Returns whether a line is explained by the list.
pub fn explains(list: &[KnownDifference], line: &str) -> bool {
    list.iter().any(|known| {
        let mut parts = known.text.split('*');
        let left = parts.try_fold(line, |rest, part| {
            rest.split_once(part).map(|(_, rest)| rest)
        });
        left.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_texts_and_reasons() {
        let list = parse("# about\n\n.a: 1 # because\n").unwrap();
        assert!(explains(&list, "x.a: 1 | 2"));
        assert!(!explains(&list, "x.b: 1 | 2"));
        assert_eq!(list[0].reason, "because");
        assert!(parse("text").is_err());
        let own = parse(OWN).unwrap();
        for (line, known) in [
            ("GET /openapi/v2 .body.a.description: 1 | 2", true),
            (
                "GET /x .body.columnDefinitions[Age].description: 1 | 2",
                true,
            ),
            ("GET /x .body.description: 1 | -", false),
            ("GET /x .body.columnDefinitions[Age].type: 1 | 2", false),
        ] {
            assert_eq!(explains(&own, line), known, "{line}");
        }
    }

    /// The handbook has a table with the same texts and reasons.
    #[test]
    fn the_handbook_lists_what_is_known() {
        let page = include_str!("../../../docs/handbook/differences.md");
        let section = page.split("## API answers\n").nth(1).expect("the section");
        let section = section.split("\n## ").next().unwrap_or(section);
        let rows: Vec<&str> = section.lines().filter(|l| l.starts_with("| `")).collect();
        let row =
            |k: &KnownDifference| format!("| `{}` | {} |", k.text.replace('|', "\\|"), k.reason);
        let known: Vec<String> = parse(OWN).unwrap().iter().map(row).collect();
        assert_eq!(rows, known);
    }
}
