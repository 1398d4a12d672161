use proptest::prelude::*;

use super::Format::{BinarySi, DecimalExponent, DecimalSi};
use super::*;

fn canonical(text: &str) -> String {
    Quantity::parse(text)
        .unwrap_or_else(|e| panic!("{text}: {e}"))
        .to_string()
}

#[test]
fn canonical_forms_are_upstreams() {
    for (text, expected) in [
        ("0", "0"),
        ("0n", "0"),
        ("0Ki", "0"),
        ("1000m", "1"),
        ("1.5", "1500m"),
        ("0.5", "500m"),
        ("100", "100"),
        ("1024", "1024"),
        ("1024Ki", "1Mi"),
        ("1Ki", "1Ki"),
        ("0.5Gi", "512Mi"),
        ("1.5Gi", "1536Mi"),
        ("1000Ki", "1000Ki"),
        ("1000000", "1M"),
        ("12000", "12k"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("1000e0", "1e3"),
        ("12e-3", "12e-3"),
        ("1E", "1E"),
        ("100n", "100n"),
        ("0.1n", "1n"),
        ("1.1Ki", "1126400m"),
        (".001", "1m"),
        ("-1.5Gi", "-1536Mi"),
        ("+5", "5"),
        ("1.", "1"),
        ("8Ei", "9223372036854775807"),
        ("0.0001Ki", "102400u"),
        ("512Ki", "512Ki"),
        ("1023", "1023"),
        ("100Gi", "100Gi"),
        ("10e-12", "1e-9"),
        ("1500m", "1500m"),
    ] {
        assert_eq!(canonical(text), expected, "{text}");
    }
}

#[test]
fn rejects_what_upstream_rejects() {
    for text in [
        "", "a", "1.1.1", "--1", "1 Gi", "1gi", "1ki", "1Kii", "1e", "12z", "+", "1e3k", "Mi",
    ] {
        assert!(Quantity::parse(text).is_err(), "{text}");
    }
    assert_eq!(
        Quantity::parse("1 Gi").unwrap_err().to_string(),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    );
}

#[test]
fn rounds_up_to_units() {
    assert_eq!(Quantity::parse("1500m").unwrap().value(), 2);
    assert_eq!(Quantity::parse("-1500m").unwrap().value(), -2);
    assert_eq!(Quantity::parse("1u").unwrap().milli_value(), 1);
    assert_eq!(Quantity::parse("1e100").unwrap().value(), i64::MAX);
    assert_eq!(Quantity::parse("1e-100").unwrap().to_string(), "1e-9");
    let mut q = Quantity::parse("1001u").unwrap();
    assert!(!q.round_up(-3));
    assert_eq!(q.to_string(), "2m");
}

#[test]
fn sums_keep_the_first_format() {
    let a = Quantity::parse("1Gi").unwrap();
    let b = Quantity::parse("1M").unwrap();
    assert_eq!(a.add(b).format(), Format::BinarySi);
    assert_eq!(Quantity::ZERO.add(a).to_string(), "1Gi");
    assert_eq!(a.sub(a).to_string(), "0");
    assert!(a > b);
}

proptest! {
    #![proptest_config(crate::testing::config())]

    #[test]
    fn canonical_form_is_a_fixed_point(text in "[+-]?[0-9]{1,9}(\\.[0-9]{0,12})?(|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|e-?[0-9])") {
        let q = Quantity::parse(&text).unwrap();
        let again = Quantity::parse(&q.to_string()).unwrap();
        prop_assert_eq!(again, q);
        prop_assert_eq!(again.to_string(), q.to_string());
    }

    #[test]
    fn never_panics(text in "\\PC{0,30}", digits in "[0-9.eEKMGi+-]{0,40}") {
        let _ = Quantity::parse(&text);
        if let Ok(q) = Quantity::parse(&digits) {
            let _ = (q.to_string(), q.value(), q.milli_value(), q.add(q), q.sub(q).neg());
        }
    }

    #[test]
    fn adds_like_integers(a in -1_000_000_000i64..1_000_000_000, b in -1_000_000_000i64..1_000_000_000) {
        let sum = Quantity::from_milli(a, Format::DecimalSi).add(Quantity::from_milli(b, Format::DecimalSi));
        prop_assert_eq!(sum.milli_value(), a + b);
    }
}

/// Returns `value` × 10^`scale`.
fn decimal(value: i64, scale: i32, format: Format) -> Quantity {
    let value = i128::from(value);
    let nanos = if scale >= -9 {
        value * 10i128.pow((scale + 9).unsigned_abs())
    } else {
        value / 10i128.pow((scale + 9).unsigned_abs())
    };
    Quantity { nanos, format }
}

/// Compares amount and format.
fn assert_same(found: Quantity, expected: Quantity, text: &str) {
    assert_eq!(found, expected, "{text}");
    assert_eq!(found.format(), expected.format(), "{text}");
}

const KI: i64 = 1 << 10;
const MI: i64 = 1 << 20;
const GI: i64 = 1 << 30;
const TI: i64 = 1 << 40;
const PI: i64 = 1 << 50;
const EI: i64 = 1 << 60;

/// The table of upstream's `TestQuantityParse`: text, value, scale and format.
const PARSED: &[(&str, i64, i32, Format)] = &[
    ("0", 0, 0, DecimalSi),
    ("0n", 0, 0, DecimalSi),
    ("0u", 0, 0, DecimalSi),
    ("0m", 0, 0, DecimalSi),
    ("0Ki", 0, 0, BinarySi),
    ("0k", 0, 0, DecimalSi),
    ("0Mi", 0, 0, BinarySi),
    ("0M", 0, 0, DecimalSi),
    ("0Gi", 0, 0, BinarySi),
    ("0G", 0, 0, DecimalSi),
    ("0Ti", 0, 0, BinarySi),
    ("0T", 0, 0, DecimalSi),
    // Without a suffix.
    ("1", 1, 0, DecimalSi),
    // Binary suffixes.
    ("1Ki", KI, 0, BinarySi),
    ("8Ki", 8 * KI, 0, BinarySi),
    ("7Mi", 7 * MI, 0, BinarySi),
    ("6Gi", 6 * GI, 0, BinarySi),
    ("5Ti", 5 * TI, 0, BinarySi),
    ("4Pi", 4 * PI, 0, BinarySi),
    ("3Ei", 3 * EI, 0, BinarySi),
    ("10Ti", 10 * TI, 0, BinarySi),
    ("100Ti", 100 * TI, 0, BinarySi),
    // Decimal suffixes.
    ("5n", 5, -9, DecimalSi),
    ("4u", 4, -6, DecimalSi),
    ("3m", 3, -3, DecimalSi),
    ("9", 9, 0, DecimalSi),
    ("8k", 8, 3, DecimalSi),
    ("50k", 5, 4, DecimalSi),
    ("7M", 7, 6, DecimalSi),
    ("6G", 6, 9, DecimalSi),
    ("5T", 5, 12, DecimalSi),
    ("40T", 4, 13, DecimalSi),
    ("300T", 3, 14, DecimalSi),
    ("2P", 2, 15, DecimalSi),
    ("1E", 1, 18, DecimalSi),
    // Decimal exponents.
    ("1E-3", 1, -3, DecimalExponent),
    ("1e3", 1, 3, DecimalExponent),
    ("1E6", 1, 6, DecimalExponent),
    ("1e9", 1, 9, DecimalExponent),
    ("1E12", 1, 12, DecimalExponent),
    ("1e15", 1, 15, DecimalExponent),
    ("1E18", 1, 18, DecimalExponent),
    // Not canonical.
    ("1e14", 1, 14, DecimalExponent),
    ("1e13", 1, 13, DecimalExponent),
    ("100.035k", 100_035, 0, DecimalSi),
    // With a fraction.
    ("0.001", 1, -3, DecimalSi),
    ("0.0005k", 5, -1, DecimalSi),
    ("0.005", 5, -3, DecimalSi),
    ("0.05", 5, -2, DecimalSi),
    ("0.5", 5, -1, DecimalSi),
    ("0.00050k", 5, -1, DecimalSi),
    ("0.00500", 5, -3, DecimalSi),
    ("0.05000", 5, -2, DecimalSi),
    ("0.50000", 5, -1, DecimalSi),
    ("0.5e0", 5, -1, DecimalExponent),
    ("0.5e-1", 5, -2, DecimalExponent),
    ("0.5e-2", 5, -3, DecimalExponent),
    ("10.035M", 10_035, 3, DecimalSi),
    ("1.2e3", 12, 2, DecimalExponent),
    ("1.3E+6", 13, 5, DecimalExponent),
    ("1.40e9", 14, 8, DecimalExponent),
    ("1.53E12", 153, 10, DecimalExponent),
    ("1.6e15", 16, 14, DecimalExponent),
    ("1.7E18", 17, 17, DecimalExponent),
    ("9.01", 901, -2, DecimalSi),
    ("8.1k", 81, 2, DecimalSi),
    ("7.123456M", 7_123_456, 0, DecimalSi),
    ("6.987654321G", 6_987_654_321, 0, DecimalSi),
    ("5.444T", 5_444, 9, DecimalSi),
    ("40.1T", 401, 11, DecimalSi),
    ("300.2T", 3_002, 11, DecimalSi),
    ("2.5P", 25, 14, DecimalSi),
    ("1.01E", 101, 16, DecimalSi),
    // Rounded up or saturated.
    ("3.001n", 4, -9, DecimalSi),
    ("1.1E-9", 2, -9, DecimalExponent),
    ("0.0000000001", 1, -9, DecimalSi),
    ("0.0000000005", 1, -9, DecimalSi),
    ("0.00000000050", 1, -9, DecimalSi),
    ("0.5e-9", 1, -9, DecimalExponent),
    ("0.9n", 1, -9, DecimalSi),
    ("0.00000012345", 124, -9, DecimalSi),
    ("0.00000012354", 124, -9, DecimalSi),
    ("9Ei", i64::MAX, 0, BinarySi),
    ("9223372036854775807Ki", i64::MAX, 0, BinarySi),
    ("12E", 12, 18, DecimalSi),
    // Binary suffixes with a fraction.
    ("100.035Ki", 10_243_584, -2, BinarySi),
    ("0.5Mi", MI / 2, 0, BinarySi),
    ("0.05Gi", 536_870_912, -1, BinarySi),
    ("0.025Ti", 274_877_906_944, -1, BinarySi),
    // Unusual forms. The first is rounded up and becomes decimal.
    ("0.000000000001Ki", 2, -9, DecimalSi),
    (".001", 1, -3, DecimalSi),
    (".0001k", 100, -3, DecimalSi),
    ("1.", 1, 0, DecimalSi),
    ("1.G", 1, 9, DecimalSi),
];

#[test]
fn parses_upstreams_table() {
    for &(text, value, scale, format) in PARSED {
        let expected = decimal(value, scale, format);
        assert_same(Quantity::parse(text).unwrap(), expected, text);
        let text = format!("+{text}");
        assert_same(Quantity::parse(&text).unwrap(), expected, &text);
        let text = text.replacen('+', "-", 1);
        let expected = decimal(-value, scale, format);
        assert_same(Quantity::parse(&text).unwrap(), expected, &text);
    }
    for text in [
        "", "1.1.M", "1+1.0M", "0.1mi", "0.1am", "aoeu", ".5i", "1i", "-3.01i", "-3.01e-", " 1",
        "1 ",
    ] {
        assert!(Quantity::parse(text).is_err(), "{text:?}");
    }
}

/// The table of upstream's `TestQuantityString`.
#[test]
fn prints_upstreams_table() {
    for (value, scale, format, text) in [
        (1 << 30, 0, BinarySi, "1Gi"),
        (300 << 20, 0, BinarySi, "300Mi"),
        (6 << 10, 0, BinarySi, "6Ki"),
        (1001 << 30, 0, BinarySi, "1001Gi"),
        (1 << 40, 0, BinarySi, "1Ti"),
        (5, 0, BinarySi, "5"),
        (500, -3, BinarySi, "500m"),
        (1, 9, DecimalSi, "1G"),
        (1000, 6, DecimalSi, "1G"),
        (1_000_000, 3, DecimalSi, "1G"),
        (1_000_000_000, 0, DecimalSi, "1G"),
        (1, -3, DecimalSi, "1m"),
        (80, -3, DecimalSi, "80m"),
        (1080, -3, DecimalSi, "1080m"),
        (108, -2, DecimalSi, "1080m"),
        (10_800, -4, DecimalSi, "1080m"),
        (300, 6, DecimalSi, "300M"),
        (1, 12, DecimalSi, "1T"),
        (1_234_567, 6, DecimalSi, "1234567M"),
        (1_234_567, -3, BinarySi, "1234567m"),
        (3, 3, DecimalSi, "3k"),
        (1025, 0, BinarySi, "1025"),
        (0, 0, DecimalSi, "0"),
        (0, 0, BinarySi, "0"),
        (1, 9, DecimalExponent, "1e9"),
        (1, -3, DecimalExponent, "1e-3"),
        (1, -9, DecimalExponent, "1e-9"),
        (80, -3, DecimalExponent, "80e-3"),
        (300, 6, DecimalExponent, "300e6"),
        (1, 12, DecimalExponent, "1e12"),
        (1, 3, DecimalExponent, "1e3"),
        (3, 3, DecimalExponent, "3e3"),
        (0, 0, DecimalExponent, "0"),
        (1, -9, DecimalSi, "1n"),
        (80, -9, DecimalSi, "80n"),
        (1080, -9, DecimalSi, "1080n"),
        (108, -8, DecimalSi, "1080n"),
        (10_800, -10, DecimalSi, "1080n"),
        (1, -6, DecimalSi, "1u"),
        (80, -6, DecimalSi, "80u"),
        (1080, -6, DecimalSi, "1080u"),
        (108, -5, DecimalSi, "1080u"),
        (10_800, -7, DecimalSi, "1080u"),
    ] {
        assert_eq!(decimal(value, scale, format).to_string(), text);
        if value != 0 {
            let negative = decimal(-value, scale, format);
            assert_eq!(negative.to_string(), format!("-{text}"));
        }
    }
}

/// The table of upstream's `TestQuantityParseEmit`.
#[test]
fn parses_and_prints_upstreams_table() {
    for (text, canonical_text) in [
        ("1Ki", "1Ki"),
        ("1Mi", "1Mi"),
        ("1Gi", "1Gi"),
        ("1024Mi", "1Gi"),
        ("1000M", "1G"),
        (".001Ki", "1024m"),
        (".000001Ki", "1024u"),
        (".000000001Ki", "1024n"),
        (".000000000001Ki", "2n"),
    ] {
        assert_eq!(canonical(text), canonical_text, "{text}");
        assert_eq!(canonical(&format!("-{text}")), format!("-{canonical_text}"));
    }
}

/// The table of upstream's `TestQuantityRoundUp`.
#[test]
fn rounds_upstreams_table() {
    for (text, scale, value, value_scale, exact) in [
        ("9.01", -3, 901, -2, true),
        ("9.01", -2, 901, -2, true),
        ("9.01", -1, 91, -1, false),
        ("9.01", 0, 10, 0, false),
        ("9.01", 1, 10, 0, false),
        ("9.01", 2, 100, 0, false),
        ("-9.01", -3, -901, -2, true),
        ("-9.01", -2, -901, -2, true),
        ("-9.01", -1, -91, -1, false),
        ("-9.01", 0, -10, 0, false),
        ("-9.01", 1, -10, 0, false),
        ("-9.01", 2, -100, 0, false),
    ] {
        let mut quantity = Quantity::parse(text).unwrap();
        assert_eq!(quantity.round_up(scale), exact, "{text} to {scale}");
        let expected = decimal(value, value_scale, Format::DecimalSi);
        assert_same(quantity, expected, text);
    }
}

/// The tables of upstream's tests of comparison, addition and subtraction.
#[test]
fn computes_upstreams_tables() {
    let parse = |text: &str| Quantity::parse(text).unwrap();
    for (a, b, order) in [
        ("0", "0", Ordering::Equal),
        ("100m", "50m", Ordering::Greater),
        ("50m", "100m", Ordering::Less),
        ("10000T", "100Gi", Ordering::Greater),
    ] {
        assert_eq!(parse(a).cmp(&parse(b)), order, "{a} and {b}");
    }
    for text in ["100m", "1Gi"] {
        assert_eq!(parse(text).add(Quantity::ZERO).to_string(), text);
        assert_eq!(parse(text).sub(Quantity::ZERO).to_string(), text);
        assert_eq!(Quantity::ZERO.add(parse(text)).to_string(), text);
        assert_eq!(
            Quantity::ZERO.sub(parse(text)).to_string(),
            format!("-{text}")
        );
        assert_eq!(parse(text).neg().neg().to_string(), text);
    }
}
