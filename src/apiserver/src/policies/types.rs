//! CEL type declarations of built-in kinds.

use std::collections::BTreeMap;
use std::sync::Arc;

use rkube_api::schema::{Kind, Type as Schema};
use rkube_cel::{DeclField, DeclType, Read, Type, escape};

/// Maximum depth of a type; deeper or recursive types are dynamic.
const MAX_DEPTH: usize = 24;

/// Returns the declared type of a kind.
pub fn declared(schema: Schema<'_>) -> DeclType {
    let mut above = Vec::new();
    convert(schema, &mut above).unwrap_or_else(DeclType::any)
}

fn convert(schema: Schema<'_>, above: &mut Vec<String>) -> Option<DeclType> {
    let simple = |ty| Some(DeclType::simple(ty, 0, 1));
    if above.len() > MAX_DEPTH {
        return simple(Type::Dyn);
    }
    match schema.kind() {
        Kind::Object => {
            let name = schema.go_name();
            let recursive = !name.starts_with("map[") && above.contains(&name);
            if recursive {
                return simple(Type::Dyn);
            }
            above.push(name);
            let mut fields = BTreeMap::new();
            for field in schema.fields() {
                if let (Some(escaped), Some(ty)) = (escape(field.name), convert(field.ty, above)) {
                    fields.insert(
                        escaped,
                        DeclField {
                            name: field.name.to_owned(),
                            ty: Arc::new(ty),
                            required: field.required,
                            default: None,
                        },
                    );
                }
            }
            above.pop();
            Some(DeclType::object("object", fields))
        }
        Kind::Map => {
            let element = convert(schema.element()?, above)?;
            Some(DeclType::map(Arc::new(element), 0))
        }
        Kind::Array => {
            let element = convert(schema.element()?, above)?;
            Some(DeclType::list(Arc::new(element), 0))
        }
        Kind::String => simple(Type::String),
        Kind::Bytes => simple(Type::Bytes),
        Kind::Integer => simple(Type::Int),
        Kind::Number => simple(Type::Double),
        Kind::Boolean => simple(Type::Bool),
        Kind::Time | Kind::MicroTime => {
            let mut ty = DeclType::simple(Type::Timestamp, 0, 21);
            ty.read = Read::DateTime;
            Some(ty)
        }
        // A quantity may be a string or a number.
        Kind::IntOrString | Kind::Quantity => simple(Type::Dyn),
        Kind::Any | Kind::SchemaOr => None,
    }
}
