//! Validation of the status of jobs, which may be managed by other controllers than upstream's.
//!
//! As upstream, most rules apply only to a change of what they are about: a status can lag
//! behind its spec.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use super::success_policy::{indexes, overlap};
use crate::apps::not_negative;
use crate::conditions::is_true;
use crate::errors::{Errors, IMMUTABLE, index, show_fields, shown_any};
use crate::tree::{at, flag, has, int, list, same_at, text};

const CONDITIONS: &str = "status.conditions";

/// A status with what it was before.
struct Change<'a> {
    new: &'a Object,
    old: &'a Object,
}

impl Change<'_> {
    /// Returns whether the value at a path changes.
    fn of(&self, key: &str) -> bool {
        let path = format!("status.{key}");
        at(self.new, &path) != at(self.old, &path)
    }

    fn is(&self, kind: &str) -> bool {
        is_true(self.new, CONDITIONS, kind)
    }

    fn was(&self, kind: &str) -> bool {
        is_true(self.old, CONDITIONS, kind)
    }

    /// Returns whether a condition appears or disappears.
    fn turns(&self, kind: &str) -> bool {
        self.is(kind) != self.was(kind)
    }

    fn is_finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn finishes(&self) -> bool {
        self.is_finished() != (self.was("Complete") || self.was("Failed"))
    }
}

/// Validates an update of a job's status.
pub(super) fn validate(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let change = Change { new, old };
    let counts = ["active", "succeeded", "failed", "ready", "terminating"];
    not_negative(&mut errors, new, "status", &counts);
    uncounted(&mut errors, new);
    completion(&mut errors, &change);
    finished(&mut errors, &change);
    index_lists(&mut errors, &change);
    let count = |key: &str| int(new, &format!("status.{key}")).unwrap_or(0);
    if (change.finishes() || change.of("terminating"))
        && change.is_finished()
        && count("terminating") > 0
    {
        let why = "terminating>0 is invalid for finished job";
        errors.invalid("status.terminating", count("terminating"), why);
    }
    if (change.of("ready") || change.of("active")) && count("ready") > count("active") {
        let why = "cannot set more ready pods than active";
        errors.invalid("status.ready", count("ready"), why);
    }
    success_criteria(&mut errors, &change);
    transitions(&mut errors, &change);
    errors.0
}

/// Validates that each finished pod that is not counted yet is listed once.
fn uncounted(errors: &mut Errors, obj: &Object) {
    let mut seen = BTreeSet::new();
    for key in ["succeeded", "failed"] {
        let path = format!("status.uncountedTerminatedPods.{key}");
        for (i, uid) in list(obj, &path).iter().enumerate() {
            let uid = uid.as_str().unwrap_or_default();
            if uid.is_empty() {
                errors.invalid(index(&path, i), uid, "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(index(&path, i), uid);
            }
        }
    }
}

/// Validates the conditions of a job that is complete, and the times of its start and end.
fn completion(errors: &mut Errors, change: &Change<'_>) {
    let complete = change.is("Complete");
    for (kind, shown) in [("Failed", "Failed"), ("FailureTarget", "FailureTarget")] {
        let changed = change.turns("Complete") || change.turns(kind);
        if changed && complete && change.is(kind) {
            let why = format!("cannot set Complete=True and {shown}=true conditions");
            errors.invalid_omitted(CONDITIONS, why);
        }
    }
    let path = "status.completionTime";
    let ended = at(change.new, path);
    if change.turns("Complete") || change.of("completionTime") {
        if !ended.is_null() && !complete {
            let why = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(path, ended.clone(), why);
        }
        if ended.is_null() && complete {
            errors.required(path, "completionTime is required for Complete jobs");
        }
    }
    let started = at(change.new, "status.startTime");
    if (change.of("startTime") || change.of("completionTime"))
        && let (Some(started), Some(ended)) = (time(started), time(ended))
        && ended < started
    {
        let shown = at(change.new, path).clone();
        errors.invalid(path, shown, "must be equal to or after `startTime`");
    }
    if (change.turns("Failed") || change.of("failedIndexes"))
        && change.is("Failed")
        && !change.is("FailureTarget")
    {
        let why = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.invalid_omitted(CONDITIONS, why);
    }
    if (change.turns("Complete") || change.turns("SuccessCriteriaMet"))
        && complete
        && !change.is("SuccessCriteriaMet")
    {
        let why =
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.invalid_omitted(CONDITIONS, why);
    }
}

fn time(value: &Value) -> Option<jiff::Timestamp> {
    value.as_str()?.parse().ok()
}

/// Validates that a finished job has started and has no pods.
fn finished(errors: &mut Errors, change: &Change<'_>) {
    if !change.is_finished() {
        return;
    }
    let finishes = change.finishes();
    let active = int(change.new, "status.active").unwrap_or(0);
    if (finishes || change.of("active")) && active > 0 {
        let why = "active>0 is invalid for finished job";
        errors.invalid("status.active", active, why);
    }
    let never_runs =
        flag(change.new, "spec.suspend") && int(change.new, "spec.completions") == Some(0);
    if (finishes || change.of("startTime")) && !never_runs && !has(change.new, "status.startTime") {
        errors.required("status.startTime", "startTime is required for finished job");
    }
    let path = "status.uncountedTerminatedPods";
    let pods = at(change.new, path);
    let any = ["succeeded", "failed"]
        .iter()
        .any(|key| !list(pods, key).is_empty());
    if (finishes || !same_at(change.new, change.old, path)) && any {
        let shown = show_fields(&[
            ("Succeeded", shown_any(pods, "succeeded")),
            ("Failed", shown_any(pods, "failed")),
        ]);
        errors.invalid_shown(path, &shown, "must be empty for finished job");
    }
}

/// Validates the lists of indexes that are done.
fn index_lists(errors: &mut Errors, change: &Change<'_>) {
    let obj = change.new;
    let completed = text(obj, "status.completedIndexes");
    let failed = at(obj, "status.failedIndexes").as_str();
    let completions = int(obj, "spec.completions");
    let per_index = has(obj, "spec.backoffLimitPerIndex");
    let (completed_changes, failed_changes) =
        (change.of("completedIndexes"), change.of("failedIndexes"));
    let mut parse = |key: &str, value: &str| {
        if let Some(completions) = completions
            && let Err(why) = indexes(value, completions)
        {
            let why = format!("error parsing {key}: {why}");
            errors.invalid(format!("status.{key}"), value, why);
        }
    };
    if completed_changes {
        parse("completedIndexes", completed);
    }
    if failed_changes
        && per_index
        && let Some(failed) = failed
    {
        parse("failedIndexes", failed);
    }
    if completed_changes && !completed.is_empty() && text(obj, "spec.completionMode") != "Indexed" {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid("status.completedIndexes", completed, why);
    }
    let Some(failed) = failed else { return };
    if failed_changes && !per_index {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid("status.failedIndexes", failed, why);
    }
    if let Some(completions) = completions
        && (completed_changes || failed_changes)
        && let Some(index) = overlap(completed, failed, completions)
    {
        let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.invalid("status.failedIndexes", failed, why);
    }
}

/// Validates the condition that tells that a job has succeeded.
fn success_criteria(errors: &mut Errors, change: &Change<'_>) {
    let met = change.is("SuccessCriteriaMet");
    for (kind, shown) in [("Failed", "Failed"), ("FailureTarget", "FailureTarget")] {
        if met && change.is(kind) {
            let why = format!("cannot set SuccessCriteriaMet=True and {shown}=true conditions");
            errors.invalid_omitted(CONDITIONS, why);
        }
    }
    if has(change.new, "spec.successPolicy") && !met && change.is("Complete") {
        let why =
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        errors.invalid_omitted(CONDITIONS, why);
    }
}

/// Validates that what has happened stays.
fn transitions(errors: &mut Errors, change: &Change<'_>) {
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if change.was(kind) && !change.is(kind) {
            let why = format!("cannot disable the terminal {kind}=True condition");
            errors.invalid_omitted(CONDITIONS, why);
        }
    }
    let new = change.new;
    let elastic = text(new, "spec.completionMode") == "Indexed"
        && int(new, "spec.completions") == int(new, "spec.parallelism");
    for (key, asked) in [("failed", true), ("succeeded", !elastic)] {
        let path = format!("status.{key}");
        let count = |obj| int(obj, &path).unwrap_or(0);
        if asked && count(new) < count(change.old) {
            let why = format!("cannot decrease the {key} counter");
            errors.invalid(path.clone(), count(new), why);
        }
    }
    let set = |obj, path| has(obj, path);
    let path = "status.completionTime";
    if set(new, path) && set(change.old, path) && change.of("completionTime") {
        errors.invalid(path, at(new, path).clone(), IMMUTABLE);
    }
    let path = "status.startTime";
    let resumed = list(new, CONDITIONS)
        .iter()
        .any(|c| text(c, "type") == "Suspended" && text(c, "status") == "False");
    let resumes = change.was("Suspended") && resumed;
    if set(change.old, path) && change.of("startTime") && !resumes && !flag(new, "spec.suspend") {
        let why = "field is immutable for unsuspended job once set";
        errors.invalid(path, at(new, path).clone(), why);
    }
    let (was_met, met) = (
        change.was("SuccessCriteriaMet"),
        change.is("SuccessCriteriaMet"),
    );
    if was_met && !met {
        errors.invalid_omitted(
            CONDITIONS,
            "cannot disable the SuccessCriteriaMet=True condition",
        );
    }
    if change.was("Complete") && !was_met && met {
        let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.invalid_omitted(CONDITIONS, why);
    }
}
