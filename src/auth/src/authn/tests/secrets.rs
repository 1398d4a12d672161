//! Tokens in secrets.

use super::*;

#[test]
fn tokens_in_secrets_are_valid_as_long_as_the_secret_holds_them() {
    use base64::engine::general_purpose::STANDARD;
    let w = fixture();
    let token = w
        .signer
        .issue_for_secret("ns", "sa", "sa-uid", "kept")
        .unwrap();
    let put = |change: &dyn Fn(&mut Object)| {
        let mut secret = json!({
            "metadata": {"name": "kept", "namespace": "ns", "uid": "u"},
            "type": "kubernetes.io/service-account-token",
            "data": {"token": STANDARD.encode(&token)},
        });
        change(&mut secret);
        w.cluster.put("", "secrets", secret);
    };
    let api = [ISSUER.to_owned()];
    let judge = |audiences: &[String], later: i64| {
        let now = w.now + SignedDuration::from_hours(later);
        w.authenticators.token(&token, audiences, now)
    };
    assert_eq!(judge(&api, 0).unwrap_err(), "Token has been invalidated");
    put(&|_| {});
    let user = judge(&api, 24 * 400).unwrap().unwrap().user;
    assert_eq!(user.name, "system:serviceaccount:ns:sa");
    assert_eq!(user.uid, "sa-uid");
    assert!(user.in_group("system:serviceaccounts:ns"));
    assert!(user.extra.is_empty());
    // For the API server only.
    assert!(judge(&["vault".to_owned()], 0).is_err());
    for (change, error) in [
        (
            &(|s: &mut Object| s["data"]["token"] = "b3RoZXI=".into()) as &dyn Fn(&mut Object),
            "Token does not match server's copy",
        ),
        (
            &|s| s["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
            "Token has been invalidated",
        ),
    ] {
        put(change);
        assert_eq!(judge(&api, 0).unwrap_err(), error);
    }
    put(&|s| {
        s["metadata"]["labels"] = json!({"kubernetes.io/legacy-token-invalid-since": "2026-01-01"});
    });
    assert!(
        judge(&api, 0)
            .unwrap_err()
            .contains("has been marked invalid")
    );
    put(&|_| {});
    for account in [
        json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "another"}}),
        json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "sa-uid",
            "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    ] {
        w.cluster.put("", "serviceaccounts", account);
        assert!(judge(&api, 0).is_err());
    }
}

#[test]
fn uses_of_tokens_in_secrets_are_noted_once_a_day() {
    use base64::engine::general_purpose::STANDARD;
    let w = fixture();
    let token = w
        .signer
        .issue_for_secret("ns", "sa", "sa-uid", "kept")
        .unwrap();
    let noted: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let into = noted.clone();
    let authenticators = w.authenticators.on_token_use(Box::new(move |secret, day| {
        let name = tree::name(secret);
        into.lock().unwrap().push(format!("{name} {day}"));
    }));
    let mut secret = json!({
        "metadata": {"name": "kept", "namespace": "ns", "uid": "u"},
        "data": {"token": STANDARD.encode(&token)},
    });
    w.cluster.put("", "secrets", secret.clone());
    let now: Timestamp = "2026-05-06T07:00:00Z".parse().unwrap();
    let api = [ISSUER.to_owned()];
    assert!(authenticators.token(&token, &api, now).unwrap().is_some());
    secret["metadata"]["labels"] = json!({"kubernetes.io/legacy-token-last-used": "2026-05-06"});
    w.cluster.put("", "secrets", secret);
    assert!(authenticators.token(&token, &api, now).unwrap().is_some());
    assert_eq!(*noted.lock().unwrap(), ["kept 2026-05-06"]);
}
