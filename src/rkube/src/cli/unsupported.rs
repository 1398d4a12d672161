//! The failure of a command or a flag that rkube knows but does not have.

use rkube_failure::{Failure, Kind, Source};

/// Returns the failure of something that rkube does not do.
pub fn unsupported(message: impl Into<String>, advice: impl Into<String>) -> Failure {
    Failure::new(Source::Program, Kind::Unsupported, message).advise(advice)
}
