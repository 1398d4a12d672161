//! Token requests and reviews.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::Strategy;
use crate::errors::Errors;
use crate::generic::Rules;
use crate::tree::{default_value, int, text};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "TokenRequest" => &TOKEN_REQUEST,
        "TokenReview" => &TOKEN_REVIEW,
        _ => return None,
    })
}

static TOKEN_REQUEST: Rules = Rules {
    default: |obj| {
        crate::tree::ensure(obj, "spec");
        if let Some(spec) = crate::tree::at_mut(obj, "spec") {
            default_value(spec, "expirationSeconds", 3600);
        }
    },
    validate: token_request,
    ..Rules::PLAIN
};

fn token_request(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let seconds = int(obj, "spec.expirationSeconds").unwrap_or(0);
    if seconds < 600 {
        errors.invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    }
    if seconds > 1 << 32 {
        errors.invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    errors.0
}

static TOKEN_REVIEW: Rules = Rules {
    validate: |obj| {
        let mut errors = Errors::new();
        if text(obj, "spec.token").is_empty() {
            errors.required("spec.token", "");
        }
        errors.0
    },
    ..Rules::PLAIN
};
