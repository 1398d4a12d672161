//! Cases of robfig/cron v3's `parser_test.go`, `spec_test.go` and `constantdelay_test.go`, and
//! property tests.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{Schedule, parse};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn activations() {
    for (at, schedule, active) in [
        ("2012-07-09T15:00:00Z", "0/15 * * * *", true),
        ("2012-07-09T15:45:00Z", "0/15 * * * *", true),
        ("2012-07-09T15:40:00Z", "0/15 * * * *", false),
        ("2012-07-09T15:05:00Z", "5/15 * * * *", true),
        ("2012-07-09T15:20:00Z", "5/15 * * * *", true),
        ("2012-07-09T15:50:00Z", "5/15 * * * *", true),
        ("2012-07-15T15:00:00Z", "0/15 * * Jul *", true),
        ("2012-07-15T15:00:00Z", "0/15 * * Jun *", false),
        ("2012-07-15T08:30:00Z", "30 08 ? Jul Sun", true),
        ("2012-07-15T08:30:00Z", "30 08 15 Jul ?", true),
        ("2012-07-16T08:30:00Z", "30 08 ? Jul Sun", false),
        ("2012-07-16T08:30:00Z", "30 08 15 Jul ?", false),
        ("2012-07-09T15:00:00Z", "@hourly", true),
        ("2012-07-09T15:04:00Z", "@hourly", false),
        ("2012-07-09T15:00:00Z", "@daily", false),
        ("2012-07-09T00:00:00Z", "@daily", true),
        ("2012-07-09T00:00:00Z", "@weekly", false),
        ("2012-07-08T00:00:00Z", "@weekly", true),
        ("2012-07-08T01:00:00Z", "@weekly", false),
        ("2012-07-08T00:00:00Z", "@monthly", false),
        ("2012-07-01T00:00:00Z", "@monthly", true),
        ("2012-07-15T00:00:00Z", "* * 1,15 * Sun", true),
        ("2012-06-15T00:00:00Z", "* * 1,15 * Sun", true),
        ("2012-08-01T00:00:00Z", "* * 1,15 * Sun", true),
        ("2012-07-15T00:00:00Z", "* * */10 * Sun", true),
        ("2012-07-15T00:00:00Z", "* * * * Mon", false),
        ("2012-07-09T00:00:00Z", "* * 1,15 * *", false),
        ("2012-07-15T00:00:00Z", "* * 1,15 * *", true),
        ("2012-07-15T00:00:00Z", "* * */2 * Sun", true),
    ] {
        let parsed = parse(schedule).unwrap();
        let next = parsed.next(time(at) - SignedDuration::from_secs(1), &TimeZone::UTC);
        assert_eq!(
            next == Some(time(at)),
            active,
            "{schedule} at {at}: {next:?}"
        );
    }
}

/// Upstream's cases that have no seconds field: start, zone, schedule and the next time.
const NEXT_TIMES: &[(&str, &str, &str, Option<&str>)] = &[
    (
        "2012-07-09T14:45:00Z",
        "UTC",
        "0/15 * * * *",
        Some("2012-07-09T15:00:00Z"),
    ),
    (
        "2012-07-09T14:59:00Z",
        "UTC",
        "0/15 * * * *",
        Some("2012-07-09T15:00:00Z"),
    ),
    (
        "2012-07-09T14:59:59Z",
        "UTC",
        "0/15 * * * *",
        Some("2012-07-09T15:00:00Z"),
    ),
    (
        "2012-07-09T15:45:00Z",
        "UTC",
        "20-35/15 * * * *",
        Some("2012-07-09T16:20:00Z"),
    ),
    (
        "2012-07-09T23:46:00Z",
        "UTC",
        "*/15 * * * *",
        Some("2012-07-10T00:00:00Z"),
    ),
    (
        "2012-07-09T23:45:00Z",
        "UTC",
        "20-35/15 * * * *",
        Some("2012-07-10T00:20:00Z"),
    ),
    (
        "2012-07-09T23:35:00Z",
        "UTC",
        "0 0 9 Apr-Oct ?",
        Some("2012-08-09T00:00:00Z"),
    ),
    (
        "2012-07-09T23:35:00Z",
        "UTC",
        "0 0 */5 Apr,Aug,Oct Mon",
        Some("2012-08-01T00:00:00Z"),
    ),
    (
        "2012-07-09T23:35:00Z",
        "UTC",
        "0 0 */5 Oct Mon",
        Some("2012-10-01T00:00:00Z"),
    ),
    (
        "2012-07-09T23:35:00Z",
        "UTC",
        "0 0 * Feb Mon",
        Some("2013-02-04T00:00:00Z"),
    ),
    (
        "2012-07-09T23:35:00Z",
        "UTC",
        "0 0 * Feb Mon/2",
        Some("2013-02-01T00:00:00Z"),
    ),
    (
        "2012-12-31T23:59:45Z",
        "UTC",
        "* * * * *",
        Some("2013-01-01T00:00:00Z"),
    ),
    (
        "2012-07-09T23:35:00Z",
        "UTC",
        "0 0 29 Feb ?",
        Some("2016-02-29T00:00:00Z"),
    ),
    (
        "2012-03-11T00:00:00-05:00",
        "UTC",
        "TZ=America/New_York 30 2 11 Mar ?",
        Some("2013-03-11T02:30:00-04:00"),
    ),
    (
        "2012-03-11T00:00:00-05:00",
        "UTC",
        "TZ=America/New_York 0 * * * ?",
        Some("2012-03-11T01:00:00-05:00"),
    ),
    (
        "2012-03-11T01:00:00-05:00",
        "UTC",
        "TZ=America/New_York 0 * * * ?",
        Some("2012-03-11T03:00:00-04:00"),
    ),
    (
        "2012-03-11T03:00:00-04:00",
        "UTC",
        "TZ=America/New_York 0 * * * ?",
        Some("2012-03-11T04:00:00-04:00"),
    ),
    (
        "2012-03-11T04:00:00-04:00",
        "UTC",
        "TZ=America/New_York 0 * * * ?",
        Some("2012-03-11T05:00:00-04:00"),
    ),
    (
        "2012-03-11T00:00:00-05:00",
        "UTC",
        "CRON_TZ=America/New_York 0 * * * ?",
        Some("2012-03-11T01:00:00-05:00"),
    ),
    (
        "2012-03-11T01:00:00-05:00",
        "UTC",
        "CRON_TZ=America/New_York 0 * * * ?",
        Some("2012-03-11T03:00:00-04:00"),
    ),
    (
        "2012-03-11T03:00:00-04:00",
        "UTC",
        "CRON_TZ=America/New_York 0 * * * ?",
        Some("2012-03-11T04:00:00-04:00"),
    ),
    (
        "2012-03-11T04:00:00-04:00",
        "UTC",
        "CRON_TZ=America/New_York 0 * * * ?",
        Some("2012-03-11T05:00:00-04:00"),
    ),
    (
        "2012-03-11T00:00:00-05:00",
        "UTC",
        "TZ=America/New_York 0 1 * * ?",
        Some("2012-03-11T01:00:00-05:00"),
    ),
    (
        "2012-03-11T01:00:00-05:00",
        "UTC",
        "TZ=America/New_York 0 1 * * ?",
        Some("2012-03-12T01:00:00-04:00"),
    ),
    (
        "2012-03-11T00:00:00-05:00",
        "UTC",
        "TZ=America/New_York 0 2 * * ?",
        Some("2012-03-12T02:00:00-04:00"),
    ),
    (
        "2012-11-04T00:00:00-04:00",
        "UTC",
        "TZ=America/New_York 30 2 04 Nov ?",
        Some("2012-11-04T02:30:00-05:00"),
    ),
    (
        "2012-11-04T01:45:00-04:00",
        "UTC",
        "TZ=America/New_York 30 1 04 Nov ?",
        Some("2012-11-04T01:30:00-05:00"),
    ),
    (
        "2012-11-04T00:00:00-04:00",
        "UTC",
        "TZ=America/New_York 0 * * * ?",
        Some("2012-11-04T01:00:00-04:00"),
    ),
    (
        "2012-11-04T01:00:00-04:00",
        "UTC",
        "TZ=America/New_York 0 * * * ?",
        Some("2012-11-04T01:00:00-05:00"),
    ),
    (
        "2012-11-04T01:00:00-05:00",
        "UTC",
        "TZ=America/New_York 0 * * * ?",
        Some("2012-11-04T02:00:00-05:00"),
    ),
    (
        "2012-11-04T00:00:00-04:00",
        "UTC",
        "TZ=America/New_York 0 1 * * ?",
        Some("2012-11-04T01:00:00-04:00"),
    ),
    (
        "2012-11-04T01:00:00-04:00",
        "UTC",
        "TZ=America/New_York 0 1 * * ?",
        Some("2012-11-04T01:00:00-05:00"),
    ),
    (
        "2012-11-04T01:00:00-05:00",
        "UTC",
        "TZ=America/New_York 0 1 * * ?",
        Some("2012-11-05T01:00:00-05:00"),
    ),
    (
        "2012-11-04T00:00:00-04:00",
        "UTC",
        "TZ=America/New_York 0 2 * * ?",
        Some("2012-11-04T02:00:00-05:00"),
    ),
    (
        "2012-11-04T02:00:00-05:00",
        "UTC",
        "TZ=America/New_York 0 2 * * ?",
        Some("2012-11-05T02:00:00-05:00"),
    ),
    (
        "2012-11-04T00:00:00-04:00",
        "UTC",
        "TZ=America/New_York 0 3 * * ?",
        Some("2012-11-04T03:00:00-05:00"),
    ),
    (
        "2012-11-04T03:00:00-05:00",
        "UTC",
        "TZ=America/New_York 0 3 * * ?",
        Some("2012-11-05T03:00:00-05:00"),
    ),
    (
        "2012-11-04T00:00:00-04:00",
        "America/New_York",
        "0 * * * ?",
        Some("2012-11-04T01:00:00-04:00"),
    ),
    (
        "2012-11-04T01:00:00-04:00",
        "America/New_York",
        "0 * * * ?",
        Some("2012-11-04T01:00:00-05:00"),
    ),
    (
        "2012-11-04T01:00:00-05:00",
        "America/New_York",
        "0 * * * ?",
        Some("2012-11-04T02:00:00-05:00"),
    ),
    (
        "2012-11-04T00:00:00-04:00",
        "America/New_York",
        "0 1 * * ?",
        Some("2012-11-04T01:00:00-04:00"),
    ),
    (
        "2012-11-04T01:00:00-04:00",
        "America/New_York",
        "0 1 * * ?",
        Some("2012-11-04T01:00:00-05:00"),
    ),
    (
        "2012-11-04T01:00:00-05:00",
        "America/New_York",
        "0 1 * * ?",
        Some("2012-11-05T01:00:00-05:00"),
    ),
    (
        "2012-11-04T00:00:00-04:00",
        "America/New_York",
        "0 2 * * ?",
        Some("2012-11-04T02:00:00-05:00"),
    ),
    (
        "2012-11-04T02:00:00-05:00",
        "America/New_York",
        "0 2 * * ?",
        Some("2012-11-05T02:00:00-05:00"),
    ),
    (
        "2012-11-04T00:00:00-04:00",
        "America/New_York",
        "0 3 * * ?",
        Some("2012-11-04T03:00:00-05:00"),
    ),
    (
        "2012-11-04T03:00:00-05:00",
        "America/New_York",
        "0 3 * * ?",
        Some("2012-11-05T03:00:00-05:00"),
    ),
    ("2012-07-09T23:35:00Z", "UTC", "0 0 30 Feb ?", None),
    ("2012-07-09T23:35:00Z", "UTC", "0 0 31 Apr ?", None),
    (
        "2012-11-04T00:00:00-04:00",
        "America/New_York",
        "0 3 3 * ?",
        Some("2012-12-03T03:00:00-05:00"),
    ),
    (
        "2018-10-17T05:00:00-04:00",
        "UTC",
        "TZ=America/Sao_Paulo 0 9 10 * ?",
        Some("2018-11-10T06:00:00-05:00"),
    ),
    (
        "2018-02-14T05:00:00-05:00",
        "UTC",
        "TZ=America/Sao_Paulo 0 9 22 * ?",
        Some("2018-02-22T07:00:00-05:00"),
    ),
];

#[test]
fn next_times() {
    for &(after, zone, schedule, expected) in NEXT_TIMES {
        let zone = TimeZone::get(zone).unwrap();
        let next = parse(schedule).unwrap().next(time(after), &zone);
        assert_eq!(next, expected.map(time), "{schedule} after {after}");
    }
}

#[test]
fn periods() {
    for (after, period, expected) in [
        ("2012-07-09T14:45:00Z", "15m50ns", "2012-07-09T15:00:00Z"),
        ("2012-07-09T14:59:00Z", "15m", "2012-07-09T15:14:00Z"),
        ("2012-07-09T14:59:59Z", "15m", "2012-07-09T15:14:59Z"),
        ("2012-07-09T15:45:00Z", "35m", "2012-07-09T16:20:00Z"),
        ("2012-07-09T23:35:51Z", "44m24s", "2012-07-10T00:20:15Z"),
        ("2012-07-09T23:35:51Z", "25h44m24s", "2012-07-11T01:20:15Z"),
        ("2012-07-09T23:35:00Z", "2184h25m", "2012-10-09T00:00:00Z"),
        ("2012-12-31T23:59:45Z", "15s", "2013-01-01T00:00:00Z"),
        ("2012-07-09T14:45:00Z", "15ms", "2012-07-09T14:45:01Z"),
        ("2012-07-09T14:45:00.005Z", "15m", "2012-07-09T15:00:00Z"),
        ("2012-07-09T14:45:00Z", "-1h", "2012-07-09T14:45:01Z"),
        ("2012-07-09T14:45:00Z", "0", "2012-07-09T14:45:01Z"),
        ("2012-07-09T14:45:00Z", "1h.5m", "2012-07-09T15:45:30Z"),
        ("2012-07-09T14:45:00Z", "5\u{3bc}s", "2012-07-09T14:45:01Z"),
    ] {
        let schedule = parse(&format!("@every {period}")).unwrap();
        let next = schedule.next(time(after), &TimeZone::UTC);
        assert_eq!(next, Some(time(expected)), "{period} after {after}");
    }
}

#[test]
fn equal_schedules() {
    for (left, right) in [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 jan ?"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * sun"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "@daily"),
        ("@hourly", "0 * * * *"),
        ("CRON_TZ=UTC  5 * * * *", "TZ=UTC 5 * * * *"),
        ("TZ= 5 * * * *", "TZ=UTC 5 * * * *"),
        ("TZ=Local 5 * * * *", "5 * * * *"),
        ("TZ=Asia/Tokyo @midnight", "CRON_TZ=Asia/Tokyo 0 0 * * *"),
        (" 5  * * * * ", "5 * * * *"),
        ("*/300 * * * *", "0 * * * *"),
        ("1,,2 * * * *", "1-2 * * * *"),
        ("+5 * * * *", "5 * * * *"),
        ("*-7 * * * *", "* * * * *"),
        ("* * * JAN-Mar MON", "* * * 1-3 1"),
    ] {
        assert_eq!(parse(left).unwrap(), parse(right).unwrap(), "{left}");
    }
    assert_eq!(
        parse("@every 5m").unwrap(),
        Schedule::Every(Duration::from_secs(300))
    );
}

#[test]
fn errors() {
    for (schedule, message) in [
        ("", "empty spec string"),
        ("xyz", "expected exactly 5 fields, found 1: [xyz]"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        (" @daily", "expected exactly 5 fields, found 1: [@daily]"),
        ("@daily ", "unrecognized descriptor: @daily "),
        ("@unrecognized", "unrecognized descriptor: @unrecognized"),
        (
            "@every Xm",
            "failed to parse duration @every Xm: time: invalid duration \"Xm\"",
        ),
        (
            "5 j * * *",
            "failed to parse int from j: strconv.Atoi: parsing \"j\": invalid syntax",
        ),
        (
            "0 0 * * XYZ",
            "failed to parse int from XYZ: strconv.Atoi: parsing \"XYZ\": invalid syntax",
        ),
        (
            "* * * */jan *",
            "failed to parse int from jan: strconv.Atoi: parsing \"jan\": invalid syntax",
        ),
        (
            "99999999999999999999 * * * *",
            "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
        ),
        ("60 0 * * *", "end of range (60) above maximum (59): 60"),
        ("0 60 * * *", "end of range (60) above maximum (23): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        (
            "5-1 * * * *",
            "beginning of range (5) beyond end of range (1): 5-1",
        ),
        (
            "TZ=America/New_York 15/0 * * * *",
            "step of range should be a positive number: 15/0",
        ),
        (
            "TZ=Nowhere * * * * *",
            "provided bad location Nowhere: unknown time zone Nowhere",
        ),
        (
            "TZ=UTC",
            "invalid schedule format: runtime error: slice bounds out of range [:-1]",
        ),
    ] {
        assert_eq!(parse(schedule), Err(message.to_owned()), "{schedule}");
    }
}

#[test]
fn a_field_without_values_never_matches() {
    let schedule = parse(", * * * *").unwrap();
    assert_eq!(schedule.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
}

proptest! {
    #[test]
    fn next_is_later(text in "[-0-9*,/@? a-z]{0,24}", zone in 0..3usize) {
        let zone = TimeZone::get(["UTC", "Europe/Berlin", "America/Sao_Paulo"][zone]).unwrap();
        if let Ok(schedule) = parse(&text) {
            let start = Timestamp::from_second(1_700_000_000).unwrap();
            if let Some(next) = schedule.next(start, &zone) {
                prop_assert!(next > start);
            }
        }
    }

    #[test]
    fn parsing_never_panics(text in ".{0,40}") {
        let _ = parse(&text);
    }
}
