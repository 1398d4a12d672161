//! Labels and taints of nodes, checked as the API server checks them.

use rkube_api::names::{label_value, qualified_name};
use rkube_config::Taint;

/// Fails with a message unless this is a label.
pub fn check(key: &str, value: &str) -> Result<(), String> {
    let of = |what: &str, errors: Vec<String>| match errors.first() {
        Some(error) => Err(format!("{what}: {error}")),
        None => Ok(()),
    };
    of(&format!("the label key '{key}'"), qualified_name(key))?;
    of(&format!("the label value '{value}'"), label_value(value))
}

/// Fails with a message unless this is a taint.
pub fn check_taint(taint: &Taint) -> Result<(), String> {
    check(&taint.key, &taint.value)?;
    match taint.effect.as_str() {
        "NoSchedule" | "PreferNoSchedule" | "NoExecute" => Ok(()),
        other => Err(format!(
            "the effect '{other}' is not NoSchedule, PreferNoSchedule or NoExecute"
        )),
    }
}

/// Parses a taint as `kubectl taint` has it, `KEY[=VALUE]:EFFECT`.
pub fn parse_taint(text: &str) -> Result<Taint, String> {
    let (label, effect) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("'{text}' is not a taint such as key=value:NoSchedule"))?;
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    let taint = Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
    };
    check_taint(&taint)?;
    Ok(taint)
}

/// Returns a taint as `kubectl taint` has it.
pub fn taint_text(taint: &Taint) -> String {
    let (key, effect) = (&taint.key, &taint.effect);
    match taint.value.as_str() {
        "" => format!("{key}:{effect}"),
        value => format!("{key}={value}:{effect}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_kubectls() {
        for text in ["a=b:NoSchedule", "example.com/x:NoExecute"] {
            assert_eq!(taint_text(&parse_taint(text).unwrap()), text);
        }
        for bad in [
            "a",
            "a=b",
            "a:Never",
            ":NoSchedule",
            "a b:NoSchedule",
            "a=b c:NoSchedule",
        ] {
            assert!(parse_taint(bad).is_err(), "{bad}");
        }
        assert!(check("tier", "web").is_ok() && check("-", "x").is_err());
    }
}
