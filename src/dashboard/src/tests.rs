//! Tests of the server's security over real connections.

use std::sync::Mutex;

use base64::Engine as _;
use http::StatusCode;
use rkube_cluster::Home;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::{Dashboard, Options};

struct Running {
    port: u16,
    link: String,
    stop: Option<oneshot::Sender<()>>,
    _home: tempfile::TempDir,
    cookie: Mutex<Option<String>>,
}

struct Reply {
    status: StatusCode,
    head: String,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Running {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dashboard = Dashboard::bind(Options {
            home: Home::at(home.path()),
            profile: "none".into(),
            port: 0,
            binary: "/bin/false".into(),
        })
        .await
        .unwrap();
        let port = dashboard.address().port();
        let link = dashboard.link();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(dashboard.run(async {
            let _ = stopped.await;
        }));
        Self {
            port,
            link,
            stop: Some(stop),
            _home: home,
            cookie: Mutex::new(None),
        }
    }

    fn token(&self) -> &str {
        self.link.split_once("token=").unwrap().1
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends a request unchanged and reads the response to its end.
    async fn raw(&self, request: String) -> Reply {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port))
            .await
            .unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let code = head.split(' ').nth(1).and_then(|c| c.parse::<u16>().ok());
        Reply {
            status: StatusCode::from_u16(code.expect("a status")).unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(n, _)| *n == "Host") {
            request.push_str(&format!("Host: {}\r\n", self.host()));
        }
        if !headers.iter().any(|(n, _)| *n == "Cookie")
            && let Some(cookie) = &*self.cookie.lock().unwrap()
        {
            request.push_str(&format!("Cookie: {cookie}\r\n"));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        self.raw(request).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[]).await
    }

    /// Opens the link and keeps the cookie.
    async fn enter(&self) -> Reply {
        let reply = self.get(&format!("/?token={}", self.token())).await;
        assert_eq!(reply.status, StatusCode::OK);
        let cookie = reply.header("set-cookie").expect("a cookie");
        let pair = cookie.split(';').next().unwrap().to_owned();
        *self.cookie.lock().unwrap() = Some(pair);
        reply
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

#[tokio::test]
async fn nothing_without_a_token() {
    let server = Running::start().await;
    for path in [
        "/",
        "/?token=",
        "/?token=x",
        "/main.js",
        "/style.css",
        "/rkube/session",
        "/rkube/streams",
        "/c/none/api/v1/pods",
        "/c/none/rkube/shell?node=n",
    ] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(reply.header("set-cookie").is_none());
        assert!(!reply.body.contains('<'), "{}", reply.body);
    }
    let guessed = [("Cookie", "rkube-00000000=AAAA")];
    let reply = server.send("GET", "/rkube/session", &guessed).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_link_works_once() {
    let server = Running::start().await;
    let first = server.enter().await;
    let cookie = first.header("set-cookie").unwrap().to_owned();
    for wanted in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(wanted), "{cookie}");
    }
    assert!(
        !cookie.contains(server.token()),
        "the cookie is another secret"
    );
    let stolen = [("Cookie", "")];
    let path = format!("/?token={}", server.token());
    let second = server.send("GET", &path, &stolen).await;
    assert_eq!(second.status, StatusCode::UNAUTHORIZED);
    assert!(second.body.contains("has been used"), "{}", second.body);
    // The browser with the session may open the link again.
    assert_eq!(server.get(&path).await.status, StatusCode::OK);
    assert_eq!(server.get("/rkube/session").await.status, StatusCode::OK);
}

#[tokio::test]
async fn two_dashboards_keep_their_cookies_apart() {
    let (one, two) = (Running::start().await, Running::start().await);
    one.enter().await;
    let cookie = one.cookie.lock().unwrap().clone().unwrap();
    let borrowed = [("Cookie", cookie.as_str())];
    let reply = two.send("GET", "/rkube/session", &borrowed).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    two.enter().await;
    let other = two.cookie.lock().unwrap().clone().unwrap();
    assert_ne!(cookie.split('=').next(), other.split('=').next());
}

#[tokio::test]
async fn another_name_for_the_loopback_is_refused() {
    let server = Running::start().await;
    server.enter().await;
    for host in [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example:1",
        "evil.localhost:1",
        "192.168.1.1",
        "[::ffff:1.2.3.4]:1",
        "",
    ] {
        let reply = server
            .send("GET", "/rkube/session", &[("Host", host)])
            .await;
        assert_eq!(reply.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
    }
    // A forwarded port can have another number.
    for host in ["localhost:9", "127.0.0.1:9", "[::1]:9", "localhost"] {
        let reply = server
            .send("GET", "/rkube/session", &[("Host", host)])
            .await;
        assert_eq!(reply.status, StatusCode::OK, "{host}");
    }
    let whole = format!(
        "GET http://evil.example/rkube/session HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nConnection: close\r\n\r\n",
        server.host(),
        server.cookie.lock().unwrap().clone().unwrap()
    );
    let reply = server.raw(whole).await;
    assert_eq!(reply.status, StatusCode::MISDIRECTED_REQUEST);
    let twice = format!(
        "GET /rkube/session HTTP/1.1\r\nHost: {}\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        server.host()
    );
    assert!(!server.raw(twice).await.status.is_success());
}

#[tokio::test]
async fn another_page_is_refused() {
    let server = Running::start().await;
    server.enter().await;
    let own = format!("http://{}", server.host());
    for origin in [
        "http://evil.example",
        "https://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost",
        "null",
        "",
    ] {
        for (method, path) in [
            ("GET", "/rkube/session"),
            ("POST", "/c/none/rkube/run"),
            ("GET", "/c/none/rkube/addons"),
            ("GET", "/c/none/rkube/snapshots"),
            ("DELETE", "/c/none/api/v1/namespaces/default"),
        ] {
            let reply = server.send(method, path, &[("Origin", origin)]).await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{origin} {method}");
        }
    }
    // In some browsers, a form or an image of another page sends no origin.
    for site in ["cross-site", "same-site"] {
        let reply = server
            .send("GET", "/rkube/session", &[("Sec-Fetch-Site", site)])
            .await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{site}");
    }
    // Requests that change something, and all WebSockets, must send their origin.
    let reply = server.send("POST", "/rkube/yaml", &[]).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    let reply = server
        .send("GET", "/rkube/streams", &[("Upgrade", "websocket")])
        .await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    let reply = server
        .send("POST", "/rkube/yaml", &[("Origin", &own)])
        .await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn a_link_is_spent_by_opening_it_only() {
    let server = Running::start().await;
    let path = format!("/?token={}", server.token());
    for fetched in [
        [
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Mode", "no-cors"),
        ],
        [("Sec-Fetch-Dest", "iframe"), ("Sec-Fetch-Mode", "navigate")],
    ] {
        let reply = server.send("GET", &path, &fetched).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
    }
    let reply = server.send("POST", &path, &[]).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    // A click on the link in another site's page, such as a chat.
    let click = [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
    ];
    assert_eq!(
        server.send("GET", &path, &click).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn paths_lead_nowhere_else() {
    let server = Running::start().await;
    server.enter().await;
    for path in [
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/index.html/../../x",
        "//etc/passwd",
        "/c/../../etc/passwd",
        "/c/%2e%2e/api/v1/pods",
        "/c/none%2f..%2fother/api/v1/pods",
        "/c//api",
        "/c/none",
        "/assets.rs",
        "/types.d.ts",
        "/tests/vt.test.mjs",
        "/tsconfig.json",
    ] {
        let reply = server.get(path).await;
        assert!(reply.status.is_client_error(), "{path}: {}", reply.status);
        assert!(!reply.body.contains("root:"), "{path}");
    }
}

#[tokio::test]
async fn every_response_has_security_headers() {
    let server = Running::start().await;
    let page = server.enter().await;
    let policy = page.header("content-security-policy").unwrap();
    for wanted in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(wanted), "{policy}");
    }
    for unwanted in ["unsafe-inline", "unsafe-eval", "data:", "*", "http:"] {
        assert!(!policy.contains(unwanted), "{policy}");
    }
    for path in [
        "/",
        "/rkube/session",
        "/nowhere",
        "/c/none/api/v1/pods",
        "/main.js",
    ] {
        let reply = server.get(path).await;
        assert_eq!(
            reply.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(
            reply.header("cross-origin-resource-policy"),
            Some("same-origin")
        );
        assert!(reply.header("content-security-policy").is_some());
        assert!(reply.header("access-control-allow-origin").is_none());
    }
}

#[tokio::test]
async fn the_page_has_one_inline_script_and_no_other_sources() {
    let server = Running::start().await;
    let reply = server.enter().await;
    let policy = reply.header("content-security-policy").unwrap().to_owned();
    let page = reply.body;
    assert!(page.contains("<script"), "{page}");
    let mut inline = 0;
    for unwanted in [
        "<style", " style=", " onload", "http://", "https://", "//cdn",
    ] {
        assert!(!page.contains(unwanted), "{unwanted}");
    }
    for script in page.split("<script").skip(1) {
        let (tag, content) = script.split_once('>').unwrap();
        let (content, _) = content.split_once("</script>").unwrap();
        if content.is_empty() {
            assert!(tag.contains("src="), "{tag}");
            continue;
        }
        inline += 1;
        let hash = ring::digest::digest(&ring::digest::SHA256, content.as_bytes());
        let hash = base64::engine::general_purpose::STANDARD.encode(hash);
        assert!(policy.contains(&format!("'sha256-{hash}'")), "{policy}");
    }
    assert_eq!(inline, 1, "{page}");
}

#[tokio::test]
async fn files_are_revalidated_not_sent_again() {
    let server = Running::start().await;
    server.enter().await;
    let first = server.get("/style.css").await;
    let tag = first.header("etag").unwrap().to_owned();
    let again = server
        .send("GET", "/style.css", &[("If-None-Match", &tag)])
        .await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    assert!(again.body.is_empty());
    let packed = server
        .send("GET", "/style.css", &[("Accept-Encoding", "br, gzip")])
        .await;
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
}

#[tokio::test]
async fn yaml_mistakes_have_a_place() {
    let server = Running::start().await;
    server.enter().await;
    let ask = |text: &'static str| {
        let request = format!(
            "POST /rkube/yaml HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nCookie: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
            server.cookie.lock().unwrap().clone().unwrap(),
            text.len(),
            host = server.host(),
        );
        server.raw(request)
    };
    let good = ask("a: 1\n---\n# nothing\n---\nb: [x]\n").await;
    assert_eq!(good.body, r#"{"documents":[{"a":1},{"b":["x"]}]}"#);
    let bad = ask("a: 1\nb: [x\n").await;
    assert!(bad.body.contains("\"line\""), "{}", bad.body);
}
