//! Parses times as Go's `time.Parse` does, with its messages.

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, date};

/// The layout of `metav1.Time`: RFC 3339.
const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
/// The layout of `metav1.MicroTime`.
const MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// The layout of a date alone.
const DATE: &str = "2006-01-02";

/// Why an element does not parse.
enum Problem {
    /// It has another form than the layout's element.
    Form,
    /// The element that is out of its range.
    Range(&'static str),
}

type Parsed<T> = Result<T, Problem>;

/// Parses a time in Go's layout `time.RFC3339` and returns it in UTC.
///
/// Go's parser takes an hour of one digit, a comma before the fraction, and offsets of up to
/// 24 hours and 60 minutes.
///
/// # Errors
/// The message of Go's parser.
pub fn parse_rfc3339(text: &str) -> Result<DateTime, String> {
    let mut parser = Parser::new(text, RFC3339);
    let mut time = parser.minutes()?;
    let (second, nanosecond) = parser.element(":", "05", |rest| {
        let second = in_range(two_digits(rest)?, 0..=59, "second")?;
        let digits = rest.iter().skip(1).take_while(|b| b.is_ascii_digit());
        let digits = digits.count();
        if matches!(rest.first(), Some(b'.' | b',')) && digits > 0 {
            return Ok((second, fraction(rest, digits)));
        }
        Ok((second, 0))
    })?;
    (time.second, time.nanosecond) = (second, nanosecond);
    parser.finish(&time)
}

/// Parses a time as [`parse_rfc3339`], but with a fraction of exactly six digits.
///
/// # Errors
/// The message of Go's parser.
pub fn parse_micro(text: &str) -> Result<DateTime, String> {
    let mut parser = Parser::new(text, MICRO);
    let mut time = parser.minutes()?;
    time.second = parser.element(":", "05", |rest| {
        in_range(two_digits(rest)?, 0..=59, "second")
    })?;
    time.nanosecond = parser.element("", ".000000", |rest| match rest {
        [b'.' | b',', digits @ ..]
            if digits.len() >= 6 && digits.iter().take(6).all(u8::is_ascii_digit) =>
        {
            Ok(fraction(rest, 6))
        }
        _ => Err(Problem::Form),
    })?;
    parser.finish(&time)
}

/// Parses a date in Go's layout `time.DateOnly`.
///
/// # Errors
/// The message of Go's parser.
pub fn parse_date(text: &str) -> Result<Date, String> {
    let mut parser = Parser::new(text, DATE);
    let (month, day) = parser.month_and_day()?;
    parser.end(month, day)
}

/// The elements of a time, as numbers in their ranges. The day may be too late for its month,
/// of which the first day is given.
struct Elements {
    month: Date,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    nanosecond: i32,
}

/// Quotes as Go's package `time` does, which shows only ASCII as it is.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=0x7f => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

struct Parser<'t> {
    text: &'t str,
    layout: &'static str,
    rest: &'t [u8],
}

impl<'t> Parser<'t> {
    fn new(text: &'t str, layout: &'static str) -> Self {
        let rest = text.as_bytes();
        Self { text, layout, rest }
    }

    /// Takes year, month and day; returns the first day of the month, and the day.
    fn month_and_day(&mut self) -> Result<(Date, i64), String> {
        let year = self.element("", "2006", year)?;
        let month = self.element("-", "01", |rest| {
            in_range(two_digits(rest)?, 1..=12, "month")
        })?;
        let day = self.element("-", "02", two_digits)?;
        let year = i16::try_from(year).unwrap_or_default();
        Ok((date(year, narrow(month), 1), day))
    }

    /// Takes the elements down to the minute.
    fn minutes(&mut self) -> Result<Elements, String> {
        let (month, day) = self.month_and_day()?;
        let hour = self.element("T", "15", |rest| in_range(number(rest)?, 0..=23, "hour"))?;
        let minute = self.element(":", "04", |rest| {
            in_range(two_digits(rest)?, 0..=59, "minute")
        })?;
        Ok(Elements {
            month,
            day,
            hour,
            minute,
            second: 0,
            nanosecond: 0,
        })
    }

    /// Takes the offset and returns the time in UTC.
    fn finish(mut self, time: &Elements) -> Result<DateTime, String> {
        let offset = self.element("", "Z07:00", offset)?;
        self.end(time.month, time.day)?
            .at(
                narrow(time.hour),
                narrow(time.minute),
                narrow(time.second),
                time.nanosecond,
            )
            .checked_sub(SignedDuration::from_secs(offset))
            .map_err(|_| self.out_of_range("year"))
    }

    /// Checks that nothing is left and that the month has the day.
    fn end(&self, month: Date, day: i64) -> Result<Date, String> {
        if !self.rest.is_empty() {
            let extra = quote(self.remainder());
            return Err(format!(
                "parsing time {}: extra text: {extra}",
                quote(self.text)
            ));
        }
        if !(1..=i64::from(month.days_in_month())).contains(&day) {
            return Err(self.out_of_range("day"));
        }
        Ok(date(month.year(), month.month(), narrow(day)))
    }

    fn out_of_range(&self, what: &str) -> String {
        format!("parsing time {}: {what} out of range", quote(self.text))
    }

    fn remainder(&self) -> &'t str {
        // Only whole ASCII characters were taken.
        self.text
            .get(self.text.len() - self.rest.len()..)
            .unwrap_or_default()
    }

    /// Takes `before`, and the layout's `element` after it.
    fn element<T>(
        &mut self,
        before: &'static str,
        element: &'static str,
        take: impl FnOnce(&mut &'t [u8]) -> Parsed<T>,
    ) -> Result<T, String> {
        let form = |at: &str, element: &str| {
            format!(
                "parsing time {} as {}: cannot parse {} as {}",
                quote(self.text),
                quote(self.layout),
                quote(at),
                quote(element)
            )
        };
        let Some(rest) = self.rest.strip_prefix(before.as_bytes()) else {
            return Err(form(self.remainder(), before));
        };
        self.rest = rest;
        let held = self.remainder();
        let mut rest = self.rest;
        match take(&mut rest) {
            Ok(value) => {
                self.rest = rest;
                Ok(value)
            }
            Err(Problem::Form) => Err(form(held, element)),
            Err(Problem::Range(what)) => Err(self.out_of_range(what)),
        }
    }
}

fn in_range(n: i64, range: std::ops::RangeInclusive<i64>, what: &'static str) -> Parsed<i64> {
    if range.contains(&n) {
        Ok(n)
    } else {
        Err(Problem::Range(what))
    }
}

/// Converts a number that is in its range.
fn narrow(n: i64) -> i8 {
    i8::try_from(n).unwrap_or_default()
}

fn value_of(digits: &[u8]) -> i64 {
    digits
        .iter()
        .fold(0, |n, digit| n * 10 + i64::from(digit - b'0'))
}

fn year(rest: &mut &[u8]) -> Parsed<i64> {
    let (digits, after) = rest.split_at_checked(4).ok_or(Problem::Form)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Problem::Form);
    }
    *rest = after;
    Ok(value_of(digits))
}

fn two_digits(rest: &mut &[u8]) -> Parsed<i64> {
    match rest {
        [a, b, after @ ..] if a.is_ascii_digit() && b.is_ascii_digit() => {
            let n = value_of(&[*a, *b]);
            *rest = after;
            Ok(n)
        }
        _ => Err(Problem::Form),
    }
}

/// Takes one or two digits.
fn number(rest: &mut &[u8]) -> Parsed<i64> {
    if let Ok(n) = two_digits(rest) {
        return Ok(n);
    }
    match rest {
        [digit, after @ ..] if digit.is_ascii_digit() => {
            let n = value_of(&[*digit]);
            *rest = after;
            Ok(n)
        }
        _ => Err(Problem::Form),
    }
}

/// Takes a separator and `digits` digits; returns the fraction in nanoseconds.
fn fraction(rest: &mut &[u8], digits: usize) -> i32 {
    let (taken, after) = rest.split_at(1 + digits);
    *rest = after;
    let mut nanoseconds = 0;
    let mut unit = 100_000_000;
    for digit in taken.iter().skip(1).take(9) {
        nanoseconds += i32::from(digit - b'0') * unit;
        unit /= 10;
    }
    nanoseconds
}

/// Takes `Z` or `±hh:mm`; returns the offset in seconds.
fn offset(rest: &mut &[u8]) -> Parsed<i64> {
    if let [b'Z', after @ ..] = rest {
        *rest = after;
        return Ok(0);
    }
    let (zone, after) = rest.split_at_checked(6).ok_or(Problem::Form)?;
    let [sign, h1, h2, b':', m1, m2] = zone else {
        return Err(Problem::Form);
    };
    let hour = in_range(
        two_digits(&mut &[*h1, *h2][..])?,
        0..=24,
        "time zone offset hour",
    )?;
    let minute = in_range(
        two_digits(&mut &[*m1, *m2][..])?,
        0..=60,
        "time zone offset minute",
    )?;
    let seconds = (hour * 60 + minute) * 60;
    *rest = after;
    match sign {
        b'+' => Ok(seconds),
        b'-' => Ok(-seconds),
        _ => Err(Problem::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(time: DateTime) -> String {
        time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    }

    #[test]
    fn times_parse_as_gos() {
        for (text, time) in [
            ("2024-02-29T04:05:06Z", Ok("2024-02-29T04:05:06.000000Z")),
            (
                "2024-02-29T04:05:06.789Z",
                Ok("2024-02-29T04:05:06.789000Z"),
            ),
            (
                "2024-02-29T04:05:06,789Z",
                Ok("2024-02-29T04:05:06.789000Z"),
            ),
            (
                "2024-02-29T04:05:06.1234567891Z",
                Ok("2024-02-29T04:05:06.123456Z"),
            ),
            ("2024-02-29T4:05:06Z", Ok("2024-02-29T04:05:06.000000Z")),
            (
                "2024-02-29T04:05:06+01:30",
                Ok("2024-02-29T02:35:06.000000Z"),
            ),
            (
                "2024-02-29T04:05:06-24:60",
                Ok("2024-03-01T05:05:06.000000Z"),
            ),
            ("0001-01-01T00:00:00Z", Ok("0001-01-01T00:00:00.000000Z")),
            (
                "",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#),
            ),
            (
                "2024",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse "" as "-""#),
            ),
            (
                "20é4-01-01",
                Err(
                    r#"as "2006-01-02T15:04:05Z07:00": cannot parse "20\xc3\xa94-01-01" as "2006""#,
                ),
            ),
            (
                "2024-1-01T00:00:00Z",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse "1-01T00:00:00Z" as "01""#),
            ),
            (
                "2024-02-29 04:05:06Z",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse " 04:05:06Z" as "T""#),
            ),
            (
                "2024-02-29t04:05:06z",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse "t04:05:06z" as "T""#),
            ),
            (
                "2024-02-29T04:05Z",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse "Z" as ":""#),
            ),
            (
                "2024-02-29T04:05:06",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#),
            ),
            (
                "2024-02-29T04:05:06.Z",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse ".Z" as "Z07:00""#),
            ),
            (
                "2024-02-29T04:05:06+0130",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse "+0130" as "Z07:00""#),
            ),
            (
                "2024-02-29T04:05:06*01:30",
                Err(r#"as "2006-01-02T15:04:05Z07:00": cannot parse "*01:30" as "Z07:00""#),
            ),
            ("2024-13-01T00:00:00Z", Err(": month out of range")),
            ("2024-00-01T00:00:00Z", Err(": month out of range")),
            ("2023-02-29T00:00:00Z", Err(": day out of range")),
            ("2024-01-00T00:00:00Z", Err(": day out of range")),
            ("2024-01-01T24:00:00Z", Err(": hour out of range")),
            ("2024-01-01T23:60:00Z", Err(": minute out of range")),
            ("2024-01-01T23:59:60Z", Err(": second out of range")),
            (
                "2024-01-01T00:00:00+25:00",
                Err(": time zone offset hour out of range"),
            ),
            (
                "2024-01-01T00:00:00+00:61",
                Err(": time zone offset minute out of range"),
            ),
            ("9999-12-31T23:59:59-00:01", Err(": year out of range")),
            ("9999-12-31T23:59:59.9Z", Ok("9999-12-31T23:59:59.900000Z")),
            ("2024-01-01T00:00:00Zé", Err(r#": extra text: "\xc3\xa9""#)),
        ] {
            let want = time.map(str::to_owned).map_err(|e| {
                let space = if e.starts_with(':') { "" } else { " " };
                format!("parsing time {}{space}{e}", quote(text))
            });
            assert_eq!(parse_rfc3339(text).map(show), want, "{text}");
        }
    }

    #[test]
    fn micro_times_have_six_digits() {
        for (text, time) in [
            (
                "2024-02-29T04:05:06.123456Z",
                Ok("2024-02-29T04:05:06.123456Z"),
            ),
            (
                "2024-02-29T04:05:06,123456+01:00",
                Ok("2024-02-29T03:05:06.123456Z"),
            ),
            (
                "2024-02-29T04:05:06Z",
                Err(r#"cannot parse "Z" as ".000000""#),
            ),
            (
                "2024-02-29T04:05:06.12345",
                Err(r#"cannot parse ".12345" as ".000000""#),
            ),
            (
                "2024-02-29T04:05:06.12345Z",
                Err(r#"cannot parse ".12345Z" as ".000000""#),
            ),
            (
                "2024-02-29T04:05:06.1234567Z",
                Err(r#"cannot parse "7Z" as "Z07:00""#),
            ),
        ] {
            let want = time.map(str::to_owned).map_err(|e| {
                format!(
                    "parsing time {} as \"2006-01-02T15:04:05.000000Z07:00\": {e}",
                    quote(text)
                )
            });
            assert_eq!(parse_micro(text).map(show), want, "{text}");
        }
    }

    #[test]
    fn dates_have_one_form() {
        for (text, day) in [
            ("2024-02-29", Ok("2024-02-29")),
            ("0000-01-01", Ok("0000-01-01")),
            ("2023-02-29", Err(": day out of range")),
            (
                "2024-2-29",
                Err(r#" as "2006-01-02": cannot parse "2-29" as "01""#),
            ),
            (
                "20240229",
                Err(r#" as "2006-01-02": cannot parse "0229" as "-""#),
            ),
            (
                "-024-01-01",
                Err(r#" as "2006-01-02": cannot parse "-024-01-01" as "2006""#),
            ),
            ("2024-02-29T00:00:00Z", Err(r#": extra text: "T00:00:00Z""#)),
        ] {
            let want = day
                .map(str::to_owned)
                .map_err(|e| format!("parsing time {}{e}", quote(text)));
            assert_eq!(parse_date(text).map(|d| d.to_string()), want, "{text}");
        }
    }
}
