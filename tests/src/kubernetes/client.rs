//! An HTTPS client for API servers, also for those in other network namespaces.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, crypto};

use super::kind::Kind;
use super::server::connection::{roots, within};
use super::status::Failure;
use super::virt::Objects;

/// A reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub text: String,
    /// The `Retry-After` header.
    pub retry_after: Option<String>,
}

impl Reply {
    /// The body as JSON. Null if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The object, or the error.
    ///
    /// # Errors
    /// If the status is not 2xx.
    pub fn object(&self) -> Result<Value, Failure> {
        let body = self.json();
        if (200..300).contains(&self.status) {
            return Ok(body);
        }
        let message = body.get("message").and_then(Value::as_str).unwrap_or(&self.text);
        Err(Failure::new(self.status, message))
    }
}

/// A client with one connection, which it opens again when the server has closed it.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    /// `None` on this machine.
    namespace: Option<PathBuf>,
    tls: Arc<ClientConfig>,
    token: String,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// A client that trusts this authority.
    ///
    /// # Panics
    /// If the certificate is invalid.
    #[must_use]
    pub fn new(address: SocketAddr, namespace: Option<PathBuf>, authority: &str, token: &str) -> Self {
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("protocol versions");
        let config = builder.with_root_certificates(roots(authority)).with_no_client_auth();
        let tls = Arc::new(config);
        Self { address, namespace, tls, token: token.to_owned(), connection: Mutex::new(None) }
    }

    /// Sends a request. `body` is empty, or JSON.
    ///
    /// # Errors
    /// If the server closes the connection without a reply.
    pub async fn request(&self, method: &str, path: &str, body: &Value) -> io::Result<Reply> {
        self.request_as("application/json", method, path, body).await
    }

    /// Sends a request with another `Content-Type`, such as that of a patch.
    ///
    /// # Errors
    /// If the server closes the connection without a reply.
    pub async fn request_as(
        &self,
        content: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> io::Result<Reply> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", content)
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let mut connection = self.connection.lock().await;
        let mut sender = match connection.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        sender.ready().await.map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        *connection = Some(sender);
        Ok(Reply { status, text: String::from_utf8_lossy(&body).into_owned(), retry_after })
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let (address, namespace) = (self.address, self.namespace.clone());
        let stream = within(namespace.as_deref(), move || TcpStream::connect(address))?;
        stream.set_nonblocking(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        let reply = self.request(method, path, body).await;
        reply.map_err(|error| Failure::new(503, error.to_string()))?.object()
    }
}

impl Objects for Client {
    async fn read(&self, kind: Kind, namespace: &str, name: &str) -> Result<Value, Failure> {
        self.call("GET", &kind.path(namespace, name), &Value::Null).await
    }

    async fn create(&self, kind: Kind, object: Value) -> Result<Value, Failure> {
        self.call("POST", &kind.path_of(&object, false), &object).await
    }

    async fn replace(&self, kind: Kind, object: Value) -> Result<Value, Failure> {
        self.call("PUT", &kind.path_of(&object, true), &object).await
    }

    async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<(), Failure> {
        self.call("DELETE", &kind.path(namespace, name), &Value::Null).await.map(drop)
    }
}
