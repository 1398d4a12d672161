//! The options of the static policy.

use std::collections::BTreeMap;

/// The options of the static policy that are on by default or released: those of upstream's alpha
/// level need a feature gate that is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// `full-pcpus-only`: containers get whole cores or nothing.
    pub full_cores_only: bool,
    /// `distribute-cpus-across-numa`: CPUs come evenly from the NUMA nodes.
    pub distribute_across_numa: bool,
    /// `strict-cpu-reservation`: no container runs on the reserved CPUs.
    pub strict_reservation: bool,
    /// `prefer-align-cpus-by-uncorecache`: CPUs come from few last-level caches.
    pub prefer_uncore: bool,
}

/// Options that need the gate `CPUManagerPolicyAlphaOptions`.
const ALPHA: [&str; 2] = ["align-by-socket", "distribute-cpus-across-cores"];

/// Parses a boolean as Go does.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl CpuOptions {
    /// Parses options by name.
    ///
    /// # Errors
    ///
    /// Returns upstream's message for options that are unknown, not enabled, invalid or exclude each
    /// other.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut parsed = Self::default();
        for (name, value) in options {
            if ALPHA.contains(&name.as_str()) {
                return Err(format!(
                    "CPU Manager Policy Alpha-level Options not enabled, but option {name:?} provided"
                ));
            }
            let option = match name.as_str() {
                "full-pcpus-only" => &mut parsed.full_cores_only,
                "distribute-cpus-across-numa" => &mut parsed.distribute_across_numa,
                "strict-cpu-reservation" => &mut parsed.strict_reservation,
                "prefer-align-cpus-by-uncorecache" => &mut parsed.prefer_uncore,
                _ => return Err(format!("unknown CPU Manager Policy option: {name:?}")),
            };
            *option = parse_bool(value).ok_or_else(|| {
                format!("bad value for option {name:?}: strconv.ParseBool: parsing {value:?}: invalid syntax")
            })?;
        }
        if parsed.prefer_uncore && parsed.distribute_across_numa {
            return Err(
                "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time"
                    .into(),
            );
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<CpuOptions, String> {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        CpuOptions::parse(&options.iter().map(owned).collect())
    }

    #[test]
    fn options_are_upstreams() {
        let full = parse(&[("full-pcpus-only", "true"), ("strict-cpu-reservation", "0")]).unwrap();
        assert!(full.full_cores_only && !full.strict_reservation);
        for (options, message) in [
            (
                &[("x", "true")][..],
                "unknown CPU Manager Policy option: \"x\"",
            ),
            (
                &[("align-by-socket", "true")],
                "CPU Manager Policy Alpha-level Options not enabled, but option \"align-by-socket\" provided",
            ),
            (
                &[("full-pcpus-only", "yes")],
                "bad value for option \"full-pcpus-only\": strconv.ParseBool: parsing \"yes\": invalid syntax",
            ),
            (
                &[
                    ("prefer-align-cpus-by-uncorecache", "true"),
                    ("distribute-cpus-across-numa", "true"),
                ],
                "static policy options prefer-align-cpus-by-uncorecache and distribute-cpus-across-numa can not be used at the same time",
            ),
        ] {
            assert_eq!(parse(options).unwrap_err(), message);
        }
    }
}
