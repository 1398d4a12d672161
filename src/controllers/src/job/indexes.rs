//! Sets of completion indexes, written as `1,3-5,7`.

use std::collections::BTreeSet;

/// Parses a set. Parts that are not numbers, and indexes outside `0..limit`, are ignored.
pub fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend(first.max(0)..=last.min(limit - 1));
        }
    }
    set
}

/// Formats a set. Runs of three or more indexes become ranges.
pub fn format(set: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(i32, i32)> = None;
    let mut close = |run: Option<(i32, i32)>| match run {
        Some((first, last)) if last > first + 1 => parts.push(format!("{first}-{last}")),
        Some((first, last)) if last > first => parts.push(format!("{first},{last}")),
        Some((first, _)) => parts.push(first.to_string()),
        None => {}
    };
    for &index in set {
        run = match run {
            Some((first, last)) if index == last + 1 => Some((first, index)),
            other => {
                close(other);
                Some((index, index))
            }
        };
    }
    close(run);
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges() {
        assert_eq!(format(&[0, 1, 3, 4, 5, 9].into()), "0,1,3-5,9");
        assert_eq!(parse("0,1,3-5,9", 10), [0, 1, 3, 4, 5, 9].into());
        assert_eq!(parse("3-5,9", 5), [3, 4].into());
        assert_eq!(format(&BTreeSet::new()), "");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(set in proptest::collection::btree_set(0..200i32, 0..50)) {
            prop_assert_eq!(parse(&format(&set), 200), set);
        }

        #[test]
        fn anything_can_be_read(text in "[0-9,x-]{0,20}") {
            parse(&text, 100);
        }
    }
}
