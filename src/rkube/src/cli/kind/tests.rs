//! Command lines of kind's users, read by the real parser.

use super::*;

/// Command lines as public CI files, tutorials and tools have them, without the program's name.
const LINES: &[&str] = &[
    "create cluster",
    "create cluster --name=test",
    "create cluster -n e2e",
    "create cluster --name kind-2 --wait 5m",
    "create cluster --wait=300s --config=./kind.yaml",
    "create cluster --config kind-config.yaml --image kindest/node:v1.36.0@sha256:abc",
    "create cluster --image=kindest/node:v1.36.1 --name x --retain",
    "create cluster --config=-",
    "create cluster --config -",
    "create cluster --retain=true --kubeconfig /tmp/kc",
    "create cluster --kubeconfig=$HOME/.kube/kind",
    "create cluster -v 1",
    "create cluster --verbosity=3 --wait 1m",
    "-v 9 create cluster --name a",
    "create cluster -q",
    "create cluster --quiet --name=ci",
    "create cluster --name a --name b",
    "create cluster --wait=0s",
    "create cluster --wait=1h30m",
    "delete cluster",
    "delete cluster --name test",
    "delete cluster --name=test --kubeconfig=/tmp/kc",
    "delete cluster -n test -q",
    "delete clusters --all",
    "delete clusters -A",
    "delete clusters a b",
    "delete clusters --all --kubeconfig /tmp/kc",
    "get clusters",
    "get clusters -q",
    "get nodes",
    "get nodes --name test",
    "get nodes -n test",
    "get nodes -A",
    "get nodes --all-clusters",
    "get kubeconfig",
    "get kubeconfig --name test",
    "get kubeconfig --name=test --internal",
    "get kubeconfig --internal=false -n test",
    "export kubeconfig",
    "export kubeconfig --name test --kubeconfig /tmp/kc",
    "export kubeconfig --internal",
    "export logs",
    "export logs ./somedir",
    "export logs --name test ./artifacts",
    "export logs /tmp/logs --name=test",
    "export logs -v 1 out",
    "load docker-image my-app:latest",
    "load docker-image a:1 b:2 --name test",
    "load docker-image --name test controller:latest",
    "load docker-image ${IMG} --name kind -v 5",
    "load docker-image a --nodes n1,n2",
    "load docker-image a --nodes=n1 --nodes=n2",
    "load image-archive app.tar",
    "load image-archive /tmp/app.tar --name test",
    "load image-archive a.tar b.tar --nodes test-worker",
    "build node-image",
    "build node-image --image=me/node:latest",
    "build node-image /src/kubernetes --type=source -v 3",
    "build node-image v1.36.0 --type release --arch amd64",
    "build node-image --base-image kindest/base:x",
    "version",
    "version -q",
    "--version",
    "completion bash",
    "completion zsh",
    "completion fish",
    "completion powershell",
    "",
];

fn read(line: &str) -> Result<Cli, clap::Error> {
    let words = line.split_whitespace().map(OsString::from);
    parse(std::iter::once("kind".into()).chain(words).collect())
}

#[test]
fn no_command_line_of_kinds_is_a_usage_error() {
    let wrong: Vec<String> = LINES
        .iter()
        .filter_map(|line| Some(format!("{line}: {}", read(line).err()?)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn words_unknown_to_kind_are_errors() {
    for line in [
        "create",
        "create cluster name",
        "create cluster --nodes 3",
        "create cluster --wait 5",
        "get cluster",
        "load docker-image",
        "export logs a b",
        "up",
        "-p x get clusters",
    ] {
        assert!(read(line).is_err(), "{line}");
    }
}

#[test]
fn the_parser_is_consistent() {
    Cli::command().debug_assert();
    args::with_values(Cli::command()).debug_assert();
}

#[test]
fn the_name_of_the_program_or_its_first_word_decides() {
    let of = |line: &[&str]| {
        let all: Vec<OsString> = line.iter().map(OsString::from).collect();
        words(&all)
    };
    let expected: Vec<OsString> = ["kind", "get", "clusters"].map(OsString::from).to_vec();
    assert_eq!(
        of(&["/usr/bin/kind", "get", "clusters"]).as_ref(),
        Some(&expected)
    );
    assert_eq!(
        of(&["rkube", "kind", "get", "clusters"]).as_ref(),
        Some(&expected)
    );
    assert_eq!(of(&["rkube", "start", "kind"]), None);
    assert_eq!(of(&["kind"]).map(|words| words.len()), Some(1));
}
