//! Kubernetes' own function libraries.

/// `url`.
pub(super) const URLS: &[(&str, &str)] = &[
    ("isURL('https://a.example/p')", "true"),
    ("isURL('/absolute/path')", "true"),
    ("isURL('relative/path')", "false"),
    ("isURL('')", "false"),
    ("isURL('https://a:port/')", "false"),
    ("isURL('http://[::1]:80/')", "true"),
    (
        "isURL(1)",
        "!found no matching overload for 'isURL' applied to '(int)'",
    ),
    (
        "url('https://u:p@a.example:8080/x%20y?q=1#f').getScheme()",
        r#""https""#,
    ),
    (
        "url('https://u:p@a.example:8080/').getHost()",
        r#""a.example:8080""#,
    ),
    ("url('https://[::1]:80/').getHost()", r#""[::1]:80""#),
    ("url('https://[::1]:80/').getHostname()", r#""::1""#),
    ("url('https://a.example').getHostname()", r#""a.example""#),
    ("url('https://a.example:8080/').getPort()", r#""8080""#),
    ("url('https://a.example/').getPort()", r#""""#),
    ("url('/p').getScheme()", r#""""#),
    (
        "url('https://a.example/with space/').getEscapedPath()",
        r#""/with%20space/""#,
    ),
    ("url('https://a.example').getEscapedPath()", r#""""#),
    (
        "url('https://a.example/?k=a&k=b&l&m=%20').getQuery()",
        r#"{"k": ["a", "b"], "l": [""], "m": [" "]}"#,
    ),
    ("url('https://a.example/').getQuery()", "{}"),
    ("url('/a') == url('/a') && url('/a') != url('/b')", "true"),
    (
        "url('relative')",
        r#"!URL parse error during conversion from string: parse "relative": invalid URI for request"#,
    ),
    (
        "url('')",
        r#"!URL parse error during conversion from string: parse "": empty url"#,
    ),
    (
        "url('https://a:x/')",
        r#"!URL parse error during conversion from string: parse "https://a:x/": invalid port ":x" after host"#,
    ),
];

/// `ip`.
pub(super) const IPS: &[(&str, &str)] = &[
    ("ip('192.168.0.1')", "192.168.0.1"),
    ("ip('2001:DB8::1')", "2001:db8::1"),
    ("string(ip('::1'))", r#""::1""#),
    ("type(ip('::1')) == net.IP", "true"),
    ("isIP('10.0.0.1') && isIP('fe80::1')", "true"),
    (
        "isIP('10.0.0') || isIP('10.0.0.01') || isIP('::ffff:1.2.3.4') || isIP('fe80::1%eth0')",
        "false",
    ),
    ("isIP('2001:db8:::68') || isIP('')", "false"),
    (
        "ip.isCanonical('127.0.0.1') && ip.isCanonical('2001:db8::abcd')",
        "true",
    ),
    (
        "ip.isCanonical('2001:DB8::ABCD') || ip.isCanonical('2001:db8::0:0:0:abcd')",
        "false",
    ),
    ("ip('10.0.0.1').family()", "4"),
    ("ip('::').family()", "6"),
    (
        "ip('0.0.0.0').isUnspecified() && ip('::').isUnspecified()",
        "true",
    ),
    ("ip('127.0.0.1').isUnspecified()", "false"),
    (
        "ip('127.1.2.3').isLoopback() && ip('::1').isLoopback()",
        "true",
    ),
    (
        "ip('1.2.3.4').isLoopback() || ip('2001:db8::abcd').isLoopback()",
        "false",
    ),
    (
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('ff02::1').isLinkLocalMulticast()",
        "true",
    ),
    (
        "ip('224.0.1.1').isLinkLocalMulticast() || ip('fd00::1').isLinkLocalMulticast()",
        "false",
    ),
    (
        "ip('169.254.169.254').isLinkLocalUnicast() && ip('fe80::1').isLinkLocalUnicast()",
        "true",
    ),
    (
        "ip('192.168.0.1').isLinkLocalUnicast() || ip('fd80::1').isLinkLocalUnicast()",
        "false",
    ),
    (
        "ip('192.168.0.1').isGlobalUnicast() && ip('2001:db8::abcd').isGlobalUnicast()",
        "true",
    ),
    (
        "ip('255.255.255.255').isGlobalUnicast() || ip('ff00::1').isGlobalUnicast()",
        "false",
    ),
    ("ip('10.0.0.1') == ip('10.0.0.1')", "true"),
    (
        "isIP(cidr('10.0.0.0/8'))",
        "!found no matching overload for 'isIP' applied to '(net.CIDR)'",
    ),
    (
        "ip('192.168.0.1.0')",
        r#"!IP Address "192.168.0.1.0" parse error during conversion from string: ParseAddr("192.168.0.1.0"): IPv4 address too long"#,
    ),
    (
        "ip('2001:db8:::68')",
        r#"!IP Address "2001:db8:::68" parse error during conversion from string: ParseAddr("2001:db8:::68"): each colon-separated field must have at least one digit (at ":68")"#,
    ),
];

/// `cidr`.
pub(super) const CIDRS: &[(&str, &str)] = &[
    ("cidr('192.168.0.0/24')", "192.168.0.0/24"),
    ("cidr('2001:DB8::/32')", "2001:db8::/32"),
    ("string(cidr('192.168.0.1/24'))", r#""192.168.0.1/24""#),
    ("isCIDR('10.0.0.0/8') && isCIDR('::/0')", "true"),
    (
        "isCIDR('10.0.0.0/33') || isCIDR('10.0.0.0') || isCIDR('10.0.0.0/08') || isCIDR('::ffff:10.0.0.0/96')",
        "false",
    ),
    ("cidr('192.168.0.0/24').containsIP('192.168.0.1')", "true"),
    (
        "cidr('192.168.0.0/24').containsIP(ip('192.168.1.1'))",
        "false",
    ),
    ("cidr('192.168.0.0/24').containsIP('::1')", "false"),
    (
        "cidr('192.168.0.0/24').containsIP('x')",
        r#"!IP Address "x" parse error during conversion from string: ParseAddr("x"): unable to parse IP"#,
    ),
    (
        "cidr('192.168.0.0/24').containsCIDR('192.168.0.0/25')",
        "true",
    ),
    (
        "cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/24'))",
        "true",
    ),
    (
        "cidr('192.168.0.0/24').containsCIDR('192.168.0.0/23')",
        "false",
    ),
    (
        "cidr('2001:db8::/32').containsCIDR('2001:db8:1::/48')",
        "true",
    ),
    ("cidr('192.168.0.0/24').ip() == ip('192.168.0.0')", "true"),
    ("cidr('192.168.3.4/24').masked()", "192.168.3.0/24"),
    (
        "cidr('192.168.3.4/24') == cidr('192.168.3.4/24').masked()",
        "false",
    ),
    ("cidr('2001:db8::/32').prefixLength()", "32"),
    ("cidr('1.2.3.4/24').ip().family()", "4"),
    ("type(cidr('::/0')) == net.CIDR", "true"),
];

/// `quantity`.
pub(super) const QUANTITIES: &[(&str, &str)] = &[
    ("quantity('12Mi')", "quantity(12Mi)"),
    (
        "isQuantity('20') && isQuantity('20M') && isQuantity('20Mi') && isQuantity('1e3')",
        "true",
    ),
    (
        "isQuantity('20Mo') || isQuantity('10Mm') || isQuantity('')",
        "false",
    ),
    (
        "isQuantity([1])",
        "!found no matching overload for 'isQuantity' applied to '(list(int))'",
    ),
    ("quantity('10Mm')", "!unable to parse quantity's suffix"),
    ("quantity('200M') == quantity('0.2G')", "true"),
    ("quantity('200M') == quantity('0.3G')", "false"),
    ("quantity('50M').isLessThan(quantity('50Mi'))", "true"),
    ("quantity('100M').isLessThan(quantity('50M'))", "false"),
    ("quantity('50Mi').isGreaterThan(quantity('50M'))", "true"),
    ("quantity('50M').compareTo(quantity('50Mi'))", "-1"),
    ("quantity('200M').compareTo(quantity('0.2G'))", "0"),
    ("quantity('50Mi').compareTo(quantity('50M'))", "1"),
    (
        "quantity('50k').add(quantity('20')) == quantity('50.02k')",
        "true",
    ),
    ("quantity('50k').add(20) == quantity('50020')", "true"),
    (
        "quantity('50k').sub(quantity('20')) == quantity('49.98k')",
        "true",
    ),
    (
        "quantity('50k').add(20).sub(quantity('100k')).sub(-50000).asInteger()",
        "20",
    ),
    ("quantity('50k').asInteger()", "50000"),
    ("quantity('50.703k').asApproximateFloat()", "50703.0"),
    ("quantity('0.5').isInteger()", "false"),
    ("quantity('50').isInteger()", "true"),
    (
        "quantity('9999999999999999999999999999999999999G').isInteger()",
        "false",
    ),
    (
        "quantity('9999999999999999999999999999999999999G').asInteger()",
        "!cannot convert value to integer",
    ),
    (
        "sign(quantity('-5')) + sign(quantity('0')) * 10 + sign(quantity('3')) * 100",
        "99",
    ),
];

/// `semver`.
pub(super) const SEMVERS: &[(&str, &str)] = &[
    (
        "isSemver('1.2.3') && isSemver('1.2.3-beta.1+build.1')",
        "true",
    ),
    (
        "isSemver('') || isSemver('v1.0.0') || isSemver(' 1.0.0') || isSemver('01.1.1')",
        "false",
    ),
    (
        "isSemver('1') || isSemver('1.1') || isSemver('1.0.0 ') || isSemver('1.0.0-01')",
        "false",
    ),
    (
        "isSemver('v1.0.0', true) && isSemver('01.01.01', true) && isSemver('1', true)",
        "true",
    ),
    (
        "isSemver('', true) || isSemver(' 1.0.0', true) || isSemver('1.0-a', true)",
        "false",
    ),
    (
        "isSemver([1])",
        "!found no matching overload for 'isSemver' applied to '(list(int))'",
    ),
    ("semver('v1.0')", "!No Major.Minor.Patch elements found"),
    ("semver('v01.01', true) == semver('1.1.0')", "true"),
    ("semver('1.2.3') == semver('1.0.0')", "false"),
    ("semver('1.0.0').isLessThan(semver('1.2.3'))", "true"),
    ("semver('1.0.0-alpha').isLessThan(semver('1.0.0'))", "true"),
    (
        "semver('1.0.0-alpha.2').isLessThan(semver('1.0.0-alpha.10'))",
        "true",
    ),
    ("semver('1.0.0-1').isLessThan(semver('1.0.0-a'))", "true"),
    ("semver('1.0.0+a') == semver('1.0.0+b')", "true"),
    ("semver('1.2.3').isGreaterThan(semver('1.0.0'))", "true"),
    ("semver('1.2.3').compareTo(semver('1.10.0'))", "-1"),
    (
        "[semver('1.2.3').major(), semver('1.2.3').minor(), semver('1.2.3').patch()]",
        "[1, 2, 3]",
    ),
];

/// `format`.
pub(super) const FORMATS: &[(&str, &str)] = &[
    ("format.dns1123Label().validate('my-name')", "none"),
    ("format.dns1123Label().validate('My').hasValue()", "true"),
    ("format.dns1123LabelPrefix().validate('my-prefix-')", "none"),
    (
        "format.dns1123Subdomain().validate('apiextensions.k8s.io')",
        "none",
    ),
    (
        "format.dns1123Subdomain().validate('a..b').hasValue()",
        "true",
    ),
    (
        "format.dns1123SubdomainPrefix().validate('sub.prefix-')",
        "none",
    ),
    ("format.dns1035Label().validate('a1')", "none"),
    ("format.dns1035Label().validate('1a').hasValue()", "true"),
    ("format.dns1035LabelPrefix().validate('a1-')", "none"),
    (
        "format.qualifiedName().validate('example.com/name')",
        "none",
    ),
    (
        "format.qualifiedName().validate('a b').value()",
        r#"["name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"]"#,
    ),
    ("format.labelValue().validate('')", "none"),
    ("format.labelValue().validate('a b').hasValue()", "true"),
    ("format.uri().validate('http://example.com')", "none"),
    ("format.uri().validate('example').hasValue()", "true"),
    (
        "format.uuid().validate('123e4567-e89b-12d3-a456-426614174000')",
        "none",
    ),
    (
        "format.uuid().validate('123e4567').value()",
        r#"["does not match the UUID format"]"#,
    ),
    ("format.byte().validate('aGVsbG8=')", "none"),
    (
        "format.byte().validate('aGVsbG8').value()",
        r#"["invalid base64"]"#,
    ),
    ("format.date().validate('2021-01-01')", "none"),
    (
        "format.date().validate('2020-01-32').value()",
        r#"["invalid date"]"#,
    ),
    ("format.datetime().validate('2021-01-01T00:00:00Z')", "none"),
    (
        "format.datetime().validate('2020-01-32T00:00:00Z').value()",
        r#"["invalid datetime"]"#,
    ),
    ("format.named('unknown').hasValue()", "false"),
    ("format.named('uuid').value() == format.uuid()", "true"),
    ("format.uuid() == format.date()", "false"),
];
