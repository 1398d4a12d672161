//! Validation of the options of Windows' containers, in pods and in containers.

use serde_json::Value;

use super::container_types::visit;
use crate::errors::{Errors, child};
use crate::names;
use crate::tree::{at, flag, has, text};

/// Most bytes of the contents of a credential spec.
const MAX_SPEC: usize = 64 * 1024;
/// Least length of a user's domain that is too long.
const MAX_DOMAIN: usize = 256;
/// Most bytes of the name of a user.
const MAX_USER: usize = 104;

/// Validates `windowsOptions` of a security context.
pub(super) fn options(errors: &mut Errors, options: &Value, path: &str) {
    if has(options, "gmsaCredentialSpecName") {
        let name = text(options, "gmsaCredentialSpecName");
        let field = child(path, "gmsaCredentialSpecName");
        errors.invalid_each(&field, name, names::dns1123_subdomain(name));
    }
    if has(options, "gmsaCredentialSpec") {
        let spec = text(options, "gmsaCredentialSpec");
        let field = child(path, "gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(field, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > MAX_SPEC {
            errors.invalid(field, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if has(options, "runAsUserName") {
        let name = text(options, "runAsUserName");
        for problem in user_name(name) {
            errors.invalid(child(path, "runAsUserName"), name, problem);
        }
    }
}

/// Returns what is wrong with the name of a user, which may begin with a domain and a backslash.
fn user_name(name: &str) -> Vec<String> {
    let only = |problem: &str| vec![format!("runAsUserName {problem}")];
    if name.is_empty() {
        return only("cannot be an empty string");
    }
    if name.bytes().any(|byte| byte.is_ascii_control()) {
        return only("cannot contain control characters");
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return only("cannot contain more than one backslash");
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut problems = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= MAX_DOMAIN) {
        problems.push(format!(
            "runAsUserName's Domain length must be under {MAX_DOMAIN} characters"
        ));
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)) {
        problems
            .push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        problems.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > MAX_USER {
        problems.push(format!(
            "runAsUserName's User length must not be longer than {MAX_USER} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        problems.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        problems.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"
                .to_owned(),
        );
    }
    problems
}

fn is_net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        bytes.len() <= 63
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    })
}

/// Validates that all containers of a pod are processes of its node, or none is.
pub(super) fn host_processes(errors: &mut Errors, spec: &Value, path: &str) {
    const KEY: &str = "securityContext.windowsOptions.hostProcess";
    let of_pod = at(spec, KEY).as_bool();
    let (mut all, mut on_host) = (0, 0);
    visit(spec, path, |container, field| {
        all += 1;
        let own = at(container, KEY).as_bool();
        if let (Some(of_pod), Some(own)) = (of_pod, own)
            && of_pod != own
        {
            errors.invalid(
                child(&field, KEY),
                own,
                format!(
                    "pod hostProcess value must be identical if both are specified, was {of_pod}"
                ),
            );
        }
        on_host += usize::from(own.or(of_pod).unwrap_or(false));
    });
    if on_host == 0 {
        return;
    }
    if on_host != all {
        errors.invalid(
            path,
            "",
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        );
    }
    if !flag(spec, "hostNetwork") {
        errors.invalid(
            child(path, "hostNetwork"),
            false,
            "hostNetwork must be true if pod contains any hostProcess containers",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users() {
        for (name, want) in [
            ("Administrator", ""),
            (r"a.example\user", ""),
            (r"NT AUTHORITY\SYSTEM", ""),
            ("", "runAsUserName cannot be an empty string"),
            ("a\tb", "runAsUserName cannot contain control characters"),
            (
                r"a\b\c",
                "runAsUserName cannot contain more than one backslash",
            ),
            (
                r".a\b",
                "runAsUserName's Domain doesn't match the NetBios nor the DNS format",
            ),
            (r"a\", "runAsUserName's User cannot be empty"),
            (
                ". .",
                "runAsUserName's User cannot contain only periods or spaces",
            ),
            (
                "a@b",
                "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
            ),
        ] {
            assert_eq!(user_name(name).join("; "), want, "{name:?}");
        }
    }
}
