//! Validation of success policies of indexed jobs.

use serde_json::Value;

use crate::errors::{Errors, NOT_NEGATIVE, child, index, show_fields, shown_any, shown_list};
use crate::tree::{at, has, int, list, text};

/// Most rules of a policy.
const MAX_RULES: usize = 20;
/// Longest list of indexes, in bytes.
const MAX_INDEXES: usize = 64 << 10;

/// Validates the success policy of a job's spec (upstream: `validateSuccessPolicy`).
pub(super) fn validate(errors: &mut Errors, spec: &Value, path: &str) {
    if !has(spec, "successPolicy") {
        return;
    }
    let base = child(path, "successPolicy");
    if text(spec, "completionMode") != "Indexed" {
        let rules = shown_list(at(spec, "successPolicy.rules"), |rule| {
            show_fields(&[
                ("SucceededIndexes", shown_any(rule, "succeededIndexes")),
                ("SucceededCount", shown_any(rule, "succeededCount")),
            ])
        });
        let shown = show_fields(&[("Rules", rules)]);
        errors.invalid_shown(base, &shown, "requires indexed completion mode");
        return;
    }
    let rules = list(spec, "successPolicy.rules");
    let base = child(&base, "rules");
    if rules.is_empty() {
        errors.required(
            base.clone(),
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    if rules.len() > MAX_RULES {
        errors.too_many(base.clone(), rules.len(), MAX_RULES);
    }
    // A missing number has its own error; then nothing is out of range.
    let completions = int(spec, "completions").unwrap_or(i64::MAX);
    for (i, item) in rules.iter().enumerate() {
        rule(errors, item, completions, &index(&base, i));
    }
}

fn rule(errors: &mut Errors, rule: &Value, completions: i64, field: &str) {
    let count = int(rule, "succeededCount");
    let indexes = at(rule, "succeededIndexes").as_str();
    if count.is_none() && indexes.is_none() {
        errors.required(
            field,
            "at least one of succeededCount or succeededIndexes must be specified",
        );
    }
    let mut total = None;
    if let Some(indexes) = indexes {
        let field = child(field, "succeededIndexes");
        if indexes.len() > MAX_INDEXES {
            errors.too_long(field.clone(), MAX_INDEXES);
        }
        total = Some(self::indexes(indexes, completions).unwrap_or_else(|why| {
            errors.invalid(
                field,
                indexes,
                format!("error parsing succeededIndexes: {why}"),
            );
            0
        }));
    }
    let Some(count) = count else {
        return;
    };
    let field = child(field, "succeededCount");
    if count < 0 {
        errors.invalid(field.clone(), count, NOT_NEGATIVE);
    }
    let mut at_most = |limit: i64, what: &str| {
        if count > limit {
            let why = format!("must be less than or equal to {limit} (the number of {what})");
            errors.invalid(field.clone(), count, why);
        }
    };
    at_most(completions, "specified completions");
    if let Some(total) = total {
        at_most(total, "indexes in the specified succeededIndexes field");
    }
}

/// Returns the number of indexes in a list such as `1,3-5`, which increase and are less than the
/// number of completions.
pub(super) fn indexes(indexes: &str, completions: i64) -> Result<i64, String> {
    if indexes.is_empty() {
        return Ok(0);
    }
    let mut last: Option<i64> = None;
    let mut total = 0;
    for text in indexes.split(',') {
        let (first, end) = interval(text, completions)?;
        if let Some(last) = last
            && last >= first
        {
            return Err(format!(
                "non-increasing order, previous: {last}, current: {first}"
            ));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

/// Returns the first and the last index of an interval such as `3-5`.
fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = text.split('-').collect();
    if limits.len() > 2 {
        return Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let number = |text: &str| -> Result<i64, String> {
        let index: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        match index >= completions {
            true => Err(format!("too large index: {text:?}")),
            false => Ok(index),
        }
    };
    let first = number(limits[0])?;
    let Some(end) = limits.get(1) else {
        return Ok((first, first));
    };
    let end = number(end)?;
    match first >= end {
        true => Err(format!(
            "non-increasing order, previous: {first}, current: {end}"
        )),
        false => Ok((first, end)),
    }
}

/// Returns an index that two lists, which increase, have both. Malformed intervals have none.
pub(super) fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let intervals = |text| {
        let all = str::split(text, ',');
        all.filter_map(|text| interval(text, completions).ok())
    };
    let (mut ones, mut others) = (intervals(one).peekable(), intervals(other).peekable());
    while let (Some((first, end)), Some((a, b))) = (ones.peek(), others.peek()) {
        if first <= b && a <= end {
            return Some(*first.max(a));
        }
        match end < b {
            true => ones.next(),
            false => others.next(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_overlap_at_their_first_common_index() {
        for (one, other, met) in [
            ("0,2-4", "1,5", None),
            ("0,2-4", "1,3", Some(3)),
            ("5-9", "0-1,3,7-8", Some(7)),
            ("1", "", None),
            ("x,4", "4", Some(4)),
        ] {
            assert_eq!(overlap(one, other, 100), met, "{one} {other}");
            assert_eq!(overlap(other, one, 100), met, "{other} {one}");
        }
        let every_second = |odd: usize| {
            let all: Vec<String> = (0..200_000).map(|i| (2 * i + odd).to_string()).collect();
            all.join(",")
        };
        assert_eq!(overlap(&every_second(0), &every_second(1), 1 << 30), None);
    }
}
