//! Counts and prints differences.

use std::collections::BTreeMap;

use crate::known::{KnownDifference, explains};
use crate::pair::Difference;

/// Maximum number of printed places of one answer.
const MAX_PLACES: usize = 40;
/// Maximum length of a printed place.
const MAX_PLACE_LENGTH: usize = 1200;

/// The results of a run.
#[derive(Debug)]
pub struct Report {
    known: Vec<KnownDifference>,
    seen: BTreeMap<String, u64>,
    /// Number of scripts and cases with differences that are not known.
    pub unexplained: u64,
}

impl Report {
    /// Creates an empty report.
    pub fn new(known: Vec<KnownDifference>) -> Self {
        Self {
            known,
            seen: BTreeMap::new(),
            unexplained: 0,
        }
    }

    /// Returns whether a line is a known difference.
    pub fn is_known(&self, line: &str) -> bool {
        explains(&self.known, line)
    }

    /// Removes known differences, counts the others, and returns those with a place that no
    /// earlier case of this `kind` had.
    pub fn add(&mut self, kind: &str, name: &str, mut found: Vec<Difference>) -> Vec<Difference> {
        for difference in &mut found {
            let request = &difference.request;
            let known = |place: &String| explains(&self.known, &format!("{request} {place}"));
            difference.places.retain(|place| !known(place));
        }
        found.retain(|difference| !difference.places.is_empty());
        self.unexplained += u64::from(!found.is_empty());
        found.retain(|difference| {
            let mut new = false;
            for place in &difference.places {
                let place = place.replace(name, "NAME");
                let count = self.seen.entry(format!("{kind} {place}")).or_insert(0);
                *count += 1;
                new |= *count == 1;
            }
            new
        });
        found
    }

    /// Returns the lines that say which places were seen more than once.
    pub fn repeated(&self) -> Vec<String> {
        let often = self.seen.iter().filter(|(_, count)| **count > 1);
        often
            .map(|(place, count)| format!("{count} times: {}", short(place)))
            .collect()
    }
}

/// Returns the lines of a difference.
pub fn lines(difference: &Difference) -> Vec<String> {
    let mut lines = vec![format!("  {} {}", difference.request, difference.body)];
    let places = &difference.places;
    lines.extend(
        places
            .iter()
            .take(MAX_PLACES)
            .map(|p| format!("    {}", short(p))),
    );
    if places.len() > MAX_PLACES {
        lines.push(format!("    and {} more", places.len() - MAX_PLACES));
    }
    lines
}

fn short(place: &str) -> String {
    match place.char_indices().nth(MAX_PLACE_LENGTH) {
        Some((end, _)) => format!("{}…", &place[..end]),
        None => place.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(places: &[&str]) -> Difference {
        Difference {
            request: "GET /x".into(),
            body: String::new(),
            places: places.iter().map(|p| (*p).to_owned()).collect(),
        }
    }

    #[test]
    fn a_place_is_reported_once_and_counted() {
        let known = crate::known::parse("GET /x .k # fine").unwrap();
        let mut report = Report::new(known);
        assert!(
            report
                .add("K", "d1", vec![difference(&[".k: 1 | 2"])])
                .is_empty()
        );
        assert_eq!(report.unexplained, 0);
        assert_eq!(
            report
                .add("K", "d1", vec![difference(&[".a: d1 | 2"])])
                .len(),
            1
        );
        assert!(
            report
                .add("K", "d2", vec![difference(&[".a: d2 | 2"])])
                .is_empty()
        );
        assert_eq!(report.unexplained, 2);
        assert_eq!(report.repeated(), ["2 times: K .a: NAME | 2"]);
    }

    #[test]
    fn long_answers_are_cut() {
        let many: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(lines(&difference(&many)).len(), MAX_PLACES + 2);
        assert_eq!(
            short(&"é".repeat(MAX_PLACE_LENGTH + 1)).chars().count(),
            MAX_PLACE_LENGTH + 1
        );
    }
}
