//! What the tests of this room share.

/// Whether the test may make network namespaces; says so when it may not.
pub(crate) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root for network namespaces of its own");
    }
    root
}
