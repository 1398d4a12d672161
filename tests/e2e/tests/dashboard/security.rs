//! Attacks: pages of other origins in the same browser, other browsers, other names for the
//! loopback, hostile text from the cluster, ambiguous paths.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::tour::{HOSTILE, Tour, dashboard};
use rkube_testing::Cluster;
use rkube_testing::browser::Browser;

/// A hostile object name. Names must not contain a slash.
const NAME: &str = "<img src=x onerror=\"window.hacked=1\">";

/// Starts another web server, which serves the same page at every path. Returns its port.
fn other_site() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(connection.try_clone().expect("a stream")).lines();
                while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
                let page = "<!doctype html><title>other</title><body>another page</body>";
                // The browser may have closed the connection.
                let _ = write!(
                    connection,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                    page.len()
                );
            });
        }
    });
    port
}

/// Checks that only the browser with the session has access.
pub fn all(cluster: &Cluster) {
    let (server, link) = dashboard(cluster, &[]);
    let origin = link.split("/?").next().expect("an origin").to_owned();
    let other = other_site();
    let browser = Browser::open_with(
        1280,
        800,
        &["--host-resolver-rules=MAP evil.example 127.0.0.1"],
    );

    // A page that requests the link without opening it does not use up the token.
    browser.go(&format!("http://evil.example:{other}/"));
    let script =
        "return fetch(arguments[0], { mode: 'no-cors' }).then(() => 'sent', () => 'refused')";
    browser.run(script, &[json!(link)]);

    let stranger = Browser::open(800, 600);
    stranger.go(&format!("{origin}/"));
    stranger.sees(&["opens by the link"]);
    stranger.go(&format!("{origin}/?token=AAAA"));
    stranger.sees(&["has been used, or is not of this dashboard"]);

    browser.go(&link);
    browser.sees(&["Overview", "2/2"]);
    browser.complaints();
    stranger.go(&link);
    stranger.sees(&["This link has been used"]);
    stranger.go(&format!("{origin}/rkube/session"));
    stranger.sees(&["opens by the link"]);
    drop(stranger);

    let tour = Tour { cluster, browser };
    cookie(&tour, &origin);
    hostile_text(&tour);
    other_pages(&tour, &origin, other);
    rebinding(&tour, &origin);
    ambiguous_paths(&tour, &origin);
    assert_eq!(server.interrupt(), 0);
}

/// Scripts cannot read the session's cookie.
fn cookie(tour: &Tour<'_>, origin: &str) {
    assert_eq!(tour.browser.run("return document.cookie", &[]), json!(""));
    let cookies = session(tour, origin);
    assert_eq!(cookies["httpOnly"], json!(true));
    assert_eq!(cookies["sameSite"], json!("Strict"));
    assert_eq!(cookies["session"], json!(true), "it outlives the browser");
    // The content security policy blocks injected markup. Scripts of WebDriver are exempt
    // from the policy, so a timer runs this one in the page.
    let script = "
        return new Promise((done) => setTimeout(() => {
          const tried = [];
          try { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); tried.push('markup'); } catch {}
          try { eval('1'); tried.push('eval'); } catch {}
          try { new Function('return 1')(); tried.push('function'); } catch {}
          done(tried);
        }))";
    assert_eq!(tour.browser.run(script, &[]), json!([]));
    tour.browser.complaints();
}

fn session(tour: &Tour<'_>, origin: &str) -> Value {
    let cookies = tour
        .browser
        .command("Network.getCookies", &json!({ "urls": [origin] }));
    cookies["cookies"][0].clone()
}

/// Text from the cluster is shown as text everywhere.
fn hostile_text(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": NAME, "annotations": { "a/b": HOSTILE } }, "rules": [],
    });
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "evil", "namespace": "default" },
        "involvedObject": { "kind": "Pod", "apiVersion": "v1", "name": "kubia", "namespace": "default" },
        "reason": HOSTILE, "message": HOSTILE, "type": "Warning", "count": 1,
        "firstTimestamp": "2030-01-01T00:00:00Z", "lastTimestamp": "2030-01-01T00:00:00Z",
    });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [role, event] });
    cluster
        .kubectl_stdin(&["create", "-f", "-"], &list.to_string())
        .ok();
    tour.open("overview", &[HOSTILE]);
    tour.open("list/core/events", &["Live"]);
    tour.open("list/rbac.authorization.k8s.io/clusterroles", &[NAME]);
    browser.run(
        "[...document.querySelectorAll('.rows a')].find((a) => a.textContent.startsWith('<img')).click()",
        &[],
    );
    browser.sees(&[NAME, HOSTILE, "Created"]);
    browser.click("YAML");
    browser.until(
        "its text",
        "return document.querySelector('main textarea')?.value.includes('onerror')",
    );
    browser.click("Delete");
    browser.sees(&[&format!("Delete ClusterRole {NAME}")]);
    browser.click("Delete");
    browser.sees(&["is being deleted"]);
    cluster.wait_for(&["get", "clusterroles", "-o", "name"], |t| {
        !t.contains("<img")
    });
    tour.clean();

    // No correct API server accepts such a name or label for a pod, but a malicious one
    // could send it.
    browser.run(
        "const real = window.fetch;
         window.fetch = async (...a) => {
           const r = await real(...a);
           if (!/\\/pods\\?/.test(String(a[0]))) return r;
           const quoted = JSON.stringify(arguments[0]).slice(1, -1);
           return new Response((await r.text()).replaceAll('kubia-', quoted).replaceAll('\"kubia\"', `\"${quoted}\"`), { status: r.status, headers: r.headers });
         }",
        &[json!(HOSTILE)],
    );
    tour.open("list/core/pods", &[HOSTILE]);
    browser.run("document.querySelector('.rows a').focus()", &[]);
    tour.open("topology", &["Nodes and pods", "kubia"]);
    browser.until(
        "a pod of that name",
        "return [...document.querySelectorAll('.pod')].some((p) => (p.getAttribute('aria-label') ?? '').includes('onerror'))",
    );
    let name = browser.run(
        "location.hash = [...document.querySelectorAll('.pod')].find((p) => (p.getAttribute('aria-label') ?? '').includes('onerror')).getAttribute('href'); return decodeURIComponent(location.hash)",
        &[],
    );
    assert!(name.to_string().contains("onerror"), "{name}");
    browser.sees(&[HOSTILE]);
    let markup = browser.run(
        "return document.querySelectorAll('img:not([src=\"/icon.svg\"]), #app script').length",
        &[],
    );
    assert_eq!(markup, json!(0));
    assert!(browser.run("return window.hacked", &[]).is_null());
    let complaints = browser.complaints();
    assert!(
        !complaints
            .iter()
            .any(|c| c.contains("Content Security") || c.contains("TrustedHTML")),
        "{complaints:#?}"
    );
    browser.run("location.reload()", &[]);
    browser.sees(&["rkube"]);
    browser.complaints();
}

/// All requests that a page of another origin can make, from the same host (for which the
/// browser sends the cookie) and from another one.
fn other_pages(tour: &Tour<'_>, origin: &str, other: u16) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    let profile = &cluster.profile;
    let before = cluster.kubectl(&["get", "nodes", "-o", "name"]).ok();
    for host in ["127.0.0.1", "localhost", "evil.example"] {
        browser.go(&format!("http://{host}:{other}/"));
        browser.sees(&["another page"]);
        let script = "
            const [origin, profile] = arguments;
            const out = {};
            const read = (name, path, init) => fetch(origin + path, { credentials: 'include', ...init })
              .then((r) => r.type === 'opaque' ? 'opaque' : r.text()).then((t) => (out[name] = t), () => (out[name] = 'refused'));
            const load = (name, tag, attribute, path) => new Promise((done) => {
              const e = document.createElement(tag);
              e.onload = () => done(out[name] = 'loaded');
              e.onerror = () => done(out[name] = 'refused');
              if (tag === 'link') e.rel = 'stylesheet';
              e[attribute] = origin + path;
              document.body.append(e);
            });
            const socket = (name, path, protocol) => new Promise((done) => {
              const s = new WebSocket(origin.replace('http', 'ws') + path, protocol);
              s.onopen = () => done(out[name] = 'open');
              s.onerror = () => done(out[name] = 'refused');
            });
            const form = (path, text) => new Promise((done) => {
              const frame = document.createElement('iframe');
              frame.name = 'f' + Math.random();
              document.body.append(frame);
              const f = document.createElement('form');
              f.method = 'post'; f.enctype = 'text/plain'; f.target = frame.name; f.action = origin + path;
              const field = document.createElement('input');
              field.name = text; field.value = '';
              f.append(field);
              document.body.append(f);
              frame.onload = () => done();
              f.submit();
              setTimeout(done, 3000);
            });
            const stop = JSON.stringify({ action: 'stop' });
            const spaces = `/c/${profile}/api/v1/namespaces`;
            const forged = JSON.stringify({ metadata: { name: 'forged' } });
            return Promise.all([
              read('session', '/rkube/session'),
              read('pods', `/c/${profile}/api/v1/pods`),
              read('plain post', `/c/${profile}/rkube/run`, { method: 'POST', mode: 'no-cors', body: stop }),
              read('json post', `/c/${profile}/rkube/run`, { method: 'POST', body: stop, headers: { 'Content-Type': 'application/json' } }),
              read('create', spaces, { method: 'POST', mode: 'no-cors', body: forged }),
              read('delete', `${spaces}/default`, { method: 'DELETE' }),
              load('script', 'script', 'src', '/main.js'),
              load('image', 'img', 'src', '/icon.svg'),
              load('style', 'link', 'href', '/style.css'),
              socket('streams', '/rkube/streams'),
              socket('shell', `/c/${profile}/rkube/shell?node=${profile}`, 'v5.channel.k8s.io'),
              socket('exec', `/c/${profile}/api/v1/namespaces/default/pods/x/exec?command=sh`, 'v5.channel.k8s.io'),
              form(`/c/${profile}/rkube/run`, stop),
              form(spaces, forged),
            ]).then(() => out);";
        let out = browser.run(script, &[json!(origin), json!(profile)]);
        for (what, result) in out.as_object().expect("results") {
            let wanted = if what.ends_with("plain post") || what == "create" {
                // The request is sent, but the page cannot read the response. The checks
                // below show that it had no effect.
                ["opaque", "refused"].as_slice()
            } else {
                ["refused"].as_slice()
            };
            let result = result.as_str().unwrap_or_default();
            assert!(wanted.contains(&result), "{host}: {what}: {result}");
        }
        assert!(out.as_object().is_some_and(|o| o.len() == 12), "{out}");
        // A frame with the dashboard is not readable.
        let framed = "
            const frame = document.createElement('iframe');
            frame.src = arguments[0] + '/';
            document.body.append(frame);
            return new Promise((done) => { frame.onload = () => { try { done(frame.contentDocument?.body.innerText ?? 'closed'); } catch { done('closed'); } }; })";
        assert_eq!(browser.run(framed, &[json!(origin)]), json!("closed"));
        browser.complaints();
    }
    assert_eq!(
        cluster.kubectl(&["get", "nodes", "-o", "name"]).ok(),
        before
    );
    cluster.kubectl(&["get", "namespace", "forged"]).failed(1);
    let state = cluster.kubectl(&[
        "get",
        "namespace",
        "default",
        "-o",
        "jsonpath={.status.phase}",
    ]);
    assert_eq!(state.ok(), "Active");
    // The dashboard's own page still has access.
    browser.go(&format!("{origin}/"));
    browser.sees(&["Overview", "2/2"]);
    browser.complaints();
}

/// DNS rebinding: a foreign name that resolves to the loopback, with the same port.
/// `Origin` then equals `Host`, so only the name in `Host` reveals the attack.
fn rebinding(tour: &Tour<'_>, origin: &str) {
    let browser = &tour.browser;
    let rebound = origin.replace("127.0.0.1", "evil.example");
    browser.go(&format!("{rebound}/"));
    browser.sees(&["answers at 127.0.0.1 and localhost only"]);
    let script = "return fetch('/rkube/session').then((r) => r.status, () => 'refused')";
    // Even the page with the refusal cannot fetch anything.
    assert_eq!(browser.run(script, &[]), json!("refused"));
    browser.complaints();
    browser.go(&format!("{origin}/"));
    browser.sees(&["Overview"]);
    browser.complaints();
}

/// P, N and X stand for profile, node and pod.
const AMBIGUOUS_PATHS: &[&str] = &[
    "/c/P/metrics",
    "/c/P/debug/pprof/",
    "/c/P/logs/",
    "/c/P/api/../metrics",
    "/c/P/api/v1/../../metrics",
    "/c/P/api/%2e%2e/metrics",
    "/c/P/api/%2E%2E%2Fmetrics",
    "/c/P/api/..%252fmetrics",
    "/c/P//metrics",
    "/c/P/api//v1/pods",
    "/c/P/api/v1/pods%00",
    "/c/P/api/v1/pods%3Fwatch=1",
    "/c/P/api\\..\\metrics",
    "/c/P/api/v1/nodes/N/proxy/metrics",
    "/c/P/api/v1/nodes/N/proxy/stats/summary/../../metrics",
    "/c/P/api/v1/nodes/N/proxy/run/default/x/y?cmd=id",
    "/c/P/api/v1/namespaces/default/pods/X/proxy/",
    "/c/P/api/v1/namespaces/default/pods/X:8080/proxy/",
    "/c/P/api/v1/namespaces/default/services/kubia/proxy/",
    "/c/P/api/v1/namespaces/default/services/kubia/%70roxy/",
    "/c/../etc/passwd",
    "/c/..%2f..%2f..%2fetc%2fpasswd/api/v1",
    "/c/P%2f..%2fP/api/v1/pods",
    "/c/%00/api/v1/pods",
    "/c/P/rkube/../api/v1/pods",
    "/c/P/rkube/images?node=../../etc/passwd",
    "/c/P/rkube/logs?node=--help",
    "/c/P/rkube/shell?node=-oProxyCommand=id",
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/rkube/..%2f..",
    "http://evil.example/rkube/session",
];

/// Ambiguous paths, sent by raw HTTP and over the streams' WebSocket, with a valid session.
fn ambiguous_paths(tour: &Tour<'_>, origin: &str) {
    let profile = &tour.cluster.profile;
    let cookie = session(tour, origin);
    let cookie = format!(
        "{}={}",
        cookie["name"].as_str().expect("a name"),
        cookie["value"].as_str().expect("a value")
    );
    let address = origin.strip_prefix("http://").expect("http");
    let get = |path: &str| -> String {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a limit");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        )
        .expect("a request");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let good = get(&format!("/c/{profile}/api/v1/namespaces/default"));
    assert!(good.starts_with("HTTP/1.1 200 "), "{good}");
    let node = tour.cluster.node(1);
    let pod = tour.cluster.pods("kubia").remove(0);
    for path in AMBIGUOUS_PATHS {
        let path = path
            .replace("/P", &format!("/{profile}"))
            .replace("/N/", &format!("/{node}/"))
            .replace("/X", &format!("/{pod}"));
        let answer = get(&path);
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
        assert!(
            !answer.contains("root:") && !answer.contains("go_goroutines"),
            "{path}: {answer}"
        );
    }
    // No upgrade returns a pod's response under the page's origin.
    let script = "
        const [paths] = arguments;
        const socket = new WebSocket(`ws://${location.host}/rkube/streams`);
        socket.binaryType = 'arraybuffer';
        const ends = {};
        return new Promise((done) => {
          socket.onopen = () => paths.forEach((path, i) => socket.send(JSON.stringify({ open: i + 1, path })));
          socket.onmessage = ({ data }) => {
            const view = new DataView(data);
            ends[paths[view.getUint32(1, true) - 1]] = `${view.getUint8(0)} ${new TextDecoder().decode(new Uint8Array(data, 5))}`;
            if (Object.keys(ends).length === paths.length) { socket.close(); done(ends); }
          };
        });";
    let streamed: Vec<String> = [
        "/c/P/metrics".to_owned(),
        "/c/P/api/v1/../../metrics".into(),
        format!("/c/P/api/v1/nodes/{node}/proxy/metrics"),
        format!("/c/P/api/v1/namespaces/default/pods/{pod}/proxy/"),
        "/rkube/session".into(),
        "http://evil.example/api".into(),
    ]
    .iter()
    .map(|p| p.replace("/P/", &format!("/{profile}/")))
    .collect();
    let ends = tour.browser.run(script, &[json!(streamed)]);
    for (path, end) in ends.as_object().expect("ends") {
        assert!(
            end.as_str().is_some_and(|e| e.starts_with("3 400 ")),
            "{path}: {end}"
        );
    }
    tour.browser.complaints();
}
