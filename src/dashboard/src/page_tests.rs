//! Tests of the page: its types, its logic, and the output of the build.

use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

#[path = "../build/minify.rs"]
mod minify;

fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("web")
}

/// Returns the files of a directory whose names end with `suffix`.
fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no *{suffix} in {}", directory.display());
    found
}

/// Runs a command and checks that it succeeds. Returns `false` if the program is not installed.
fn check(command: &mut Command) -> bool {
    match command.output() {
        Ok(Output {
            status,
            stdout,
            stderr,
        }) => {
            assert!(
                status.success(),
                "{command:?}: {status}\n{}{}",
                String::from_utf8_lossy(&stdout),
                String::from_utf8_lossy(&stderr)
            );
            true
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => panic!("{command:?}: {e}"),
    }
}

#[test]
fn the_types_are_right() {
    if !check(Command::new("tsc").arg("-p").arg(web())) {
        rkube_testing::skipped("no tsc");
    }
}

#[test]
fn the_logic_is_right() {
    let suites = files(&web().join("tests"), ".test.mjs");
    if !check(Command::new("node").arg("--test").args(suites)) {
        rkube_testing::skipped("no node");
    }
}

/// Runs the same suites on the modules in the form that the page loads.
#[test]
fn minified_modules_behave_as_their_sources() {
    let directory = tempfile::tempdir().unwrap();
    let tests = directory.path().join("tests");
    std::fs::create_dir(&tests).unwrap();
    for module in files(&web(), ".js") {
        let source = std::fs::read_to_string(&module).unwrap();
        let name = module.file_name().unwrap();
        std::fs::write(directory.path().join(name), minify::javascript(&source)).unwrap();
    }
    std::fs::copy(
        web().join("package.json"),
        directory.path().join("package.json"),
    )
    .unwrap();
    for file in files(&web().join("tests"), ".mjs") {
        std::fs::copy(&file, tests.join(file.file_name().unwrap())).unwrap();
    }
    // The suites do not cover every module.
    let mut parse = Command::new("node");
    parse
        .arg("--experimental-vm-modules")
        .arg(tests.join("parse.mjs"))
        .args(files(directory.path(), ".js"));
    if !check(&mut parse) {
        rkube_testing::skip!("no node");
    }
    let suites = files(&tests, ".test.mjs");
    assert!(check(Command::new("node").arg("--test").args(suites)));
}

/// Returns strings of fragments that YAML can interpret as other types.
fn string() -> impl Strategy<Value = String> {
    let pieces = [
        "a",
        "B",
        "0",
        "1",
        ".",
        "-",
        "+",
        ":",
        ": ",
        " ",
        "  ",
        "#",
        " #",
        "\n",
        "\n\n",
        "\t",
        "\r",
        "'",
        "\"",
        "\\",
        "|",
        ">",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&",
        "*",
        "!",
        "%",
        "@",
        "`",
        "?",
        "~",
        "/",
        "_",
        "=",
        "<<",
        "---",
        "...",
        "null",
        "true",
        "no",
        "0x1",
        "1e3",
        ".inf",
        "2001-01-01",
        "\u{0}",
        "\u{1b}",
        "\u{7f}",
        "\u{85}",
        "\u{a0}",
        "\u{2028}",
        "\u{feff}",
        "ü",
        "😀",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..6).prop_map(|p| p.concat())
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i32>().prop_map(Value::from),
        1 => (-1000..1000).prop_map(|n| Value::from(f64::from(n) + 0.5)),
        6 => string().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(string(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn yaml_of_the_page_is_read_as_the_same_value() {
    let mut runner = TestRunner::deterministic();
    let values: Vec<Value> = (0..2000)
        .map(|_| json().new_tree(&mut runner).unwrap().current())
        .collect();
    let mut input = tempfile::tempfile().unwrap();
    for value in &values {
        writeln!(input, "{value}").unwrap();
    }
    input.rewind().unwrap();
    let script = web().join("tests").join("write-yaml.mjs");
    let output = match Command::new("node").arg(script).stdin(input).output() {
        Ok(output) => output,
        Err(e) => {
            rkube_testing::skip!("no node: {e}");
        }
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let lines: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), values.len());
    for (yaml, value) in lines.iter().zip(&values) {
        match serde_yaml::from_str::<Value>(yaml) {
            Ok(read) => assert_eq!(&read, value, "{yaml}"),
            Err(e) => panic!("{e}: {value}\n{yaml}"),
        }
    }
}

#[test]
fn comments_and_white_space_are_removed() {
    for (source, wanted) in [
        ("", ""),
        (
            "/** A module. */\n\nimport { a } from './a.js';\n",
            "import{a}from './a.js';",
        ),
        ("a(); // why\nb();\n", "a();b();"),
        ("a = 1\nb = 2\n", "a=1\nb=2"),
        ("a /* x */ + /* y */ b", "a + b"),
        ("const x = /** @type {T} */ (y);", "const x=(y);"),
        ("x - -y + ++z", "x - -y + ++z"),
        (
            "if (a) {\n  b();\n} else {\n  c();\n}\nd();",
            "if(a){b();}else{c();}\nd();",
        ),
        ("a\n  .b()\n  .c();", "a.b().c();"),
        (
            "return x;\nfunction f() {}\nlet a",
            "return x;function f(){}\nlet a",
        ),
    ] {
        assert_eq!(minify::javascript(source), wanted, "{source}");
    }
}

#[test]
fn literals_stay_as_they_are() {
    for literal in [
        "'a  // b'",
        "\"/* a  */\"",
        "'it\\'s  // x'",
        "`\n  a // b\n\n    /* c */\n`",
        "`a ${b}  // ${c}  `",
        "`\\`  // ${d}  \\${  `",
        "`${`  // ${e}  `}  `",
        "`${f({g:{}})}  {  // }  `",
        "/'  \\/\\/  [/*]  \"/g",
        "/[`  ]/",
    ] {
        let source = format!("x = {literal}; // '\ny(1 / 2, z) / 3;\n");
        let wanted = format!("x={literal};y(1 / 2,z)/ 3;");
        assert_eq!(minify::javascript(&source), wanted);
    }
    assert_eq!(minify::javascript("i++ / 2; // '"), "i++ / 2;");
    assert_eq!(minify::javascript("return /  '/;"), "return /  '/;");
}

#[test]
fn style_sheets_lose_comments_and_indentation() {
    let source = "/* a\n b */\na {\n  color: red; /* c */\n\n}\n";
    assert_eq!(minify::css(source), "a {\ncolor: red;\n}");
}
