//! Taints of devices and tolerations of requests.

use k8s_openapi::api::resource::v1::{Device, DeviceTaint, DeviceToleration};

/// Returns whether the toleration covers the taint. An empty key or effect covers all, and
/// `Exists` every value. It does not matter what the effect does.
pub fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let covers = |wanted: &Option<String>, found: &str| {
        wanted.as_deref().is_none_or(|w| w.is_empty() || w == found)
    };
    if !covers(&toleration.effect, &taint.effect) || !covers(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
        "Exists" => true,
        _ => false,
    }
}

/// Returns whether one of the tolerations covers the taint.
pub fn is_tolerated(tolerations: &[DeviceToleration], taint: &DeviceTaint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// Returns whether a taint of the device keeps claims with these tolerations away. Effects other
/// than `NoSchedule` and `NoExecute` do not.
pub(crate) fn repels(device: &Device, tolerations: &[DeviceToleration]) -> bool {
    let taints = device.taints.iter().flatten();
    taints
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .any(|taint| !is_tolerated(tolerations, taint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_by_upstreams_table() {
        let taint = |key: &str, value: &str, effect: &str| DeviceTaint {
            key: key.into(),
            value: (!value.is_empty()).then(|| value.into()),
            effect: effect.into(),
            time_added: None,
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        for (key, operator, value, effect, taint, want) in [
            (
                "foo",
                "Exists",
                "",
                "",
                taint("foo", "bar", "NoSchedule"),
                true,
            ),
            (
                "",
                "Exists",
                "",
                "",
                taint("foo", "bar", "NoSchedule"),
                true,
            ),
            ("", "Exists", "", "", taint("foo", "bar", "Other"), true),
            (
                "foo",
                "Exists",
                "",
                "NoExecute",
                taint("foo", "bar", "NoSchedule"),
                false,
            ),
            (
                "foo",
                "Equal",
                "bar",
                "NoSchedule",
                taint("foo", "bar", "NoSchedule"),
                true,
            ),
            (
                "foo",
                "",
                "bar",
                "NoSchedule",
                taint("foo", "bar", "NoSchedule"),
                true,
            ),
            (
                "foo",
                "Equal",
                "bar1",
                "NoSchedule",
                taint("foo", "bar", "NoSchedule"),
                false,
            ),
            (
                "foo1",
                "Exists",
                "",
                "",
                taint("foo", "bar", "NoSchedule"),
                false,
            ),
            (
                "foo",
                "Odd",
                "bar",
                "",
                taint("foo", "bar", "NoSchedule"),
                false,
            ),
        ] {
            let toleration = DeviceToleration {
                key: some(key),
                operator: some(operator),
                value: some(value),
                effect: some(effect),
                toleration_seconds: None,
            };
            assert_eq!(tolerates(&toleration, &taint), want, "{toleration:?}");
        }
    }
}
