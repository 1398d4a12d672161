//! Resource quantities: exact decimals with an SI or binary suffix, in upstream's
//! canonical form.
//!
//! A quantity is an integer of nano-units in 128 bits, so that amounts beyond 1.7e29
//! saturate. Upstream limits binary ones to 2^63-1.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde_json::Value;

/// Nano-units per unit.
const NANO: i128 = 1_000_000_000;
/// The largest amount of a binary quantity.
const MAX_BINARY: i128 = i64::MAX as i128 * NANO;

/// The family of suffixes that a quantity is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySi,
    /// `12M`.
    DecimalSi,
}

/// An amount of a resource, as cores or bytes.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a string is not a quantity, with upstream's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The string is not a number followed by a suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// The number is malformed.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// Creates a quantity of units.
    pub fn new(value: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(value) * NANO,
            format,
        }
    }

    /// Creates a quantity of thousandths.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(value) * (NANO / 1000),
            format,
        }
    }

    /// Parses `[+-]digits[.digits][suffix]`.
    ///
    /// Digits below a nano-unit round up, away from zero. Amounts out of range saturate.
    ///
    /// # Errors
    /// When the string is not of this form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let bytes = text.as_bytes();
        let negative = bytes[0] == b'-';
        let body = text.strip_prefix(['+', '-']).unwrap_or(text);
        let whole_end = body
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(body.len());
        let (whole, rest) = body.split_at(whole_end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(
                rest.find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(rest.len()),
            ),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            // Upstream's scanner takes a single sign or dot for a number without digits
            // and fails to parse it.
            return Err(if suffix.is_empty() && !body.is_empty() {
                ParseError::Numeric
            } else {
                ParseError::Format
            });
        }
        check_suffix_form(suffix)?;
        let (scale, mut format) = interpret(suffix).ok_or(ParseError::Suffix)?;

        let whole = whole.trim_start_matches('0');
        let digits = whole.len() + fraction.len();
        let saturated = |negative: bool| Self {
            nanos: if negative { -MAX_BINARY } else { MAX_BINARY },
            format,
        };
        // Digits beyond the ninth decimal only decide whether to round up.
        let nanos = match scale {
            Scale::Ten(exponent) => decimal_nanos(whole, fraction, exponent),
            Scale::Two(exponent) => binary_nanos(whole, fraction, exponent),
        };
        let Some(mut nanos) = nanos else {
            return Ok(saturated(negative));
        };
        if format == Format::BinarySi {
            nanos = nanos.min(MAX_BINARY);
            if digits > 0 && nanos > 0 && nanos < NANO {
                format = Format::DecimalSi;
            }
        }
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }

    /// Converts a field that has a quantity as a string or a number. Null is zero.
    ///
    /// # Errors
    /// When the value is not a quantity.
    pub fn from_value(value: &Value) -> Result<Self, ParseError> {
        match value {
            Value::String(text) => Self::parse(text.trim()),
            Value::Number(number) => Self::parse(&number.to_string()),
            Value::Null => Ok(Self::ZERO),
            _ => Err(ParseError::Format),
        }
    }

    /// Returns the family of suffixes that the quantity is written with.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the amount in units, rounded up (away from zero); saturates at the bounds of i64.
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// Returns the amount in thousandths, rounded up (away from zero); saturates at the
    /// bounds of i64.
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANO / 1000)
    }

    fn scaled(&self, unit: i128) -> i64 {
        let up = div_away(self.nanos, unit);
        i64::try_from(up).unwrap_or(if up > 0 { i64::MAX } else { i64::MIN })
    }

    /// Returns the amount in units as a floating-point number.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Returns whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Returns the sign: -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// Rounds up, away from zero, to a multiple of 10^`scale` (-3 is milli). Returns whether
    /// the amount is unchanged.
    pub fn round_up(&mut self, scale: i32) -> bool {
        let Some(unit) = u32::try_from(scale + 9)
            .ok()
            .and_then(|e| 10i128.checked_pow(e))
        else {
            return scale < -9;
        };
        let rounded = div_away(self.nanos, unit).saturating_mul(unit);
        let same = rounded == self.nanos;
        self.nanos = rounded;
        same
    }

    /// Returns the sum, in the format of this quantity unless it is zero.
    #[must_use]
    #[allow(
        clippy::should_implement_trait,
        reason = "the operators are there too; methods chain without importing them"
    )]
    pub fn add(self, other: Self) -> Self {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            format,
        }
    }

    /// Returns the difference, in the format of this quantity unless it is zero.
    #[must_use]
    #[allow(
        clippy::should_implement_trait,
        reason = "the operators are there too; methods chain without importing them"
    )]
    pub fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
            format,
        }
    }

    /// Returns the negative amount.
    #[must_use]
    #[allow(
        clippy::should_implement_trait,
        reason = "the operators are there too; methods chain without importing them"
    )]
    pub fn neg(self) -> Self {
        Self {
            nanos: -self.nanos,
            ..self
        }
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::add(self, other)
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::sub(self, other)
    }
}

impl std::ops::Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self::neg(self)
    }
}

fn div_away(value: i128, unit: i128) -> i128 {
    let quotient = value / unit;
    if value % unit == 0 {
        quotient
    } else {
        quotient + value.signum()
    }
}

#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

/// Checks the form that upstream's scanner accepts: letters of suffixes, a sign, digits.
fn check_suffix_form(suffix: &str) -> Result<(), ParseError> {
    let rest =
        suffix.trim_start_matches(['e', 'E', 'i', 'n', 'u', 'm', 'k', 'K', 'M', 'G', 'T', 'P']);
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    if rest.bytes().all(|b| b.is_ascii_digit()) {
        Ok(())
    } else {
        Err(ParseError::Format)
    }
}

fn interpret(suffix: &str) -> Option<(Scale, Format)> {
    let decimal = |e| Some((Scale::Ten(e), Format::DecimalSi));
    let binary = |e| Some((Scale::Two(e), Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i64 = exponent.parse().ok()?;
            // Beyond this any number rounds to the smallest amount or saturates.
            Some((
                Scale::Ten(exponent.clamp(-100_000, 100_000) as i32),
                Format::DecimalExponent,
            ))
        }
    }
}

/// Returns whole.fraction × 10^exponent in nano-units, rounded up; `None` beyond 128 bits.
fn decimal_nanos(whole: &str, fraction: &str, exponent: i32) -> Option<i128> {
    // The decimal point is after `point` digits of whole and fraction.
    let digits = || {
        whole
            .bytes()
            .chain(fraction.bytes())
            .map(|b| i128::from(b - b'0'))
    };
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent) + 9;
    let mut nanos: i128 = 0;
    let mut rest = false;
    let mut taken: i64 = 0;
    for digit in digits() {
        if taken < point {
            nanos = nanos.checked_mul(10)?.checked_add(digit)?;
        } else {
            rest |= digit != 0;
        }
        taken += 1;
    }
    while taken < point && nanos != 0 {
        nanos = nanos.checked_mul(10)?;
        taken += 1;
    }
    nanos.checked_add(i128::from(rest))
}

/// Returns whole.fraction × 2^exponent in nano-units, rounded up; `None` beyond 128 bits.
fn binary_nanos(whole: &str, fraction: &str, exponent: u32) -> Option<i128> {
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let unit = NANO.checked_shl(exponent)?;
    let mut nanos = whole.checked_mul(1i128 << exponent)?.checked_mul(NANO)?;
    // The fraction is divided exactly; a remainder rounds up.
    let mut rest = false;
    let kept = fraction.len().min(18);
    let (head, tail) = fraction.split_at(kept);
    if !head.is_empty() {
        let numerator: i128 = head.parse().ok()?;
        let denominator = 10i128.pow(u32::try_from(kept).ok()?);
        // unit < 2^90, numerator < 10^18 < 2^60: the product needs 150 bits, so
        // divide in two steps.
        let (quotient, remainder) = (unit / denominator, unit % denominator);
        let low = remainder.checked_mul(numerator)?;
        nanos = nanos
            .checked_add(quotient.checked_mul(numerator)?)?
            .checked_add(low / denominator)?;
        rest |= low % denominator != 0;
    }
    rest |= tail.bytes().any(|b| b != b'0');
    nanos.checked_add(i128::from(rest))
}

impl std::str::FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl From<Quantity> for Value {
    fn from(quantity: Quantity) -> Self {
        Value::from(quantity.to_string())
    }
}

/// The canonical form: no fractional digits, and the largest suffix that is exact.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let mut format = self.format;
        if format == Format::BinarySi && (self.nanos.abs() < 1024 * NANO || self.nanos % NANO != 0)
        {
            // Small and fractional amounts need decimal suffixes to be exact.
            format = Format::DecimalSi;
        }
        if format == Format::BinarySi {
            let mut value = self.nanos / NANO;
            let mut power = 0;
            while power < 6 && value % 1024 == 0 {
                value /= 1024;
                power += 1;
            }
            return write!(
                f,
                "{value}{}",
                ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]
            );
        }
        let mut value = self.nanos;
        let mut exponent = -9i32;
        while value % 1000 == 0 && (format == Format::DecimalExponent || exponent < 18) {
            value /= 1000;
            exponent += 3;
        }
        match (format, exponent) {
            (Format::DecimalExponent, 0) => write!(f, "{value}"),
            (Format::DecimalExponent, e) => write!(f, "{value}e{e}"),
            (_, e) => {
                let suffix =
                    ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((e + 9) / 3) as usize];
                write!(f, "{value}{suffix}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
