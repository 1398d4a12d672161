//! Costs: the minimum and maximum estimates, and the cost of the evaluation.

/// Expressions with estimated minimum and maximum, and actual cost. The figures
/// are those of the cost tests of Kubernetes' libraries. Constant lists cost
/// nothing when evaluated, as upstream's programs are optimized.
pub(super) const CASES: &[(&str, u64, u64, u64)] = &[
    ("[1, 2, 3, 4, 5].sum()", 15, 15, 5),
    (
        "[uint(1), uint(2), uint(3), uint(4), uint(5)].sum()",
        20,
        20,
        5,
    ),
    ("[1.0, 2.0, 3.0, 4.0, 5.0].sum()", 15, 15, 5),
    ("[1, 2, 3, 4, 5].isSorted()", 15, 15, 5),
    ("[false, true, false, true, false].max()", 15, 15, 5),
    (
        "[duration('1s'), duration('2s'), duration('3s'), duration('4s'), duration('5s')].max()",
        20,
        20,
        5,
    ),
    ("[1, 2, 3, 4, 5].indexOf(3)", 15, 15, 5),
    (
        "[uint(1), uint(2), uint(3), uint(4), uint(5)].lastIndexOf(uint(3))",
        21,
        21,
        5,
    ),
    (
        "'01234567890123456789012345678901234567890123456789'.indexOf('123')",
        5,
        5,
        5,
    ),
    ("url('https:://kubernetes.io/').getScheme()", 4, 4, 4),
    ("url('https:://kubernetes.io/').getQuery()", 4, 4, 4),
    (
        "url('https:://kubernetes.io/') == url('https:://kubernetes.io/')",
        7,
        9,
        7,
    ),
    (
        "url('https:://kubernetes.io/') == url('http://x.b')",
        5,
        5,
        5,
    ),
    ("ip('192.168.0.1')", 2, 2, 2),
    ("ip('2001:db8:3333:4444:5555:6666:7777:8888')", 4, 4, 4),
    ("ip('192.168.0.1').family()", 3, 3, 3),
    ("ip('192.168.0.1') == ip('192.168.0.1')", 5, 5, 5),
    ("ip.isCanonical('192.168.0.1')", 3, 3, 3),
    (
        "ip.isCanonical('2001:db8:3333:4444:5555:6666:7777:8888')",
        8,
        8,
        8,
    ),
    ("ip.isCanonical('2001:db8::abcd')", 3, 3, 3),
    ("cidr('192.168.0.0/16')", 2, 2, 2),
    ("cidr('192.168.0.0/16').prefixLength()", 3, 3, 3),
    ("cidr('192.168.0.0/16') == cidr('2001:db8::/32')", 5, 5, 5),
    (
        "cidr('192.168.0.0/16').containsCIDR(cidr('192.0.0.0/30'))",
        7,
        11,
        7,
    ),
    (
        "cidr('192.168.0.0/16').containsCIDR('192.168.0.0/16')",
        7,
        11,
        7,
    ),
    (
        "cidr('192.168.0.0/16').containsIP(ip('192.0.0.1'))",
        4,
        7,
        4,
    ),
    (
        "cidr('192.168.0.0/16').containsIP(ip('192.169.0.1'))",
        5,
        8,
        5,
    ),
    ("cidr('192.168.0.0/16').containsIP('192.0.0.1')", 4, 7, 4),
    ("cidr('192.168.0.0/16').containsIP('192.169.0.1')", 5, 8, 5),
    (
        "cidr('2001:db8::/32').containsCIDR('2001:db8::/126')",
        7,
        11,
        7,
    ),
];
