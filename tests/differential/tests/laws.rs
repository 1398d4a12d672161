//! Checks the laws with the API server of this workspace, in one process.

use rkube_apiserver::{ApiServer, Config, Pki};
use rkube_differential::{Generator, Server, laws};
use rkube_store::{EmbeddedOptions, EmbeddedStore};

/// How many cases run with all tests. `RKUBE_DIFFERENTIAL_CASES` sets another number, and
/// `RKUBE_DIFFERENTIAL_SEED` another seed.
const CASES: u64 = 1500;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

fn authority() -> Pki {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::from_params(&params, &key);
    let sign = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (serving_cert, serving_key) = sign("kube-apiserver");
    let (kubelet_cert, kubelet_key) = sign("kubelet-client");
    let tokens = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    Pki {
        ca_cert: ca.into(),
        serving_cert: serving_cert.into(),
        serving_key: serving_key.into(),
        kubelet_client_cert: kubelet_cert.into(),
        kubelet_client_key: kubelet_key.into(),
        front_proxy_ca_cert: None,
        front_proxy_client_cert: None,
        front_proxy_client_key: None,
        service_account_key: tokens.serialize_pem().into(),
        service_account_pub: tokens.public_key_pem().into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_obeys_the_laws() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store"), EmbeddedOptions::default());
    let config = Config {
        store: store.unwrap(),
        pki: authority(),
        version: "v1.36.0+rkube0.0.0".into(),
        dns_domain: "cluster.local".into(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        node_ports: (30000, 32767),
        advertise_ip: "192.168.49.2".parse().unwrap(),
        advertise_port: 8443,
        audit: None,
    };
    let api = ApiServer::new(config).await.unwrap();
    let server = Server::new(api.client("tester", &["system:masters"]), "laws");
    server.prepare().await.unwrap();
    let seed = setting("RKUBE_DIFFERENTIAL_SEED", 1);
    let generator = Generator::new(seed, "").unwrap();
    let mut accepted = 0;
    let mut broken = Vec::new();
    let cases = setting("RKUBE_DIFFERENTIAL_CASES", CASES);
    for number in 0..cases {
        let case = generator.case(number);
        let outcome = laws::run(&server, &case).await.unwrap();
        if number < generator.valid() {
            assert!(outcome.accepted, "refused: {}", case.object);
        }
        accepted += u64::from(outcome.accepted);
        for breach in outcome.breaches {
            let (kind, changes) = (&case.resource.kind, case.changes.join(" "));
            broken.push(format!(
                "case {number}, {kind}, {changes}: {}\n  {}\n    {}",
                breach.law, case.object, breach.detail
            ));
        }
    }
    assert!(
        accepted > cases / 4,
        "only {accepted} of {cases} objects were accepted"
    );
    assert!(
        broken.is_empty(),
        "{} breaches with seed {seed}:\n{}",
        broken.len(),
        broken.join("\n")
    );
}
