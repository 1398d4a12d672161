use super::Pattern;

fn matches(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).expect(pattern).is_match(text)
}

fn all(pattern: &str, text: &str) -> Vec<String> {
    let pattern = Pattern::new(pattern).expect(pattern);
    pattern.find_all(text).map(str::to_owned).collect()
}

fn refusal(pattern: &str) -> String {
    Pattern::new(pattern).expect_err(pattern)
}

#[test]
fn classes_of_unicode() {
    for (pattern, yes, no) in [
        (r"^\p{L}+$", "Straße", "Straße 1"),
        (r"^\pN$", "\u{663}", "x"),
        (r"^\PN$", "x", "5"),
        (r"^\p{Greek}+$", "αβγ", "abc"),
        (r"^\P{Greek}+$", "abc", "αβγ"),
        (r"^\p{^Lu}$", "a", "A"),
        (r"^\P{^Lu}$", "A", "a"),
        (r"^[\p{Han}\d]+$", "漢字7", "kana"),
        (r"^[^\p{L}\s]+$", "123", "1 a"),
        (r"^[\P{L}]$", "1", "a"),
        (r"^\p{Uppercase_Letter}$", "Ä", "ä"),
        (r"^\p{lower case letter}$", "ä", "Ä"),
        (r"^\p{Any}$", "\u{10FFFF}", ""),
        (r"^\p{ASCII}$", "~", "é"),
        (r"^\p{Assigned}$", "a", "\u{378}"),
        (r"^\p{Cn}$", "\u{378}", "a"),
        (r"(?i)^\p{Lu}$", "ä", "1"),
        (r"(?i)^\P{Lu}$", "1", "ä"),
    ] {
        assert!(matches(pattern, yes), "{pattern} {yes}");
        assert!(!matches(pattern, no), "{pattern} {no}");
    }
}

#[test]
fn perls_classes_are_of_ascii() {
    for (pattern, yes, no) in [
        (r"^\d$", "5", "\u{663}"),
        (r"^\D$", "\u{663}", "5"),
        (r"^\w$", "_", "é"),
        (r"^\W$", "é", "e"),
        (r"^\s$", "\x0c", "\x0b"),
        (r"^\S$", "\u{a0}", " "),
        (r"^[[:space:]]$", "\x0b", "\u{a0}"),
        (r"^[[:^alpha:]]$", "é", "e"),
    ] {
        assert!(matches(pattern, yes), "{pattern} {yes}");
        assert!(!matches(pattern, no), "{pattern} {no}");
    }
    // `\b` is ASCII only, so `é` is not a word character.
    assert!(matches(r"n\b", "né"));
    assert!(!matches(r"n\B", "né"));
}

#[test]
fn case_folds_as_unicode_does() {
    for (pattern, yes, no) in [
        ("(?i)^k$", "\u{212a}", "c"),
        ("(?i)^ÄÖ$", "äö", "ao"),
        ("(?i)^σ$", "ς", "s"),
        (r"(?i)^\w$", "\u{17f}", "é"),
        ("(?i)^[a-c]+$", "AbC", "d"),
        ("(?i)^[^k]$", "x", "\u{212a}"),
        ("^(?i:a)b$", "Ab", "AB"),
        ("^a(?i)b|c$", "aB", "AB"),
        ("^(?i)x(?-i)y$", "Xy", "XY"),
    ] {
        assert!(matches(pattern, yes), "{pattern} {yes}");
        assert!(!matches(pattern, no), "{pattern} {no}");
    }
    assert!(
        matches("a(?i)b|c", "C"),
        "a flag holds for the rest of the group"
    );
}

#[test]
fn the_preferred_match_is_found() {
    for (pattern, text, found) in [
        ("a|ab", "ab", vec!["a"]),
        ("ab|a", "ab", vec!["ab"]),
        ("a+?", "aaa", vec!["a", "a", "a"]),
        ("(?U)a+", "aa", vec!["a", "a"]),
        ("(?U)a+?", "aa", vec!["aa"]),
        ("a*", "baac", vec!["", "aa", ""]),
        ("a{2,3}", "aaaaa", vec!["aaa", "aa"]),
        ("a{2,3}?", "aaaaa", vec!["aa", "aa"]),
        ("(?:a|b)*c", "xabac", vec!["abac"]),
        ("(|a)*", "aa", vec!["", "", ""]),
        ("(|a)+", "aa", vec!["", "", ""]),
        ("(a|b)*?b", "aabb", vec!["aab", "b"]),
        ("", "é", vec!["", ""]),
        ("^", "a\nb", vec![""]),
        ("(?m)^.", "a\nb", vec!["a", "b"]),
        ("(?m).$", "a\nb", vec!["a", "b"]),
        ("(?s).+", "a\nb", vec!["a\nb"]),
        (".+", "a\nb", vec!["a", "b"]),
        (r"\Qa.b\E+", "a.bbc", vec!["a.bb"]),
        (r"\bfoo\b", "foo foobar foo", vec!["foo", "foo"]),
        (r"x{,2}", "x{,2}", vec!["x{,2}"]),
        (r"a(?i)*", "aaA", vec!["aa", ""]),
        (r"[]a]+", "]a[", vec!["]a"]),
        (r"[a\-z]+", "a-zb", vec!["a-z"]),
        (r"[-a]+", "-a", vec!["-a"]),
        (r"\x41\x{42}\103\0", "ABC\0", vec!["ABC\0"]),
        (r"(?P<n>a)(?<m>b)", "ab", vec!["ab"]),
        (r"[^\x00-\x{10FFFF}]|b", "ab", vec!["b"]),
    ] {
        assert_eq!(all(pattern, text), found, "{pattern} {text:?}");
    }
}

#[test]
fn what_is_wrong_is_said_as_go_says_it() {
    for (pattern, message) in [
        ("a(", "missing closing ): `a(`"),
        ("a)", "unexpected ): `a)`"),
        ("[a", "missing closing ]: `[a`"),
        ("x[]", "missing closing ]: `[]`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[[:nope:]]", "invalid character class range: `[:nope:]`"),
        ("*", "missing argument to repetition operator: `*`"),
        ("a|*?", "missing argument to repetition operator: `*?`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a+{2}", "invalid nested repetition operator: `+{2}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        (
            "a{99999999999999999999}",
            "invalid repeat count: `{99999999999999999999}`",
        ),
        ("((a{100}){100}){100}", "invalid repeat count: `{100}`"),
        ("a\\", "trailing backslash at end of expression: ``"),
        (r"\8", r"invalid escape sequence: `\8`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"\C", r"invalid escape sequence: `\C`"),
        (r"[\b]", r"invalid escape sequence: `\b`"),
        (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
        (r"\pX", r"invalid character class range: `\pX`"),
        (r"\p", r"invalid character class range: `\p`"),
        (r"\p{Grek}", r"invalid character class range: `\p{Grek}`"),
        (r"\p{Greek", r"invalid character class range: `\p{Greek`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?i-)", "invalid or unsupported Perl syntax: `(?i-)`"),
        ("(?P<n", "invalid named capture: `(?P<n`"),
        ("(?P<n n>a)", "invalid named capture: `(?P<n n>`"),
    ] {
        assert_eq!(refusal(pattern), format!("error parsing regexp: {message}"));
    }
}

#[test]
fn patterns_are_limited() {
    let nested = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
    assert!(matches(&nested(900), "a"));
    assert!(refusal(&nested(1001)).contains("expression nests too deeply"));
    assert!(refusal(&nested(1_000_000)).contains("expression nests too deeply"));
    assert!(refusal(&format!("({}){{1000}}", "a".repeat(2000))).contains("expression too large"));
    // The Unicode table is stored once for 1000 repetitions.
    assert!(matches(r"^\p{L}{1000}$", &"ä".repeat(1000)));
    assert!(matches(r"^(?:\p{L}?){1000}\p{L}{1000}$", &"a".repeat(1000)));
}

#[test]
fn time_does_not_explode() {
    let text = "a".repeat(5000);
    assert!(!matches("^(a+)+$", &format!("{text}b")));
    assert!(!matches("(a*)*b", &text));
}
