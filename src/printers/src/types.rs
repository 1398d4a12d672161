//! Columns and printers.

use jiff::Timestamp;
use rkube_strategy::Object;
use serde_json::{Value, json};

/// A column of a table (`TableColumnDefinition`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header; clients print it in capitals.
    pub name: &'static str,
    /// OpenAPI type of the cells.
    pub kind: &'static str,
    /// OpenAPI format; `name` marks the column that names the object.
    pub format: &'static str,
    /// 0 for columns that are always shown, 1 for those of `-o wide`.
    pub priority: i32,
}

impl Column {
    /// Returns the `TableColumnDefinition` of `meta.k8s.io/v1`.
    pub fn to_value(self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": "",
            "priority": self.priority,
        })
    }
}

/// Returns a column; see [`Column`].
pub(crate) const fn column(name: &'static str, kind: &'static str, priority: i32) -> Column {
    Column {
        name,
        kind,
        format: "",
        priority,
    }
}

/// Returns a column of strings.
pub(crate) const fn string(name: &'static str) -> Column {
    column(name, "string", 0)
}

/// Returns a column of integers.
pub(crate) const fn integer(name: &'static str) -> Column {
    column(name, "integer", 0)
}

/// Returns a column of booleans.
pub(crate) const fn boolean(name: &'static str) -> Column {
    column(name, "boolean", 0)
}

/// Returns a column of strings that only `-o wide` shows.
pub(crate) const fn wide(name: &'static str) -> Column {
    column(name, "string", 1)
}

/// The column of the object's name.
pub(crate) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
};
/// The column of the object's age.
pub(crate) const AGE: Column = string("Age");

/// The columns of a kind and the function that computes the cells of a row.
#[derive(Clone, Copy)]
pub(crate) struct Printer {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Kind within the group.
    pub kind: &'static str,
    /// Columns, in order.
    pub columns: &'static [Column],
    /// Computes the cells of a row, one per column.
    pub cells: fn(&Object, Timestamp) -> Vec<Value>,
}
