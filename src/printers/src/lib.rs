//! Server-side printing: columns and cells of `meta.k8s.io/v1` tables.
//!
//! Columns and cells are those of upstream's `pkg/printers/internalversion`.
//! Cells of all columns are computed. Clients omit columns of priority 1 unless
//! `-o wide` is given.

mod cells;
mod core;
mod misc;
mod network;
mod pod;
#[cfg(test)]
mod tests;
mod types;
mod workloads;

use std::collections::HashMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use rkube_strategy::Object;
use rkube_strategy::tree::text;
use serde_json::{Value, json};

pub use types::Column;
use types::Printer;

/// All printers by group and kind.
static PRINTERS: LazyLock<HashMap<(&str, &str), &Printer>> = LazyLock::new(|| {
    [
        core::PRINTERS,
        pod::PRINTERS,
        workloads::PRINTERS,
        network::PRINTERS,
        misc::PRINTERS,
    ]
    .into_iter()
    .flatten()
    .map(|printer| ((printer.group, printer.kind), printer))
    .collect()
});

fn printer(group: &str, kind: &str) -> &'static Printer {
    PRINTERS.get(&(group, kind)).unwrap_or(&&misc::GENERIC)
}

/// Returns the columns of a kind.
pub fn columns(group: &str, kind: &str) -> &'static [Column] {
    printer(group, kind).columns
}

/// Returns the cells of an object, one per column of its kind.
pub fn cells(group: &str, kind: &str, obj: &Object, now: Timestamp) -> Vec<Value> {
    (printer(group, kind).cells)(obj, now)
}

/// Returns the conditions of an object's row.
///
/// Only finished pods have one, `Completed`.
pub fn row_conditions(group: &str, kind: &str, obj: &Object) -> Vec<Value> {
    if (group, kind) != ("", "Pod") {
        return Vec::new();
    }
    match text(obj, "status.phase") {
        "Succeeded" => vec![
            json!({"type": "Completed", "status": "True", "reason": "Succeeded",
            "message": "The pod has completed successfully."}),
        ],
        "Failed" => vec![
            json!({"type": "Completed", "status": "True", "reason": "Failed",
            "message": "The pod failed."}),
        ],
        _ => Vec::new(),
    }
}
