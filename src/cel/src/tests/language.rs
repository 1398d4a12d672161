//! Syntax, types, evaluation, costs.

use super::{costs, run};

#[test]
fn evaluates() {
    for (expression, value) in [
        ("1 + 2 * 3", "7"),
        ("self.list.all(x, x > 0)", "true"),
        ("self.list.exists(x, 1/(x-1) == 1)", "true"),
        ("self.list.exists_one(x, x == 2)", "true"),
        ("self.list.map(x, x > 1, x * 2)", "[4,6]"),
        ("self.list.filter(x, x > 1)", "[2,3]"),
        ("self.list.transformList(i, v, i + v)", "[1,3,5]"),
        (
            "self.m.transformMap(k, v, v + k)",
            r#"{"k/1":"vk/1","k2":"wk2"}"#,
        ),
        ("{'a': 'b'}.transformMapEntry(k, v, {v: k})", r#"{"b":"a"}"#),
        (
            "self.list == [1, 2, 3] && self.f == 1.5 && dyn(1) == 1.0",
            "true",
        ),
        ("1/0 == 1 || true", "true"),
        ("1/0 == 1 && false", "false"),
        ("has(self.a.b.c) && !has(self.a.z)", "true"),
        ("self.?z.?b.orValue('none')", "\"none\""),
        ("[?optional.of(1), ?optional.none(), 2]", "[1,2]"),
        ("optional.of(1).optMap(x, x + 1).value()", "2"),
        ("'b' in self.a && 2 in self.list", "true"),
        ("type(self.s) == string", "true"),
        ("string(duration('1h1.5s'))", "\"3601.5s\""),
        (
            "timestamp('2024-01-02T03:04:05.678Z').getHours('America/New_York')",
            "22",
        ),
        ("string(1e6) + string(1.5)", "\"1e+061.5\""),
        ("r'\\d' + '\\u00e9\\x41'", r#""\\déA""#),
    ] {
        assert_eq!(run(expression), value, "{expression}");
    }
}

#[test]
fn errors_are_worded_as_upstreams() {
    for (expression, message) in [
        ("1 / 0", "division by zero"),
        ("self.x.y", "no such key: x"),
        ("self.list[7]", "index out of bounds: 7"),
        ("self.list.all(x, 1/(x-1) < 5)", "division by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("dyn('a') + 1", "no such overload"),
        ("optional.none().value()", "optional.none() dereference"),
        (
            "lists.range(100000000)",
            "operation cancelled: actual cost limit exceeded",
        ),
    ] {
        assert_eq!(run(expression), format!("!{message}"), "{expression}");
    }
}

#[test]
fn problems_are_shown_in_their_line() {
    for (expression, message) in [
        (
            "foo",
            "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^",
        ),
        (
            "1 ==\n foo",
            "ERROR: <input>:2:2: undeclared reference to 'foo' (in container '')\n |  foo\n | .^",
        ),
        (
            "'\u{e9}\u{e9}' + foo",
            "ERROR: <input>:1:8: undeclared reference to 'foo' (in container '')\n | '\u{e9}\u{e9}' + foo\n | .\u{ff0e}\u{ff0e}....^",
        ),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
        (
            "has(self)",
            "ERROR: <input>:1:5: invalid argument to has() macro\n | has(self)\n | ....^",
        ),
        (
            "[1, 'a']",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^",
        ),
        (
            "'a'.matches('[')",
            "ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('[')\n | ............^",
        ),
    ] {
        assert_eq!(run(expression), format!("!{message}"), "{expression}");
    }
}

#[test]
fn costs_are_upstreams() {
    for (expression, cost) in [
        ("self.a.b.c == 'deep'", 5),
        ("has(self.a.b.c)", 3),
        ("2 in [1, 2, 3]", 0),
        ("true ? self.n : 3", 1),
        ("self.?a.?z.hasValue()", 3),
        ("['b','a'].sort()", 19),
        ("'hello world'.find('o w')", 2),
        ("1/0 == 1 || true", 2),
    ] {
        assert_eq!(costs(expression).0, cost, "{expression}");
    }
    assert_eq!(costs("[1, 2].map(x, x * 2)").2, 49);
    assert_eq!(costs("self.list.all(x, x > 0)").2, u64::MAX);
}
