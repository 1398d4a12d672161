//! A minimal registry on a loopback port.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::*;

/// A registry for one test, which responds by path and can simulate failures.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) content: HashMap<String, (String, Vec<u8>)>,
    /// Paths whose first response is cut off in the middle.
    pub(crate) broken: Mutex<Vec<String>>,
    /// Paths that return 503 once.
    pub(crate) busy: Mutex<Vec<String>>,
    /// The required authentication scheme.
    pub(crate) login: Option<&'static str>,
    pub(crate) requests: Mutex<Vec<String>>,
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
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let target = head.split(' ').nth(1).unwrap_or("").to_string();
        let header = |name: &str| {
            head.lines().find_map(|l| {
                let (key, value) = l.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_string())
            })
        };
        let path = target.split('?').next().unwrap_or("").to_string();
        let range = header("range");
        self.requests
            .lock()
            .unwrap()
            .push(format!("{path} {}", range.clone().unwrap_or_default()));
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
        let basic = "Basic dXNlcjpwYXNz";
        if path == "/token" {
            assert!(
                target.contains("scope=repository%3Aapp%3Apull") && target.contains("service=test"),
                "{target}"
            );
            return if authorization == basic {
                reply("200 OK", "", br#"{"token":"t0k"}"#);
            } else {
                reply("401 Unauthorized", "", br#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#);
            };
        }
        let (wanted, challenge) = match self.login {
            None => (None, String::new()),
            Some("basic") => (
                Some(basic),
                "WWW-Authenticate: Basic realm=\"r\"\r\n".to_string(),
            ),
            Some(_) => (
                Some("Bearer t0k"),
                format!(
                    "WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"test\",scope=\"repository:app:pull\"\r\n"
                ),
            ),
        };
        if wanted.is_some_and(|w| w != authorization) {
            return reply("401 Unauthorized", &challenge, b"{}");
        }
        let take = |list: &Mutex<Vec<String>>| {
            let mut list = list.lock().unwrap();
            list.iter()
                .position(|p| path.contains(p.as_str()))
                .map(|at| list.remove(at))
                .is_some()
        };
        if take(&self.busy) {
            return reply("503 Service Unavailable", "", b"");
        }
        let Some((kind, bytes)) = self.content.get(&path) else {
            return reply(
                "404 Not Found",
                "",
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#,
            );
        };
        let kind = format!("Content-Type: {kind}\r\n");
        let from = range.and_then(|r| {
            r.strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        if take(&self.broken) {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{kind}\r\n",
                bytes.len()
            );
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(&bytes[..bytes.len() / 2]));
            return;
        }
        match from {
            Some(from) => reply("206 Partial Content", &kind, &bytes[from..]),
            None => reply("200 OK", &kind, bytes),
        }
    }
}
