use std::ffi::OsString;

use super::*;

fn parser() -> clap::Command {
    crate::cli::args::parser(&crate::cli::settings::Settings::default())
}

fn translated(line: &str) -> Result<String, Failure> {
    let words = format!("rkube {line}");
    let words = words.split(' ').map(OsString::from).collect();
    let (words, _) = translate(words, &parser())?;
    let texts: Vec<&str> = words
        .iter()
        .skip(1)
        .filter_map(|word| word.to_str())
        .collect();
    Ok(texts.join(" "))
}

#[test]
fn commands_become_those_of_rkube() {
    for (line, expected) in [
        ("cluster create", "start"),
        (
            "cluster create demo -a 2 --servers 1 --wait",
            "start --profile=demo --agents=2 --servers=1 --wait=all",
        ),
        (
            "cluster create demo -p8080:80@loadbalancer --port 443:443 -v /a:/b@agent:0",
            "start --profile=demo --port=8080:80@loadbalancer --port=443:443 --volume=/a:/b@agent:0",
        ),
        (
            "--verbose cluster create --timeout=5m --kubeconfig-switch-context=false x",
            "--verbose start --profile=x --wait-timeout=5m --keep-context",
        ),
        ("cluster delete demo", "delete --profile=demo"),
        ("cluster delete -a", "delete --all"),
        ("cluster delete --all -o json", "delete --all --output=json"),
        (
            "-v 5 --output json cluster list --no-headers",
            "-v 5 --output json profile list",
        ),
        ("-p demo --user ann node ls", "-p demo --user ann node list"),
        ("cluster rm --all=false demo", "delete --profile=demo"),
        (
            "cluster start demo --wait",
            "start --profile=demo --wait=all",
        ),
        ("cluster stop --all", "stop --all"),
        (
            "cluster list --no-headers -o json",
            "profile list --output=json",
        ),
        (
            "image import app:1 b.tar -c demo --mode direct -k",
            "image load app:1 b.tar --profile=demo",
        ),
        (
            "node create more --replicas 2 --role=agent --cluster demo",
            "node add --count=2 --profile=demo",
        ),
        ("node ls", "node list"),
        ("kubeconfig get demo", "export kubeconfig --profile=demo"),
        ("kubeconfig merge demo -d", "update-context --profile=demo"),
        (
            "start -p 8080:80@loadbalancer -p demo",
            "start --port=8080:80@loadbalancer -p demo",
        ),
        (
            "registry create x --port 5001",
            "registry create --port 5001",
        ),
        ("registry delete x", "registry delete"),
        // rkube's own commands stay.
        ("registry list", "registry list"),
        ("start -p demo -n 2", "start -p demo -n 2"),
        ("node list", "node list"),
        ("image load x", "image load x"),
        ("cluster frobnicate", "cluster frobnicate"),
    ] {
        assert_eq!(translated(line).unwrap(), expected, "{line}");
    }
    let words = ["rkube", "node", "create", "more"].map(OsString::from);
    let (_, note) = translate(words.to_vec(), &parser()).unwrap();
    assert!(note.unwrap().contains("'more' has no effect"));
    for line in [
        "cluster edit demo --port-add 1:2@loadbalancer",
        "cluster delete a b",
        "cluster start --all",
        "cluster delete -c k3d.yaml",
        "node create x --role server",
        "node create x --k3s-node-label a=b",
    ] {
        let failure = translated(line).unwrap_err();
        assert_eq!(failure.exit_code(), 16, "{line}");
        assert!(failure.advice.is_some(), "{line}");
    }
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn nodes(line: &str, nodes: Option<u32>) -> Result<Nodes, Failure> {
    let words = std::iter::once("x").chain(line.split(' ').filter(|word| !word.is_empty()));
    let line = <Line as clap::Parser>::try_parse_from(words);
    line.unwrap()
        .flags
        .nodes(nodes, &NodeSpec::default(), || Some(1 << 30))
}

#[test]
fn filters_choose_nodes() {
    let found = nodes(
        "--agents 2 --port 8080:80@loadbalancer --port 81:81@agent:1 --volume /a:/a --volume /b:/b@agent:* \
         --volume /c:/c@server:0;agent[0] --k3s-node-label tier=web@agent:0,1 --k3s-node-label all=1 \
         --agents-memory 2g --servers-memory max",
        None,
    )
    .unwrap();
    let [first, one, two] = found.specs.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(found.mounts.len(), 1);
    assert_eq!(first.ports[0].to_string(), "127.0.0.1:8080:80/tcp");
    assert!(one.ports.is_empty() && two.ports[0].host_port == 81);
    let paths = |spec: &NodeSpec| -> Vec<String> {
        spec.mounts
            .iter()
            .map(|m| m.node.display().to_string())
            .collect()
    };
    assert_eq!(
        [paths(first), paths(one), paths(two)],
        [vec!["/c"], vec!["/b", "/c"], vec!["/b"]]
    );
    assert_eq!(first.labels.len(), 1);
    assert_eq!(one.labels, two.labels);
    assert_eq!(
        (first.memory_bytes, one.memory_bytes),
        (Some(1 << 30), Some(2 << 30))
    );
    // Flags that do not name single nodes leave their number to --nodes.
    let none = nodes("--servers 1 --volume /a:/a", Some(3)).unwrap();
    assert!(none.specs.is_empty() && none.mounts.len() == 1);
    assert_eq!(nodes("--port 80:80", Some(3)).unwrap().specs.len(), 3);
}

#[test]
fn flags_without_a_node_are_refused() {
    for (line, count, code, part) in [
        ("--servers 3", None, 16, "one control-plane node"),
        ("--agents 1", Some(2), 14, "cannot be combined"),
        ("--agents 1 --port 80:80@agent:1", None, 14, "agent:1"),
        ("--agents 2 --port 80:80@agent:*", None, 14, "several nodes"),
    ] {
        let failure = nodes(line, count).unwrap_err();
        assert_eq!(failure.exit_code(), code, "{line}");
        assert!(
            failure.message.contains(part),
            "{line}: {}",
            failure.message
        );
    }
    for bad in ["80:80@master", "80:80@agent:x", "80:x"] {
        assert!(Filtered::<PortMapping>::parse(bad).is_err(), "{bad}");
    }
}
