//! The tables of upstream's `labels/selector_test.go`.

use super::{LabelSelector, Operator, Requirement};

/// Upstream's `TestSelectorMatches`.
#[test]
fn matches_upstreams_table() {
    type Labels = &'static [(&'static str, &'static str)];
    let both: Labels = &[("foo", "bar"), ("baz", "blah")];
    let table: &[(&str, Labels, bool)] = &[
        ("", &[("x", "y")], true),
        ("x=y", &[("x", "y")], true),
        ("x=y,z=w", &[("x", "y"), ("z", "w")], true),
        ("x!=y,z!=w", &[("x", "z"), ("z", "a")], true),
        ("notin=in", &[("notin", "in")], true),
        ("x", &[("x", "z")], true),
        ("!x", &[("y", "z")], true),
        ("x>1", &[("x", "2")], true),
        ("x<1", &[("x", "0")], true),
        ("x=z", &[], false),
        ("x=y", &[("x", "z")], false),
        ("x=y,z=w", &[("x", "w"), ("z", "w")], false),
        ("x!=y,z!=w", &[("x", "z"), ("z", "w")], false),
        ("x", &[("y", "z")], false),
        ("!x", &[("x", "z")], false),
        ("x>1", &[("x", "0")], false),
        ("x<1", &[("x", "2")], false),
        ("foo=bar", both, true),
        ("baz=blah", both, true),
        ("foo=bar,baz=blah", both, true),
        ("foo=blah", both, false),
        ("baz=bar", both, false),
        ("foo=bar,foobar=bar,baz=blah", both, false),
    ];
    for (text, labels, matches) in table {
        let selector = LabelSelector::parse(text).unwrap();
        let found = selector.matches_with(|key| {
            let label = labels.iter().find(|(k, _)| *k == key);
            label.map(|(_, value)| *value)
        });
        assert_eq!(found, *matches, "{text} and {labels:?}");
    }
}

/// Upstream's `TestSetSelectorParser`.
#[test]
fn parses_upstreams_table() {
    use Operator::{Equals, Exists, GreaterThan, In, LessThan, NotEquals, NotIn};
    type Requirements = &'static [(&'static str, Operator, &'static [&'static str])];
    let table: &[(&str, Requirements)] = &[
        ("", &[]),
        ("\rx", &[("x", Exists, &[])]),
        (
            "this-is-a-dns.domain.com/key-with-dash",
            &[("this-is-a-dns.domain.com/key-with-dash", Exists, &[])],
        ),
        (
            "this-is-another-dns.domain.com/key-with-dash in (so,what)",
            &[(
                "this-is-another-dns.domain.com/key-with-dash",
                In,
                &["so", "what"],
            )],
        ),
        (
            "0.1.2.domain/99 notin (10.10.100.1, tick.tack.clock)",
            &[(
                "0.1.2.domain/99",
                NotIn,
                &["10.10.100.1", "tick.tack.clock"],
            )],
        ),
        ("foo  in\t (abc)", &[("foo", In, &["abc"])]),
        ("x notin\n (abc)", &[("x", NotIn, &["abc"])]),
        ("x  notin\t\t(abc,def)", &[("x", NotIn, &["abc", "def"])]),
        ("x in (abc,def)", &[("x", In, &["abc", "def"])]),
        ("x in (abc,)", &[("x", In, &["", "abc"])]),
        ("x in ()", &[("x", In, &[""])]),
        (
            "x notin (abc,,def),bar,z in (),w",
            &[
                ("bar", Exists, &[]),
                ("w", Exists, &[]),
                ("x", NotIn, &["", "abc", "def"]),
                ("z", In, &[""]),
            ],
        ),
        ("x,y in (a)", &[("x", Exists, &[]), ("y", In, &["a"])]),
        ("x=a", &[("x", Equals, &["a"])]),
        ("x>1", &[("x", GreaterThan, &["1"])]),
        ("x<7", &[("x", LessThan, &["7"])]),
        (
            "x=a,y!=b",
            &[("x", Equals, &["a"]), ("y", NotEquals, &["b"])],
        ),
        (
            "x=a,y!=b,z in (h,i,j)",
            &[
                ("x", Equals, &["a"]),
                ("y", NotEquals, &["b"]),
                ("z", In, &["h", "i", "j"]),
            ],
        ),
        ("x notin ( )", &[("x", NotIn, &[""])]),
        ("x notin (, a)", &[("x", NotIn, &["", "a"])]),
        ("a ", &[("a", Exists, &[])]),
        (
            "a in (x,y,notin, z,in)",
            &[("a", In, &["in", "notin", "x", "y", "z"])],
        ),
        // Upstream's `TestDeterministicParse`.
        ("x=a,a=x", &[("a", Equals, &["x"]), ("x", Equals, &["a"])]),
    ];
    for (text, expected) in table {
        let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        let found: Vec<(&str, Operator, Vec<&str>)> = selector
            .requirements()
            .iter()
            .map(|r| {
                let values = r.values.iter().map(String::as_str).collect();
                (r.key.as_str(), r.operator, values)
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(key, operator, values)| (*key, *operator, values.to_vec()))
            .collect();
        assert_eq!(found, expected, "{text}");
    }
    for text in [
        "x=a||y=b",
        "x,,y",
        ",x,y",
        "x nott in (y)",
        "a in (xyz),",
        "a in (xyz)b notin ()",
        "a in (xyz abc)",
        "a notin(",
        "a (",
        "(",
    ] {
        assert!(LabelSelector::parse(text).is_err(), "{text}");
    }
}

/// Upstream's `TestToString`, with the texts parsed first.
#[test]
fn prints_upstreams_table() {
    for text in [
        "x in (abc,def),y notin (jkl),z",
        "x notin (abc,def),y!=jkl,!z",
        "x in (,abc)",
        "x=abc,y==jkl,z=a",
        "x>2,y<8",
    ] {
        let selector = LabelSelector::parse(text).unwrap();
        let mut printed: Vec<_> = selector
            .requirements()
            .iter()
            .map(ToString::to_string)
            .collect();
        printed.sort_by_key(|r| r.trim_start_matches('!').to_owned());
        assert_eq!(printed.join(","), text);
    }
}

/// Key, operator and values of a requirement, and the field and the detail of its error.
type Construction<'a> = (&'a str, Operator, &'a [&'a str], Option<(&'a str, &'a str)>);

/// Upstream's `TestRequirementConstructor`.
#[test]
fn creates_upstreams_table() {
    use Operator::{DoesNotExist, Equals, Exists, GreaterThan, In, LessThan, NotIn};
    const EMPTY: &str = "for 'in', 'notin' operators, values set can't be empty";
    const SINGLE: &str = "exact-match compatibility requires one single value";
    const NONE: &str = "values set must be empty for exists and does not exist";
    const ONE_BOUND: &str = "for 'Gt', 'Lt' operators, exactly one value is required";
    const INTEGER: &str = "for 'Gt', 'Lt' operators, the value must be an integer";
    let long = "a".repeat(254);
    let table: &[Construction<'_>] = &[
        ("x1", In, &[], Some(("values", EMPTY))),
        ("x2", NotIn, &[], Some(("values", EMPTY))),
        ("x3", In, &["foo"], None),
        ("x4", NotIn, &["foo"], None),
        ("x5", Equals, &["foo", "bar"], Some(("values", SINGLE))),
        ("x6", Exists, &[], None),
        ("x7", DoesNotExist, &[], None),
        ("x8", Exists, &["foo"], Some(("values", NONE))),
        ("x9", In, &["bar"], None),
        ("x11", GreaterThan, &["1"], None),
        ("x12", LessThan, &["6"], None),
        ("x13", GreaterThan, &[], Some(("values", ONE_BOUND))),
        ("x14", GreaterThan, &["bar"], Some(("values[0]", INTEGER))),
        ("x15", LessThan, &["bar"], Some(("values[0]", INTEGER))),
        (
            &long,
            Exists,
            &[],
            Some(("key", "name part must be no more than 63 bytes")),
        ),
        (
            "x16",
            Equals,
            &[&long],
            Some(("values[0][x16]", "must be no more than 63 bytes")),
        ),
        (
            "x17",
            Equals,
            &["a b"],
            Some(("values[0][x17]", "a valid label must be an empty string")),
        ),
    ];
    for (key, operator, values, error) in table {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        let result = Requirement::new(key, *operator, values);
        match (result, error) {
            (Ok(requirement), None) => assert_eq!(requirement.key, *key),
            (Err(found), Some((field, detail))) => {
                let field = format!("{field}: Invalid value: ");
                assert!(
                    found.starts_with(&field) && found.contains(detail),
                    "{found}"
                );
            }
            (result, _) => panic!("{key}: {result:?}"),
        }
    }
}
