use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory;

use super::catalogue::{Catalogue, entries};
use super::help::{ERRORS, WORDS};
use super::*;

const ZH: &str = include_str!("zh.po");

/// Files of the commands of every day: all that they say is translated.
const EVERY_DAY: &[&str] = &[
    "rkube/src/cli/delete.rs",
    "rkube/src/cli/node.rs",
    "rkube/src/cli/pause.rs",
    "rkube/src/cli/profile.rs",
    "rkube/src/cli/start.rs",
    "rkube/src/cli/status.rs",
    "rkube/src/cli/stop.rs",
    "cluster/src/lifecycle.rs",
    "cluster/src/nodes.rs",
    "cluster/src/pause.rs",
    "cluster/src/paused.rs",
    "cluster/src/plan.rs",
    "cluster/src/ready.rs",
];

fn helps(command: &clap::Command, found: &mut BTreeSet<String>) {
    let mut add = |help: Option<&clap::builder::StyledStr>| {
        found.extend(
            help.map(ToString::to_string)
                .filter(|text| !text.is_empty()),
        );
    };
    add(command.get_about());
    add(command.get_long_about());
    add(command.get_after_help());
    for arg in command.get_arguments() {
        add(arg.get_help());
        add(arg.get_long_help());
        for value in arg.get_possible_values() {
            add(value.get_help());
        }
    }
    command
        .get_subcommands()
        .for_each(|command| helps(command, found));
}

/// Returns the text literals of a source file outside its tests, as keys: with `{}` for each hole.
fn literals(source: &str) -> BTreeSet<String> {
    let source = source
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.map(|line| format!("{line}\n")).collect();
    let mut found = BTreeSet::new();
    let mut chars = code.chars();
    while let Some(c) = chars.next() {
        match c {
            // A character of its own, which may be a quotation mark.
            '\'' => {
                let ahead: String = chars.clone().take(3).collect();
                if ahead.starts_with("\\") && ahead.ends_with('\'') {
                    chars.nth(2);
                } else if ahead.chars().nth(1) == Some('\'') {
                    chars.nth(1);
                }
            }
            '"' => {
                found.insert(key(&literal(&mut chars)));
            }
            _ => {}
        }
    }
    found
}

fn literal(chars: &mut std::str::Chars<'_>) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                // The line goes on at the next word.
                Some('\n') => {
                    let rest = chars.as_str().trim_start();
                    *chars = rest.chars();
                }
                Some(other) => text.push(other),
                None => {}
            },
            c => text.push(c),
        }
    }
    text
}

/// Replaces every hole of a format by `{}`.
fn key(format: &str) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('{') {
        text += before;
        match after.split_once('}') {
            Some((_, after)) => {
                text += "{}";
                rest = after;
            }
            None => {
                text.push('{');
                rest = after;
            }
        }
    }
    text + rest
}

/// Whether a literal is a sentence or a part of one, and not a name, a format or a command.
fn is_prose(text: &str) -> bool {
    let words = text
        .split(' ')
        .filter(|word| word.len() > 1 && word.chars().all(|c| c.is_ascii_lowercase()));
    words.count() >= 2
        && !text.starts_with('-')
        && !text.starts_with("rkube ")
        && !text.starts_with("node ")
        && !text.starts_with("kubectl ")
}

fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

fn crates() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn all_help_is_translated() {
    let catalogue = Catalogue::parse(ZH);
    let mut all = BTreeSet::new();
    helps(&crate::cli::Cli::command(), &mut all);
    all.extend(WORDS.iter().map(ToString::to_string));
    let missing: Vec<_> = all
        .iter()
        .filter(|text| catalogue.find(text).is_none())
        .collect();
    assert!(missing.is_empty(), "add to zh.po: {missing:#?}");
    let exact: BTreeSet<String> = entries(ZH).into_iter().map(|(key, _)| key).collect();
    let missing: Vec<_> = ERRORS
        .iter()
        .filter(|text| !exact.contains(**text))
        .collect();
    assert!(missing.is_empty(), "add to zh.po: {missing:#?}");
}

#[test]
fn all_messages_of_every_day_are_translated() {
    let exact: BTreeSet<String> = entries(ZH).into_iter().map(|(key, _)| key).collect();
    let mut missing = Vec::new();
    for file in EVERY_DAY {
        let source = std::fs::read_to_string(crates().join(file)).unwrap();
        let said = literals(&source).into_iter().filter(|text| is_prose(text));
        missing.extend(
            said.filter(|text| !exact.contains(text))
                .map(|text| format!("{file}: {text}")),
        );
    }
    assert!(missing.is_empty(), "add to zh.po: {missing:#?}");
}

#[test]
fn all_keys_are_in_the_source() {
    let mut known = BTreeSet::new();
    helps(&crate::cli::Cli::command(), &mut known);
    known.extend(WORDS.iter().chain(ERRORS).map(ToString::to_string));
    let mut files = Vec::new();
    for name in ["rkube/src/cli", "cluster/src", "drivers/src", "failure/src"] {
        sources(&crates().join(name), &mut files);
    }
    for file in files {
        known.extend(literals(&std::fs::read_to_string(file).unwrap()));
    }
    let entries = entries(ZH);
    let stale: Vec<_> = entries
        .iter()
        .map(|(key, _)| key)
        .filter(|key| !key.is_empty() && !known.contains(*key))
        .collect();
    assert!(stale.is_empty(), "remove from zh.po: {stale:#?}");
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = entries
        .iter()
        .filter(|(key, _)| !seen.insert(key))
        .collect();
    assert!(twice.is_empty(), "twice in zh.po: {twice:#?}");
}

#[test]
fn translations_keep_what_is_inserted() {
    for (key, translation) in entries(ZH) {
        let holes = key.matches("{}").count();
        let by_order = translation.matches("{}").count();
        let by_place = (1..=9)
            .filter(|n| translation.contains(&format!("{{{n}}}")))
            .max();
        assert!(by_order.max(by_place.unwrap_or(0)) <= holes, "{key}");
        assert!(
            by_order == 0 || by_place.is_none(),
            "{key}: either all holes have places, or none"
        );
    }
}

#[test]
fn inserted_words_find_their_places() {
    let po = r#"
msgid "Starting {} {} node{}"
msgstr "启动 {1} 个节点（{2}）"

msgid "the cluster '{}' is paused"
msgstr "集群“{}”已暂停"

msgid "{}; deleting everything that can be found"
msgstr "{}；删除能找到的一切"
"#;
    let catalogue = Catalogue::parse(po);
    for (english, chinese) in [
        ("Starting 2 native nodes", Some("启动 2 个节点（native）")),
        ("Starting 1 docker node", Some("启动 1 个节点（docker）")),
        ("the cluster 'a' is paused", Some("集群“a”已暂停")),
        (
            "the cluster 'a' is paused; deleting everything that can be found",
            Some("集群“a”已暂停；删除能找到的一切"),
        ),
        ("something else", None),
    ] {
        assert_eq!(catalogue.find(english).as_deref(), chinese, "{english}");
    }
}

#[test]
fn the_locale_chooses_the_language() {
    for (all, messages, lang, language) in [
        ("", "", "", Language::En),
        ("", "", "zh_CN.UTF-8", Language::Zh),
        ("", "", "zh_CN", Language::Zh),
        ("", "", "zh_CN.GB18030", Language::En),
        ("", "", "zh_TW.UTF-8", Language::En),
        ("C.UTF-8", "", "zh_CN.UTF-8", Language::En),
        ("", "zh_CN.utf8", "de_DE.UTF-8", Language::Zh),
        ("", "C", "zh_CN.UTF-8", Language::En),
    ] {
        let variable = |name: &str| {
            let value = match name {
                "LC_ALL" => all,
                "LC_MESSAGES" => messages,
                _ => lang,
            };
            Some(value.to_owned())
        };
        assert_eq!(of_locale(variable), language, "{all} {messages} {lang}");
    }
}

#[test]
fn the_flag_is_read_before_the_others() {
    for (line, value) in [
        ("status", None),
        ("status --language zh", Some("zh")),
        ("--language=zh status", Some("zh")),
        ("ssh -- x --language zh", None),
        ("--language zh status --language=en", Some("en")),
    ] {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        assert_eq!(flag(&words).as_deref(), value, "{line}");
    }
}
