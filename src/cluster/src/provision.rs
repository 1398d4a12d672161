//! The files that the nodes of a cluster boot from.

use std::net::IpAddr;
use std::path::Path;

use rkube_failure::{Failure, Kind, Source};

use crate::access;
use crate::files::{Home, io_failure, make_private_dir, write_private};
use crate::pki::{self, CertificateStatus, Pki};
use crate::profile::{Node, Profile};
use crate::sudo::act_for_owner_of;

/// Name of the audit policy in the profile's directory and in a node's `etc`.
pub(crate) const AUDIT_POLICY: &str = "audit-policy.yaml";

/// Installs `binary` for the nodes and writes their configuration. Keeps existing keys, and
/// certificates that are not due.
pub(crate) fn provision(home: &Home, profile: &Profile, binary: &Path) -> Result<(), Failure> {
    install_binary(binary, &profile.plan(home).binary)?;
    configure(home, profile)
}

/// Writes the configuration of the nodes. Keeps existing keys, and certificates that are not due.
pub(crate) fn configure(home: &Home, profile: &Profile) -> Result<(), Failure> {
    let dir = home.profile_dir(&profile.name);
    configure_with(home, profile, &Pki::open(&dir.join("pki"))?)
}

/// Renews all certificates of a profile but those of its authorities. Returns their names. Running
/// nodes use the new ones after a restart.
pub fn renew_certificates(home: &Home, name: &str) -> Result<Vec<String>, Failure> {
    let _lock = home.lock(name)?;
    let profile = Profile::load(home, name)?;
    let pki = Pki::open_renewing(&home.profile_dir(name).join("pki"))?;
    configure_with(home, &profile, &pki)?;
    Ok(pki.renewed())
}

/// Returns the certificates of a profile, sorted by name.
pub fn certificates(home: &Home, profile: &Profile) -> Result<Vec<CertificateStatus>, Failure> {
    pki::certificates(&home.profile_dir(&profile.name).join("pki"))
}

fn configure_with(home: &Home, profile: &Profile, pki: &Pki) -> Result<(), Failure> {
    let dir = home.profile_dir(&profile.name);
    make_private_dir(&dir.join("ssh"))?;
    let key = access::ssh_key(home, profile);
    if !key.exists() {
        let _owner = act_for_owner_of(&key);
        rkube_ssh::keys::generate_files(&key, &format!("rkube-{}", profile.name))
            .map_err(|e| ssh_failure(&e))?;
    }
    let mut public = key.into_os_string();
    public.push(".pub");
    let public =
        std::fs::read_to_string(&public).map_err(|e| io_failure("read", Path::new(&public), &e))?;
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let dns = driver.resolvers().unwrap_or_else(upstream_dns);
    for node in &profile.nodes {
        provision_node(home, profile, node, pki, &public, &dns)?;
    }
    Ok(())
}

fn provision_node(
    home: &Home,
    profile: &Profile,
    node: &Node,
    pki: &Pki,
    public_key: &str,
    dns: &[IpAddr],
) -> Result<(), Failure> {
    let etc = profile.plan(home).node_etc(&node.name);
    let ssh = etc.join("ssh");
    make_private_dir(&ssh)?;
    pki.provision(profile, node, &etc)?;
    let host_key = ssh.join("ssh_host_ed25519_key");
    if !host_key.exists() {
        let _owner = act_for_owner_of(&host_key);
        rkube_ssh::keys::generate_files(&host_key, &node.name).map_err(|e| ssh_failure(&e))?;
    }
    write_private(&ssh.join("authorized_keys"), public_key.as_bytes())?;
    let policy = home.profile_dir(&profile.name).join(AUDIT_POLICY);
    if node.control_plane && policy.exists() {
        let text = std::fs::read(&policy).map_err(|e| io_failure("read", &policy, &e))?;
        write_private(&etc.join(AUDIT_POLICY), &text)?;
    }
    write_private(
        &etc.join("node.yaml"),
        profile.node_config(node, dns).to_yaml().as_bytes(),
    )
}

fn ssh_failure(e: &rkube_ssh::SshError) -> Failure {
    Failure::new(
        Source::Program,
        Kind::Error,
        format!("cannot create an SSH key: {e}"),
    )
}

/// Copies the binary to the path from which nodes run it, unless the copy is up to date: equal in
/// size and not older.
fn install_binary(own: &Path, target: &Path) -> Result<(), Failure> {
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| {
        a.len() == b.len()
            && a.modified()
                .ok()
                .zip(b.modified().ok())
                .is_some_and(|(a, b)| a <= b)
    };
    if let (Ok(source), Ok(there)) = (own.metadata(), target.metadata())
        && same(&source, &there)
    {
        return Ok(());
    }
    if let Some(dir) = target.parent() {
        make_private_dir(dir)?;
    }
    let temporary = target.with_extension("new");
    let _owner = act_for_owner_of(target);
    let install = || {
        std::fs::copy(own, &temporary)?;
        crate::files::make_executable(&temporary)?;
        std::fs::rename(&temporary, target)
    };
    install().map_err(|e| io_failure("write", target, &e))
}

/// Returns the host's DNS resolvers that nodes can reach. If `/etc/resolv.conf` only names
/// one on the loopback, as with systemd-resolved, uses systemd's list of upstream servers.
fn upstream_dns() -> Vec<IpAddr> {
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let found = resolvers(&text);
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

fn resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|l| l.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .filter(|ip| !ip.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_on_loopback_are_left_out() {
        assert_eq!(
            resolvers("nameserver 127.0.0.53\nsearch x\nnameserver 9.9.9.9\n"),
            ["9.9.9.9".parse::<IpAddr>().unwrap()]
        );
    }
}
