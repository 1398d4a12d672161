//! Delays between attempts.

use std::time::Duration;

/// Returns the delay after a number of failures: `initial`, doubled with each one, at most `max`.
pub(crate) fn doubled(initial: Duration, failures: u32, max: Duration) -> Duration {
    let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
    initial.saturating_mul(factor).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_maximum() {
        let ms = Duration::from_millis;
        let delays = [0, 1, 2, 8, 9, 31, 32, u32::MAX].map(|n| doubled(ms(75), n, ms(30_000)));
        let expected = [75, 150, 300, 19_200, 30_000, 30_000, 30_000, 30_000];
        assert_eq!(delays, expected.map(ms));
    }
}
