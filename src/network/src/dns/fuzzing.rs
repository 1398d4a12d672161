//! Entry points of the fuzz target `dns` (`tests/fuzz`) to the private name server.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::Name;
use serde_json::json;

use super::DnsState;
use super::respond::{Outcome, Zone, encode, respond, udp_limit};

/// A zone with every kind of service, and a chain of aliases that has no end.
static STATE: LazyLock<DnsState> = LazyLock::new(|| {
    let service = |name: &str, spec: serde_json::Value| {
        let object = json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec});
        Arc::new(serde_json::from_value(object).expect("a service"))
    };
    let port = json!([{"name": "p", "port": 80, "protocol": "TCP"}]);
    let endpoints: Vec<_> = (1..100)
        .map(
            |last| json!({"addresses": [format!("10.1.0.{last}")], "hostname": format!("h{last}")}),
        )
        .collect();
    let slice = json!({
        "metadata": {"name": "h-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "h"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": port.clone(),
    });
    DnsState::from_objects(
        &[
            service(
                "c",
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": port}),
            ),
            service("h", json!({"clusterIP": "None", "ports": port})),
            service(
                "x",
                json!({"type": "ExternalName", "externalName": "y.a.svc.cluster.local"}),
            ),
            service(
                "y",
                json!({"type": "ExternalName", "externalName": "x.a.svc.cluster.local"}),
            ),
            service(
                "z",
                json!({"type": "ExternalName", "externalName": "example.com"}),
            ),
        ],
        &[Arc::new(serde_json::from_value(slice).expect("a slice"))],
    )
});

/// Reads a Corefile. A problem names one of its lines.
pub fn corefile(text: &str) {
    if let Err(problem) = super::corefile::Corefile::parse(text, "cluster.local") {
        let lines = text.split('\n').count();
        assert!((1..=lines).contains(&problem.line), "{problem}");
    }
}

/// Answers a query. An answer fits into its limit, can be read, and has the query's number.
/// Answers are not answered.
pub fn query(bytes: &[u8]) {
    let domain = Name::from_ascii("cluster.local.").expect("a name");
    let zone = Zone {
        domain: &domain,
        state: Some(&STATE),
        server: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10)),
        serial: 1,
        can_forward: true,
        ttl: 30,
        pods: true,
        reverse: true,
    };
    let is_answer = bytes.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let message = match respond(bytes, &zone) {
        Outcome::Silence => return,
        Outcome::Answer(message) | Outcome::Elsewhere(message, _) => message,
    };
    assert!(!is_answer, "an answer was answered");
    for limit in [udp_limit(bytes), usize::from(u16::MAX)] {
        let Some(sent) = encode(message.clone(), limit) else {
            continue;
        };
        assert!(sent.len() <= limit, "{} of {limit} bytes", sent.len());
        let read = Message::from_vec(&sent).expect("an answer can be read");
        assert_eq!(read.metadata.message_type, MessageType::Response);
        assert_eq!(sent[..2], bytes[..2], "it has the query's number");
    }
}
