//! A minimal registry on a loopback port.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::*;

/// The header of the one user with a password.
const BASIC: &str = "Basic dXNlcjpwYXNz";

/// A registry for one test, which responds by path and can simulate failures.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) content: HashMap<String, (String, Vec<u8>)>,
    /// Paths whose first response is cut off in the middle.
    pub(crate) broken: Mutex<Vec<String>>,
    /// Paths that return 503 once.
    pub(crate) busy: Mutex<Vec<String>>,
    /// Paths that return 429 once, and the delay that is asked for.
    pub(crate) limited: Mutex<Vec<String>>,
    pub(crate) delay: &'static str,
    /// Whether every request is answered with 500.
    pub(crate) fails: bool,
    /// Whether connections are closed at once.
    pub(crate) down: std::sync::atomic::AtomicBool,
    /// The required authentication scheme.
    pub(crate) login: Option<&'static str>,
    pub(crate) requests: Mutex<Vec<String>>,
    /// Pushed manifests and their types.
    pub(crate) pushed: Mutex<HashMap<String, (String, Vec<u8>)>>,
    /// The code of answers to pushes; none if they succeed.
    pub(crate) refuses: Option<&'static str>,
    /// Base URL of the server that manifests are read from and blobs are uploaded to.
    pub(crate) elsewhere: Option<String>,
}

impl Registry {
    pub(crate) fn image(
        mut self,
        repository: &str,
        tag: &str,
        parts: &Parts,
        architecture: &str,
    ) -> Self {
        let index = index(parts, architecture, serde_json::json!({}));
        let index_type = "application/vnd.oci.image.index.v1+json";
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let mut put = |path: String, kind: &str, bytes: &[u8]| {
            self.content.insert(
                format!("/v2/{repository}/{path}"),
                (kind.into(), bytes.to_vec()),
            );
        };
        put(format!("manifests/{tag}"), index_type, &index);
        put(format!("manifests/{}", digest(&index)), index_type, &index);
        put(
            format!("manifests/{}", digest(&parts.manifest)),
            manifest_type,
            &parts.manifest,
        );
        for blob in parts.layers.iter().chain([&parts.config]) {
            put(
                format!("blobs/{}", digest(blob)),
                "application/octet-stream",
                blob,
            );
        }
        self
    }

    pub(crate) fn serve(self) -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Arc::new(self);
        let (shared, own) = (registry.clone(), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, own) = (shared.clone(), own.clone());
                std::thread::spawn(move || shared.answer(stream, &own));
            }
        });
        (address, registry)
    }

    pub(crate) fn answer(&self, mut stream: TcpStream, own: &str) {
        if self.down.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        let Some(head) = read_head(&mut stream) else {
            return;
        };
        let mut words = head.split(' ').map(str::to_string);
        let (method, target) = (words.next().unwrap(), words.next().unwrap_or_default());
        let header = |name: &str| {
            head.lines().find_map(|l| {
                let (key, value) = l.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_string())
            })
        };
        let path = target.split('?').next().unwrap_or("").to_string();
        let range = header("range");
        self.requests.lock().unwrap().push(format!(
            "{method} {} {}",
            if target.contains("?ns=") {
                &target
            } else {
                &path
            },
            range.clone().unwrap_or_default()
        ));
        let take = |list: &Mutex<Vec<String>>| take(list, &path);
        let reads = matches!(method.as_str(), "GET" | "HEAD");
        if !reads && take(&self.broken) {
            return;
        }
        let length = header("content-length").and_then(|l| l.parse().ok());
        let mut sent = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut sent).is_err() {
            return;
        }
        let authorization = header("authorization").unwrap_or_default();
        let mut reply = |status: &str, headers: &str, body: &[u8]| {
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
                body.len()
            );
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body));
        };
        if path == "/token" {
            let (status, body) = token(&target, authorization == BASIC);
            return reply(status, "", body);
        }
        let (wanted, challenge) = self.challenge(own);
        if wanted.is_some_and(|w| w != authorization) {
            return reply("401 Unauthorized", &challenge, b"{}");
        }
        if let Some((status, header)) = self.trouble(&path) {
            return reply(status, &header, b"");
        }
        if !reads {
            let kind = header("content-type").unwrap_or_default();
            let (status, headers) = self.change(&method, &target, kind, sent);
            return reply(status, &headers, b"{}");
        }
        if let Some(base) = &self.elsewhere
            && path.contains("/manifests/")
        {
            let location = format!("Location: {base}{path}\r\n");
            return reply("307 Temporary Redirect", &location, b"");
        }
        let pushed = self.pushed.lock().unwrap();
        let Some((kind, bytes)) = self.content.get(&path).or_else(|| pushed.get(&path)) else {
            return reply(
                "404 Not Found",
                "",
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#,
            );
        };
        let kind = format!(
            "Content-Type: {kind}\r\nDocker-Content-Digest: {}\r\n",
            digest(bytes)
        );
        if method == "HEAD" {
            return send_head(&mut stream, bytes.len(), &kind);
        }
        let from = range.and_then(|r| offset(&r));
        if take(&self.broken) {
            send_head(&mut stream, bytes.len(), &kind);
            let _ = stream.write_all(&bytes[..bytes.len() / 2]);
            return;
        }
        match from {
            Some(from) => reply("206 Partial Content", &kind, &bytes[from..]),
            None => reply("200 OK", &kind, bytes),
        }
    }

    /// Returns the status and the headers of an answer that something is wrong.
    fn trouble(&self, path: &str) -> Option<(&'static str, String)> {
        if self.fails {
            return Some(("500 Internal Server Error", String::new()));
        }
        if take(&self.limited, path) {
            let header = format!("Retry-After: {}\r\n", self.delay);
            return Some(("429 Too Many Requests", header));
        }
        take(&self.busy, path).then(|| ("503 Service Unavailable", String::new()))
    }

    /// Returns the header that requests must have, and that of answers to others.
    fn challenge(&self, own: &str) -> (Option<&'static str>, String) {
        match self.login {
            None => (None, String::new()),
            Some("basic") => (
                Some(BASIC),
                "WWW-Authenticate: Basic realm=\"r\"\r\n".to_string(),
            ),
            Some(_) => (
                Some("Bearer t0k"),
                format!(
                    "WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"test\",scope=\"repository:app:pull\"\r\n"
                ),
            ),
        }
    }

    /// Answers a part of a push: its code and headers.
    fn change(
        &self,
        method: &str,
        target: &str,
        kind: String,
        sent: Vec<u8>,
    ) -> (&'static str, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = |name: &str| {
            let value = query.split('&').find_map(|q| q.strip_prefix(name))?;
            value.strip_prefix('=').map(|v| v.replace("%3A", ":"))
        };
        if let Some(refused) = self.refuses {
            return (refused, String::new());
        }
        let repository = path.split("/blobs/").next().unwrap();
        let mut pushed = self.pushed.lock().unwrap();
        match method {
            "POST" => {
                if let (Some(digest), Some(from)) = (query("mount"), query("from")) {
                    let source = format!("/v2/{from}/blobs/{digest}");
                    if let Some(blob) = self.content.get(&source) {
                        pushed.insert(format!("{repository}/blobs/{digest}"), blob.clone());
                        return ("201 Created", String::new());
                    }
                }
                let base = self.elsewhere.as_deref().unwrap_or_default();
                let location =
                    format!("Location: {base}{repository}/blobs/uploads/1?state=a%2Bb%3D\r\n");
                ("202 Accepted", location)
            }
            "PUT" if path.contains("/manifests/") => {
                let header = format!("Docker-Content-Digest: {}\r\n", digest(&sent));
                let (name, _) = path.rsplit_once('/').unwrap();
                let by_digest = format!("{name}/{}", digest(&sent));
                pushed.insert(by_digest, (kind.clone(), sent.clone()));
                pushed.insert(path.to_string(), (kind, sent));
                ("201 Created", header)
            }
            "PUT" => {
                assert_eq!(query("state").as_deref(), Some("a%2Bb%3D"));
                let wanted = query("digest").unwrap();
                if wanted != digest(&sent) {
                    return ("400 Bad Request", String::new());
                }
                pushed.insert(format!("{repository}/blobs/{wanted}"), (kind, sent));
                ("201 Created", String::new())
            }
            _ => ("204 No Content", String::new()),
        }
    }
}

/// Sends the head of an answer with content of this length.
fn send_head(stream: &mut TcpStream, length: usize, headers: &str) {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
    );
    let _ = stream.write_all(head.as_bytes());
}

/// Removes the first entry that is a part of the path. Returns whether there was one.
fn take(list: &Mutex<Vec<String>>, path: &str) -> bool {
    let mut list = list.lock().unwrap();
    list.iter()
        .position(|part| path.contains(part.as_str()))
        .map(|at| list.remove(at))
        .is_some()
}

/// Returns where a requested range begins.
fn offset(range: &str) -> Option<usize> {
    let number = range.strip_prefix("bytes=")?.strip_suffix('-')?;
    number.parse().ok()
}

/// Answers a request for a token: its code and body.
fn token(target: &str, allowed: bool) -> (&'static str, &'static [u8]) {
    assert!(
        target.contains("scope=repository%3Aapp%3Apull") && target.contains("service=test")
            || target.contains("scope=repository%3Aout%3Apull%2Cpush"),
        "{target}"
    );
    match allowed {
        true => ("200 OK", br#"{"token":"t0k"}"#),
        false => (
            "401 Unauthorized",
            br#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#,
        ),
    }
}

/// Reads the head of a request; none if the connection ends.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}
