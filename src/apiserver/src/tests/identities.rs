//! Users by tokens in secrets, and by certificates of strangers.

use std::time::Duration;

use base64::Engine as _;
use http::Request;
use http_body_util::BodyExt as _;
use rkube_auth::token::TokenSigner;
use rkube_x509::{Identity, Roots, ServerVerifier, client_config};
use serde_json::json;

use super::support::{TestServer, start};
use crate::body;

/// Returns a self-signed certificate of a stranger who calls himself an administrator, which is also
/// that of a CA.
fn stranger() -> Identity {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::CommonName, "admin");
    name.push(rcgen::DnType::OrganizationName, "system:masters");
    params.distinguished_name = name;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

/// Makes a secret with a token of the service account `default/robot`.
async fn token(t: &TestServer) -> String {
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let path = "/api/v1/namespaces/default/serviceaccounts";
    let (code, account) = t.post(path, account).await;
    assert_eq!(code, 201, "{account}");
    let uid = account["metadata"]["uid"].as_str().unwrap();
    let signer = TokenSigner::from_pem(&t.pki.pki.service_account_key, "unused").unwrap();
    let token = signer
        .issue_for_secret("default", "robot", uid, "robot-token")
        .unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "robot-token", "annotations": {"kubernetes.io/service-account.name": "robot"}},
        "data": {"token": base64::engine::general_purpose::STANDARD.encode(&token)},
    });
    let (code, made) = t.post("/api/v1/namespaces/default/secrets", secret).await;
    assert_eq!(code, 201, "{made}");
    token
}

#[tokio::test]
async fn a_strangers_certificate_does_not_fail_the_connection() {
    let t = start().await;
    let token = token(&t).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(t.server.clone().serve(listener, stop.clone()));
    let roots = || Roots::from_pem(&t.pki.pki.ca_cert).unwrap();
    for (identity, bearer, code) in [
        (None, None, 401),
        (Some(stranger()), None, 401),
        (Some(stranger()), Some("nonsense"), 401),
        (Some(stranger()), Some(&*token), 201),
        (None, Some(&*token), 201),
    ] {
        let tls = client_config(ServerVerifier::new(roots()), identity).unwrap();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .build();
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
                .build(connector);
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let mut request = Request::post(format!("https://{address}{path}"))
            .header("content-type", "application/json");
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let request = request.body(body::full(review.to_string())).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), code, "{bearer:?}");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(
            code == 201,
            text.contains("system:serviceaccount:default:robot")
        );
    }
    wait_until_noted(&t).await;
    // The server's cache ends with it: later reads wait for ever.
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// Waits until the secret tells that its token was used today.
async fn wait_until_noted(t: &TestServer) {
    let path = "/api/v1/namespaces/default/secrets/robot-token";
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    for _ in 0..1000 {
        let (_, secret) = t.get(path).await;
        let label = &secret["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"];
        if label.as_str().is_some_and(|day| day >= today.as_str()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the use of the token is not noted");
}
