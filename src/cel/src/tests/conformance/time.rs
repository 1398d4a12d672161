//! Timestamps and durations.

/// Timestamps, durations and their arithmetic.
pub(super) const CASES: &[(&str, &str)] = &[
    (
        "timestamp('2009-02-13T23:31:30Z')",
        "timestamp(2009-02-13T23:31:30Z)",
    ),
    (
        "timestamp('2009-02-13T23:31:30.25+01:30')",
        "timestamp(2009-02-13T23:31:30.25+01:30)",
    ),
    ("timestamp(1234567890)", "timestamp(2009-02-13T23:31:30Z)"),
    (
        "timestamp('0001-01-01T00:00:00Z')",
        "timestamp(0001-01-01T00:00:00Z)",
    ),
    (
        "timestamp('0000-12-31T23:59:59Z')",
        "!invalid timestamp argument",
    ),
    (
        "timestamp('0000-12-31' + 'T23:59:59Z')",
        "!timestamp overflow",
    ),
    (
        "timestamp('10000-01-01T00:00:00Z')",
        "!invalid timestamp argument",
    ),
    (
        "timestamp('2024-13-01T00:00:00Z')",
        "!invalid timestamp argument",
    ),
    ("timestamp('2024-01-01')", "!invalid timestamp argument"),
    (
        "timestamp('today' + '')",
        "!type conversion error from 'string' to 'google.protobuf.Timestamp'",
    ),
    ("timestamp(-62135596801)", "!invalid timestamp argument"),
    (
        "timestamp('2024-01-01T00:00:00Z') + duration('24h')",
        "timestamp(2024-01-02T00:00:00Z)",
    ),
    (
        "duration('1s') + timestamp(0)",
        "timestamp(1970-01-01T00:00:01Z)",
    ),
    (
        "timestamp(0) - duration('1ns')",
        "timestamp(1969-12-31T23:59:59.999999999Z)",
    ),
    ("timestamp(90) - timestamp(30)", "duration(60s)"),
    (
        "timestamp('0001-01-01T00:00:00Z') - duration('1ns')",
        "!timestamp overflow",
    ),
    (
        "timestamp('0001-01-01T00:00:00Z') + duration('-10s')",
        "!timestamp overflow",
    ),
    (
        "timestamp('2024-02-29T04:05:06.078Z').getFullYear()",
        "2024",
    ),
    ("timestamp('2024-02-29T04:05:06.078Z').getMonth()", "1"),
    ("timestamp('2024-02-29T04:05:06.078Z').getDate()", "29"),
    (
        "timestamp('2024-02-29T04:05:06.078Z').getDayOfMonth()",
        "28",
    ),
    ("timestamp('2024-02-29T04:05:06.078Z').getDayOfWeek()", "4"),
    ("timestamp('2024-02-29T04:05:06.078Z').getDayOfYear()", "59"),
    ("timestamp('2024-02-29T04:05:06.078Z').getHours()", "4"),
    ("timestamp('2024-02-29T04:05:06.078Z').getMinutes()", "5"),
    ("timestamp('2024-02-29T04:05:06.078Z').getSeconds()", "6"),
    (
        "timestamp('2024-02-29T04:05:06.078Z').getMilliseconds()",
        "78",
    ),
    (
        "timestamp('2024-02-29T04:05:06Z').getHours('Europe/Berlin')",
        "5",
    ),
    ("timestamp('2024-02-29T04:05:06Z').getDate('-08:00')", "28"),
    (
        "timestamp('2024-02-29T04:05:06Z').getMinutes('+05:45')",
        "50",
    ),
    (
        "timestamp('2024-02-29T04:05:06Z').getMinutes('02:30')",
        "35",
    ),
    ("timestamp(0).getHours('UTC')", "0"),
    (
        "timestamp(0).getHours('Nowhere/City')",
        "!unknown time zone Nowhere/City",
    ),
    ("duration('1h2m3.5s')", "duration(3723.5s)"),
    ("duration('-1.5h')", "duration(-5400s)"),
    ("duration('1us')", "duration(0.000001s)"),
    ("duration('0')", "duration(0s)"),
    ("duration('1d')", "!invalid duration argument"),
    ("duration('')", "!invalid duration argument"),
    (
        "duration('1' + 'x')",
        "!type conversion error from 'string' to 'google.protobuf.Duration'",
    ),
    ("duration('1h') - duration('2h')", "duration(-3600s)"),
    (
        "duration('200000h') + duration('2500000h')",
        "!duration overflow",
    ),
    ("duration('3730s').getHours()", "1"),
    ("duration('3730s').getMinutes()", "62"),
    ("duration('3730.5s').getSeconds()", "3730"),
    ("duration('1.5s').getMilliseconds()", "1500"),
    (
        "duration('1s').getFullYear()",
        "!found no matching overload for 'getFullYear' applied to 'duration.()'",
    ),
    // Texts that are hostile, and texts that only Go takes.
    (
        "timestamp('2024-01-01T00:00\u{e9}\u{e9}:00Z' + '')",
        "!type conversion error from 'string' to 'google.protobuf.Timestamp'",
    ),
    (
        "timestamp('2024-01-01T00:00\u{e9}\u{e9}:00Z')",
        "!invalid timestamp argument",
    ),
    (
        "timestamp('2024-01-01T1:02:03,5Z')",
        "timestamp(2024-01-01T01:02:03.5Z)",
    ),
    (
        "timestamp('9999-12-31T23:59:59.999999999Z')",
        "timestamp(9999-12-31T23:59:59.999999999Z)",
    ),
    (
        "timestamp('9999-12-31T23:59:59.999999999Z') + duration('1ns')",
        "!timestamp overflow",
    ),
    ("timestamp(253402300799)", "timestamp(9999-12-31T23:59:59Z)"),
    ("timestamp(253402300800)", "!invalid timestamp argument"),
    (
        "timestamp(9223372036854775807)",
        "!invalid timestamp argument",
    ),
    ("int(timestamp('1969-12-31T23:59:58.5Z'))", "-2"),
    ("timestamp(0).getHours('+99:00')", "3"),
    ("timestamp(0).getMinutes('-00:30')", "30"),
    (
        "timestamp(0).getHours('2147483647:2147483647')",
        "!timestamp overflow",
    ),
    (
        "timestamp(0).getHours('a:b')",
        r#"!strconv.Atoi: parsing "a": invalid syntax"#,
    ),
    (
        "timestamp(0).getHours('1:')",
        r#"!strconv.Atoi: parsing "": invalid syntax"#,
    ),
    (
        "timestamp(0).getHours('99999999999999999999:0')",
        r#"!strconv.Atoi: parsing "99999999999999999999": value out of range"#,
    ),
    // The offset stays with the time: in its text, in its parts, after arithmetic.
    (
        "string(timestamp('2009-02-13T23:31:30+05:30'))",
        r#""2009-02-13T23:31:30+05:30""#,
    ),
    (
        "string(timestamp('2009-02-13T23:31:30-00:00'))",
        r#""2009-02-13T23:31:30Z""#,
    ),
    ("timestamp('2009-02-13T23:31:30-08:00').getHours()", "23"),
    (
        "timestamp('2009-02-13T23:31:30-08:00').getHours('UTC')",
        "7",
    ),
    (
        "string(timestamp('2009-02-13T23:31:30-08:00') + duration('1h'))",
        r#""2009-02-14T00:31:30-08:00""#,
    ),
    (
        "timestamp('2009-02-13T23:31:30-08:00') == timestamp('2009-02-14T07:31:30Z')",
        "true",
    ),
    ("timestamp(dyn(253402300800))", "!timestamp overflow"),
];
