//! Validation of success policies of indexed jobs.

use serde_json::Value;

use crate::errors::{Errors, NOT_NEGATIVE, child, index};
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
        errors.invalid(
            base,
            at(spec, "successPolicy").clone(),
            "requires indexed completion mode",
        );
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
        total = Some(number_of(indexes, completions).unwrap_or_else(|why| {
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
fn number_of(indexes: &str, completions: i64) -> Result<i64, String> {
    if indexes.is_empty() {
        return Ok(0);
    }
    let mut last: Option<i64> = None;
    let mut total = 0;
    let mut next = |text: &str| -> Result<i64, String> {
        let index: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if index >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        if let Some(last) = last
            && last >= index
        {
            return Err(format!(
                "non-increasing order, previous: {last}, current: {index}"
            ));
        }
        last = Some(index);
        Ok(index)
    };
    for interval in indexes.split(',') {
        let limits: Vec<&str> = interval.split('-').collect();
        if limits.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let first = next(limits[0])?;
        total += 1;
        if let Some(end) = limits.get(1) {
            total += next(end)? - first;
        }
    }
    Ok(total)
}
