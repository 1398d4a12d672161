//! Skipping tests, and refusing to where every test must run.

/// Ends the calling test early because the machine lacks something it needs.
///
/// Prints `skipped: REASON`. Under `RKUBE_TEST_STRICT=1`, which continuous
/// integration sets, the test fails instead: there, everything is installed.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::skipped(&format!($($reason)*));
        return;
    }};
}

/// Reports a skip; the part of [`skip!`](crate::skip) that does not return from
/// the test. For tests whose remaining part still makes sense.
///
/// # Panics
/// Under `RKUBE_TEST_STRICT=1`.
#[track_caller]
pub fn skipped(reason: &str) {
    assert!(!strict(), "skipped although RKUBE_TEST_STRICT=1: {reason}");
    eprintln!("skipped: {reason}");
}

/// Returns whether a skip is a failure (`RKUBE_TEST_STRICT=1`).
#[must_use]
pub fn strict() -> bool {
    std::env::var_os("RKUBE_TEST_STRICT").is_some_and(|v| v == "1")
}

/// Reports that a test does not concern the configuration under test, for
/// example a test of one driver while another is tested. This is not a skip:
/// the run of that other configuration covers it.
pub fn not_applicable(reason: &str) {
    eprintln!("not applicable: {reason}");
}
