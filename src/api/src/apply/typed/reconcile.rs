//! Adaptation of field sets to a changed schema.

use crate::apply::field_type::field_type;
use crate::apply::path::PathElement;
use crate::apply::set::FieldSet;
use crate::schema::{Kind, ListType, Type};

/// Adapts a field set that was recorded under an older schema: paths inside a value that
/// has become atomic are replaced by the path of that value.
pub(in crate::apply) fn reconcile(ty: Option<Type<'_>>, set: &FieldSet) -> FieldSet {
    let mut remove = FieldSet::default();
    reconcile_at(ty, set, &mut Vec::new(), &mut remove);
    if remove.is_empty() {
        return set.clone();
    }
    set.recursive_difference(&remove).union(&remove)
}

fn reconcile_at(
    ty: Option<Type<'_>>,
    set: &FieldSet,
    path: &mut Vec<PathElement>,
    out: &mut FieldSet,
) {
    let Some(known) = ty else { return };
    for (step, _, children) in set.top() {
        let below = match step {
            PathElement::Field(name) => field_type(ty, name).0,
            _ => known.element(),
        };
        let Some(below) = below else { continue };
        path.push(step.clone());
        if !children.is_empty() {
            let atomic = match below.kind() {
                Kind::Object | Kind::Map => below.is_atomic_map(),
                Kind::Array => below.list_type() == ListType::Atomic,
                _ => false,
            };
            if atomic {
                out.insert(path);
            } else {
                reconcile_at(Some(below), children, path, out);
            }
        }
        path.pop();
    }
}
