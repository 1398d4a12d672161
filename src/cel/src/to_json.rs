//! Conversion of values to JSON, for the results of mutating policies.

use serde_json::Value as Json;

use crate::time;
use crate::value::{EvalError, Map, Object, Value};

impl Value<'_> {
    /// Converts the value to JSON.
    ///
    /// # Errors
    ///
    /// The value has no JSON representation or consists of more than a million values.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        // Shared parts count, and are written, once per occurrence.
        let mut left = 1_000_000u64;
        self.write(&mut left)
    }

    fn write(&self, left: &mut u64) -> Result<Json, EvalError> {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| EvalError::new("the value is too large to be written as JSON"))?;
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(i) => (*i).into(),
            Self::Uint(u) => (*u).into(),
            Self::Double(d) => serde_json::Number::from_f64(*d)
                .map(Json::Number)
                .ok_or_else(|| EvalError::new("a number that is not finite has no form in JSON"))?,
            Self::String(s) => (**s).into(),
            Self::Bytes(b) => {
                use base64::Engine;
                base64::engine::general_purpose::STANDARD.encode(b).into()
            }
            Self::Duration(d) => time::format_duration(*d).into(),
            Self::Timestamp(t) => t.to_string().into(),
            Self::List(list) => {
                let mut items = Vec::new();
                for item in list.iter() {
                    items.push(item?.write(left)?);
                }
                Json::Array(items)
            }
            Self::Map(Map::Json(map, _)) | Self::Object(Object::Json(map, _)) => {
                Json::Object((*map).clone())
            }
            Self::Map(map) => {
                let mut object = serde_json::Map::new();
                for key in map.keys() {
                    let Value::String(name) = &key else {
                        return Err(EvalError::new("a map's keys must be texts in JSON"));
                    };
                    if let Some(value) = map.get(&key) {
                        object.insert(name.to_string(), value?.write(left)?);
                    }
                }
                Json::Object(object)
            }
            Self::Object(Object::Own(made)) => {
                let mut object = serde_json::Map::new();
                for (name, value) in &made.fields {
                    let name = crate::decl::unescape(name).unwrap_or_else(|| name.clone());
                    object.insert(name, value.write(left)?);
                }
                Json::Object(object)
            }
            Self::Optional(Some(value)) => value.write(left)?,
            Self::Optional(None) => Json::Null,
            Self::Quantity(q) => q.to_string().into(),
            Self::Ip(_) | Self::Cidr(..) => self.to_text()?.into(),
            other => {
                return Err(EvalError::new(format!(
                    "a value of type '{}' has no form in JSON",
                    other.type_of()
                )));
            }
        })
    }
}
