//! Levels, versions, and the labels that define a policy.

use std::fmt;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Map;

/// A level of the Pod Security Standards, from the least to the most restrictive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// The minor version whose rules apply; `None` is the latest.
pub(super) type Version = Option<u32>;

/// A level and the version of its rules; displayed as `baseline:v1.36`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub(super) level: Level,
    pub(super) version: Version,
}

/// The levels of the three modes of PodSecurity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// Pods that violate it are rejected.
    pub(super) enforce: LevelVersion,
    /// Violations are recorded in the request's audit event.
    pub(super) audit: LevelVersion,
    /// Violations are returned to the client as warnings.
    pub(super) warn: LevelVersion,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

fn parse_level(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

fn parse_version(text: &str) -> Result<Version, &'static str> {
    const WRONG: &str = r#"must be "latest" or "v1.x""#;
    if text == "latest" {
        return Ok(None);
    }
    let minor = text.strip_prefix("v1.").ok_or(WRONG)?;
    let plain =
        minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    if !plain {
        return Err(WRONG);
    }
    minor.parse().map(Some).map_err(|_| WRONG)
}

impl Policy {
    /// Returns whether no mode restricts anything.
    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn]
            .iter()
            .all(|mode| mode.level == Level::Privileged)
    }

    /// Returns whether the modes that do not reject pods restrict nothing.
    pub(super) fn is_silent(&self) -> bool {
        [self.audit, self.warn]
            .iter()
            .all(|mode| mode.level == Level::Privileged)
    }

    /// Reads the policy from a namespace's labels. An invalid level is an error; it counts as
    /// restricted for `enforce`, and as privileged for the other modes.
    pub(super) fn from_labels(labels: Option<&Map<String, Object>>) -> (Policy, Vec<FieldError>) {
        let mut policy = Policy::default();
        let mut errors = Vec::new();
        let label = |suffix: &str| {
            let key = format!("pod-security.kubernetes.io/{suffix}");
            let value = labels?.get(&key)?.as_str()?.to_owned();
            Some((key, value))
        };
        let mut wrong = |key: String, value: String, why: &str| {
            errors.push(FieldError::invalid(
                format!("metadata.labels[{key}]"),
                value,
                why,
            ));
        };
        let mut enforced = false;
        for (mode, on_error) in [
            ("enforce", Level::Restricted),
            ("audit", Level::Privileged),
            ("warn", Level::Privileged),
        ] {
            let slot = match mode {
                "enforce" => &mut policy.enforce,
                "audit" => &mut policy.audit,
                _ => &mut policy.warn,
            };
            if let Some((key, value)) = label(mode) {
                match parse_level(&value) {
                    Ok(level) => {
                        slot.level = level;
                        enforced |= mode == "enforce";
                    }
                    Err(why) => {
                        slot.level = on_error;
                        wrong(key, value, why);
                    }
                }
            }
            if let Some((key, value)) = label(&format!("{mode}-version")) {
                match parse_version(&value) {
                    Ok(version) => slot.version = version,
                    Err(why) => wrong(key, value, why),
                }
            }
        }
        // Without a label for `warn`, its level is at least that of `enforce`.
        if enforced && label("warn").is_none() && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(labels: Object) -> (Policy, Vec<String>) {
        let (policy, errors) = Policy::from_labels(labels.as_object());
        (policy, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn labels_make_a_policy() {
        assert_eq!(policy(json!({})), (Policy::default(), Vec::new()));
        let restricted = LevelVersion {
            level: Level::Restricted,
            version: None,
        };
        let (p, errors) = policy(json!({"pod-security.kubernetes.io/enforce": "restricted"}));
        assert_eq!(
            (p.enforce, p.warn, p.audit),
            (restricted, restricted, LevelVersion::default())
        );
        assert!(errors.is_empty());
        let (p, _) = policy(json!({
            "pod-security.kubernetes.io/enforce": "baseline",
            "pod-security.kubernetes.io/enforce-version": "v1.25",
            "pod-security.kubernetes.io/warn": "restricted",
        }));
        assert_eq!(p.enforce.to_string(), "baseline:v1.25");
        assert_eq!(p.warn, restricted);
        let (p, errors) = policy(json!({
            "pod-security.kubernetes.io/enforce": "severe",
            "pod-security.kubernetes.io/warn-version": "v1.01",
        }));
        assert_eq!((p.enforce, p.warn.level), (restricted, Level::Privileged));
        assert_eq!(
            errors,
            [
                r#"metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "severe": must be one of privileged, baseline, restricted"#,
                r#"metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "v1.01": must be "latest" or "v1.x""#,
            ]
        );
    }
}
