//! Gives up the capabilities that nodes do without.

use anyhow::Context;
use rkube_config::capabilities::NAMES;

use crate::refused::CAPABILITIES;

/// Removes the refused capabilities from the bounding set of this process, which takes effect with
/// the next `execve(2)` and cannot be undone.
pub fn give_up() -> anyhow::Result<()> {
    for number in numbers() {
        // Zero if it is missing already, an error if the kernel does not know it.
        if bounding(libc::PR_CAPBSET_READ, number).is_ok_and(|set| set == 1) {
            bounding(libc::PR_CAPBSET_DROP, number)
                .with_context(|| format!("cannot give up CAP_{}", NAMES[number]))?;
        }
    }
    Ok(())
}

/// Returns the numbers of the refused capabilities.
fn numbers() -> impl Iterator<Item = usize> {
    (0..NAMES.len()).filter(|number| CAPABILITIES.contains(&NAMES[*number]))
}

/// Calls one of the operations of `prctl(2)` on the bounding set.
fn bounding(operation: libc::c_int, capability: usize) -> nix::Result<libc::c_int> {
    let capability = libc::c_ulong::try_from(capability).map_err(|_| nix::errno::Errno::EINVAL)?;
    // SAFETY: these operations take numbers only.
    nix::errno::Errno::result(unsafe { libc::prctl(operation, capability, 0, 0, 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(numbers().count(), CAPABILITIES.len());
        assert_eq!(NAMES[16], "SYS_MODULE");
        assert!(numbers().any(|number| number == 16));
    }
}
