//! Command lines of minikube's users, read by the real parser.

use std::ffi::OsString;

use super::super::args;
use super::super::settings::Settings;
use super::*;

/// Splits a line as a shell does; without variables and escapes.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn parse(line: &str) -> Result<args::Parsed, clap::Error> {
    let words = split(line).into_iter().map(OsString::from);
    let words = std::iter::once("rkube".into()).chain(words).collect();
    args::parse(words, &Settings::default())
}

#[test]
fn no_command_line_of_minikubes_is_a_usage_error() {
    let lines = include_str!("corpus.txt").lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines {
        let (expected, line) = line.split_once(' ').unwrap();
        count += 1;
        let became = match parse(line) {
            Err(e) => format!("usage error: {e}"),
            Ok(parsed) if parsed.findings.refusal.is_some() => "refuse".to_owned(),
            Ok(parsed) if parsed.findings.done.is_some() => "done".to_owned(),
            Ok(parsed) if !parsed.findings.warnings.is_empty() => "warn".to_owned(),
            Ok(_) => "ok".to_owned(),
        };
        if became != expected {
            wrong.push(format!("{line}\n  is {became}, expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 480, "{count}");
}

#[test]
fn a_refusal_names_the_flag_and_the_way_out() {
    let found = parse("start --cni=calico").unwrap().findings;
    let refusal = found.refusal.unwrap();
    assert_eq!(refusal.exit_code(), 16);
    assert_eq!(refusal.message, "--cni=calico is not supported");
    assert!(refusal.advice.unwrap().contains("no plug-ins"));
    let found = parse("start -v 8 --cni=bridge").unwrap().findings;
    assert!(found.warnings[0].starts_with("--v has no effect: "));
    assert!(found.warnings[1].starts_with("--cni has no effect: "));
}

#[test]
fn words_unknown_to_minikube_are_errors() {
    for line in [
        "start --nonsense",
        "start --nodes",
        "start --keep-context=maybe",
        "stop --cni=calico",
        "nonsense",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn commands_of_other_tools_are_translated() {
    for (line, command) in [
        ("up", "rkube start"),
        ("create cluster --name x", "rkube start"),
        ("get clusters", "rkube profile list"),
        ("load docker-image app", "rkube image load"),
    ] {
        let error = parse(line).err().unwrap().to_string();
        assert!(error.contains(command), "{line}: {error}");
    }
}

#[test]
fn commands_without_a_counterpart_have_advice() {
    for failure in [
        super::super::docker::podman("demo"),
        instead_of("cache", "demo"),
    ] {
        assert_eq!(failure.exit_code(), 16, "{failure}");
        assert!(failure.advice.unwrap().contains("-p demo"));
    }
}

#[test]
fn every_flag_is_listed_once() {
    let mut seen = std::collections::BTreeSet::new();
    for flag in FLAGS {
        assert!(seen.insert((flag.path, flag.name)), "{}", flag.name);
    }
}

#[test]
fn settings_of_minikube_are_reported() {
    let harmless = check_setting("WantUpdateNotification", "false").unwrap();
    assert_eq!(harmless.warnings.len(), 1);
    let refused = check_setting("cni", "calico").unwrap();
    assert!(refused.refusal.is_some());
    assert!(check_setting("nonsense", "1").is_none());
}
