//! Writes the schema of every built-in kind as a blob that the crate includes.
//!
//! The shapes and sentences come from the crate `k8s-openapi`, the facts it does
//! not carry from `build/facts.rs`.

#[path = "build/blob.rs"]
mod blob;
#[path = "build/facts.rs"]
mod facts;
#[path = "src/schema/format.rs"]
mod format;
#[path = "build/roots.rs"]
mod roots;

fn main() {
    for path in ["build.rs", "build", "src/schema/format.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let blob = blob::write(&roots::definitions());
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(std::path::Path::new(&out).join("schema.bin"), blob)
        .expect("OUT_DIR is writable");
}
