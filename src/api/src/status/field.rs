//! Validation errors of fields, with the messages of upstream's `field.Error`.

use serde_json::Value;

use crate::text::quote;

/// The type of a validation error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    /// A referenced object does not exist.
    NotFound,
    /// The field has no value and must have one.
    Required,
    /// The value collides with another.
    Duplicate,
    /// The value is malformed or out of range.
    Invalid,
    /// The value is none of those allowed.
    NotSupported,
    /// The value is well-formed and not permitted here.
    Forbidden,
    /// The value is longer than allowed.
    TooLong,
    /// There are more items than allowed.
    TooMany,
    /// There are fewer items than allowed.
    TooFew,
    /// The value is shorter than allowed.
    TooShort,
    /// Validation itself failed.
    Internal,
    /// The value has the wrong type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// Returns the reason of the cause in a `Status`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TooShort => "FieldValueTooShort",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// Returns the beginning of the message.
    pub fn title(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::TooShort => "Too short",
            Self::Internal => "Internal error",
        }
    }
}

/// A validation error of a field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// The type of error.
    pub kind: FieldErrorKind,
    /// The field's path, as `spec.containers[0].name`.
    pub field: String,
    /// The invalid value; `None` omits it from the message.
    pub value: Option<Value>,
    /// The details of the error; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(
        kind: FieldErrorKind,
        field: impl Into<String>,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            field: field.into(),
            value,
            detail: detail.into(),
        }
    }

    /// Returns the error for a required field without a value.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, field, None, detail)
    }

    /// Returns the error for a value that is malformed or out of range.
    pub fn invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(FieldErrorKind::Invalid, field, Some(value.into()), detail)
    }

    /// Returns the error for a value of the wrong type.
    pub fn type_invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(
            FieldErrorKind::TypeInvalid,
            field,
            Some(value.into()),
            detail,
        )
    }

    /// Returns the error for a value that is none of `supported`, which the message lists
    /// in the given order.
    pub fn not_supported<S: AsRef<str>>(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[S],
    ) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|s| quote(s.as_ref())).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(
            FieldErrorKind::NotSupported,
            field,
            Some(value.into()),
            detail,
        )
    }

    /// Returns the error for a value that must be unique.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, Some(value.into()), "")
    }

    /// Returns the error for a reference to an object that does not exist.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, field, Some(value.into()), "")
    }

    /// Returns the error for a value that is not permitted.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, None, detail)
    }

    /// Returns the error for a value longer than `max` bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(
            FieldErrorKind::TooLong,
            field,
            None,
            format!("may not be more than {max} {unit}"),
        )
    }

    /// Returns the error for a value longer than `max` characters.
    pub fn too_long_characters(field: impl Into<String>, max: usize) -> Self {
        let unit = if max == 1 { "character" } else { "characters" };
        Self::new(
            FieldErrorKind::TooLong,
            field,
            None,
            format!("may not be more than {max} {unit}"),
        )
    }

    /// Returns the error for `actual` items where `max` are allowed.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(
            FieldErrorKind::TooMany,
            field,
            Some(Value::from(actual)),
            format!("must have at most {max} {unit}"),
        )
    }

    /// Returns the error for `actual` items where `min` are required.
    pub fn too_few(field: impl Into<String>, actual: usize, min: usize) -> Self {
        let unit = if min == 1 { "item" } else { "items" };
        Self::new(
            FieldErrorKind::TooFew,
            field,
            Some(Value::from(actual)),
            format!("must have at least {min} {unit}"),
        )
    }

    /// Returns the error for a failure of the validation itself.
    pub fn internal(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Internal, field, None, detail)
    }

    /// Returns the message without the field: `Invalid value: "x": detail`.
    pub fn body(&self) -> String {
        let mut text = self.kind.title().to_owned();
        let with_value = !matches!(
            self.kind,
            FieldErrorKind::Required
                | FieldErrorKind::Forbidden
                | FieldErrorKind::TooLong
                | FieldErrorKind::TooShort
                | FieldErrorKind::Internal
        );
        if with_value && let Some(value) = &self.value {
            text.push_str(": ");
            match value {
                Value::String(s) => text.push_str(&quote(s)),
                other => text.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// Joins errors into one message: a single one as it is, several as `[a, b]`, without
    /// duplicates.
    pub fn aggregate(errors: &[FieldError]) -> String {
        let mut messages: Vec<String> = Vec::with_capacity(errors.len());
        for error in errors {
            let message = error.to_string();
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        if messages.len() == 1 {
            return messages.swap_remove(0);
        }
        format!("[{}]", messages.join(", "))
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::FieldError;

    #[test]
    fn words_errors_as_upstream() {
        let cases = [
            (
                FieldError::required("spec.containers[0].name", ""),
                "spec.containers[0].name: Required value",
            ),
            (
                FieldError::invalid("a", "x", "detail"),
                r#"a: Invalid value: "x": detail"#,
            ),
            (
                FieldError::invalid("a", json!(null), "d"),
                "a: Invalid value: null: d",
            ),
            (
                FieldError::invalid("a", json!({"b": 1}), ""),
                r#"a: Invalid value: {"b":1}"#,
            ),
            (
                FieldError::not_supported("a", "x", &["A", "B"]),
                r#"a: Unsupported value: "x": supported values: "A", "B""#,
            ),
            (FieldError::duplicate("a", 3), "a: Duplicate value: 3"),
            (FieldError::forbidden("a", "no"), "a: Forbidden: no"),
            (
                FieldError::too_long("a", 63),
                "a: Too long: may not be more than 63 bytes",
            ),
            (
                FieldError::too_many("a", 5, 1),
                "a: Too many: 5: must have at most 1 item",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
