//! Tests of the page: its types, its logic, and what the build makes of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

/// Runs a command and checks that it succeeds. Returns `false` where the program is
/// not installed.
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
        eprintln!("skipped: no tsc");
    }
}

#[test]
fn minified_modules_are_well_formed() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(
        web().join("package.json"),
        directory.path().join("package.json"),
    )
    .unwrap();
    for source in files(&web(), ".js") {
        let module = directory.path().join(source.file_name().unwrap());
        let source = std::fs::read_to_string(&source).unwrap();
        std::fs::write(&module, minify::javascript(&source)).unwrap();
        if !check(Command::new("node").arg("--check").arg(&module)) {
            eprintln!("skipped: no node");
            return;
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
