//! HTTPS servers.

use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use super::watch::Lost;
use crate::kubernetes::certificates::Identity;
use crate::kubernetes::status::Failure;

/// The body of a reply.
pub(crate) type Body = BoxBody<Bytes, Lost>;

/// Binds a listener in a network namespace, or in that of this process.
///
/// # Panics
/// If the address is in use.
pub(crate) fn bind(namespace: Option<&Path>, address: SocketAddr) -> TcpListener {
    let listener = within(namespace, move || TcpListener::bind(address));
    let listener = listener.unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
    listener.set_nonblocking(true).expect("a socket option");
    listener
}

/// Creates a socket in a network namespace, or in that of this process.
pub(crate) fn within<Socket: Send + 'static>(
    namespace: Option<&Path>,
    create: impl FnOnce() -> io::Result<Socket> + Send + 'static,
) -> io::Result<Socket> {
    let namespace = namespace.map(File::open).transpose()?;
    // setns(2) affects only the thread. The socket remains in the namespace.
    let enter = move || {
        if let Some(namespace) = namespace {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
        }
        create()
    };
    std::thread::spawn(enter).join().expect("the thread does not panic")
}

/// The TLS configuration of a server. With `clients`, clients must have a certificate of that authority.
///
/// # Panics
/// If the certificate is invalid.
pub(crate) fn tls(identity: &Identity, clients: Option<&str>) -> Arc<ServerConfig> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().expect("protocol versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
    Arc::new(builder.with_single_cert(vec![certificate(&identity.certificate)], key).expect("a certificate"))
}

/// An authority's certificate as the only trusted one.
pub(crate) fn roots(authority: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(authority)).expect("a certificate");
    roots
}

pub(crate) fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// Serves requests until the future is dropped. All connections end with it. If `answer` fails, the connection is
/// closed without a reply.
pub(crate) async fn serve<Answer, Reply>(listener: TcpListener, tls: Arc<ServerConfig>, answer: Answer)
where
    Answer: Fn(Request<Incoming>) -> Reply + Clone + Send + 'static,
    Reply: Future<Output = Result<Response<Body>, Lost>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        connections.spawn(async move {
            // A client that does not trust the certificate closes the connection.
            if let Ok(stream) = acceptor.accept(stream).await {
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            }
        });
    }
}

/// A reply with this body.
pub(crate) fn reply(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() =
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// A reply with an object or an error.
pub(crate) fn reply_with(status: u16, result: Result<Value, Failure>) -> Response<Body> {
    match result {
        Ok(object) => reply(status, object.to_string()),
        Err(failure) => {
            let mut response = reply(failure.code, failure.body().to_string());
            if let Some(seconds) = failure.retry_after {
                response.headers_mut().insert("retry-after", seconds.into());
            }
            response
        }
    }
}
