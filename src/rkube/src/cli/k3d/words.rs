//! Translates k3d's commands into rkube's.

use std::ffi::OsString;

use rkube_failure::Failure;

use crate::cli::line::place_of_command;
use crate::cli::unsupported::unsupported;

/// Flags of a command of k3d's that take a value, and what they are here.
type Values = &'static [(&'static str, &'static str)];

/// Flags of `cluster create`.
const CREATE: Values = &[
    ("-a", "--agents"),
    ("--agents", "--agents"),
    ("--agents-memory", "--agents-memory"),
    ("--api-port", "--api-port"),
    ("-c", "--config"),
    ("--config", "--config"),
    ("-e", "--env"),
    ("--env", "--env"),
    ("--gpus", "--gpus"),
    ("--host-alias", "--host-alias"),
    ("-i", "--image"),
    ("--image", "--image"),
    ("--k3s-arg", "--k3s-arg"),
    ("--k3s-server-arg", "--k3s-arg"),
    ("--k3s-agent-arg", "--k3s-arg"),
    ("--k3s-node-label", "--k3s-node-label"),
    ("--lb-config-override", "--lb-config-override"),
    ("--network", "--network"),
    ("-p", "--port"),
    ("--port", "--port"),
    ("--registry-config", "--registry-config"),
    ("--registry-create", "--registry-create"),
    ("--registry-use", "--registry-use"),
    ("--runtime-label", "--runtime-label"),
    ("--runtime-ulimit", "--runtime-ulimit"),
    ("-s", "--servers"),
    ("--servers", "--servers"),
    ("--servers-memory", "--servers-memory"),
    ("--subnet", "--subnet"),
    ("--timeout", "--wait-timeout"),
    ("--token", "--token"),
    ("-v", "--volume"),
    ("--volume", "--volume"),
];

/// Flags of the other verbs of `cluster`, and of `kubeconfig`.
const OTHERS: Values = &[
    ("-c", "--config"),
    ("--config", "--config"),
    ("-o", "--output"),
    ("--output", "--output"),
    ("--timeout", "--wait-timeout"),
];

/// Flags of `image import`.
const IMPORT: Values = &[
    ("-c", "--profile"),
    ("--cluster", "--profile"),
    ("-m", "--mode"),
    ("--mode", "--mode"),
];

/// Flags of `node create`.
const NODE: Values = &[
    ("-c", "--profile"),
    ("--cluster", "--profile"),
    ("-i", "--image"),
    ("--image", "--image"),
    ("--k3s-arg", "--k3s-arg"),
    ("--k3s-node-label", "--k3s-node-label"),
    ("--memory", "--memory"),
    ("-n", "--network"),
    ("--network", "--network"),
    ("--replicas", "--count"),
    ("--role", "--role"),
    ("--timeout", "--timeout"),
    ("-t", "--token"),
    ("--token", "--token"),
];

/// The words of a command, and what to say about words that have no meaning here.
pub type Translated = (Vec<OsString>, Option<String>);

/// Returns rkube's words for a command of k3d's, and other words as they are. `parser` tells which flags
/// before the command have values.
///
/// # Errors
/// Fails with advice at a command that rkube does not have.
pub fn translate(words: Vec<OsString>, parser: &clap::Command) -> Result<Translated, Failure> {
    let texts: Option<Vec<&str>> = words.iter().skip(1).map(|word| word.to_str()).collect();
    // The parser reads what is no text.
    let Some(texts) = texts else {
        return Ok((words, None));
    };
    // Flags of every command may precede it.
    let at = place_of_command(parser, &texts);
    let (before, rest) = texts.split_at(at.unwrap_or(texts.len()));
    let mut note = None;
    let found = match rest {
        ["cluster" | "clusters", verb, rest @ ..] => cluster(verb, rest)?,
        ["image" | "images", "import", rest @ ..] => Some(import(rest)),
        ["node" | "nodes", "create", rest @ ..] => {
            let (words, name) = node(rest)?;
            note = name.map(|name| {
                format!(
                    "the name '{name}' has no effect: rkube names the nodes of a cluster itself"
                )
            });
            Some(words)
        }
        ["node" | "nodes", "ls" | "get", ..] => Some(words_of(&["node", "list"])),
        ["kubeconfig", verb, rest @ ..] => kubeconfig(verb, rest),
        [
            "registry" | "registries",
            verb @ ("create" | "delete" | "rm"),
            name,
            rest @ ..,
        ] if !name.starts_with('-') => {
            note = Some(format!(
                "the name '{name}' has no effect: all clusters share one registry, localhost:PORT"
            ));
            Some([words_of(&["registry", verb]), words_of(rest)].concat())
        }
        ["start", rest @ ..] => Some(ports_of_start(rest)),
        _ => None,
    };
    let Some(found) = found else {
        return Ok((words, None));
    };
    let before = before.iter().map(OsString::from).collect::<Vec<_>>();
    let found = found.into_iter().map(OsString::from);
    let program = words.into_iter().take(1);
    Ok((program.chain(before).chain(found).collect(), note))
}

fn words_of(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The names and flags of a command. A flag with its value is one word.
#[derive(Default)]
struct Words {
    names: Vec<String>,
    flags: Vec<String>,
}

impl Words {
    fn read(words: &[&str], values: Values) -> Self {
        let known = |name: &str| {
            let found = values.iter().find(|(flag, _)| *flag == name);
            found.map(|(_, own)| *own)
        };
        let mut read = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let joined = word.split_once('=');
            // -p8080:80
            let short = word
                .get(..2)
                .filter(|_| word.len() > 2 && !word.starts_with("--"));
            if let Some(own) = known(word) {
                // Without a value, the parser says what is missing.
                let value = words.next().map(|value| format!("={value}"));
                read.flags
                    .push(format!("{own}{}", value.unwrap_or_default()));
            } else if let Some((own, value)) = joined.and_then(|(n, v)| Some((known(n)?, v))) {
                read.flags.push(format!("{own}={value}"));
            } else if let Some(own) = short.and_then(known) {
                read.flags.push(format!("{own}={}", &word[2..]));
            } else if word.starts_with('-') {
                read.flags.extend(switch(word));
            } else {
                read.names.push((*word).to_owned());
            }
        }
        read
    }

    /// Takes flags out, switches and those with values. Returns the value of the last one; that of a
    /// switch is empty.
    fn take(&mut self, names: &[&str]) -> Option<String> {
        let mut taken = None;
        self.flags.retain(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let is_one = names.contains(&name);
            if is_one {
                taken = Some(value.to_owned());
            }
            !is_one
        });
        taken
    }

    /// Whether a switch is on, which is taken out.
    fn is_on(&mut self, names: &[&str]) -> bool {
        self.take(names).is_some_and(|value| value != "false")
    }

    /// Returns a command about the cluster that the words name.
    fn about(self, command: &[&str]) -> Vec<String> {
        let mut all = words_of(command);
        let mut names = self.names.into_iter();
        if let Some(name) = names.next() {
            all.push(format!("--profile={name}"));
        }
        // The parser does not know further names.
        all.extend(names);
        all.extend(self.flags);
        all
    }
}

/// Returns the switch that is here what one of k3d's is; `None` if it needs no word here.
fn switch(word: &str) -> Option<String> {
    Some(match word {
        "--wait" => "--wait=all".to_owned(),
        "--kubeconfig-switch-context=false" | "--switch-context=false" => {
            "--keep-context".to_owned()
        }
        "--kubeconfig-switch-context"
        | "--kubeconfig-switch-context=true"
        | "--switch-context"
        | "--switch-context=true"
        // They only change what k3d prints.
        | "--verbose"
        | "--trace"
        | "--timestamps" => return None,
        other => other.to_owned(),
    })
}

fn cluster(verb: &str, rest: &[&str]) -> Result<Option<Vec<String>>, Failure> {
    if verb == "create" {
        return Ok(Some(Words::read(rest, CREATE).about(&["start"])));
    }
    let mut words = Words::read(rest, OTHERS);
    let command = match verb {
        "delete" | "rm" | "del" => "delete",
        "start" | "stop" => verb,
        "list" | "ls" | "get" => {
            words.take(&["--no-headers", "--token"]);
            let mut list = words_of(&["profile", "list"]);
            list.extend(words.flags);
            return Ok(Some(list));
        }
        "edit" => {
            return Err(unsupported(
                "'cluster edit' is not supported",
                "change the cluster file and apply it: rkube config init -p NAME > cluster.yaml, then: rkube apply -f cluster.yaml",
            ));
        }
        _ => return Ok(None),
    };
    let all = words.is_on(&["--all", "-a"]);
    if all && command == "start" || words.names.len() > 1 {
        return Err(unsupported(
            format!("'cluster {verb}' with several clusters is not supported"),
            format!("repeat it for each: rkube {command} -p NAME"),
        ));
    }
    if words.take(&["--config"]).is_some() {
        return Err(unsupported(
            "k3d's configuration files are not read",
            format!("name the cluster: rkube {command} -p NAME"),
        ));
    }
    Ok(Some(match all {
        true => {
            let mut all = words_of(&[command, "--all"]);
            all.extend(words.flags);
            all
        }
        false => words.about(&[command]),
    }))
}

/// `image import IMAGE… -c CLUSTER`
fn import(rest: &[&str]) -> Vec<String> {
    let mut words = Words::read(rest, IMPORT);
    // The way in which images are transferred makes no difference here.
    words.take(&["--mode", "-k", "--keep-tarball", "-t", "--keep-tools"]);
    let mut all = words_of(&["image", "load"]);
    all.extend(words.names);
    all.extend(words.flags);
    all
}

/// `node create NAME -c CLUSTER --replicas N`. Also returns the name, which nodes do not get.
fn node(rest: &[&str]) -> Result<(Vec<String>, Option<String>), Failure> {
    let mut words = Words::read(rest, NODE);
    if words.take(&["--role"]).is_some_and(|role| role != "agent") {
        return Err(unsupported(
            "a cluster has one control-plane node",
            "leave --role out to add a worker",
        ));
    }
    for flag in [
        "--k3s-arg",
        "--k3s-node-label",
        "--image",
        "--network",
        "--token",
    ] {
        if words.take(&[flag]).is_some() {
            return Err(unsupported(
                format!("{flag} is not supported for nodes that are added"),
                "describe the node in a cluster file, and apply it: rkube apply -f FILE",
            ));
        }
    }
    // A command waits two minutes for a node.
    words.take(&["--wait", "--timeout"]);
    let mut all = words_of(&["node", "add"]);
    all.extend(words.flags);
    Ok((all, words.names.into_iter().next()))
}

/// `kubeconfig get` prints, `merge` and `write` change the file.
fn kubeconfig(verb: &str, rest: &[&str]) -> Option<Vec<String>> {
    let words = Words::read(rest, OTHERS);
    match verb {
        "get" | "print" | "show" => Some(words.about(&["export", "kubeconfig"])),
        "merge" | "write" => {
            let mut words = words;
            // The entry is always put into kubectl's file.
            words.take(&["-d", "--kubeconfig-merge-default", "-u", "--update"]);
            Some(words.about(&["update-context"]))
        }
        _ => None,
    }
}

/// Reads `-p 8080:80@loadbalancer` as a port: no profile has such a name.
fn ports_of_start(rest: &[&str]) -> Vec<String> {
    let is_port = |value: &&&&str| value.contains([':', '@']);
    let mut all = vec!["start".to_owned()];
    let mut words = rest.iter().peekable();
    while let Some(word) = words.next() {
        match words.peek().filter(is_port) {
            Some(value) if *word == "-p" => {
                all.push(format!("--port={value}"));
                words.next();
            }
            _ => all.push((*word).to_owned()),
        }
    }
    all
}
