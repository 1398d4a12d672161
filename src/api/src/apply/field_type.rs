//! The types of fields.

use crate::schema::{Kind, Type};

/// Returns the type of a field of a struct or map, and whether it is declared by name.
pub(super) fn field_type<'a>(ty: Option<Type<'a>>, name: &str) -> (Option<Type<'a>>, bool) {
    let Some(ty) = ty else { return (None, false) };
    match ty.kind() {
        Kind::Object => match ty.field(name) {
            Some(field) => (Some(field.ty), true),
            None => (ty.element(), false),
        },
        Kind::Map => (ty.element(), false),
        _ => (None, false),
    }
}
