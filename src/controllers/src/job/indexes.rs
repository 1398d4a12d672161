//! Sets of completion indexes, written as `1,3-5,7`.

use std::collections::BTreeSet;
use std::ops::Range;

/// Parses a set as ascending, disjoint ranges. Parts that are not numbers, and indexes outside
/// `0..limit`, are ignored.
///
/// A user may write ranges of two thousand million indexes, so sets from a specification are not
/// spelled out.
pub fn ranges(text: &str, limit: i32) -> Vec<Range<i32>> {
    let mut all: Vec<Range<i32>> = text
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<i32>().ok()?, last.parse::<i32>().ok()?);
            let range = first.max(0)..last.saturating_add(1).min(limit);
            (!range.is_empty()).then_some(range)
        })
        .collect();
    all.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<i32>> = Vec::new();
    for range in all {
        match merged.last_mut() {
            Some(before) if range.start <= before.end => before.end = before.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Returns the number of indexes in disjoint ranges.
pub fn size(ranges: &[Range<i32>]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).sum()
}

/// Returns how many indexes of `set` are in one of the disjoint ranges.
pub fn count_in(set: &BTreeSet<i32>, ranges: &[Range<i32>]) -> usize {
    let in_range = |range: &Range<i32>| set.range(range.clone()).count();
    ranges.iter().map(in_range).sum()
}

/// Parses a set. Parts that are not numbers, and indexes outside `0..limit`, are ignored.
///
/// Only for sets that this controller wrote: they have one index per pod.
pub fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    ranges(text, limit).into_iter().flatten().collect()
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
    fn sets_are_read_and_written() {
        assert_eq!(format(&[0, 1, 3, 4, 5, 9].into()), "0,1,3-5,9");
        assert_eq!(parse("0,1,3-5,9", 10), [0, 1, 3, 4, 5, 9].into());
        assert_eq!(parse("3-5,9", 5), [3, 4].into());
        assert_eq!(format(&BTreeSet::new()), "");
    }

    #[test]
    fn huge_ranges_are_not_spelled_out() {
        let huge = ranges("5,0-2147483647,7-9", i32::MAX);
        assert_eq!(huge, std::slice::from_ref(&(0..i32::MAX)));
        assert_eq!(size(&huge), 2_147_483_647);
        assert_eq!(count_in(&[3, 9].into(), &huge), 2);
        assert_eq!(ranges("7-9,1,8-12,x", 11), [1..2, 7..11]);
        assert_eq!(ranges("1", i32::MIN), []);
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
