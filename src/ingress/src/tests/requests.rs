use http::Response;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use super::harness::{backend, code, echo, full, nobody, objects, start};
use super::matching::object;

#[tokio::test]
async fn backends_learn_about_clients_and_only_from_the_proxy() {
    let running = start(&objects(&["/"], &[], &[echo().await])).await;
    let answer = running
        .get(
            "/a%20b?x=1",
            "X-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX_Real_IP: 1.2.3.4\r\n\
             X-Forwarded-Proto: https\r\nForwarded: for=1.2.3.4\r\nX-Request-ID: mine\r\n\
             Connection: x-private\r\nX-Private: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
             Proxy-Connection: keep-alive\r\nX-Public: 1\r\n",
        )
        .await;
    assert_eq!(code(&answer), 200);
    for expected in [
        "GET /a%20b?x=1\n",
        "host: web.test\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-original-forwarded-for: 1.2.3.4\n",
        "x-real-ip: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-port: 80\n",
        "x-forwarded-host: web.test\n",
        "x-request-id: mine\n",
        "x-public: 1\n",
        "te: trailers\n",
    ] {
        assert!(answer.contains(expected), "{expected:?} in {answer}");
    }
    for hidden in [
        "x_real_ip",
        "\nforwarded:",
        "x-private",
        "keep-alive",
        "proxy-connection",
        "\nconnection:",
    ] {
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        assert!(!body.contains(hidden), "{hidden:?} in {body}");
    }
    let log = String::from_utf8(running.proxy.log.take()).unwrap();
    assert!(
        log.contains(" 127.0.0.1 web.test \"GET /a%20b?x=1 HTTP/1.1\" 200 "),
        "{log}"
    );
    assert!(
        log.contains("[default-web-80] 127.0.0.1:") && log.ends_with(" mine\n"),
        "{log}"
    );
}

/// Requests that are refused: name, request, code.
const REFUSED: &[(&str, &str, u16)] = &[
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
    ),
    (
        "length list",
        "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 1, 2\r\n\r\nab",
        400,
    ),
    (
        "signed length",
        "POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: +1\r\n\r\na",
        400,
    ),
    (
        "coding before chunked",
        "POST / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "not chunked at the end",
        "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunked of old version",
        "POST / HTTP/1.0\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "space before colon",
        "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "folded header",
        "GET / HTTP/1.1\r\nHost: web.test\r\nX-A: 1\r\n Transfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (
        "two hosts",
        "GET / HTTP/1.1\r\nHost: web.test\r\nHost: other.test\r\nConnection: close\r\n\r\n",
        400,
    ),
    (
        "no host",
        "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        400,
    ),
    (
        "user in host",
        "GET / HTTP/1.1\r\nHost: a@web.test\r\nConnection: close\r\n\r\n",
        400,
    ),
    (
        "above the root",
        "GET /a/../../b HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n",
        400,
    ),
    (
        "no path",
        "OPTIONS * HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n",
        400,
    ),
    (
        "a tunnel",
        "CONNECT web.test:80 HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n",
        405,
    ),
    (
        "a trace",
        "TRACE / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n",
        405,
    ),
];

#[tokio::test]
async fn requests_with_two_meanings_are_refused_or_made_plain() {
    let running = start(&objects(&["/"], &[], &[echo().await])).await;
    for (name, request, expected) in REFUSED {
        let answer = running.raw(request).await;
        // The end of the connection may overtake the answer.
        let refused = *expected == 400 && answer.is_empty();
        assert!(refused || code(&answer) == *expected, "{name}: {answer}");
    }
    // RFC 9112, section 6.3: the coding counts, and the length is not passed on.
    let both = "POST / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let answer = running.raw(both).await;
    assert_eq!(code(&answer), 200);
    assert!(
        !answer
            .split("\r\n\r\n")
            .nth(1)
            .unwrap()
            .contains("content-length"),
        "{answer}"
    );
    // The target has precedence over the header.
    let absolute =
        "GET http://web.test/x HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n";
    let answer = running.raw(absolute).await;
    assert!(
        answer.contains("GET /x\n") && answer.contains("host: web.test\n"),
        "{answer}"
    );
    // An upgrade to HTTP/2 would pass the rules.
    let answer = running
        .get(
            "/",
            "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
        )
        .await;
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    assert!(
        !body.contains("h2c") && !body.contains("http2-settings"),
        "{answer}"
    );
}

#[tokio::test]
async fn large_headers_are_refused() {
    let running = start(&objects(&["/"], &[], &[echo().await])).await;
    let answer = running
        .get("/", &format!("X-Large: {}\r\n", "a".repeat(200_000)))
        .await;
    assert!(answer.is_empty() || code(&answer) == 431, "{answer}");
    let answer = running
        .get("/", &format!("X-Large: {}\r\n", "a".repeat(30_000)))
        .await;
    assert_eq!(code(&answer), 200);
}

#[tokio::test]
async fn requests_leave_dead_endpoints_with_their_bodies() {
    let endpoints = [nobody().await, echo().await, nobody().await];
    let running = start(&objects(&["/"], &[], &endpoints)).await;
    for i in 0..20 {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nContent-Length: 6\r\n\r\nbody{i:02}"
        );
        let answer = running.raw(&request).await;
        assert_eq!(code(&answer), 200);
        assert!(answer.ends_with(&format!("body{i:02}")), "{answer}");
    }
    let all_dead = start(&objects(&["/"], &[], &endpoints[2..])).await;
    assert_eq!(code(&all_dead.get("/", "").await), 502);
    let none = start(&objects(&["/"], &[], &[])).await;
    assert_eq!(code(&none.get("/", "").await), 503);
    assert_eq!(
        code(
            &none
                .raw("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .await
        ),
        404
    );
}

#[tokio::test]
async fn only_what_may_be_repeated_is() {
    // Reads a request and closes the connection.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rude = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 1024];
            tokio::io::AsyncReadExt::read(&mut stream, &mut bytes)
                .await
                .unwrap();
        }
    });
    let running = start(&objects(&["/"], &[], &[rude, echo().await])).await;
    let (mut posts, mut gets) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        gets.push(code(&running.get("/", "").await));
        let post =
            "POST / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        posts.push(code(&running.raw(post).await));
    }
    assert_eq!(gets, [200; 4]);
    // Each second one hits the other endpoint.
    posts.sort_unstable();
    assert!(posts.contains(&502) || posts == [200; 4], "{posts:?}");
    let rude_only = start(&objects(&["/"], &[], &[rude])).await;
    let post =
        "POST / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(code(&rude_only.raw(post).await), 502);
    let retries = &rude_only.proxy.log.metrics.retries;
    assert_eq!(retries.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn annotations_change_requests_and_answers() {
    let rewriting = [("rewrite-target", "/new/$2")];
    let running = start(&objects(&["/old(/|$)(.*)"], &rewriting, &[echo().await])).await;
    for (path, expected) in [
        ("/old/a/b?q=1", "GET /new/a/b?q=1\n"),
        ("/OLD", "GET /new/\n"),
        ("/old/a%2Fb", "GET /new/a%2Fb\n"),
    ] {
        let answer = running.get(path, "").await;
        assert!(answer.contains(expected), "{path}: {answer}");
    }
    assert_eq!(code(&running.get("/older", "").await), 404);
    let plain = start(&objects(
        &["/old"],
        &[("rewrite-target", "/")],
        &[echo().await],
    ))
    .await;
    assert!(plain.get("/old/x", "").await.contains("GET /\n"));

    let settings = [
        ("whitelist-source-range", "10.0.0.0/8, 127.0.0.1"),
        ("app-root", "/app"),
        ("enable-cors", "true"),
        ("cors-allow-origin", "https://*.a.test"),
        ("upstream-vhost", "inner.test"),
        ("x-forwarded-prefix", "/p"),
    ];
    let running = start(&objects(&["/"], &settings, &[echo().await])).await;
    let answer = running.get("/", "").await;
    assert!(
        code(&answer) == 302 && answer.contains("location: /app\r\n"),
        "{answer}"
    );
    let answer = running.get("/x", "Origin: https://b.a.test\r\n").await;
    assert!(
        answer.contains("access-control-allow-origin: https://b.a.test\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("host: inner.test\n") && answer.contains("x-forwarded-prefix: /p\n"),
        "{answer}"
    );
    let answer = running.get("/x", "Origin: https://evil.test\r\n").await;
    assert!(!answer.contains("access-control-allow-origin"), "{answer}");
    let preflight = "OPTIONS /x HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nOrigin: https://b.a.test\r\n\r\n";
    let answer = running.raw(preflight).await;
    assert!(
        code(&answer) == 204 && answer.contains("access-control-max-age: 1728000"),
        "{answer}"
    );
    for refusing in [
        ("whitelist-source-range", "10.0.0.0/8"),
        ("denylist-source-range", "127.0.0.0/8"),
    ] {
        let running = start(&objects(&["/"], &[refusing], &[echo().await])).await;
        assert_eq!(code(&running.get("/", "").await), 403);
    }
    let guarded = start(&objects(
        &["/"],
        &[("auth-url", "http://x")],
        &[echo().await],
    ))
    .await;
    assert_eq!(code(&guarded.get("/", "").await), 503);
    let moved = [
        ("permanent-redirect", "https://b.test/"),
        ("permanent-redirect-code", "308"),
    ];
    let moved = start(&objects(&["/"], &moved, &[])).await;
    let answer = moved.get("/x", "").await;
    assert!(
        code(&answer) == 308 && answer.contains("location: https://b.test/\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_cookie_leads_to_the_same_endpoint() {
    let named = |name: &'static str| backend(move |_| async move { Response::new(full(name)) });
    let endpoints = [named("one").await, named("two").await, named("three").await];
    let running = start(&objects(&["/"], &[("affinity", "cookie")], &endpoints)).await;
    let first = running.get("/", "").await;
    let cookie = first
        .lines()
        .find_map(|l| l.strip_prefix("set-cookie: "))
        .unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let body = |answer: &str| answer.split("\r\n\r\n").nth(1).unwrap().to_owned();
    for _ in 0..10 {
        let answer = running
            .get("/", &format!("Cookie: a=b; {cookie}\r\n"))
            .await;
        assert_eq!(body(&answer), body(&first));
        assert!(!answer.contains("set-cookie"));
    }
}

#[tokio::test]
async fn external_names_are_followed_but_not_to_the_node() {
    let target = echo().await;
    for (name, expected) in [
        ("localhost", 503),
        ("ip6-localhost.", 502),
        ("127.0.0.1", 503),
        ("169.254.169.254", 503),
        ("::ffff:127.0.0.1", 503),
    ] {
        let mut objects = objects(&["/"], &[("proxy-connect-timeout", "3")], &[]);
        let service: std::sync::Arc<Service> = object(json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": {
                "type": "ExternalName",
                "externalName": name,
                "ports": [{ "port": 80 }],
            },
        }));
        let mut service = (*service).clone();
        // The port of the external name is the service's own.
        if let Some(ports) = service.spec.as_mut().and_then(|s| s.ports.as_mut()) {
            ports[0].port = target.port().into();
        }
        objects.services = vec![service.into()];
        let mut ingress = (*objects.ingresses[0]).clone();
        let path = &mut ingress.spec.as_mut().unwrap().rules.as_mut().unwrap()[0];
        let backend = &mut path.http.as_mut().unwrap().paths[0].backend;
        backend
            .service
            .as_mut()
            .unwrap()
            .port
            .as_mut()
            .unwrap()
            .number = Some(target.port().into());
        objects.ingresses = vec![ingress.into()];
        let running = start(&objects).await;
        assert_eq!(code(&running.get("/", "").await), expected, "{name}");
    }
}
