//! Tests of the extension libraries.

use super::run;

#[test]
fn functions_give_what_upstreams_give() {
    for (expression, value) in [
        ("'tacocat'.indexOf('c', 3)", "4"),
        ("'tacocat'.lastIndexOf('at', 5)", "5"),
        ("'a,b,c'.split(',', 2)", r#"["a","b,c"]"#),
        ("'TacoC\u{e4}t'.lowerAscii()", "\"tacoc\u{e4}t\""),
        ("'aaa'.replace('a', 'b', 2)", "\"bba\""),
        ("['a','b'].join('-')", "\"a-b\""),
        ("strings.quote('a\"b')", r#""\"a\\\"b\"""#),
        (
            "'%s %d %.2f %x'.format(['a', 1, 1.234, 255])",
            "\"a 1 1.23 ff\"",
        ),
        ("[3,1,2].sortBy(x, -x)", "[3,2,1]"),
        ("[[1],[2,3]].flatten()", "[1,2,3]"),
        ("[1,1,2].distinct()", "[1,2]"),
        ("[1,2].sum() + [1,2].max() + [1,2].min()", "6"),
        ("sets.equivalent([1,2],[2,1,1])", "true"),
        ("'abcabc'.findAll('b.')", r#"["bc","bc"]"#),
        (
            "url('https://a:b@example.com:80/x/y?z=1&z=2#f').getQuery()",
            r#"{"z":["1","2"]}"#,
        ),
        (
            "url('https://example.com:80/x').getHost()",
            "\"example.com:80\"",
        ),
        ("isURL('nope')", "false"),
        (
            "quantity('1').add(quantity('500m')).asApproximateFloat()",
            "1.5",
        ),
        ("quantity('1k') == quantity('1000')", "true"),
        ("ip('1.2.3.4').family()", "4"),
        ("ip.isCanonical('::0001')", "false"),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", "true"),
        ("cidr('10.0.0.0/8').containsCIDR('11.0.0.0/16')", "false"),
        ("semver('1.2.3').isLessThan(semver('1.10.0'))", "true"),
        ("semver('v01.2', true).minor()", "2"),
        ("format.dns1123Label().validate('ok').hasValue()", "false"),
        (
            "format.named('uuid').value().validate('x').value()",
            r#"["does not match the UUID format"]"#,
        ),
    ] {
        assert_eq!(run(expression), value, "{expression}");
    }
}
