//! Tests of the parser.

use hickory_proto::rr::Name;
use proptest::prelude::*;

use super::types::{Kubernetes, Policy};
use super::{Corefile, default_text};

fn parse(text: &str) -> Result<Corefile, String> {
    Corefile::parse(text, "cluster.local").map_err(|problem| problem.to_string())
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

#[test]
fn the_default_file_is_understood() {
    let file = parse(&default_text("cluster.local")).unwrap();
    let [block] = file.blocks.as_slice() else {
        panic!("one block");
    };
    let kubernetes = Kubernetes {
        ttl: 30,
        pods: true,
        reverse: true,
        fallthrough: vec![name("in-addr.arpa."), name("ip6.arpa.")],
    };
    assert_eq!(block.kubernetes.as_ref(), Some(&kubernetes));
    assert!(block.errors && !block.log);
    let cache = block.cache.as_ref().unwrap();
    assert_eq!((cache.success.ttl, cache.denial.ttl), (30, 30));
    for limits in [&cache.success, &cache.denial] {
        assert!(!limits.keeps(&name("a.cluster.local.")) && limits.keeps(&name("a.org.")));
    }
    let [forward] = block.forwards.as_slice() else {
        panic!("one server");
    };
    assert!(forward.resolv_conf && forward.to.is_empty());
    assert_eq!(forward.concurrent, Some(1000));
}

#[test]
fn blocks_are_found_by_their_longest_zone() {
    let text = "# a comment\na.org, b.org:53 dns://c.org {\n  log # of all\n}\n\nx.a.org {\n}\n. {\n forward . 10.0.0.1 [fd00::1]:5353 dns://10.0.0.2:54 {\n policy round_robin\n force_tcp\n except d.org e.org\n}\n}\n";
    let file = parse(text).unwrap();
    for (asked, block) in [
        ("a.org.", 0),
        ("y.b.org.", 0),
        ("c.org.", 0),
        ("y.x.a.org.", 1),
        ("xa.org.", 2),
        (".", 2),
    ] {
        assert_eq!(file.block_of(&name(asked)), Some(block), "{asked}");
    }
    let forward = &file.blocks[2].forwards[0];
    let servers: Vec<String> = forward.to.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.1:53", "[fd00::1]:5353", "10.0.0.2:54"]);
    assert!(forward.force_tcp && forward.policy == Policy::RoundRobin);
    assert!(forward.takes(&name("x.org.")) && !forward.takes(&name("x.d.org.")));
    // Without braces.
    let file = parse("a.org\nlog\nerrors\n").unwrap();
    assert!(file.blocks[0].log && file.blocks[0].errors);
    assert_eq!(file.block_of(&name("b.org.")), None);
}

#[test]
fn each_kind_of_answers_has_limits_of_its_own() {
    let text = plugin("cache 60 {\nsuccess 5 10\ndenial 7\ndisable denial corp.org\n}");
    let file = parse(&text).unwrap();
    let cache = file.blocks[0].cache.as_ref().unwrap();
    assert_eq!((cache.success.capacity, cache.success.ttl), (5, 10));
    assert_eq!((cache.denial.capacity, cache.denial.ttl), (7, 60));
    let asked = name("a.corp.org.");
    assert!(cache.success.keeps(&asked) && !cache.denial.keeps(&asked));
    let file = parse(&plugin("cache {\ndisable success\n}")).unwrap();
    assert!(!file.blocks[0].cache.as_ref().unwrap().success.keeps(&asked));
}

/// Checks that texts are refused with a line and a message.
fn refused(cases: &[(String, usize, &str)]) {
    for (text, line, expected) in cases {
        let expected = format!("Corefile:{line} - Error during parsing: {expected}");
        assert_eq!(parse(text).err(), Some(expected), "{text}");
    }
}

/// Returns a file with one block.
fn plugin(text: &str) -> String {
    format!(". {{\n{text}\n}}")
}

#[test]
fn wrong_blocks_are_told_with_their_line() {
    refused(&[
        (String::new(), 1, "there is no server block"),
        (". {\nlog".into(), 1, "the '{' of this line is not closed"),
        (". {\nlog\n}\n}".into(), 4, "Unexpected '}'"),
        (
            ". {\n}\n. {\n}".into(),
            3,
            "cannot serve dns://.:53 - it is already defined",
        ),
        (
            ".:5353 {\n}".into(),
            1,
            "the port 5353 is not served, only 53",
        ),
        (
            "tls://. {\n}".into(),
            1,
            "tls:// is not supported, only dns://",
        ),
        (
            "(x) {\n}".into(),
            1,
            "snippets and imports are not supported: '(x)'",
        ),
        (plugin("nonsense"), 2, "Unknown directive 'nonsense'"),
        (
            plugin("\nautopath @kubernetes"),
            3,
            "the plugin 'autopath' is not supported",
        ),
        (
            plugin("forward ."),
            2,
            "Wrong argument count or unexpected line ending after '.'",
        ),
        (
            plugin("forward . tls://1.1.1.1"),
            2,
            "forwarding over TLS is not supported",
        ),
        (
            plugin("forward . 1.1.1.1 {\n tls\n}"),
            3,
            "forwarding over TLS is not supported",
        ),
        (
            plugin("forward . 1.1.1.1 {\n expire 5s\n}"),
            3,
            "unknown property 'expire'",
        ),
        (
            plugin("forward . 1.1.1.1 {\n max_concurrent 0\n}"),
            3,
            "max_concurrent 0 is not supported: there is always a limit",
        ),
        (
            plugin("forward . 1.1.1.1 {\n policy best\n}"),
            3,
            "unknown policy 'best'",
        ),
        (
            plugin("forward . example.org"),
            2,
            "not an IP address or file: \"example.org\"",
        ),
        (
            plugin("cache 0"),
            2,
            "cache TTL can not be zero or negative: 0",
        ),
        (
            plugin("cache\ncache"),
            3,
            "plugin/cache: this plugin can only be used once per Server Block",
        ),
        (
            plugin("cache {\nprefetch 10\n}"),
            3,
            "unknown property 'prefetch'",
        ),
    ]);
}

#[test]
fn wrong_plugins_are_told_with_their_line() {
    refused(&[
        (
            plugin("kubernetes example.org"),
            2,
            "the zone example.org. is not the cluster's, which is cluster.local.",
        ),
        (
            plugin("kubernetes cluster.local {\npods verified\n}"),
            3,
            "pods verified is not supported, only disabled and insecure",
        ),
        (
            plugin("kubernetes cluster.local {\nttl 3601\n}"),
            3,
            "ttl must be in range [0, 3600]: 3601",
        ),
        (
            plugin("hosts /etc/hosts"),
            2,
            "files of hosts are not supported ('/etc/hosts'); write the names in the block",
        ),
        (
            plugin("hosts {\n10.0.0.300 a\n}"),
            3,
            "unknown property '10.0.0.300'",
        ),
        (
            plugin("rewrite type ANY A"),
            2,
            "rewrite type is not supported, only rewrite name",
        ),
        (
            plugin("rewrite name regex ( x"),
            2,
            "invalid regex pattern in a name rule: (",
        ),
        (
            plugin("rewrite name a"),
            2,
            "Wrong argument count or unexpected line ending after 'a'",
        ),
        (
            plugin("rewrite name a b then c"),
            2,
            "unexpected 'then' in a name rule, not answer",
        ),
        (
            plugin("template IN A {\nanswer \"{{ .Meta }}\"\n}"),
            3,
            "the action {{ .Meta }} is not supported, only .Name, .Class, .Type, .Zone, .Group.NAME and index .Match N",
        ),
        (plugin("template CH A"), 2, "invalid query class CH"),
        (
            plugin("log {\nclass error\n}"),
            3,
            "unknown property 'class'",
        ),
        (
            plugin("health nowhere"),
            2,
            "'nowhere' is not an address with a port",
        ),
        (plugin("log \"x"), 2, "a quotation mark has no counterpart"),
        (
            plugin("forward . {$DNS}"),
            2,
            "environment variables are not available: {$DNS}",
        ),
    ]);
}

proptest! {
    #[test]
    fn parsing_any_text_never_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    /// Files of words that plugins know, so that most lines get far.
    #[test]
    fn parsing_known_words_never_panics_and_names_a_line(
        words in proptest::collection::vec(
            prop::sample::select(vec![
                ".", "{", "}", "\n", "\n", "forward", "hosts", "rewrite", "name", "regex", "(a)",
                "answer", "auto", "template", "IN", "A", "match", "kubernetes", "cluster.local",
                "cache", "30", "success", "10.0.0.1", "log", "errors", "\"x y\"", "stop", "policy",
            ]),
            0..60,
        )
    ) {
        let text = words.join(" ");
        if let Err(problem) = Corefile::parse(&text, "cluster.local") {
            let lines = text.lines().count().max(1);
            prop_assert!((1..=lines).contains(&problem.line), "{}: {}", problem, text);
        }
    }

    /// The zone with the most labels wins, whatever the order.
    #[test]
    fn the_longest_zone_wins(mut zones in proptest::collection::hash_set("[a-c](\\.[a-c]){0,2}", 1..6), asked in "[a-c](\\.[a-c]){0,3}") {
        zones.insert(".".to_owned());
        let zones: Vec<String> = zones.into_iter().collect();
        let text: String = zones.iter().map(|zone| format!("{zone} {{\n}}\n")).collect();
        let file = parse(&text).unwrap();
        let asked = name(&format!("{asked}."));
        let best = zones.iter().map(|zone| {
            let mut zone = name(zone);
            zone.set_fqdn(true);
            zone
        }).filter(|zone| zone.zone_of(&asked)).map(|zone| zone.num_labels()).max();
        let block = &file.blocks[file.block_of(&asked).unwrap()];
        prop_assert_eq!(Some(block.zones[0].num_labels()), best);
    }
}
