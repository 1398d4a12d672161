//! Number and string formatting of Go's `fmt`.

pub(crate) use rkube_api::text::quote as go_quote;

/// Formats a number as `%g`.
pub(crate) fn go_general(d: f64) -> String {
    if let Some(special) = special(d) {
        return special.into();
    }
    if d == 0.0 {
        return if d.is_sign_negative() { "-0" } else { "0" }.into();
    }
    let scientific = format!("{d:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{mantissa}e{sign}{:02}", exponent.abs())
    } else {
        format!("{d}")
    }
}

/// Formats a number as `%.Nf`.
pub(crate) fn go_fixed(d: f64, precision: usize) -> String {
    special(d).map_or_else(|| format!("{d:.precision$}"), Into::into)
}

/// Formats a number as `%.Ne`.
pub(crate) fn go_scientific(d: f64, precision: usize) -> String {
    if let Some(special) = special(d) {
        return special.into();
    }
    let text = format!("{d:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

fn special(d: f64) -> Option<&'static str> {
    if d.is_nan() {
        Some("NaN")
    } else if d == f64::INFINITY {
        Some("+Inf")
    } else if d == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}
