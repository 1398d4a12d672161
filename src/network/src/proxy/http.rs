//! A server of small responses to any HTTP request, one per connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

/// Timeout of a client's connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of a request head that is read, in bytes.
const MAX_REQUEST_LENGTH: usize = 8 * 1024;

/// A response.
pub(super) struct Response {
    /// Code and reason.
    pub(super) status: &'static str,
    pub(super) content_type: &'static str,
    /// Further headers, each with its line end.
    pub(super) headers: String,
    pub(super) body: String,
}

impl Response {
    /// Returns Go's response for unknown paths.
    pub(super) fn not_found() -> Self {
        Self {
            status: "404 Not Found",
            content_type: "text/plain; charset=utf-8",
            headers: String::new(),
            body: "404 page not found\n".into(),
        }
    }

    fn encode(&self) -> String {
        let Self {
            status,
            content_type,
            headers,
            body,
        } = self;
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nX-Content-Type-Options: nosniff\r\n\
             {headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

/// Listens on an address. Does not need to run in the runtime.
pub(super) fn open(runtime: &Handle, address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let _in_runtime = runtime.enter();
    TcpListener::from_std(listener)
}

/// Serves until the future is dropped. `respond` gets the path of each request, without its query.
pub(super) async fn serve(
    listener: TcpListener,
    respond: impl Fn(&str) -> Response + Send + Sync + 'static,
) {
    let respond = Arc::new(respond);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer(stream, respond.clone());
                tokio::spawn(tokio::time::timeout(REQUEST_TIMEOUT, answer));
            }
            // For example out of file descriptors: wait before the next attempt.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

/// Reads the head of a request and responds to it.
async fn answer(mut stream: TcpStream, respond: Arc<impl Fn(&str) -> Response>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() > MAX_REQUEST_LENGTH || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let response = respond(path(&head)).encode();
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

/// Returns the path of a request; empty if there is none.
fn path(head: &[u8]) -> &str {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default();
    let target = line.split(' ').nth(1).unwrap_or_default();
    target.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        for (head, expected) in [
            ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "/healthz"),
            ("GET /a?b=/c HTTP/1.1\r\n\r\n", "/a"),
            ("GET\r\n\r\n", ""),
            ("\r\n\r\n", ""),
        ] {
            assert_eq!(path(head.as_bytes()), expected, "{head:?}");
        }
        assert_eq!(path(b"GET /\xff HTTP/1.1\r\n\r\n"), "");
    }
}
