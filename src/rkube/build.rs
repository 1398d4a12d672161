//! Sets the commit that the binary reports as its version.
//!
//! `RKUBE_COMMIT` in the environment takes precedence, for builds from an archive or in a package's
//! own repository. Otherwise git is asked, if the workspace is a checkout.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RKUBE_COMMIT");
    let given = std::env::var("RKUBE_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    let commit = given
        .or_else(checked_out_commit)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=RKUBE_BUILD_COMMIT={commit}");
}

/// Returns the checked-out commit of the workspace. Cargo reruns this script when it changes.
fn checked_out_commit() -> Option<String> {
    // A directory, or a file in a linked worktree. The check is needed because git would also find
    // a repository that merely contains the sources.
    if !Path::new("../../.git").exists() {
        return None;
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in [Some("HEAD".to_owned()), branch].into_iter().flatten() {
        let path = git(&["rev-parse", "--git-path", &name])?;
        let path = Path::new(&path);
        // A packed branch has no file until its next commit, so its nearest existing directory is
        // watched. A path that does not exist would rerun the script at every build.
        let mut existing = path.ancestors().filter(|path| path.exists());
        if let Some(path) = existing.next() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    Some(commit)
}

/// Runs git and returns its output; `None` if it is missing or fails.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
