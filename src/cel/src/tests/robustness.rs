//! Hostile expressions: nothing panics, everything terminates.

use proptest::prelude::*;

use super::run;
use crate::{Env, PER_CALL_LIMIT, Type, Value};

/// Compiles and runs an expression with the stack size of a worker thread.
fn run_to_end(expression: String) -> String {
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || run(&expression))
        .unwrap()
        .join()
        .expect("it came to an end")
}

#[test]
fn depth_is_bounded() {
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("[", "", "]"),
        ("{'a':", "1", "}"),
        ("!(", "true", ")"),
        ("size([", "1", "])"),
        ("true ? (", "1", ") : 2"),
        ("[1].map(x, ", "1", ")"),
        ("self.list[", "0", "]"),
    ] {
        for depth in [60, 120, 240, 5000] {
            run_to_end(format!(
                "{}{middle}{}",
                open.repeat(depth),
                close.repeat(depth)
            ));
        }
    }
    for chain in [
        "+1",
        ".a",
        "[0]",
        " && true",
        " || false",
        " ? 1 : 1",
        " == 1",
    ] {
        for length in [200, 20_000] {
            run_to_end(format!("1{}", chain.repeat(length)));
        }
    }
    run_to_end(format!("optional.of(1){}", ".optMap(x, x)".repeat(60)));
}

#[test]
fn doubling_ends_within_the_budget() {
    let doubled = format!(
        "optional.of([1]){}.value().size()",
        ".optMap(x, x + x)".repeat(12)
    );
    run_to_end(doubled);
    let nested = format!(
        "optional.of([1]){}.value()",
        ".optMap(x, [x, x])".repeat(12)
    );
    run_to_end(format!("{nested} == {nested}"));
    assert_eq!(
        run(
            "[1,2,3,4,5,6,7,8,9,10].all(a, lists.range(1000).all(b, lists.range(1000).all(c, true)))"
        ),
        "!operation cancelled: actual cost limit exceeded"
    );
}

/// Fragments that often form valid expressions.
fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "self",
        ".a",
        ".list",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "!",
        "-",
        "+",
        "*",
        "==",
        "<",
        "&&",
        "||",
        " in ",
        "1",
        "2u",
        "1.5",
        "'x'",
        "\"y\"",
        "b'z'",
        "true",
        "null",
        ".all(x, ",
        ".map(x, ",
        ".exists(i, v, ",
        "x",
        ".size()",
        "has(",
        "dyn(",
        ".?",
        "[?",
        ".optMap(x, ",
        "optional.of(",
        ".format([",
        "'%s%d'",
        "string(",
        "duration('1s')",
        "timestamp(",
        ".matches('",
        "\\",
        "\n",
        "//",
        "`",
        "\u{e9}",
        ".sort()",
        ".split('')",
        ".join()",
        "Object{",
        "lists.range(9)",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "\\PC{0,60}") {
        run(&text);
    }

    #[test]
    fn any_words_are_survived(words in prop::collection::vec(word(), 0..24)) {
        run(&words.concat());
    }

    #[test]
    fn costs_stay_within_the_limit(words in prop::collection::vec(word(), 0..16), limit in 0u64..200) {
        let env = Env::new().variable("self", Type::Dyn);
        if let Ok(compiled) = env.compile(&words.concat()) && let Ok(program) = compiled.program() {
            let document = super::sample();
            let run = program.run(&[Value::json(&document)], limit);
            prop_assert!(run.cost <= limit || run.outcome.is_err());
            // The estimate without size bounds covers at least about half of the actual cost.
            let full = program.run(&[Value::json(&document)], PER_CALL_LIMIT);
            if full.outcome.is_ok() {
                prop_assert!(compiled.estimate(&crate::Unknown).max.saturating_add(8) >= full.cost / 2);
            }
        }
    }
}
