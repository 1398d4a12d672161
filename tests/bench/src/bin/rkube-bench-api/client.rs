//! A minimal HTTP/1.1 client, so that the measurement shows the server's cost: one
//! connection, one request at a time, no parsing of bodies.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use kube::Config;
use kube::client::ConfigExt as _;
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The address and credentials of an API server.
pub struct Server {
    address: Uri,
    tls: Arc<rustls::ClientConfig>,
    authorization: Option<HeaderValue>,
}

impl Server {
    /// Returns the server of a kubeconfig's current context.
    pub fn of(config: &Config) -> anyhow::Result<Self> {
        let authorization = match &config.auth_info.token {
            Some(token) => {
                let mut value =
                    HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let mut tls = config.rustls_client_config()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            address: config.cluster_url.clone(),
            tls: Arc::new(tls),
            authorization,
        })
    }

    /// Opens a connection.
    pub async fn connect(&self) -> anyhow::Result<Http> {
        let host = self.address.host().context("the server has no address")?;
        let name = host.trim_matches(['[', ']']);
        let port = self.address.port_u16().unwrap_or(443);
        let stream = TcpStream::connect((name, port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned())?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // The task ends when the sender is dropped. The sender receives its errors.
        tokio::spawn(connection);
        Ok(Http {
            sender,
            host: HeaderValue::from_str(&format!("{host}:{port}"))?,
            authorization: self.authorization.clone(),
        })
    }
}

/// A connection to an API server.
pub struct Http {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Http {
    async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse()?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and returns the response's status and whole body.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let context = || path.to_owned();
        let response = self.request(method, path, body.into()).await;
        let response = response.with_context(context)?;
        let code = response.status();
        let body = response.into_body().collect().await.with_context(context)?;
        Ok((code, body.to_bytes()))
    }

    /// Like [`Self::send`], but returns an error unless the status is a success.
    pub async fn succeed(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Bytes> {
        let (code, answer) = self.send(method.clone(), path, body).await?;
        if !code.is_success() {
            bail!(
                "{method} {path}: {code}: {}",
                String::from_utf8_lossy(&answer)
            );
        }
        Ok(answer)
    }

    /// Starts a watch and returns its lines.
    pub async fn watch(mut self, path: &str) -> anyhow::Result<Lines> {
        let response = self.request(Method::GET, path, Bytes::new()).await?;
        if !response.status().is_success() {
            bail!("GET {path}: {}", response.status());
        }
        Ok(Lines {
            body: response.into_body(),
            read: BytesMut::new(),
            _connection: self,
        })
    }
}

/// A response body, read line by line.
pub struct Lines {
    body: Incoming,
    read: BytesMut,
    _connection: Http,
}

impl Lines {
    /// Returns the next line with its line break, or `None` at the end of the stream.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                return Ok(Some(self.read.split_to(end + 1).freeze()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}
