//! Tests of the zone, the wire format and forwarding.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::respond::{Outcome, Zone, encode, respond};
use super::{DnsConfig, DnsServer, DnsState};

mod plugins;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));

fn state() -> DnsState {
    let service = |name: &str, spec: Value| -> Arc<Service> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"namespace": "default", "name": name}, "spec": spec}),
            )
            .unwrap(),
        )
    };
    let slice = |name: &str, ports: Value, endpoints: Value| -> Arc<EndpointSlice> {
        let labels = json!({"kubernetes.io/service-name": name});
        let metadata =
            json!({"namespace": "default", "name": format!("{name}-x"), "labels": labels});
        let object = json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
        Arc::new(serde_json::from_value(object).unwrap())
    };
    let many: Value = (1..=100)
        .map(|n| json!({"addresses": [format!("10.244.9.{n}")]}))
        .collect();
    DnsState::from_objects(
        &[
            service(
                "kubernetes",
                json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}),
            ),
            service(
                "db",
                json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
            ),
            service("empty", json!({"clusterIP": "None"})),
            service("many", json!({"clusterIP": "None"})),
            service(
                "out",
                json!({"type": "ExternalName", "externalName": "www.example.com"}),
            ),
            service(
                "machine",
                json!({"type": "ExternalName", "externalName": "host.rkube.internal"}),
            ),
            service(
                "in",
                json!({"type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local."}),
            ),
            service(
                "ring",
                json!({"type": "ExternalName", "externalName": "ring.default.svc.cluster.local"}),
            ),
        ],
        &[
            slice(
                "db",
                json!([{"name": "sql", "port": 5433, "protocol": "TCP"}]),
                json!([
                    {"addresses": ["10.244.0.5"], "hostname": "db-0"},
                    {"addresses": ["10.244.0.6"]},
                    {"addresses": ["10.244.0.7"], "hostname": "db-2", "conditions": {"ready": false}},
                ]),
            ),
            slice("many", json!([]), many),
        ],
    )
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

fn with_zone<T>(
    state: Option<&DnsState>,
    can_forward: bool,
    work: impl FnOnce(&Zone<'_>) -> T,
) -> T {
    let mut domain = Name::from_ascii("cluster.local").unwrap();
    domain.set_fqdn(true);
    work(&Zone {
        domain: &domain,
        state,
        server: SERVER,
        serial: 1,
        can_forward,
        ttl: 5,
        pods: true,
        reverse: true,
    })
}

fn ask(name: &str, kind: RecordType) -> Message {
    let state = state();
    let outcome = with_zone(Some(&state), false, |zone| {
        respond(&question(name, kind).to_vec().unwrap(), zone)
    });
    let Outcome::Answer(message) = outcome else {
        panic!("no answer to {name}")
    };
    // Round-trip the response, so that one that cannot be encoded fails.
    Message::from_vec(&encode(message, 65535).unwrap()).unwrap()
}

fn answers(name: &str, kind: RecordType) -> Vec<String> {
    let message = ask(name, kind);
    assert_eq!(
        message.metadata.response_code,
        ResponseCode::NoError,
        "{name}"
    );
    let mut answers: Vec<String> = message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    answers.sort();
    answers
}

fn assert_negative(name: &str, kind: RecordType, code: ResponseCode) {
    let message = ask(name, kind);
    assert_eq!(message.metadata.response_code, code, "{name} {kind}");
    assert!(message.answers.is_empty() && message.metadata.authoritative);
    assert!(
        matches!(&message.authorities[..], [Record { data: RData::SOA(soa), ttl: 5, .. }] if soa.minimum == 5)
    );
}

#[test]
fn services_have_addresses_and_ports() {
    let name = "kubernetes.default.svc.cluster.local";
    assert_eq!(answers(name, RecordType::A), ["10.96.0.1"]);
    let message = ask("KuberNetes.Default.svc.CLUSTER.local", RecordType::A);
    assert_eq!(
        message.answers[0].name.to_ascii(),
        "KuberNetes.Default.svc.CLUSTER.local."
    );
    assert_eq!(
        (message.answers[0].ttl, message.metadata.authoritative),
        (5, true)
    );
    assert!(message.metadata.recursion_available && message.metadata.recursion_desired);
    let srv = "0 100 443 kubernetes.default.svc.cluster.local.";
    assert_eq!(
        answers(
            "_https._tcp.kubernetes.default.svc.cluster.local",
            RecordType::SRV
        ),
        [srv]
    );
    assert_eq!(answers(name, RecordType::SRV), [srv]);
    assert_eq!(ask(name, RecordType::SRV).additionals.len(), 1);
    assert_eq!(
        answers("1.0.96.10.in-addr.arpa", RecordType::PTR),
        [format!("{name}.")]
    );
}

#[test]
fn headless_services_have_their_ready_endpoints() {
    assert_eq!(
        answers("db.default.svc.cluster.local", RecordType::A),
        ["10.244.0.5", "10.244.0.6"]
    );
    assert_eq!(
        answers("db-0.db.default.svc.cluster.local", RecordType::A),
        ["10.244.0.5"]
    );
    assert_eq!(
        answers("10-244-0-6.db.default.svc.cluster.local", RecordType::A),
        ["10.244.0.6"]
    );
    assert_eq!(
        answers("_sql._tcp.db.default.svc.cluster.local", RecordType::SRV),
        [
            "0 100 5433 10-244-0-6.db.default.svc.cluster.local.",
            "0 100 5433 db-0.db.default.svc.cluster.local."
        ]
    );
    assert_eq!(
        answers("5.0.244.10.in-addr.arpa", RecordType::PTR),
        ["db-0.db.default.svc.cluster.local."]
    );
    assert_negative(
        "db-2.db.default.svc.cluster.local",
        RecordType::A,
        ResponseCode::NXDomain,
    );
    assert_negative(
        "empty.default.svc.cluster.local",
        RecordType::A,
        ResponseCode::NXDomain,
    );
}

#[test]
fn what_exists_without_the_type_is_told_from_what_does_not_exist() {
    for name in [
        "cluster.local",
        "svc.cluster.local",
        "default.svc.cluster.local",
        "kubernetes.default.svc.cluster.local",
        "_tcp.kubernetes.default.svc.cluster.local",
        "_https._tcp.kubernetes.default.svc.cluster.local",
        "db-0.db.default.svc.cluster.local",
        "10-1-2-3.default.pod.cluster.local",
    ] {
        assert_negative(name, RecordType::AAAA, ResponseCode::NoError);
    }
    for name in [
        "nothing.cluster.local",
        "nothing.svc.cluster.local",
        "nothing.default.svc.cluster.local",
        "_udp.kubernetes.default.svc.cluster.local",
        "_http._tcp.kubernetes.default.svc.cluster.local",
        "x.y.z.kubernetes.default.svc.cluster.local",
        "example.com.default.svc.cluster.local",
        "10-1-2.default.pod.cluster.local",
    ] {
        assert_negative(name, RecordType::A, ResponseCode::NXDomain);
    }
}

#[test]
fn pods_the_apex_and_the_version() {
    assert_eq!(
        answers("10-1-2-3.default.pod.cluster.local", RecordType::A),
        ["10.1.2.3"]
    );
    assert_eq!(
        answers("dns-version.cluster.local", RecordType::TXT),
        ["1.1.0"]
    );
    assert_eq!(
        answers("cluster.local", RecordType::NS),
        ["ns.dns.cluster.local."]
    );
    assert_eq!(
        answers("ns.dns.cluster.local", RecordType::A),
        [SERVER.to_string()]
    );
    assert_eq!(answers("cluster.local", RecordType::SOA).len(), 1);
}

#[test]
fn aliases_are_followed_within_reason() {
    assert_eq!(
        answers("out.default.svc.cluster.local", RecordType::CNAME),
        ["www.example.com."]
    );
    assert_eq!(
        answers("in.default.svc.cluster.local", RecordType::A),
        ["10.96.0.1", "kubernetes.default.svc.cluster.local."]
    );
    assert_eq!(
        ask("ring.default.svc.cluster.local", RecordType::A)
            .metadata
            .response_code,
        ResponseCode::ServFail
    );
    let state = state();
    let bytes = question("out.default.svc.cluster.local", RecordType::A)
        .to_vec()
        .unwrap();
    let outcome = with_zone(Some(&state), true, |zone| respond(&bytes, zone));
    let Outcome::Elsewhere(message, name) = outcome else {
        panic!("to be asked elsewhere")
    };
    assert_eq!(
        (message.answers.len(), name.to_ascii().as_str()),
        (1, "www.example.com.")
    );
}

#[test]
fn without_servers_or_names_the_answer_is_quick() {
    let code = |name, state: Option<&DnsState>| {
        let bytes = question(name, RecordType::A).to_vec().unwrap();
        match with_zone(state, false, |zone| respond(&bytes, zone)) {
            Outcome::Answer(message) => message.metadata.response_code,
            _ => panic!("an answer is due"),
        }
    };
    assert_eq!(code("example.com", Some(&state())), ResponseCode::ServFail);
    assert_eq!(
        code("kubernetes.default.svc.cluster.local", None),
        ResponseCode::ServFail
    );
    assert_eq!(
        code("9.9.9.10.in-addr.arpa", Some(&state())),
        ResponseCode::NXDomain
    );
}

#[test]
fn long_answers_are_cut_for_udp() {
    let message = ask("many.default.svc.cluster.local", RecordType::A);
    assert_eq!(message.answers.len(), 100);
    for limit in [512, 1232] {
        let bytes = encode(message.clone(), limit).unwrap();
        assert!(bytes.len() <= limit && bytes.len() > limit / 2);
        let cut = Message::from_vec(&bytes).unwrap();
        assert!(cut.metadata.truncation && !cut.answers.is_empty());
    }
    assert!(
        !Message::from_vec(&encode(message, 65535).unwrap())
            .unwrap()
            .metadata
            .truncation
    );
}

#[test]
fn nonsense_is_refused_as_the_protocol_says() {
    let state = state();
    let code = |bytes: &[u8]| match with_zone(Some(&state), true, |zone| respond(bytes, zone)) {
        Outcome::Answer(message) => Some(message.metadata.response_code),
        _ => None,
    };
    assert_eq!(code(&[]), None);
    assert_eq!(code(&[1, 2, 3]), None);
    assert_eq!(
        code(&[0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]),
        Some(ResponseCode::FormErr)
    );
    let mut message = question("cluster.local", RecordType::A);
    message.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&message.to_vec().unwrap()), Some(ResponseCode::NotImp));
    message.metadata.message_type = MessageType::Response;
    assert_eq!(code(&message.to_vec().unwrap()), None);
    let mut message = question("cluster.local", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    assert_eq!(
        code(&message.to_vec().unwrap()),
        Some(ResponseCode::BADVERS)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let state = state();
        if let Outcome::Answer(message) = with_zone(Some(&state), true, |zone| respond(&bytes, zone)) {
            let _ = encode(message, 512);
        }
    }

    #[test]
    fn no_damaged_question_makes_it_panic(
        at in 0_usize..60, byte: u8, cut in 0_usize..70, label in "[a-z0-9_][a-z0-9_-]{0,19}", kind: u16,
    ) {
        let state = state();
        let name = format!("{label}.db.default.svc.cluster.local");
        let mut bytes = question(&name, RecordType::from(kind)).to_vec().unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        if let Outcome::Answer(message) = with_zone(Some(&state), false, |zone| respond(&bytes, zone)) {
            let _ = encode(message, 512);
        }
    }
}

/// Starts a server that answers every A query with 192.0.2.1, over TCP only if `tcp`. Returns its
/// address and a counter of UDP queries.
async fn elsewhere(tcp: bool) -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    // The port that UDP gets may be taken for TCP.
    let (udp, address, listener) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(listener) = TcpListener::bind(address).await {
            break (udp, address, listener);
        }
    };
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    let reply = |bytes: &[u8]| {
        let mut message = Message::from_vec(bytes).unwrap();
        message.metadata.message_type = MessageType::Response;
        let owner = message.queries[0].name().clone();
        message.add_answer(Record::from_rdata(
            owner,
            300,
            RData::A(A::new(192, 0, 2, 1)),
        ));
        message
    };
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut message = reply(&buffer[..length]);
            if tcp {
                message = message.truncate();
            }
            udp.send_to(&message.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut bytes).await.unwrap();
            let answer = reply(&bytes).to_vec().unwrap();
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    (address, asked)
}

/// Returns a Corefile that serves the cluster's names, with more plugins.
fn corefile(plugins: &str) -> String {
    format!(
        ".:53 {{\nkubernetes cluster.local in-addr.arpa ip6.arpa {{\npods insecure\nfallthrough in-addr.arpa ip6.arpa\n}}\n{plugins}\n}}\n"
    )
}

async fn start(upstreams: Vec<SocketAddr>) -> DnsServer {
    let config = DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        domain: "cluster.local".into(),
        upstreams: vec![],
        resolv_conf: "/nonexistent".into(),
        host: Some(Ipv4Addr::new(192, 168, 58, 1)),
        host_names: vec!["host.rkube.internal".into()],
    };
    let server = DnsServer::start(config).await.unwrap();
    if !upstreams.is_empty() {
        let to: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
        let plugins = format!(
            "forward . {} {{\npolicy sequential\n}}\ncache 30",
            to.join(" ")
        );
        server.configure(Some(&corefile(&plugins))).unwrap();
    }
    server.update(state());
    server
}

async fn by_udp(server: &DnsServer, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket
        .send_to(&message.to_vec().unwrap(), server.address())
        .await
        .unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

#[tokio::test]
async fn questions_come_by_udp_and_by_tcp() {
    let server = start(vec![]).await;
    let mut message = question("many.default.svc.cluster.local", RecordType::A);
    assert!(by_udp(&server, &message).await.metadata.truncation);
    message.set_edns(Edns::new());
    let answer = by_udp(&server, &message).await;
    assert!(answer.edns.is_some());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    for _ in 0..2 {
        let bytes = message.to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 100);
    }
    let message = question("example.com", RecordType::A);
    assert_eq!(
        by_udp(&server, &message).await.metadata.response_code,
        ResponseCode::ServFail
    );
}

#[tokio::test]
async fn other_names_are_asked_elsewhere_and_remembered() {
    for tcp in [false, true] {
        let (address, asked) = elsewhere(tcp).await;
        // The first server does not respond, because its port is closed.
        let closed = UdpSocket::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let server = start(vec![closed, address]).await;
        for name in ["Example.com", "example.COM"] {
            let answer = by_udp(&server, &question(name, RecordType::A)).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert_eq!(answer.answers.len(), 1);
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
        let answer = by_udp(
            &server,
            &question("out.default.svc.cluster.local", RecordType::A),
        )
        .await;
        assert_eq!(answer.answers.len(), 2);
    }
}

#[tokio::test]
async fn one_client_does_not_use_up_the_queries_of_others() {
    // A server that never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = start(vec![silent.local_addr().unwrap()]).await;
    let greedy = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut failed = 0;
    let mut buffer = [0; 4096];
    // Twice the part of a client: what exceeds it is refused at once.
    for number in 0..128 {
        let query = question(&format!("{number}.example.com"), RecordType::A);
        let bytes = query.to_vec().unwrap();
        greedy.send_to(&bytes, server.address()).await.unwrap();
        if number >= 64 {
            greedy.recv(&mut buffer).await.unwrap();
            failed += 1;
        }
    }
    assert_eq!(failed, 64);
    // Another one is still served: its query reaches the server.
    let other = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let query = question("other.example.com", RecordType::A);
    let bytes = query.to_vec().unwrap();
    other.send_to(&bytes, server.address()).await.unwrap();
    loop {
        let length = silent.recv(&mut buffer).await.unwrap();
        let asked = Message::from_vec(&buffer[..length]).unwrap();
        if asked.queries[0].name().to_string() == "other.example.com." {
            break;
        }
    }
}
