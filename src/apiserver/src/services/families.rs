//! The IP families of a service: defaults, upgrades and downgrades, as upstream's allocator has them
//! (`pkg/registry/core/service/storage/alloc.go`).

use std::net::IpAddr;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

/// Returns the API's name of an address's family.
pub(super) fn family_of(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// Returns the strings of a list; none if it is absent.
pub(super) fn texts(value: &Value) -> Vec<&str> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}

/// Completes the families and their policy of a service that is not only a name. `configured` are
/// the families of the cluster, the default one first. Secondary cluster IPs that a downgrade gives
/// up are removed; those of an upgrade are left to the allocation.
///
/// # Errors
/// Fails with what a user has to change. The fields must be valid by themselves.
pub(super) fn complete(
    service: &mut Object,
    old: Option<&Object>,
    configured: &[&'static str],
) -> Result<(), Vec<FieldError>> {
    if old.is_some_and(|old| keeps_preference(service, old)) {
        return Ok(());
    }
    let headless = service["spec"]["clusterIP"] == "None";
    let selects = service["spec"]["selector"]
        .as_object()
        .is_some_and(|selector| !selector.is_empty());
    let foreign = headless && !selects;
    let policy = policy(service, old, foreign);
    service["spec"]["ipFamilyPolicy"] = policy.as_str().into();
    let single = policy == "SingleStack";
    let invalid = |why: &str| FieldError::invalid("spec.ipFamilyPolicy", policy.as_str(), why);
    let mut errors = Vec::new();
    if let Some(old) = old {
        errors.extend(shrink(service, old, single).into_iter().map(invalid));
    }
    if single {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if texts(&service["spec"][field]).len() == 2 {
                errors.push(invalid(&format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                )));
            }
        }
    }
    let mut families: Vec<String> = texts(&service["spec"]["ipFamilies"])
        .into_iter()
        .map(str::to_owned)
        .collect();
    let ips: Vec<String> = texts(&service["spec"]["clusterIPs"])
        .into_iter()
        .map(str::to_owned)
        .collect();
    for (i, ip) in ips.iter().enumerate().skip(families.len()) {
        let Ok(ip) = ip.parse::<IpAddr>() else { break };
        let family = family_of(ip);
        if configured.contains(&family) {
            families.push(family.into());
        } else {
            errors.push(FieldError::invalid(
                format!("spec.clusterIPs[{i}]"),
                json!(ips),
                format!("{family} is not configured on this cluster"),
            ));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if !foreign {
        if policy == "RequireDualStack" && configured.len() < 2 {
            errors.push(invalid(
                "this cluster is not configured for dual-stack services",
            ));
        }
        for (i, family) in families.iter().enumerate() {
            if !configured.contains(&family.as_str()) {
                errors.push(FieldError::invalid(
                    format!("spec.ipFamilies[{i}]"),
                    family.as_str(),
                    "not configured on this cluster",
                ));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    if families.is_empty() {
        families.extend(configured.first().map(|family| (*family).to_owned()));
    }
    // The endpoints of a headless service without a selector come from elsewhere, so that the
    // cluster need not have their families.
    if !single && families.len() == 1 && (foreign || configured.len() == 2) {
        let other = if families[0] == "IPv4" {
            "IPv6"
        } else {
            "IPv4"
        };
        families.push(other.into());
    }
    service["spec"]["ipFamilies"] = json!(families);
    Ok(())
}

/// Returns whether an update leaves a service that prefers both families as it is. Such a one is
/// not changed when the cluster gets or loses a family.
fn keeps_preference(service: &Object, old: &Object) -> bool {
    let (new, old) = (&service["spec"], &old["spec"]);
    new["ipFamilyPolicy"] == "PreferDualStack"
        && (old["ipFamilyPolicy"].is_null() || old["ipFamilyPolicy"] == "PreferDualStack")
        && ["type", "clusterIPs", "ipFamilies"]
            .iter()
            .all(|field| new[*field] == old[*field])
        && new["type"] != "ExternalName"
}

/// Returns the policy of a service, or the one that it gets without any.
fn policy(service: &Object, old: Option<&Object>, foreign: bool) -> String {
    let of = |object: &Object| object["spec"]["ipFamilyPolicy"].as_str().map(str::to_owned);
    let default = if foreign {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    of(service)
        .or_else(|| old.and_then(of))
        .unwrap_or_else(|| default.into())
}

/// Reduces an updated service with one family to its first address and family, unless the update
/// changes these. Returns what is wrong if another service has become shorter.
fn shrink(service: &mut Object, old: &Object, single: bool) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    for (field, why) in [
        (
            "clusterIPs",
            "must be 'SingleStack' to release the secondary cluster IP",
        ),
        (
            "ipFamilies",
            "must be 'SingleStack' to release the secondary IP family",
        ),
    ] {
        let count = texts(&service["spec"][field]).len();
        if single {
            if service["spec"][field] == old["spec"][field] && count > 1 {
                service["spec"][field] = json!([service["spec"][field][0]]);
            }
        } else if count > 0 && count < texts(&old["spec"][field]).len() {
            wrong.push(why);
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: Value) -> Object {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
    }

    /// Completes a service. Returns its policy and families, or the fields and words of the errors.
    fn completed(
        spec: Value,
        old: Option<Value>,
        configured: &[&'static str],
    ) -> Result<(Value, Value), Vec<String>> {
        let mut service = object(spec);
        complete(&mut service, old.map(object).as_ref(), configured)
            .map(|()| {
                let spec = &service["spec"];
                (spec["ipFamilyPolicy"].clone(), spec["ipFamilies"].clone())
            })
            .map_err(|errors| errors.iter().map(|e| format!("{e:?}")).collect())
    }

    #[test]
    fn new_services_get_the_families_of_upstreams_table() {
        let (v4, v6): (&[&str], &[&str]) = (&["IPv4"], &["IPv6"]);
        let (dual, turned): (&[&str], &[&str]) = (&["IPv4", "IPv6"], &["IPv6", "IPv4"]);
        let selector = json!({"a": "b"});
        for (cluster, policy, families, expected) in [
            (v4, None, json!(null), Some(json!(["IPv4"]))),
            (v6, None, json!(null), Some(json!(["IPv6"]))),
            (dual, None, json!(null), Some(json!(["IPv4"]))),
            (turned, None, json!(null), Some(json!(["IPv6"]))),
            (dual, None, json!(["IPv6"]), Some(json!(["IPv6"]))),
            (v4, None, json!(["IPv6"]), None),
            (dual, None, json!(["IPv6", "IPv4"]), None),
            (
                v4,
                Some("PreferDualStack"),
                json!(null),
                Some(json!(["IPv4"])),
            ),
            (
                dual,
                Some("PreferDualStack"),
                json!(null),
                Some(json!(["IPv4", "IPv6"])),
            ),
            (
                dual,
                Some("PreferDualStack"),
                json!(["IPv6"]),
                Some(json!(["IPv6", "IPv4"])),
            ),
            (
                dual,
                Some("RequireDualStack"),
                json!(null),
                Some(json!(["IPv4", "IPv6"])),
            ),
            (
                turned,
                Some("RequireDualStack"),
                json!(null),
                Some(json!(["IPv6", "IPv4"])),
            ),
            (v4, Some("RequireDualStack"), json!(null), None),
            (v6, Some("RequireDualStack"), json!(null), None),
            (dual, Some("SingleStack"), json!(["IPv4", "IPv6"]), None),
        ] {
            let spec = json!({"type": "ClusterIP", "selector": selector, "ipFamilyPolicy": policy, "ipFamilies": families});
            let found = completed(spec, None, cluster);
            assert_eq!(
                found.clone().ok().map(|(_, families)| families),
                expected,
                "{cluster:?} {policy:?} {families}: {found:?}"
            );
        }
    }

    #[test]
    fn headless_services_without_a_selector_have_both_families() {
        let spec = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]});
        assert_eq!(
            completed(spec.clone(), None, &["IPv4"]),
            Ok((json!("RequireDualStack"), json!(["IPv4", "IPv6"])))
        );
        let mut selecting = spec;
        selecting["selector"] = json!({"a": "b"});
        assert_eq!(
            completed(selecting, None, &["IPv4"]),
            Ok((json!("SingleStack"), json!(["IPv4"])))
        );
    }

    #[test]
    fn families_follow_given_addresses() {
        let dual: &[&str] = &["IPv4", "IPv6"];
        let with = |ips: Value, policy: Value| json!({"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips, "ipFamilyPolicy": policy});
        let found = completed(with(json!(["fd00::9"]), json!(null)), None, dual).unwrap();
        assert_eq!(found.1, json!(["IPv6"]));
        let both = with(json!(["fd00::9", "10.0.0.9"]), json!("PreferDualStack"));
        assert_eq!(
            completed(both, None, dual).unwrap().1,
            json!(["IPv6", "IPv4"])
        );
        let refused = completed(with(json!(["fd00::9"]), json!(null)), None, &["IPv4"]);
        let words = refused.unwrap_err().join("\n");
        assert!(
            words.contains("IPv6 is not configured on this cluster"),
            "{words}"
        );
    }

    #[test]
    fn updates_upgrade_and_downgrade() {
        let dual: &[&str] = &["IPv4", "IPv6"];
        let one = json!({"type": "ClusterIP", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
        let two = json!({"type": "ClusterIP", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9", "fd00::9"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"});
        let with = |spec: &Value, field: &str, value: Value| {
            let mut spec = spec.clone();
            spec[field] = value;
            spec
        };
        let up = with(&one, "ipFamilyPolicy", json!("PreferDualStack"));
        assert_eq!(
            completed(up.clone(), Some(one.clone()), dual).unwrap().1,
            json!(["IPv4", "IPv6"])
        );
        let mut down = object(with(&two, "ipFamilyPolicy", json!("SingleStack")));
        complete(&mut down, Some(&object(two.clone())), dual).unwrap();
        assert_eq!(down["spec"]["clusterIPs"], json!(["10.0.0.9"]));
        assert_eq!(down["spec"]["ipFamilies"], json!(["IPv4"]));
        let fewer = with(&two, "ipFamilies", json!(["IPv4"]));
        let words = completed(fewer, Some(two), dual).unwrap_err().join("\n");
        assert!(
            words.contains("must be 'SingleStack' to release the secondary IP family"),
            "{words}"
        );
        // One that prefers both stays as it is.
        let kept = completed(up.clone(), Some(up), dual).unwrap();
        assert_eq!(kept.1, json!(["IPv4"]));
    }
}
