//! The checks of the levels baseline and restricted, each with the version since which the
//! Pod Security Standards include it (upstream: `k8s.io/pod-security-admission/policy`).

use std::collections::BTreeSet;
use std::fmt;

use rkube_api::Object;

use super::policy::{Level, LevelVersion};
use rkube_auth::{references, tree};

/// A field of a pod that its level forbids. `Display` prints `reason (detail)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: String,
    pub(super) detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

type Check = fn(&Pod<'_>) -> Option<Violation>;

/// A check of a level. It applies since the minor version `since`, and replaces the baseline
/// check `instead_of` on the level restricted.
struct Rule {
    since: u32,
    check: Check,
    instead_of: Option<Check>,
}

const fn rule(since: u32, check: Check) -> Rule {
    Rule {
        since,
        check,
        instead_of: None,
    }
}

/// The checks of baseline, sorted by check ID.
const BASELINE: [Rule; 12] = [
    rule(0, app_armor),
    rule(0, capabilities_baseline),
    rule(0, host_namespaces),
    rule(0, host_path_volumes),
    rule(0, host_ports),
    rule(34, host_probes),
    rule(0, privileged),
    rule(0, proc_mount_baseline),
    rule(0, se_linux),
    rule(0, seccomp_baseline),
    rule(0, sysctls),
    rule(0, windows_host_process),
];

/// The checks that restricted adds, sorted by check ID.
const RESTRICTED: [Rule; 7] = [
    rule(8, privilege_escalation),
    Rule {
        since: 22,
        check: capabilities_restricted,
        instead_of: Some(capabilities_baseline),
    },
    Rule {
        since: 35,
        check: proc_mount,
        instead_of: Some(proc_mount_baseline),
    },
    Rule {
        since: 0,
        check: restricted_volumes,
        instead_of: Some(host_path_volumes),
    },
    rule(0, run_as_non_root),
    rule(23, run_as_user),
    Rule {
        since: 19,
        check: seccomp_restricted,
        instead_of: Some(seccomp_baseline),
    },
];

/// The newest minor version in which a rule changed.
const NEWEST_MINOR: u32 = 35;

/// Returns the violations of a level by a pod or pod template, those of baseline first.
pub(super) fn evaluate(level: &LevelVersion, pod: &Object) -> Vec<Violation> {
    let version = level.version.unwrap_or(NEWEST_MINOR).min(NEWEST_MINOR);
    let pod = Pod { pod, version };
    let counts = |rule: &&Rule| rule.since <= version;
    let restricted: Vec<&Rule> = match level.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => Vec::new(),
        Level::Restricted => RESTRICTED.iter().filter(counts).collect(),
    };
    let replaced = |rule: &&Rule| {
        restricted.iter().any(|r| {
            r.instead_of
                .is_some_and(|check| std::ptr::fn_addr_eq(check, rule.check))
        })
    };
    let baseline: Vec<&Rule> = BASELINE
        .iter()
        .filter(counts)
        .filter(|rule| !replaced(rule))
        .collect();
    baseline
        .into_iter()
        .chain(restricted)
        .filter_map(|rule| (rule.check)(&pod))
        .collect()
}

/// The checked pod or pod template, and the minor version of the rules.
struct Pod<'a> {
    pod: &'a Object,
    version: u32,
}

impl<'a> Pod<'a> {
    fn spec(&self, field: &str) -> Option<&'a Object> {
        tree::at(self.pod, &["spec", field]).filter(|v| !v.is_null())
    }

    fn containers(&self) -> impl Iterator<Item = &'a Object> {
        references::containers(self.pod)
    }

    /// Returns a field of the pod's security context, unless it is null.
    fn context(&self, path: &[&str]) -> Option<&'a Object> {
        let context = tree::at(self.pod, &["spec", "securityContext"])?;
        tree::at(context, path).filter(|v| !v.is_null())
    }

    /// Returns the names of the containers for which `bad` is true.
    fn names(&self, bad: impl FnMut(&'a Object) -> bool) -> Vec<&'a str> {
        let mut bad = bad;
        self.containers()
            .filter(|c| bad(c))
            .map(tree::name_field)
            .collect()
    }

    fn is_windows(&self) -> bool {
        self.version >= 25 && tree::text(self.pod, &["spec", "os", "name"]) == "windows"
    }

    /// Returns whether the pod has a user namespace, where root is unprivileged on the node. The
    /// standards relax some checks for such pods since 1.35.
    fn has_own_users(&self) -> bool {
        self.version >= 35 && tree::flag(self.pod, &["spec", "hostUsers"]) == Some(false)
    }
}

/// Returns a field of a container's security context, unless it is null.
fn context<'a>(container: &'a Object, path: &[&str]) -> Option<&'a Object> {
    tree::at(container.get("securityContext")?, path).filter(|v| !v.is_null())
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation {
        reason: reason.into(),
        detail: detail.into(),
    })
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// Formats names as `"a", "b"`.
fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() {
        String::new()
    } else {
        format!("\"{}\"", names.join("\", \""))
    }
}

/// Formats names as `containers "a", "b"`.
fn of_containers(names: &[&str]) -> String {
    format!(
        "{} {}",
        plural("container", "containers", names.len()),
        quoted(names.iter().copied())
    )
}

/// Formats the parts of a pod that set a field, as in `pod and container "a"`.
fn setters(pod: bool, containers: &[&str]) -> String {
    let mut who = Vec::new();
    if pod {
        who.push("pod".to_owned());
    }
    if !containers.is_empty() {
        who.push(of_containers(containers));
    }
    who.join(" and ")
}

fn text(value: Option<&Object>) -> &str {
    value.and_then(Object::as_str).unwrap_or("")
}

fn is_true(value: Option<&Object>) -> bool {
    value.and_then(Object::as_bool) == Some(true)
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    const PATH: [&str; 2] = ["appArmorProfile", "type"];
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut bad = |profile: Option<&Object>, kind: &str| {
        let bad = profile.is_some() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = bad(pod.context(&PATH[..1]), text(pod.context(&PATH)));
    let containers = pod.names(|c| bad(context(c, &PATH[..1]), text(context(c, &PATH))));
    let mut who = setters(by_pod, &containers);
    let mut annotations: Vec<String> = tree::entries(pod.pod, &["metadata", "annotations"])
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| {
            let allowed =
                value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(ANNOTATION) && !allowed
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    annotations.sort();
    if !annotations.is_empty() {
        if !who.is_empty() {
            who.push_str(" and ");
        }
        who.push_str(plural("annotation", "annotations", annotations.len()));
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<&str> = values
        .iter()
        .map(String::as_str)
        .chain(annotations.iter().map(String::as_str))
        .collect();
    violation(
        plural(
            "forbidden AppArmor profile",
            "forbidden AppArmor profiles",
            values.len(),
        ),
        format!(
            "{who} must not set AppArmor profile type to {}",
            quoted(values)
        ),
    )
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut added = BTreeSet::new();
    let names = pod.names(|c| {
        let others: Vec<&str> = capabilities(c, "add")
            .into_iter()
            .filter(|c| !ALLOWED.contains(c))
            .collect();
        added.extend(others.iter().copied());
        !others.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        of_containers(&names),
        quoted(added)
    );
    violation("non-default capabilities", detail)
}

fn capabilities<'a>(container: &'a Object, list: &str) -> Vec<&'a str> {
    tree::strings(container, &["securityContext", "capabilities", list])
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let keeping = pod.names(|c| !capabilities(c, "drop").contains(&"ALL"));
    let mut added = BTreeSet::new();
    let adding = pod.names(|c| {
        let others: Vec<&str> = capabilities(c, "add")
            .into_iter()
            .filter(|c| *c != "NET_BIND_SERVICE")
            .collect();
        added.extend(others.iter().copied());
        !others.is_empty()
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            r#"{} must set securityContext.capabilities.drop=["ALL"]"#,
            of_containers(&keeping)
        ));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            of_containers(&adding),
            quoted(added)
        ));
    }
    if details.is_empty() {
        None
    } else {
        violation("unrestricted capabilities", details.join("; "))
    }
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let used = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| is_true(pod.spec(field)));
    let used: Vec<String> = used.map(|field| format!("{field}=true")).collect();
    if used.is_empty() {
        None
    } else {
        violation("host namespaces", used.join(", "))
    }
}

fn volumes<'a>(pod: &Pod<'a>) -> &'a [Object] {
    tree::items(pod.pod, &["spec", "volumes"])
}

fn has_field(part: &Object, field: &str) -> bool {
    part.get(field).is_some_and(Object::is_object)
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let names: Vec<&str> = volumes(pod)
        .iter()
        .filter(|v| has_field(v, "hostPath"))
        .map(tree::name_field)
        .collect();
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {}",
        plural("volume", "volumes", names.len()),
        quoted(names.iter().copied())
    );
    violation("hostPath volumes", detail)
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let names = pod.names(|c| {
        let used = tree::items(c, &["ports"])
            .iter()
            .filter_map(|port| tree::int(port, &["hostPort"]));
        let used: Vec<String> = used
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect();
        let any = !used.is_empty();
        ports.extend(used);
        any
    });
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        of_containers(&names),
        plural("uses", "use", names.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let mut hosts = BTreeSet::new();
    let mut names: Vec<&str> = pod.names(|c| {
        let handlers = HANDLERS.iter().filter_map(|path| tree::at(c, path));
        let used = handlers
            .flat_map(|h| ["httpGet", "tcpSocket"].map(|action| tree::text(h, &[action, "host"])));
        let used: Vec<&str> = used.filter(|host| !host.is_empty()).collect();
        hosts.extend(used.iter().copied());
        !used.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    names.sort_unstable();
    let detail = format!(
        "{} {} {} {}",
        of_containers(&names),
        plural("uses", "use", names.len()),
        plural(
            "probe or lifecycle host",
            "probe or lifecycle hosts",
            hosts.len()
        ),
        quoted(hosts)
    );
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.names(|c| is_true(context(c, &["privileged"])));
    if names.is_empty() {
        return None;
    }
    violation(
        "privileged",
        format!(
            "{} must not set securityContext.privileged=true",
            of_containers(&names)
        ),
    )
}

fn proc_mount_baseline(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        None
    } else {
        proc_mount(pod)
    }
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let names = pod.names(|c| {
        let kind = context(c, &["procMount"])
            .and_then(Object::as_str)
            .filter(|kind| *kind != "Default");
        kinds.extend(kind);
        kind.is_some()
    });
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        of_containers(&names),
        quoted(kinds)
    );
    violation("procMount", detail)
}

fn se_linux(pod: &Pod<'_>) -> Option<Violation> {
    let version = pod.version;
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |options: Option<&Object>| {
        let Some(options) = options else { return false };
        let field = |field| tree::text(options, &[field]).to_owned();
        let kind = field("type");
        let allowed = matches!(
            kind.as_str(),
            "" | "container_t" | "container_init_t" | "container_kvm_t"
        ) || version >= 31 && kind == "container_engine_t";
        let (sets_user, sets_role) = (!field("user").is_empty(), !field("role").is_empty());
        if !allowed {
            types.insert(kind);
        }
        user |= sets_user;
        role |= sets_role;
        !allowed || sets_user || sets_role
    };
    let by_pod = bad(pod.context(&["seLinuxOptions"]));
    let containers = pod.names(|c| bad(context(c, &["seLinuxOptions"])));
    let who = setters(by_pod, &containers);
    if who.is_empty() {
        return None;
    }
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!(
            "{} {}",
            plural("type", "types", types.len()),
            quoted(types.iter().map(String::as_str))
        ));
    }
    if user {
        what.push("user may not be set".into());
    }
    if role {
        what.push("role may not be set".into());
    }
    let detail = format!(
        "{who} set forbidden securityContext.seLinuxOptions: {}",
        what.join("; ")
    );
    violation("seLinuxOptions", detail)
}

fn seccomp_baseline(pod: &Pod<'_>) -> Option<Violation> {
    if pod.version < 19 {
        seccomp_annotations(pod)
    } else {
        explicit_seccomp(pod)
    }
}

/// Checks the annotations that set the profile before v1.19 introduced the field.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    const OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let keys = pod
        .containers()
        .map(|c| format!("{OF_CONTAINER}{}", tree::name_field(c)));
    let mut forbidden = BTreeSet::new();
    for key in keys.chain([OF_POD.to_owned()]) {
        let value = tree::map_text(pod.pod, &["metadata", "annotations"], &key);
        let allowed = |v: &str| {
            matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/")
        };
        if let Some(value) = value.filter(|v| !allowed(v)) {
            forbidden.insert(format!("{key}={value:?}"));
        }
    }
    if forbidden.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", forbidden.len());
    let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
    violation("seccompProfile", format!("forbidden {what} {list}"))
}

const SECCOMP: [&str; 2] = ["seccompProfile", "type"];

fn is_seccomp(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

fn explicit_seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let mut bad = |profile: Option<&Object>, kind: &str| {
        let bad = profile.is_some() && !is_seccomp(kind);
        if bad {
            kinds.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = bad(pod.context(&SECCOMP[..1]), text(pod.context(&SECCOMP)));
    let containers = pod.names(|c| bad(context(c, &SECCOMP[..1]), text(context(c, &SECCOMP))));
    let who = setters(by_pod, &containers);
    if who.is_empty() {
        return None;
    }
    let kinds = quoted(kinds.iter().map(String::as_str));
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {kinds}"),
    )
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    if let Some(explicit) = explicit_seccomp(pod) {
        return Some(explicit);
    }
    if is_seccomp(text(pod.context(&SECCOMP))) {
        return None;
    }
    let names = pod.names(|c| context(c, &SECCOMP[..1]).is_none());
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        r#"pod or {} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost""#,
        of_containers(&names)
    );
    violation("seccompProfile", detail)
}

fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    const SAFE: [(u32, &[&str]); 4] = [
        (
            0,
            &[
                "kernel.shm_rmid_forced",
                "net.ipv4.ip_local_port_range",
                "net.ipv4.tcp_syncookies",
                "net.ipv4.ping_group_range",
                "net.ipv4.ip_unprivileged_port_start",
            ],
        ),
        (27, &["net.ipv4.ip_local_reserved_ports"]),
        (
            29,
            &[
                "net.ipv4.tcp_keepalive_time",
                "net.ipv4.tcp_fin_timeout",
                "net.ipv4.tcp_keepalive_intvl",
                "net.ipv4.tcp_keepalive_probes",
            ],
        ),
        (32, &["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"]),
    ];
    let is_safe = |name: &str| {
        SAFE.iter()
            .any(|(since, names)| *since <= pod.version && names.contains(&name))
    };
    let set = tree::items(pod.pod, &["spec", "securityContext", "sysctls"])
        .iter()
        .map(tree::name_field);
    let unsafe_ones: Vec<&str> = set.filter(|name| !is_safe(name)).collect();
    if unsafe_ones.is_empty() {
        None
    } else {
        violation("forbidden sysctls", unsafe_ones.join(", "))
    }
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    const PATH: [&str; 2] = ["windowsOptions", "hostProcess"];
    let who = setters(
        is_true(pod.context(&PATH)),
        &pod.names(|c| is_true(context(c, &PATH))),
    );
    if who.is_empty() {
        return None;
    }
    violation(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let forbids =
        |c| context(c, &["allowPrivilegeEscalation"]).and_then(Object::as_bool) == Some(false);
    let names = pod.names(|c| !forbids(c));
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must set securityContext.allowPrivilegeEscalation=false",
        of_containers(&names)
    );
    violation("allowPrivilegeEscalation != false", detail)
}

fn restricted_volumes(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    const OTHERS: [&str; 21] = [
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "gitRepo",
        "nfs",
        "iscsi",
        "glusterfs",
        "rbd",
        "flexVolume",
        "cinder",
        "cephfs",
        "flocker",
        "fc",
        "azureFile",
        "vsphereVolume",
        "quobyte",
        "azureDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "scaleIO",
        "storageos",
    ];
    let bad = volumes(pod)
        .iter()
        .filter(|v| !ALLOWED.iter().any(|kind| has_field(v, kind)));
    let mut kinds = BTreeSet::new();
    let names: Vec<&str> = bad
        .map(|volume| {
            kinds.insert(
                OTHERS
                    .into_iter()
                    .find(|kind| has_field(volume, kind))
                    .unwrap_or("unknown"),
            );
            tree::name_field(volume)
        })
        .collect();
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", names.len()),
        quoted(names.iter().copied()),
        plural("uses", "use", names.len()),
        plural(
            "restricted volume type",
            "restricted volume types",
            kinds.len()
        ),
        quoted(kinds)
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    const PATH: [&str; 1] = ["runAsNonRoot"];
    if pod.has_own_users() {
        return None;
    }
    let of_pod = pod.context(&PATH).and_then(Object::as_bool);
    let of = |c| context(c, &PATH).and_then(Object::as_bool);
    let who = setters(of_pod == Some(false), &pod.names(|c| of(c) == Some(false)));
    if !who.is_empty() {
        return violation(
            REASON,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    if of_pod == Some(true) {
        return None;
    }
    let names = pod.names(|c| of(c).is_none());
    if names.is_empty() {
        return None;
    }
    violation(
        REASON,
        format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            of_containers(&names)
        ),
    )
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    let is_root = |user: Option<&Object>| user.and_then(Object::as_i64) == Some(0);
    let containers = pod.names(|c| is_root(context(c, &["runAsUser"])));
    let who = setters(is_root(pod.context(&["runAsUser"])), &containers);
    if who.is_empty() {
        None
    } else {
        violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(level: Level, version: Option<u32>, pod: Object) -> String {
        let violations = evaluate(&LevelVersion { level, version }, &pod);
        violations
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn compliant() -> Object {
        json!({"spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "a",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
            "volumes": [{"name": "t", "projected": {}}],
        }})
    }

    #[test]
    fn a_plain_pod_is_baseline_and_not_restricted() {
        let plain = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(check(Level::Baseline, None, plain.clone()), "");
        assert_eq!(
            check(Level::Restricted, None, plain),
            r#"allowPrivilegeEscalation != false (containers "a", "b" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true), seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
        );
        assert_eq!(check(Level::Restricted, None, compliant()), "");
    }

    #[test]
    fn baseline_violations_are_worded_as_upstreams() {
        let container = |field: Object| json!({"spec": {"containers": [{"name": "a", "securityContext": field}]}});
        let cases = [
            (
                container(json!({"privileged": true})),
                r#"privileged (container "a" must not set securityContext.privileged=true)"#,
            ),
            (
                container(json!({"capabilities": {"add": ["NET_RAW", "CHOWN"]}})),
                r#"non-default capabilities (container "a" must not include "NET_RAW" in securityContext.capabilities.add)"#,
            ),
            (
                container(json!({"procMount": "Unmasked"})),
                r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
            ),
            (
                container(json!({"seccompProfile": {"type": "Unconfined"}})),
                r#"seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
            ),
            (
                container(json!({"appArmorProfile": {"type": "Unconfined"}})),
                r#"forbidden AppArmor profile (container "a" must not set AppArmor profile type to "Unconfined")"#,
            ),
            (
                json!({"spec": {"hostNetwork": true, "hostPID": true, "containers": []}}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}),
                r#"hostPath volumes (volume "v")"#,
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 8080}]}]}}),
                r#"hostPort (container "a" uses hostPorts 80, 8080)"#,
            ),
            (
                json!({"spec": {"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                json!({"spec": {
                    "securityContext": {"seLinuxOptions": {"user": "u"}},
                    "containers": [{"name": "a", "securityContext": {"seLinuxOptions": {"type": "x"}}}],
                }}),
                r#"seLinuxOptions (pod and container "a" set forbidden securityContext.seLinuxOptions: type "x"; user may not be set)"#,
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}}),
                r#"probe or lifecycle host (container "a" uses probe or lifecycle host "10.0.0.1")"#,
            ),
            (
                json!({"spec": {"securityContext": {"windowsOptions": {"hostProcess": true}}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
        ];
        for (pod, expected) in cases {
            assert_eq!(check(Level::Baseline, None, pod.clone()), expected);
            assert_eq!(check(Level::Privileged, None, pod), "");
        }
    }

    #[test]
    fn older_versions_check_what_they_did() {
        let probe = json!({"spec": {"containers": [{"name": "a", "startupProbe": {"tcpSocket": {"host": "x"}}}]}});
        assert_eq!(check(Level::Baseline, Some(33), probe), "");
        let mut root = compliant();
        root["spec"]["hostUsers"] = json!(false);
        root["spec"]["securityContext"]["runAsUser"] = json!(0);
        root["spec"]["securityContext"]["runAsNonRoot"] = json!(false);
        let denied = "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod must not set runAsUser=0)";
        for (version, expected) in [(None, ""), (Some(36), ""), (Some(34), denied)] {
            assert_eq!(
                check(Level::Restricted, version, root.clone()),
                expected,
                "{version:?}"
            );
        }
        root["spec"]["hostUsers"] = json!(true);
        assert_eq!(check(Level::Restricted, None, root), denied);
        let unmasked = json!({"spec": {"hostUsers": false, "containers": [
            {"name": "a", "securityContext": {"procMount": "Unmasked"}}]}});
        assert_eq!(check(Level::Baseline, None, unmasked.clone()), "");
        assert_ne!(check(Level::Baseline, Some(34), unmasked.clone()), "");
        assert_ne!(check(Level::Restricted, None, unmasked), "");
        let mut volumes = compliant();
        volumes["spec"]["volumes"] =
            json!([{"name": "v", "hostPath": {}}, {"name": "n", "nfs": {}}]);
        assert_eq!(
            check(Level::Restricted, None, volumes),
            r#"restricted volume types (volumes "v", "n" use restricted volume types "hostPath", "nfs")"#,
            "the stricter check takes the laxer one's place"
        );
        let annotated = json!({
            "metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}},
            "spec": {"containers": []},
        });
        assert_eq!(
            check(Level::Baseline, Some(18), annotated.clone()),
            r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#
        );
        assert_eq!(check(Level::Baseline, None, annotated), "");
    }
}
