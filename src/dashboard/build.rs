//! Turns the page's sources into assets that are part of the binary.
//!
//! TypeScript loses its types and its white space (their check is
//! a test's business, where `tsc` is), everything is compressed, and the page is told
//! which modules to load at once.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use oxc_allocator::Allocator;
use oxc_codegen::{Codegen, CodegenOptions};
use oxc_parser::Parser;
use oxc_semantic::SemanticBuilder;
use oxc_span::SourceType;
use oxc_transformer::{TransformOptions, Transformer};

/// Where the page lists its modules.
const MODULES: &str = "<!-- modules -->";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=web");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut sources: Vec<PathBuf> = std::fs::read_dir("web")
        .expect("web is there")
        .map(|e| e.expect("web can be read").path())
        .filter(|p| p.is_file())
        .collect();
    sources.sort();

    let mut assets: Vec<(String, &str, String)> = Vec::new();
    for path in &sources {
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
        let read = || std::fs::read_to_string(path).expect("a source can be read");
        if let Some(stem) = name.strip_suffix(".ts") {
            if stem.ends_with(".d") {
                continue;
            }
            let code = strip_types(path, &read());
            assets.push((format!("{stem}.js"), "text/javascript; charset=utf-8", code));
        } else if name.ends_with(".css") {
            assets.push((name.into(), "text/css; charset=utf-8", squeeze(&read())));
        } else if name.ends_with(".svg") {
            assets.push((name.into(), "image/svg+xml", read()));
        } else if name.ends_with(".html") {
            assets.push((name.into(), "text/html; charset=utf-8", read()));
        }
    }
    let mut modules = String::new();
    for (name, ..) in assets.iter().filter(|(name, ..)| name.ends_with(".js")) {
        write!(modules, "<link rel=\"modulepreload\" href=\"/{name}\">").expect("memory");
    }

    let mut table = String::from("&[\n");
    let mut total = 0;
    for (name, kind, content) in &assets {
        let content = content.replace(MODULES, &modules);
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let packed = gzip(content.as_bytes());
        total += packed.len();
        let file = out.join(format!("{name}.gz"));
        std::fs::write(&file, packed).expect("OUT_DIR is writable");
        writeln!(
            table,
            "    Asset {{ path: {:?}, kind: {kind:?}, etag: \"\\\"{:016x}\\\"\", gzip: include_bytes!({:?}) }},",
            format!("/{name}"),
            hasher.finish(),
            file.display().to_string(),
        )
        .expect("memory");
    }
    table.push_str("]\n");
    std::fs::write(out.join("assets.rs"), table).expect("OUT_DIR is writable");
    // A megabyte here is a second on a slow line to a remote machine.
    assert!(total < 500_000, "the assets weigh {total} bytes compressed");
}

/// A TypeScript module as a minified JavaScript module.
fn strip_types(path: &Path, source: &str) -> String {
    let allocator = Allocator::default();
    let parsed = Parser::new(&allocator, source, SourceType::ts()).parse();
    let complain = |what: &str| panic!("{}: {what}", path.display());
    if let Some(error) = parsed.diagnostics.into_iter().next() {
        complain(&format!("{:?}", error.with_source_code(source.to_owned())));
    }
    let mut program = parsed.program;
    let scoping = SemanticBuilder::new()
        .build(&program)
        .semantic
        .into_scoping();
    let options = TransformOptions::default();
    let transformed =
        Transformer::new(&allocator, path, &options).build_with_scoping(scoping, &mut program);
    if let Some(error) = transformed.diagnostics.into_iter().next() {
        complain(&format!("{:?}", error.with_source_code(source.to_owned())));
    }
    Codegen::new()
        .with_options(CodegenOptions::minify())
        .build(&program)
        .code
}

/// A style sheet without comments and indentation.
fn squeeze(css: &str) -> String {
    let mut out = String::new();
    let mut rest = css;
    while let Some((before, after)) = rest.split_once("/*") {
        out.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, tail)| tail);
    }
    out.push_str(rest);
    let lines: Vec<&str> = out
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join("\n")
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}
