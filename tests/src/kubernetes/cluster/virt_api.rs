//! A stand-in for virt-api behind the aggregation layer of a real API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{HeaderMap, Response};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::kubernetes::certificates::Identity;
use crate::kubernetes::client::Client;
use crate::kubernetes::server::connection::{Body, bind, reply, reply_with, serve, tls};
use crate::kubernetes::server::watch::Lost;
use crate::kubernetes::status::Failure;
use crate::kubernetes::virt::KubeVirt;

/// The port, on [`ADDRESS`].
pub(super) const PORT: u16 = 9443;
/// The API server rejects loopback addresses as endpoints. This one is reserved for documentation (RFC 5737).
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PREFIX: &str = "/apis/subresources.kubevirt.io/v1";

/// A request that the aggregation layer forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The user that the API server authenticated.
    pub user: String,
    /// The path below the namespace, such as `virtualmachines/a/start`.
    pub operation: String,
    /// The HTTP status of the reply.
    pub status: u16,
}

/// The stand-in, until it is dropped.
#[derive(Debug)]
pub(super) struct VirtApi {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    virt: Arc<KubeVirt>,
    objects: Client,
    forwarded: Mutex<Vec<Forwarded>>,
}

impl VirtApi {
    /// Serves requests of clients with a certificate of the front proxy's authority.
    pub(super) fn start(
        runtime: &Runtime,
        namespace: &Path,
        identity: &Identity,
        front_proxy: &str,
        virt: Arc<KubeVirt>,
        objects: Client,
    ) -> Self {
        let shared = Arc::new(Shared { virt, objects, forwarded: Mutex::default() });
        let listener = bind(Some(namespace), SocketAddr::from((ADDRESS, PORT)));
        let answering = shared.clone();
        let serve = serve(listener, tls(identity, Some(front_proxy)), move |request| {
            answer(answering.clone(), request)
        });
        Self { shared, task: runtime.spawn(serve) }
    }

    pub(super) fn forwarded(&self) -> Vec<Forwarded> {
        self.shared.forwarded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for VirtApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(shared: Arc<Shared>, request: hyper::Request<Incoming>) -> Result<Response<Body>, Lost> {
    let path = request.uri().path().to_owned();
    if path == PREFIX {
        let resource = |name: &str| json!({"name": name, "namespaced": true, "singularName": "", "kind": "", "verbs": ["update"]});
        return Ok(reply_with(
            200,
            Ok(json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "subresources.kubevirt.io/v1",
                "resources": [resource("virtualmachines/start"), resource("virtualmachineinstances/unpause")],
            })),
        ));
    }
    let parts: Vec<&str> = path.strip_prefix(PREFIX).unwrap_or_default().split('/').skip(1).collect();
    let (&["namespaces", namespace, resource, name, operation], Some(user)) =
        (parts.as_slice(), header(request.headers(), "x-remote-user"))
    else {
        return Ok(reply_with(0, Err(Failure::new(404, "the server could not find the requested resource"))));
    };
    let result = match (request.method().as_str(), resource, operation) {
        ("PUT", "virtualmachines", "start") => shared.virt.start(&shared.objects, namespace, name).await,
        ("PUT", "virtualmachineinstances", "unpause") => {
            shared.virt.unpause(&shared.objects, namespace, name).await
        }
        _ => Err(Failure::new(404, "the server could not find the requested resource")),
    };
    let status = result.as_ref().map_or_else(|failure| failure.code, |()| 202);
    let forwarded = Forwarded { user, operation: format!("{resource}/{name}/{operation}"), status };
    shared.forwarded.lock().unwrap_or_else(PoisonError::into_inner).push(forwarded);
    if let Err(failure) = result {
        return Ok(reply_with(0, Err(failure)));
    }
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    tokio::spawn(async move {
        shared.virt.reconcile(&shared.objects, &namespace, &name).await;
    });
    Ok(reply(202, Bytes::new()))
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
