//! Accept rules for hosts whose packet filter drops forwarded packets by policy.
//!
//! Docker (when it enables forwarding), ufw and others set the policy of the `FORWARD` chain of
//! iptables to `DROP`. An accept verdict in another table does not override it, so the cluster's
//! interface needs two rules in that chain. They are set with the `iptables` program, which is
//! installed wherever a program has set such a policy. It also detects whether the legacy or the
//! nft backend is in use.

use std::process::{Command, Stdio};

use crate::error::{NetworkError, Result};
use crate::nft::{Family, Nftables};

/// Timeout for the lock of the iptables tables (`-w`), in seconds.
const WAIT: &str = "5";

/// Accepts the packets that the cluster behind `link` sends through this host, and the responses,
/// if the policy of `FORWARD` is to drop. `owner` identifies the rules in their comment. Can be
/// repeated.
pub fn open(family: Family, link: &str, owner: &str) -> Result<()> {
    let Some(rules) = forward_chain(family)? else {
        return Ok(());
    };
    if !drops(&rules) {
        return Ok(());
    }
    for rule in accept_rules(link, owner) {
        if !rules.lines().any(|there| equals_rule(there, &rule)) {
            let mut arguments = vec!["-I", "FORWARD"];
            arguments.extend(rule.iter().map(String::as_str));
            iptables(family, &arguments)?;
        }
    }
    Ok(())
}

/// Removes the rules of `owner`. Succeeds if there are none.
pub fn close(family: Family, owner: &str) -> Result<()> {
    let Some(rules) = forward_chain(family)? else {
        return Ok(());
    };
    for rule in rules.lines().filter(|rule| belongs(rule, owner)) {
        let mut arguments: Vec<&str> = rule.split_whitespace().collect();
        if let Some(first) = arguments.first_mut() {
            *first = "-D";
        }
        iptables(family, &arguments)?;
    }
    Ok(())
}

/// Returns the rules in the order of their insertion at the top of the chain.
fn accept_rules(link: &str, owner: &str) -> [Vec<String>; 2] {
    let rule = |text: &str| {
        format!("{text} -m comment --comment {owner} -j ACCEPT")
            .split(' ')
            .map(str::to_owned)
            .collect()
    };
    [
        rule(&format!(
            "-o {link} -m conntrack --ctstate RELATED,ESTABLISHED"
        )),
        rule(&format!("-i {link}")),
    ]
}

/// Returns whether a line of `iptables -S` equals the rule.
fn equals_rule(line: &str, rule: &[String]) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("-A")
        && words.next() == Some("FORWARD")
        && words.eq(rule.iter().map(String::as_str))
}

/// Returns whether a line of `iptables -S` is a rule of `owner`.
fn belongs(line: &str, owner: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.first() == Some(&"-A") && words.windows(2).any(|pair| pair == ["--comment", owner])
}

/// Returns whether the policy of the chain is to drop.
fn drops(rules: &str) -> bool {
    rules.lines().any(|line| line == "-P FORWARD DROP")
}

/// Returns the program of a family, and the file in which the kernel lists its old tables.
fn program(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::Ip6 => ("ip6tables", "/proc/net/ip6_tables_names"),
        Family::Ip | Family::Inet | Family::Bridge => ("iptables", "/proc/net/ip_tables_names"),
    }
}

/// Returns the output of `iptables -S FORWARD`; `None` if iptables is not in use.
fn forward_chain(family: Family) -> Result<Option<String>> {
    // Check with the kernel first, because running iptables would create its tables.
    let (program, old) = program(family);
    let old = std::fs::read_to_string(old).unwrap_or_default();
    let used = old.lines().any(|table| table == "filter")
        || Nftables::open()?
            .tables(family)?
            .iter()
            .any(|table| table == "filter");
    if !used {
        return Ok(None);
    }
    let output = Command::new(program)
        .args(["-w", WAIT, "-S", "FORWARD"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
        }
        // The table is not one of iptables, or the program is not installed.
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Runs `iptables`. Fails with its error output.
fn iptables(family: Family, arguments: &[&str]) -> Result<()> {
    let (program, _) = program(family);
    let failed = |why: String| {
        NetworkError::Invalid(format!("{program} {} failed: {why}", arguments.join(" ")))
    };
    let output = Command::new(program)
        .args(["-w", WAIT])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_again_and_others_left() {
        let [back, out] = accept_rules("rk-0a", "rkube-p");
        let listed = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n\
             -A FORWARD -i rk-0a -m comment --comment rkube-p -j ACCEPT\n\
             -A FORWARD -i rk-0b -m comment --comment rkube-p2 -j ACCEPT\n";
        assert!(drops(listed) && !drops("-P FORWARD ACCEPT\n"));
        assert!(listed.lines().any(|l| equals_rule(l, &out)));
        assert!(!listed.lines().any(|l| equals_rule(l, &back)));
        assert_eq!(listed.lines().filter(|l| belongs(l, "rkube-p")).count(), 1);
    }

    #[test]
    fn a_dropping_policy_is_got_past_and_left_as_it_was() {
        let there = Command::new("iptables").arg("--version").output().is_ok();
        if !crate::testing::root() || !there {
            rkube_testing::skip!("needs root and iptables");
        }
        let netns = crate::netlink::new_netns().unwrap();
        crate::netlink::in_netns(std::os::fd::AsFd::as_fd(&netns), || {
            open(Family::Ip, "rk-0a", "rkube-p").unwrap();
            close(Family::Ip, "rkube-p").unwrap();
            iptables(Family::Ip, &["-P", "FORWARD", "DROP"]).unwrap();
            let before = forward_chain(Family::Ip).unwrap();
            open(Family::Ip, "rk-0a", "rkube-p").unwrap();
            open(Family::Ip, "rk-0a", "rkube-p").unwrap();
            let during = forward_chain(Family::Ip).unwrap().unwrap();
            assert_eq!(during.matches("rk-0a").count(), 2, "{during}");
            close(Family::Ip, "rkube-p").unwrap();
            assert_eq!(forward_chain(Family::Ip).unwrap(), before);
        })
        .unwrap();
    }
}
