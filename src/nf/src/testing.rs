//! Helpers shared by the tests of this crate.

use std::os::fd::{AsFd as _, OwnedFd};

use crate::netlink::in_netns;

/// Returns whether the test can create network namespaces; reports a skip if not.
pub(crate) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        rkube_testing::skipped("creating network namespaces requires root");
    }
    root
}

/// Returns the namespace's rules as `nft` lists them, or `None` if `nft` is not installed.
pub(crate) fn listed(netns: &OwnedFd) -> Option<String> {
    let output = in_netns(netns.as_fd(), || {
        std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output()
    })
    .unwrap();
    match output {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(_) => {
            eprintln!("not compared with nft's own reading: nft is not installed");
            None
        }
    }
}
