use http::{HeaderName, HeaderValue};
use jiff::SignedDuration;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::*;
use crate::testing::Cluster;
use crate::token::{TokenSigner, TokenSpec};

mod secrets;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca {
        pem,
        issuer: Issuer::new(params, key),
    }
}

impl Ca {
    fn client(
        &self,
        name: &str,
        group: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().clone()
    }
}

struct Fixture {
    cluster: Arc<Cluster>,
    ca: Ca,
    proxy_ca: Ca,
    signer: TokenSigner,
    authenticators: Authenticators,
    now: Timestamp,
}

fn fixture() -> Fixture {
    let cluster = Cluster::new();
    let (ca, proxy_ca) = (ca(), ca());
    let key = KeyPair::generate().unwrap();
    let config = AuthnConfig {
        client_ca_pem: ca.pem.clone().into(),
        front_proxy: Some(FrontProxyConfig {
            ca_pem: proxy_ca.pem.clone().into(),
            allowed_names: vec!["front".into()],
        }),
        service_account_keys_pem: vec![key.public_key_pem().into()],
        issuer: ISSUER.into(),
        api_audiences: Vec::new(),
    };
    cluster.put(
        "",
        "serviceaccounts",
        json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "sa-uid"}}),
    );
    cluster.put(
        "",
        "nodes",
        json!({"metadata": {"name": "n1", "uid": "n1-uid"}}),
    );
    cluster.put(
        "",
        "pods",
        json!({
            "metadata": {"name": "pod", "namespace": "ns", "uid": "pod-uid"},
            "spec": {"serviceAccountName": "sa", "nodeName": "n1"},
        }),
    );
    Fixture {
        signer: TokenSigner::from_pem(key.serialize_pem().as_bytes(), ISSUER).unwrap(),
        authenticators: Authenticators::new(config, cluster.clone()).unwrap(),
        cluster,
        ca,
        proxy_ca,
        now: Timestamp::now(),
    }
}

impl Fixture {
    fn request(&self, spec: Object) -> Result<Object, Status> {
        self.signer
            .token_request(&*self.cluster, "ns", "sa", &json!({"spec": spec}), self.now)
    }

    fn token(&self, spec: Object) -> String {
        self.request(spec).unwrap()["status"]["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn bearer(&self, token: &str, after_seconds: i64) -> Result<Option<UserInfo>, u16> {
        let headers = headers(&[("authorization", &format!("Bearer {token}"))]);
        let now = self.now + SignedDuration::from_secs(after_seconds);
        self.authenticators
            .authenticate_at(&headers, &[], now)
            .map_err(|e| e.code)
    }

    fn certificate(
        &self,
        pairs: &[(&str, &str)],
        leaf: CertificateDer<'static>,
    ) -> Result<Option<UserInfo>, u16> {
        self.authenticators
            .authenticate_at(&headers(pairs), &[leaf], self.now)
            .map_err(|e| e.code)
    }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    headers
}

fn bound_to_pod() -> Object {
    json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "pod", "uid": "pod-uid"}, "expirationSeconds": 3607})
}

#[test]
fn certificates_name_user_and_groups() {
    let w = fixture();
    let leaf = w.ca.client("kubernetes-admin", "system:masters", |_| {});
    for _ in 0..2 {
        let user = w.certificate(&[], leaf.clone()).unwrap().unwrap();
        assert_eq!(user.name, "kubernetes-admin");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
        assert!(user.extra[service_account::CREDENTIAL_ID][0].starts_with("X509SHA256="));
    }
    let stranger = ca().client("kubernetes-admin", "system:masters", |_| {});
    assert_eq!(w.certificate(&[], stranger), Err(401));
    let server = w.ca.client("x", "y", |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    });
    assert_eq!(w.certificate(&[], server), Err(401));
    let expired =
        w.ca.client("x", "y", |p| p.not_after = rcgen::date_time_ymd(2020, 1, 1));
    assert_eq!(w.certificate(&[], expired), Err(401));
    assert_eq!(
        w.certificate(&[], CertificateDer::from(vec![1, 2, 3])),
        Err(401)
    );
    // A certificate of the proxy's CA does not authenticate without the headers.
    let proxy = w.proxy_ca.client("front", "system:masters", |_| {});
    assert_eq!(w.certificate(&[], proxy), Err(401));
}

#[test]
fn the_servers_own_certificate_for_node_agents_is_refused() {
    let w = fixture();
    for group in ["system:masters", "any"] {
        let own = w.ca.client("kube-apiserver-kubelet-client", group, |_| {});
        assert_eq!(w.certificate(&[], own), Err(401));
    }
}

#[test]
fn only_the_front_proxy_asserts_users() {
    let w = fixture();
    let asserted = [
        ("x-remote-user", "jane"),
        ("x-remote-group", "dev"),
        ("x-remote-extra-a%2fb", "c"),
    ];
    let proxy = w.proxy_ca.client("front", "x", |_| {});
    let user = w.certificate(&asserted, proxy).unwrap().unwrap();
    assert_eq!(user.name, "jane");
    assert_eq!(user.groups, ["dev", "system:authenticated"]);
    assert_eq!(user.extra["a/b"], ["c"]);
    let other = w.proxy_ca.client("other", "x", |_| {});
    assert_eq!(w.certificate(&asserted, other), Err(401));
    let joe = w.ca.client("joe", "x", |_| {});
    assert_eq!(w.certificate(&asserted, joe).unwrap().unwrap().name, "joe");
}

#[test]
fn a_pods_token_says_who_and_where() {
    let w = fixture();
    let user = w.bearer(&w.token(bound_to_pod()), 0).unwrap().unwrap();
    assert_eq!(user.name, "system:serviceaccount:ns:sa");
    assert_eq!(user.uid, "sa-uid");
    assert_eq!(
        user.groups,
        [
            "system:serviceaccounts",
            "system:serviceaccounts:ns",
            "system:authenticated"
        ]
    );
    let extra = |key: &str| user.extra[&format!("authentication.kubernetes.io/{key}")][0].clone();
    assert_eq!(extra("pod-name"), "pod");
    assert_eq!(extra("pod-uid"), "pod-uid");
    assert_eq!(extra("node-name"), "n1");
    assert_eq!(extra("node-uid"), "n1-uid");
    assert!(extra("credential-id").starts_with("JTI="));
}

#[test]
fn tokens_end_with_their_time_and_their_objects() {
    let w = fixture();
    let plain = w.token(json!({"expirationSeconds": 600}));
    assert!(w.bearer(&plain, 600).unwrap().is_some());
    assert_eq!(w.bearer(&plain, 700), Err(401));
    assert_eq!(w.bearer(&plain, -120), Err(401), "not valid yet");
    let pods = w.token(bound_to_pod());
    assert!(
        w.bearer(&pods, 4000).unwrap().is_some(),
        "a projected token is good for longer than it says"
    );
    let mut pod = json!({"metadata": {"name": "pod", "namespace": "ns", "uid": "pod-uid"}});
    pod["metadata"]["deletionTimestamp"] = rkube_api::meta::rfc3339(w.now).into();
    w.cluster.put("", "pods", pod);
    assert!(
        w.bearer(&pods, 30).unwrap().is_some(),
        "a little late is not too late"
    );
    assert_eq!(w.bearer(&pods, 90), Err(401));
    w.cluster.put(
        "",
        "pods",
        json!({"metadata": {"name": "pod", "namespace": "ns", "uid": "another"}}),
    );
    assert_eq!(w.bearer(&pods, 0), Err(401));
    w.cluster.remove("", "pods", "ns", "pod");
    assert_eq!(w.bearer(&pods, 0), Err(401));
    assert!(w.bearer(&plain, 0).unwrap().is_some());
    w.cluster.put(
        "",
        "serviceaccounts",
        json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "new"}}),
    );
    assert_eq!(w.bearer(&plain, 0), Err(401));
    w.cluster.remove("", "serviceaccounts", "ns", "sa");
    assert_eq!(w.bearer(&plain, 0), Err(401));
}

#[test]
fn forged_tokens_are_refused() {
    let w = fixture();
    let good = w.token(json!({}));
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    let claims: Object = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let encode = |value: &Object| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut other = claims.clone();
    other["kubernetes.io"]["namespace"] = json!("kube-system");
    let none = encode(&json!({"alg": "none"}));
    let hmac = encode(&json!({"alg": "HS256"}));
    for forged in [
        format!("{header}.{}.{signature}", encode(&other)),
        format!("{none}.{payload}."),
        format!("{hmac}.{payload}.{signature}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{}", &signature[1..]),
        format!("{payload}.{payload}.{signature}"),
        "x".into(),
        "..".into(),
    ] {
        assert_eq!(w.bearer(&forged, 0), Err(401), "{forged}");
    }
    let stranger = KeyPair::generate().unwrap();
    let stranger = TokenSigner::from_pem(stranger.serialize_pem().as_bytes(), ISSUER).unwrap();
    let account = w.cluster.get("", "serviceaccounts", "ns", "sa").unwrap();
    let spec = TokenSpec {
        service_account: &account,
        pod: None,
        secret: None,
        node: None,
        audiences: &[ISSUER.to_owned()],
        expiration_seconds: 600,
        warn_after_seconds: None,
    };
    let foreign = stranger.issue(&spec, w.now).unwrap();
    assert_eq!(w.bearer(&foreign.token, 0), Err(401));
    let own = w.signer.issue(&spec, w.now).unwrap();
    assert!(w.bearer(&own.token, 0).unwrap().is_some());
}

#[test]
fn audiences_are_kept_apart() {
    let w = fixture();
    let vault = w.token(json!({"audiences": ["vault"]}));
    assert_eq!(w.bearer(&vault, 0), Err(401));
    let review = |token: &str, audiences: Object| {
        let review = json!({"spec": {"token": token, "audiences": audiences}});
        w.authenticators.token_review_at(&review, w.now)["status"].clone()
    };
    let status = review(&vault, json!(["vault", "other"]));
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["vault"]));
    assert_eq!(status["user"]["username"], "system:serviceaccount:ns:sa");
    let status = review(&vault, json!([]));
    assert_eq!(status.get("authenticated"), None);
    assert!(status["error"].as_str().unwrap().contains("audiences"));
    assert_eq!(
        review("nonsense", json!([]))["error"],
        "invalid bearer token"
    );
}

#[test]
fn token_requests_are_checked() {
    let w = fixture();
    let code = |spec: Object| w.request(spec).map(|_| 0).unwrap_or_else(|e| e.code);
    assert_eq!(code(json!({"expirationSeconds": 599})), 422);
    assert_eq!(code(json!({"expirationSeconds": 1i64 << 33})), 422);
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
    assert_eq!(code(bound("Pod", "none", "")), 404);
    assert_eq!(code(bound("Pod", "pod", "wrong")), 409);
    assert_eq!(code(bound("Service", "x", "")), 400);
    assert_eq!(code(bound("Node", "n1", "n1-uid")), 0);
    let answer = w.request(json!({})).unwrap();
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer["metadata"]["uid"], "sa-uid");
    let expires = rkube_api::meta::rfc3339(w.now + SignedDuration::from_secs(3600));
    assert_eq!(answer["status"]["expirationTimestamp"], json!(expires));
    let other = |name: &str| {
        let request = json!({"metadata": {"name": "x"}, "spec": {}});
        w.signer
            .token_request(&*w.cluster, "ns", name, &request, w.now)
            .unwrap_err()
            .code
    };
    assert_eq!(other("sa"), 422);
    w.cluster.put(
        "",
        "serviceaccounts",
        json!({"metadata": {"name": "b", "namespace": "ns", "uid": "b-uid"}}),
    );
    let request = json!({"spec": bound_to_pod()});
    let error = w
        .signer
        .token_request(&*w.cluster, "ns", "b", &request, w.now)
        .unwrap_err();
    assert_eq!(error.code, 400);
}

#[test]
fn the_key_set_verifies_the_tokens() {
    let key = KeyPair::generate().unwrap();
    let set = crate::token::jwks(&[key.public_key_pem().into()]).unwrap();
    let jwk = &set["keys"][0];
    assert_eq!(
        (jwk["kty"].as_str(), jwk["crv"].as_str()),
        (Some("EC"), Some("P-256"))
    );
    let coordinate = |field: &str| {
        URL_SAFE_NO_PAD
            .decode(jwk[field].as_str().unwrap())
            .unwrap()
    };
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    assert_eq!(point, key.public_key_raw());
    assert!(crate::token::jwks(&[b"no key".to_vec()]).is_err());
}

#[test]
fn bootstrap_tokens_are_for_new_nodes() {
    use base64::engine::general_purpose::STANDARD;
    let w = fixture();
    let secret = |change: &dyn Fn(&mut Object)| {
        let data = |pairs: &[(&str, &str)]| -> Object {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), Object::from(STANDARD.encode(v))))
                .collect::<Map<_, _>>()
                .into()
        };
        let mut secret = json!({
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
            "type": "bootstrap.kubernetes.io/token",
            "data": data(&[
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
                ("auth-extra-groups", "system:bootstrappers:rkube:default-node-token"),
                ("expiration", "2999-01-01T00:00:00Z"),
            ]),
        });
        change(&mut secret);
        w.cluster.put("", "secrets", secret);
    };
    let token = "abcdef.0123456789abcdef";
    secret(&|_| {});
    let user = w.bearer(token, 0).unwrap().unwrap();
    assert_eq!(user.name, "system:bootstrap:abcdef");
    assert_eq!(
        user.groups,
        [
            "system:bootstrappers",
            "system:bootstrappers:rkube:default-node-token",
            "system:authenticated"
        ]
    );
    assert_eq!(w.bearer("abcdef.0123456789abcdeX", 0), Err(401));
    assert_eq!(w.bearer("abcdef.0123456789abcde0", 0), Err(401));
    let encoded = |text: &str| json!(STANDARD.encode(text));
    let changes: [&dyn Fn(&mut Object); 5] = [
        &|s| s["data"]["expiration"] = encoded("2020-01-01T00:00:00Z"),
        &|s| s["data"]["expiration"] = encoded("soon"),
        &|s| s["data"]["usage-bootstrap-authentication"] = encoded("false"),
        &|s| s["data"]["auth-extra-groups"] = encoded("system:masters"),
        &|s| s["type"] = json!("Opaque"),
    ];
    for change in changes {
        secret(change);
        assert_eq!(w.bearer(token, 0), Err(401));
    }
}

#[test]
fn tokens_come_in_headers_and_subprotocols() {
    let w = fixture();
    let token = w.token(json!({}));
    let at = |pairs: &[(&str, &str)]| {
        w.authenticators
            .authenticate_at(&headers(pairs), &[], w.now)
            .map_err(|e| e.code)
    };
    assert_eq!(at(&[]), Ok(None));
    assert_eq!(at(&[("authorization", "Basic abc")]), Ok(None));
    assert!(
        at(&[("authorization", &format!("bearer {token}"))])
            .unwrap()
            .is_some()
    );
    let protocol = format!(
        "base64url.bearer.authorization.k8s.io.{}, v5.channel.k8s.io",
        URL_SAFE_NO_PAD.encode(&token)
    );
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", &protocol),
    ];
    assert!(at(&upgrade).unwrap().is_some());
    assert_eq!(at(&upgrade[2..]), Ok(None));
    let alone = protocol.split(',').next().unwrap();
    assert_eq!(
        at(&[upgrade[0], upgrade[1], ("sec-websocket-protocol", alone)]),
        Err(401)
    );

    let mut rest = headers(&upgrade);
    rest.insert("authorization", HeaderValue::from_static("Bearer x"));
    rest.insert("x-remote-extra-a", HeaderValue::from_static("x"));
    remove_credentials(&mut rest);
    let names: Vec<_> = rest.keys().map(|name| name.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(rest["sec-websocket-protocol"], "v5.channel.k8s.io");
}

#[test]
fn nobody_in_particular_sees_health_only() {
    let w = fixture();
    for path in ["/healthz", "/livez/etcd", "/readyz"] {
        assert_eq!(
            w.authenticators.anonymous(path),
            Some(UserInfo::anonymous())
        );
    }
    for path in ["/", "/api", "/version", "/healthzz", "/metrics"] {
        assert_eq!(w.authenticators.anonymous(path), None);
    }
}

#[test]
fn client_certificates_of_any_issuer_but_the_ca_are_no_users() {
    let w = fixture();
    let stranger = ca();
    let leaf = |ca: &Ca, change: fn(&mut CertificateParams)| ca.client("jane", "devs", change);
    let as_ca = |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let judge = |leaf: CertificateDer<'static>, headers: &HeaderMap| {
        w.authenticators.authenticate_at(headers, &[leaf], w.now)
    };
    let none = HeaderMap::new();
    assert_eq!(
        judge(leaf(&w.ca, |_| {}), &none).unwrap().unwrap().name,
        "jane"
    );
    assert_eq!(
        judge(leaf(&w.ca, as_ca), &none).unwrap().unwrap().name,
        "jane"
    );
    assert_eq!(judge(leaf(&stranger, |_| {}), &none).unwrap_err().code, 401);
    // The next authenticator decides.
    let token = w.token(json!({}));
    let mut bearer = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    bearer.insert(http::header::AUTHORIZATION, value);
    let user = judge(leaf(&stranger, |_| {}), &bearer).unwrap().unwrap();
    assert_eq!(user.name, "system:serviceaccount:ns:sa");
}
