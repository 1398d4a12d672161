//! Values of flags and settings that several commands have.

use std::time::Duration;

/// Parses a truth value as Go's `strconv.ParseBool` does.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("'{text}' is neither true nor false")),
    }
}

/// Parses a duration as Go writes it, such as 90s, 6m0s or 1.5h.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    rkube_api::duration::parse(text)
        .ok_or_else(|| format!("'{text}' is not a duration such as 90s, 6m or 1h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_the_notation_of_go() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("6m"), Ok(Duration::from_secs(360)));
        assert_eq!(parse_duration("6m0s"), Ok(Duration::from_secs(360)));
        assert_eq!(
            parse_duration("1h1m1.5s"),
            Ok(Duration::from_millis(3_661_500))
        );
        assert_eq!(parse_duration("1500us"), Ok(Duration::from_micros(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "s", "6", "6d", "-1s", "6µ"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
