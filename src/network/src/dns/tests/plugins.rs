//! Tests of the Corefile's plugins through the running server.

use super::*;

/// Returns the answers as `NAME DATA` in the order of the text, and the code.
fn shown(message: &Message) -> (ResponseCode, Vec<String>) {
    let answers = message.answers.iter();
    let mut lines: Vec<String> = answers
        .map(|record| format!("{} {}", record.name, record.data))
        .collect();
    lines.sort();
    (message.metadata.response_code, lines)
}

async fn answers(plugins: &str, cases: &[(&str, RecordType, ResponseCode, &[&str])]) {
    let server = start(vec![]).await;
    server.configure(Some(&corefile(plugins))).unwrap();
    for (name, kind, code, expected) in cases {
        let got = by_udp(&server, &question(name, *kind)).await;
        let (found, lines) = shown(&got);
        assert_eq!(
            (found, lines),
            (*code, expected.iter().map(|l| (*l).to_owned()).collect()),
            "{name} {kind}"
        );
        let question = got.queries[0].name().to_ascii();
        assert_eq!(question.trim_end_matches('.'), name.trim_end_matches('.'));
    }
}

use RecordType::{AAAA, CNAME, PTR, TXT};
use ResponseCode::{NXDomain, NoError, Refused, ServFail};

const ADDRESS: RecordType = RecordType::A;

#[tokio::test]
async fn hosts_answer_names_and_addresses() {
    let block = "hosts {\n10.0.0.1 one.example.org ONE\n10.0.0.2 one.example.org\nfd00::1 one.example.org\nttl 60\nfallthrough example.net cluster.local in-addr.arpa internal\n}";
    answers(
        block,
        &[
            (
                "one.example.org",
                ADDRESS,
                NoError,
                &["one.example.org. 10.0.0.1", "one.example.org. 10.0.0.2"],
            ),
            (
                "one.example.org",
                AAAA,
                NoError,
                &["one.example.org. fd00::1"],
            ),
            ("one", ADDRESS, NoError, &["one. 10.0.0.1"]),
            ("one", TXT, NoError, &[]),
            (
                "1.0.0.10.in-addr.arpa",
                PTR,
                NoError,
                &[
                    "1.0.0.10.in-addr.arpa. one.",
                    "1.0.0.10.in-addr.arpa. one.example.org.",
                ],
            ),
            ("two.example.org", ADDRESS, ServFail, &[]),
            (
                "kubernetes.default.svc.cluster.local",
                ADDRESS,
                NoError,
                &["kubernetes.default.svc.cluster.local. 10.96.0.1"],
            ),
            // The machine.
            (
                "host.rkube.internal",
                ADDRESS,
                NoError,
                &["host.rkube.internal. 192.168.58.1"],
            ),
            ("host.rkube.internal", AAAA, NoError, &[]),
        ],
    )
    .await;
    answers(
        "hosts {\n10.0.0.9 host.rkube.internal\nno_reverse\nfallthrough\n}",
        &[
            (
                "host.rkube.internal",
                ADDRESS,
                NoError,
                &["host.rkube.internal. 10.0.0.9"],
            ),
            ("9.0.0.10.in-addr.arpa", PTR, NXDomain, &[]),
        ],
    )
    .await;
}

#[tokio::test]
async fn names_are_rewritten() {
    let service = "kubernetes.default.svc.cluster.local";
    answers(
        "rewrite continue name prefix old- \"\"\n\
         rewrite name api.example.org kubernetes.default.svc.cluster.local\n\
         rewrite name suffix .site.org .default.svc.cluster.local answer auto\n\
         rewrite name substring .kube. .default.svc.\n\
         rewrite stop {\nname regex (.*)\\.(.*)\\.cloud {1}.{2}.svc.cluster.local\nanswer name (.*)\\.(.*)\\.svc\\.cluster\\.local {1}.{2}.cloud\n}\n\
         rewrite name exact a.loop b.loop",
        &[
            ("api.example.org", ADDRESS, NoError, &["api.example.org. 10.96.0.1"]),
            ("kubernetes.site.org", ADDRESS, NoError, &["kubernetes.site.org. 10.96.0.1"]),
            ("kubernetes.default.cloud", ADDRESS, NoError, &["kubernetes.default.cloud. 10.96.0.1"]),
            ("old-kubernetes.site.org", ADDRESS, NoError, &["kubernetes.site.org. 10.96.0.1"]),
            ("kubernetes.kube.cluster.local", ADDRESS, NoError, &["kubernetes.default.svc.cluster.local. 10.96.0.1"]),
            (service, ADDRESS, NoError, &["kubernetes.default.svc.cluster.local. 10.96.0.1"]),
            ("nothing.site.org", ADDRESS, NXDomain, &[]),
        ],
    )
    .await;
    // Without `answer auto`, the answer has the new name.
    answers(
        "rewrite name suffix .site.org .default.svc.cluster.local",
        &[(
            "kubernetes.site.org",
            ADDRESS,
            NoError,
            &["kubernetes.default.svc.cluster.local. 10.96.0.1"],
        )],
    )
    .await;
}

#[tokio::test]
async fn templates_make_answers() {
    answers(
        "template IN A ip.test {\n\
           match ^ip-(?P<a>[0-9]+)-(?P<b>[0-9]+)[.]ip[.]test[.]$\n\
           answer \"{{ .Name }} 60 IN A 10.0.{{ .Group.a }}.{{ index .Match 2 }}\"\n\
           fallthrough no.ip.test\n\
         }\n\
         template ANY ANY gone.test {\nrcode NXDOMAIN\n}\n\
         template IN CNAME alias.test {\nanswer \"{{ .Name }} {{ .Class }} {{ .Type }} to.{{ .Zone }}\"\n}",
        &[
            ("ip-1-2.ip.test", ADDRESS, NoError, &["ip-1-2.ip.test. 10.0.1.2"]),
            // The data are no address.
            ("ip-1-900.ip.test", ADDRESS, ServFail, &[]),
            ("other.ip.test", ADDRESS, NXDomain, &[]),
            ("x.no.ip.test", ADDRESS, ServFail, &[]),
            ("x.gone.test", AAAA, NXDomain, &[]),
            ("x.alias.test", CNAME, NoError, &["x.alias.test. to.alias.test."]),
        ],
    )
    .await;
}

#[tokio::test]
async fn blocks_and_forwards_are_chosen_by_zone() {
    let (one, asked_one) = elsewhere(false).await;
    let (two, asked_two) = elsewhere(false).await;
    let server = start(vec![]).await;
    let text = format!(
        "cluster.local example.org {{\n kubernetes {{\n fallthrough\n }}\n forward . {one} {{\n except not.example.org\n }}\n}}\n\
         deep.example.org:53 {{\n forward . {two}\n}}\n"
    );
    server.configure(Some(&text)).unwrap_err();
    let text = text.replace("kubernetes {", "kubernetes cluster.local {");
    server.configure(Some(&text)).unwrap();
    for (name, code) in [
        ("www.example.org", NoError),
        ("www.deep.example.org", NoError),
        ("www.not.example.org", ServFail),
        ("www.example.net", Refused),
        // Unknown to the cluster, and left to the next plugin.
        ("www.cluster.local", NoError),
        ("kubernetes.default.svc.cluster.local", NoError),
    ] {
        let got = by_udp(&server, &question(name, ADDRESS)).await;
        assert_eq!(got.metadata.response_code, code, "{name}");
    }
    let count = |asked: &std::sync::Arc<std::sync::atomic::AtomicUsize>| {
        asked.load(std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!((count(&asked_one), count(&asked_two)), (2, 1));
    // A wrong one changes nothing.
    let wrong = server.configure(Some(". {\n forward .\n}")).unwrap_err();
    assert_eq!(wrong.line, 2);
    let got = by_udp(&server, &question("www.example.net", ADDRESS)).await;
    assert_eq!(got.metadata.response_code, Refused);
}

#[tokio::test]
async fn targets_of_aliases_are_looked_up_like_any_name() {
    let (machine, out) = (
        "machine.default.svc.cluster.local",
        "out.default.svc.cluster.local",
    );
    let alias = "out.default.svc.cluster.local. www.example.com.";
    answers(
        "hosts {\n10.0.0.4 www.example.com\nfallthrough\n}",
        &[
            (
                machine,
                ADDRESS,
                NoError,
                &[
                    "host.rkube.internal. 192.168.58.1",
                    "machine.default.svc.cluster.local. host.rkube.internal.",
                ],
            ),
            (out, ADDRESS, NoError, &[alias, "www.example.com. 10.0.0.4"]),
        ],
    )
    .await;
    answers(
        "template IN A example.com {\nanswer \"{{ .Name }} 60 IN A 10.0.0.5\"\n}",
        &[(out, ADDRESS, NoError, &[alias, "www.example.com. 10.0.0.5"])],
    )
    .await;
    answers(
        "rewrite name www.example.com kubernetes.default.svc.cluster.local",
        &[(
            out,
            ADDRESS,
            NoError,
            &[alias, "www.example.com. 10.96.0.1"],
        )],
    )
    .await;
    // In a circle.
    let server = start(vec![]).await;
    let text = corefile("rewrite name www.example.com out.default.svc.cluster.local");
    server.configure(Some(&text)).unwrap();
    let got = by_udp(&server, &question(out, ADDRESS)).await;
    assert_eq!(got.metadata.response_code, ServFail);
}

#[tokio::test]
async fn rewritten_queries_stay_in_their_block() {
    let (one, asked_one) = elsewhere(false).await;
    let (two, asked_two) = elsewhere(false).await;
    let server = start(vec![]).await;
    let text = format!(
        ". {{\n rewrite name a.org b.deep.org\n forward . {one}\n}}\ndeep.org {{\n forward . {two}\n}}\n"
    );
    server.configure(Some(&text)).unwrap();
    let got = by_udp(&server, &question("a.org", ADDRESS)).await;
    assert_eq!(shown(&got).1, ["a.org. 192.0.2.1"]);
    let count =
        |asked: &std::sync::atomic::AtomicUsize| asked.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((count(&asked_one), count(&asked_two)), (1, 0));
}

#[tokio::test]
async fn hosts_leave_the_names_of_other_addresses_to_the_cluster() {
    let name = "1.0.96.10.in-addr.arpa. kubernetes.default.svc.cluster.local.";
    answers(
        "hosts {\n10.0.0.1 one.example.org\n}",
        &[
            ("1.0.96.10.in-addr.arpa", PTR, NoError, &[name]),
            ("two.example.org", ADDRESS, ServFail, &[]),
        ],
    )
    .await;
}
