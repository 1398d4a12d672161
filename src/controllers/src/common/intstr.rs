//! Values that are either numbers or percentages.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Returns the value; a percentage is scaled to `total` and rounded up or down.
///
/// Other strings yield 0; the API server's validation rejects them.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<i128>().ok()) else {
                return 0;
            };
            let product = percent.saturating_mul(i128::from(total));
            let result = if round_up {
                product.saturating_add(99).div_euclid(100)
            } else {
                product.div_euclid(100)
            };
            result.clamp(i32::MIN.into(), i32::MAX.into()) as i32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        let percent = |text: &str, up| scaled(&IntOrString::String(text.into()), 10, up);
        assert_eq!(percent("25%", true), 3);
        assert_eq!(percent("25%", false), 2);
        assert_eq!(percent("100%", false), 10);
        assert_eq!(percent("x", false), 0);
        assert_eq!(scaled(&IntOrString::Int(4), 10, true), 4);
    }
}
