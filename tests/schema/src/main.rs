//! Generates the schema blob of the built-in kinds that `rkube-api` includes.
//!
//! Field types and descriptions come from the crate `k8s-openapi`. The facts that
//! it does not carry come from `facts.rs`, and how Go encodes a field from the crate's
//! table of protobuf fields (`encoding.rs`). The layout is described in
//! `src/api/src/schema/format.rs`.

mod blob;
mod encoding;
mod facts;
#[path = "../../../src/api/src/schema/format.rs"]
mod format;
mod roots;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The checked-in blob, relative to this package.
const BLOB_PATH: &str = "../../src/api/src/schema/schema.bin";

const USAGE: &str = "usage: rkube-schema --check | --write";

fn main() -> ExitCode {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(BLOB_PATH);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--check"] => check(&path),
        ["--write"] => write(&path),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(message) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Generates the blob and compares it with the checked-in file.
fn check(path: &Path) -> Result<String, String> {
    let generated = generate();
    let checked_in =
        std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    if generated == checked_in {
        return Ok(format!(
            "{} is up to date ({} bytes)",
            display(path).display(),
            checked_in.len()
        ));
    }
    let offset = generated
        .iter()
        .zip(&checked_in)
        .position(|(a, b)| a != b)
        .unwrap_or(generated.len().min(checked_in.len()));
    Err(format!(
        "{} is out of date: it has {} bytes, the generated blob has {}, and they differ \
         from byte {offset} on.\n\
         Run `cargo run --manifest-path tests/schema/Cargo.toml -- --write` and commit the file.",
        display(path).display(),
        checked_in.len(),
        generated.len(),
    ))
}

/// Generates the blob and replaces the checked-in file.
fn write(path: &Path) -> Result<String, String> {
    let generated = generate();
    std::fs::write(path, &generated)
        .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(format!(
        "wrote {} ({} bytes)",
        display(path).display(),
        generated.len()
    ))
}

fn generate() -> Vec<u8> {
    blob::encode(&roots::definitions())
}

/// Returns `path` without the `..` components, for messages.
fn display(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
