//! Validation of volume sources of network file systems and cloud providers, in pods and in
//! persistent volumes.

use serde_json::Value;

use crate::errors::{Errors, child, keyed};
use crate::names;
use crate::tree::{at, entries, flag, has, int, list, text};

/// The kind of object that has a volume source. The sources of persistent volumes name secrets of
/// any namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A pod, or a template of pods.
    Pod,
    /// A persistent volume.
    PersistentVolume,
}

/// Most characters of the name of an iSCSI volume with its portal, for a separate initiator.
const MAX_ISCSI_NAME: usize = 64;

/// Validates a source of the given kind; `path` is that of the volume, whose name is `name`.
pub(crate) fn network(
    errors: &mut Errors,
    kind: &str,
    source: &Value,
    (owner, name): (Owner, &str),
    path: &str,
) {
    let field = &child(path, kind);
    match kind {
        "gcePersistentDisk" => {
            // The field's name in errors is upstream's.
            partitioned(errors, source, "pdName", &child(path, "persistentDisk"));
        }
        "awsElasticBlockStore" => partitioned(errors, source, "volumeID", field),
        "gitRepo" => {
            required(errors, source, "repository", field);
            descending_path(
                errors,
                text(source, "directory"),
                &child(field, "directory"),
            );
        }
        "nfs" => {
            required(errors, source, "server", field);
            required(errors, source, "path", field);
            let place = text(source, "path");
            if !names::is_absolute(place) {
                errors.invalid(child(field, "path"), place, "must be an absolute path");
            }
        }
        "iscsi" => iscsi(errors, source, owner, name, path),
        "glusterfs" => glusterfs(errors, source, owner, field),
        "flocker" => flocker(errors, source, field),
        "rbd" | "cephfs" => {
            if list(source, "monitors").is_empty() {
                errors.required(child(field, "monitors"), "");
            }
            if kind == "rbd" {
                required(errors, source, "image", field);
            }
        }
        "cinder" => {
            required(errors, source, "volumeID", field);
            secret(errors, source, owner, field);
        }
        "quobyte" => quobyte(errors, source, field),
        "fc" => fibre_channel(errors, source, field),
        "flexVolume" => {
            required(errors, source, "driver", field);
            flex_options(errors, source, field);
        }
        "azureFile" => {
            required(errors, source, "secretName", field);
            required(errors, source, "shareName", field);
            if has(source, "secretNamespace") {
                required(errors, source, "secretNamespace", field);
            }
        }
        "azureDisk" => azure_disk(errors, source, field),
        "vsphereVolume" => required(errors, source, "volumePath", field),
        "photonPersistentDisk" => required(errors, source, "pdID", field),
        "portworxVolume" => required(errors, source, "volumeID", field),
        "storageos" => storage_os(errors, source, owner, field),
        "scaleIO" => {
            for key in ["gateway", "system", "volumeName"] {
                required(errors, source, key, field);
            }
        }
        _ => {}
    }
}

/// Validates that a string field is not empty.
pub(crate) fn required(errors: &mut Errors, source: &Value, key: &str, path: &str) {
    if text(source, key).is_empty() {
        errors.required(child(path, key), "");
    }
}

/// Validates a path that does not lead out of the directory that it begins in.
pub(super) fn descending_path(errors: &mut Errors, place: &str, field: &str) {
    if names::is_absolute(place) {
        errors.invalid(field, place, "must be a relative path");
    }
    if names::has_backsteps(place) {
        errors.invalid(field, place, "must not contain '..'");
    }
}

/// Validates the name of a CSI driver.
pub(crate) fn csi_driver(errors: &mut Errors, source: &Value, path: &str) {
    required(errors, source, "driver", path);
    let driver = text(source, "driver");
    if !driver.is_empty() {
        names::csi_driver(errors, driver, &child(path, "driver"));
    }
}

fn partitioned(errors: &mut Errors, source: &Value, id: &str, field: &str) {
    required(errors, source, id, field);
    let partition = int(source, "partition").unwrap_or(0);
    if !(0..=255).contains(&partition) {
        errors.invalid(
            child(field, "partition"),
            partition,
            "must be between 1 and 255, inclusive",
        );
    }
}

/// Validates the name of a referenced secret, and its namespace in a persistent volume.
fn secret(errors: &mut Errors, source: &Value, owner: Owner, field: &str) {
    let reference = at(source, "secretRef");
    if reference.is_null() {
        return;
    }
    required(errors, reference, "name", &child(field, "secretRef"));
    if owner == Owner::PersistentVolume {
        required(errors, reference, "namespace", &child(field, "secretRef"));
    }
}

/// Returns whether a text is a name of an iSCSI initiator or target, by its prefix.
fn is_iscsi_name(name: &str) -> bool {
    let of_length = |rest: &str, length: usize| {
        let mut characters = rest.chars();
        characters.next().is_some_and(|c| c != '\n')
            && characters.as_str().len() == length
            && characters.all(|c| c.is_ascii_alphanumeric())
    };
    if let Some(rest) = name.strip_prefix("eui") {
        return of_length(rest, 16);
    }
    if let Some(rest) = name.strip_prefix("naa") {
        return of_length(rest, 32);
    }
    // As upstream's pattern, it may begin anywhere.
    name.match_indices("iqn.").any(|(start, prefix)| {
        let rest = &name.as_bytes()[start + prefix.len()..];
        let dated = rest.len() > 8
            && rest[..8].iter().enumerate().all(|(i, byte)| match i {
                4 => *byte == b'-',
                7 => *byte == b'.',
                _ => byte.is_ascii_digit(),
            });
        let Some(colon) = rest.iter().position(|byte| *byte == b':').filter(|_| dated) else {
            return false;
        };
        let authority = rest.get(8..colon).unwrap_or_default();
        let unique = &rest[colon + 1..];
        !authority.is_empty()
            && authority
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(b))
            && !unique.is_empty()
            && !unique.iter().any(|b| b",;*&$|\t\n\x0c\r ".contains(b))
    })
}

/// Validates the syntax of an iSCSI name; `unknown` is the message about an unknown prefix. As
/// upstream, an initiator's is not the end of it: its pattern is checked by prefix as well.
fn iscsi_name(errors: &mut Errors, name: &str, unknown: &str, field: String) {
    if !["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p)) {
        errors.invalid(field, name, unknown);
    } else if !is_iscsi_name(name) {
        errors.invalid(field, name, "must be valid format");
    }
}

fn iscsi(errors: &mut Errors, source: &Value, owner: Owner, name: &str, path: &str) {
    const TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
    let field = &child(path, "iscsi");
    let portal = text(source, "targetPortal");
    let too_long = has(source, "initiatorName") && name.len() + 1 + portal.len() > MAX_ISCSI_NAME;
    let unknown = match owner {
        Owner::Pod => "must be valid format starting with iqn, eui, or naa",
        Owner::PersistentVolume => "must be valid format",
    };
    required(errors, source, "targetPortal", field);
    if too_long && owner == Owner::PersistentVolume {
        errors.invalid(child(field, "targetportal"), portal, TOO_LONG);
    }
    match text(source, "iqn") {
        "" => errors.required(child(field, "iqn"), ""),
        iqn => iscsi_name(errors, iqn, unknown, child(field, "iqn")),
    }
    let lun = int(source, "lun").unwrap_or(0);
    if !(0..=255).contains(&lun) {
        errors.invalid(
            child(field, "lun"),
            lun,
            "must be between 0 and 255, inclusive",
        );
    }
    let authenticates = flag(source, "chapAuthDiscovery") || flag(source, "chapAuthSession");
    if authenticates && !has(source, "secretRef") {
        errors.required(child(field, "secretRef"), "");
    }
    if owner == Owner::PersistentVolume && has(source, "secretRef") {
        let reference = at(source, "secretRef");
        required(errors, reference, "name", &child(field, "secretRef"));
    }
    if has(source, "initiatorName") {
        let initiator = text(source, "initiatorName");
        iscsi_name(errors, initiator, unknown, child(field, "initiatorname"));
    }
    if too_long && owner == Owner::Pod {
        errors.invalid(child(path, "name"), name, TOO_LONG);
    }
}

fn glusterfs(errors: &mut Errors, source: &Value, owner: Owner, field: &str) {
    for key in ["endpoints", "path"] {
        required(errors, source, key, field);
    }
    if owner == Owner::Pod || !has(source, "endpointsNamespace") {
        return;
    }
    let namespace = text(source, "endpointsNamespace");
    let field = child(field, "endpointsNamespace");
    if namespace.is_empty() {
        errors.invalid(
            field,
            namespace,
            "if the endpointnamespace is set, it must be a valid namespace name",
        );
    } else {
        errors.invalid_each(&field, namespace, names::dns1123_label(namespace));
    }
}

fn flocker(errors: &mut Errors, source: &Value, field: &str) {
    let (name, id) = (text(source, "datasetName"), text(source, "datasetUUID"));
    if name.is_empty() && id.is_empty() {
        errors.required(field, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !id.is_empty() {
        errors.invalid(
            field,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        );
    }
    if name.contains('/') {
        errors.invalid(child(field, "datasetName"), name, "must not contain '/'");
    }
}

/// Returns whether a text is a host and a port as Go's `net.SplitHostPort` takes it apart.
fn is_host_port(pair: &str) -> bool {
    let Some(colon) = pair.rfind(':') else {
        return false;
    };
    match pair.strip_prefix('[') {
        Some(rest) => match rest.find(']') {
            Some(end) => {
                let after = end + 2;
                after == colon && !rest.contains('[') && !pair[after..].contains(']')
            }
            None => false,
        },
        None => !pair[..colon].contains(':') && !pair.contains(['[', ']']),
    }
}

fn quobyte(errors: &mut Errors, source: &Value, field: &str) {
    const REGISTRY: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.required(child(field, "registry"), REGISTRY);
    } else if text(source, "tenant").len() > 64 {
        errors.required(
            child(field, "tenant"),
            "must be a UUID and may not exceed a length of 64 characters",
        );
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_port(pair)) {
            errors.invalid(child(field, "registry"), registry, REGISTRY);
        }
    }
    required(errors, source, "volume", field);
}

fn fibre_channel(errors: &mut Errors, source: &Value, field: &str) {
    let ids = !list(source, "wwids").is_empty();
    let targets = !list(source, "targetWWNs").is_empty();
    if !ids && !targets {
        errors.required(
            child(field, "targetWWNs"),
            "must specify either targetWWNs or wwids, but not both",
        );
    }
    if ids && targets {
        errors.invalid(
            child(field, "targetWWNs"),
            at(source, "targetWWNs").clone(),
            "targetWWNs and wwids can not be specified simultaneously",
        );
    }
    match int(source, "lun") {
        _ if !targets => {}
        None => errors.required(
            child(field, "lun"),
            "lun is required if targetWWNs is specified",
        ),
        Some(lun) if !(0..=255).contains(&lun) => errors.invalid(
            child(field, "lun"),
            lun,
            "must be between 0 and 255, inclusive",
        ),
        Some(_) => {}
    }
}

/// Validates that the options of a driver have no names of Kubernetes' own.
fn flex_options(errors: &mut Errors, source: &Value, field: &str) {
    for (key, _) in entries(source, "options") {
        let namespace = key.split('/').next().unwrap_or_default();
        let dotted = format!(".{}", namespace.to_lowercase());
        if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
            errors.invalid(
                keyed(&child(field, "options"), key),
                key.as_str(),
                "kubernetes.io and k8s.io namespaces are reserved",
            );
        }
    }
}

fn azure_disk(errors: &mut Errors, source: &Value, field: &str) {
    required(errors, source, "diskName", field);
    required(errors, source, "diskURI", field);
    for (key, known) in [
        ("cachingMode", ["None", "ReadOnly", "ReadWrite"]),
        ("kind", ["Dedicated", "Managed", "Shared"]),
    ] {
        let value = text(source, key);
        if has(source, key) && !known.contains(&value) {
            errors.not_supported(child(field, key), value, &known);
        }
    }
    let uri = text(source, "diskURI");
    let (prefix, form) = match text(source, "kind") {
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        _ => (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        ),
    };
    if has(source, "kind") && !uri.starts_with(prefix) {
        errors.not_supported(child(field, "diskURI"), uri, &[form]);
    }
}

fn storage_os(errors: &mut Errors, source: &Value, owner: Owner, field: &str) {
    required(errors, source, "volumeName", field);
    for key in ["volumeName", "volumeNamespace"] {
        let name = text(source, key);
        if !name.is_empty() {
            errors.invalid_each(&child(field, key), name, names::dns1123_label(name));
        }
    }
    secret(errors, source, owner, field);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_iscsi() {
        for (name, valid) in [
            ("iqn.2001-04.com.example:storage.kube.sys1.xyz", true),
            ("iqn.2001-04.com.example:a:b", true),
            ("iqnx iqn.2001-04.c:a", true),
            ("iqn.2001-04.com.example", false),
            ("iqn.2001-04.:a", false),
            ("iqn.201-04.com:a", false),
            ("iqn.2001-04.c_m:a", false),
            ("iqn.2001-04.com:a;b", false),
            ("iqn.2001-04.com:", false),
            ("iqn.", false),
            ("iqn.2001-04:a", false),
            ("eui.0123456789ABCDEF", true),
            ("eui.0123456789ABCDE", false),
            ("naa.62004567BA64678D0123456789ABCDEF", true),
            ("naa.62004567BA64678D0123456789ABCDE_", false),
            ("eui", false),
        ] {
            assert_eq!(is_iscsi_name(name), valid, "{name}");
        }
    }

    #[test]
    fn hosts_with_ports() {
        for (pair, valid) in [
            ("host:80", true),
            (":", true),
            ("[::1]:80", true),
            ("host", false),
            ("::1", false),
            ("[::1]", false),
            ("[::1", false),
            ("[::1]x:80", false),
            ("ho[st:80", false),
            ("", false),
        ] {
            assert_eq!(is_host_port(pair), valid, "{pair}");
        }
    }
}
