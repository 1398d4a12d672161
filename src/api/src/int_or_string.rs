//! Fields that are a number or a string: ports by number or name, counts by number or
//! percentage.

use serde_json::Value;

/// A number or a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    /// A number.
    Int(i32),
    /// A string: a name or a percentage.
    String(String),
}

impl IntOrString {
    /// Converts a field; `None` if it is neither.
    pub fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Number(n) => n.as_i64().and_then(|n| n.try_into().ok()).map(Self::Int),
            Value::String(s) => Some(Self::String(s.clone())),
            _ => None,
        }
    }

    /// Returns the number, or the percentage of `total`, rounded up if `round_up` and down
    /// otherwise.
    ///
    /// # Errors
    /// Upstream's message for a string that is not a percentage.
    pub fn scaled_value(&self, total: i64, round_up: bool) -> Result<i64, String> {
        match self {
            Self::Int(n) => Ok(i64::from(*n)),
            Self::String(text) => {
                let Some(number) = text.strip_suffix('%') else {
                    return Err(
                        "invalid value for IntOrString: invalid type: string is not a percentage"
                            .into(),
                    );
                };
                let percent: i64 = number.parse().map_err(|_| {
                    format!("invalid value for IntOrString: invalid value {}: strconv.Atoi: parsing {}: invalid syntax",
                        crate::text::quote(text), crate::text::quote(number))
                })?;
                let product = i128::from(percent) * i128::from(total);
                let scaled = if round_up {
                    (product + 99).div_euclid(100)
                } else {
                    product.div_euclid(100)
                };
                i64::try_from(scaled)
                    .map_err(|_| "invalid value for IntOrString: out of range".into())
            }
        }
    }
}

impl From<&IntOrString> for Value {
    fn from(value: &IntOrString) -> Self {
        match value {
            IntOrString::Int(n) => Value::from(*n),
            IntOrString::String(s) => Value::from(s.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_percentages() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!(quarter.scaled_value(10, true), Ok(3));
        assert_eq!(quarter.scaled_value(10, false), Ok(2));
        assert_eq!(IntOrString::Int(4).scaled_value(10, true), Ok(4));
        assert!(
            IntOrString::String("x".into())
                .scaled_value(1, true)
                .is_err()
        );
        assert!(
            IntOrString::String("x%".into())
                .scaled_value(1, true)
                .is_err()
        );
    }
}
