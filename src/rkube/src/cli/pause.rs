//! `rkube pause` and `rkube unpause`

use rkube_cluster::{Home, set_namespaces_paused, set_paused};
use rkube_failure::Failure;

use super::{Global, Output, usage_failure};

#[derive(clap::Args)]
pub struct Args {
    /// Namespaces whose containers to freeze or resume, on all nodes [default: the whole cluster]
    #[arg(
        short,
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        conflicts_with = "all_namespaces"
    )]
    namespaces: Vec<String>,
    /// All namespaces: the whole cluster, as without flags
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

/// Freezes the cluster or some namespaces, or lets them go on.
pub async fn run(
    home: &Home,
    global: &Global,
    args: Args,
    paused: bool,
    output: &Output,
) -> Result<(), Failure> {
    if !args.namespaces.is_empty() {
        return some(home, global, &args.namespaces, paused, output).await;
    }
    let count = set_paused(home, &global.profile, paused, output).await?;
    let name = &global.profile;
    output.say(&match (count, paused) {
        (0, true) => format!("The cluster '{name}' is paused already."),
        (0, false) => format!("The cluster '{name}' is not paused."),
        (_, true) => format!(
            "The cluster '{name}' is paused: it keeps its memory and needs no CPU time. Let it go on with: {}",
            rkube_failure::command("unpause", name)
        ),
        (_, false) => format!("The cluster '{name}' is running again."),
    });
    Ok(())
}

async fn some(
    home: &Home,
    global: &Global,
    namespaces: &[String],
    paused: bool,
    output: &Output,
) -> Result<(), Failure> {
    let name = &global.profile;
    if let Some(bad) = namespaces.iter().find(|namespace| !is_name(namespace)) {
        return Err(usage_failure(format!(
            "'{bad}' is not the name of a namespace"
        )));
    }
    let count = set_namespaces_paused(home, name, namespaces, paused, output).await?;
    let plural = if count == 1 { "" } else { "s" };
    let list = namespaces.join(",");
    output.say(&match paused {
        true => format!(
            "{count} container{plural} paused. Let them go on with: {}",
            rkube_failure::command(&format!("unpause --namespaces {list}"), name)
        ),
        false => format!("{count} container{plural} resumed."),
    });
    Ok(())
}

/// Whether a word can be the name of a namespace: a label of RFC 1123.
fn is_name(word: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&word.len())
        && word.chars().all(inner)
        && !word.starts_with('-')
        && !word.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_namespaces_are_labels() {
        for (word, valid) in [
            ("kube-system", true),
            ("a", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("A", false),
            ("a b", false),
            ("a;reboot", false),
        ] {
            assert_eq!(is_name(word), valid, "{word:?}");
        }
    }
}
