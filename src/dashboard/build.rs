//! Converts the page's sources into assets that are part of the binary.
//!
//! Removes comments and indentation from scripts and style sheets, and compresses all files. Adds a
//! list of modules to preload and the inline script to the page.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::PathBuf;

#[path = "build/minify.rs"]
mod minify;

/// The placeholder in the page for the list of its modules.
const MODULES: &str = "<!-- modules -->";
/// The placeholder in the page for its inline script, and the source of that script.
const BOOT: (&str, &str) = ("<!-- boot -->", "boot.js");

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=web");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut sources: Vec<PathBuf> = std::fs::read_dir("web")
        .expect("web is there")
        .map(|e| e.expect("web can be read").path())
        .filter(|p| p.is_file())
        .collect();
    sources.sort();

    let mut assets: Vec<(String, &str, String)> = Vec::new();
    let mut boot = String::new();
    for path in &sources {
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
        let read = || std::fs::read_to_string(path).expect("a source can be read");
        if name == BOOT.1 {
            boot = minify::javascript(&read());
        } else if name.ends_with(".js") {
            let code = minify::javascript(&read());
            assets.push((name.into(), "text/javascript; charset=utf-8", code));
        } else if name.ends_with(".css") {
            assets.push((name.into(), "text/css; charset=utf-8", minify::css(&read())));
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
        let inline = format!("<script>{boot}</script>");
        let content = content.replace(MODULES, &modules).replace(BOOT.0, &inline);
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
    std::fs::write(out.join(BOOT.1), &boot).expect("OUT_DIR is writable");
    std::fs::write(out.join("assets.rs"), table).expect("OUT_DIR is writable");
    // One megabyte takes about one second on a slow connection to a remote host.
    assert!(total < 500_000, "the assets weigh {total} bytes compressed");
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}
