//! Answers requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Response};
use serde_json::{Value, json};

use super::Shared;
use super::access::Access;
use super::connection::{Body, reply, reply_with};
use super::fault::{Fault, Gone, Record};
use super::request::Request;
use super::selector::Selector;
use super::store::{Key, merge};
use super::watch::{Lost, Watch, line};
use crate::kubernetes::kind::Kind;
use crate::kubernetes::status::Failure;

/// The maximum size of a request's body.
const MAX_BODY: usize = 1024 * 1024;
/// The maximum number of recorded requests.
const MAX_RECORDS: usize = 200_000;
/// How long a request hangs at most.
const HANG: Duration = Duration::from_mins(5);

/// Answers a request. An error closes the connection without a reply.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, Lost> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map(http_body_util::Collected::to_bytes);
    let Ok(body) = body else { return Ok(reply_with(0, Err(Failure::new(413, "the request is too large")))) };
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let user = shared.user(&head.headers);
    let request = Request::parse(&head.method, path, query);
    let record = {
        let mut state = shared.lock();
        if state.records.len() < MAX_RECORDS {
            state.records.push(Record {
                access: request.as_ref().map(|request| request.access.clone()).unwrap_or_default(),
                uri: head.uri.to_string(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
                user: user.clone(),
                status: 0,
            });
        }
        state.records.len() - 1
    };
    let response = respond(&shared, path, user, request, &head.headers, &body).await?;
    if let Some(record) = shared.lock().records.get_mut(record) {
        record.status = response.status().as_u16();
    }
    Ok(response)
}

async fn respond(
    shared: &Arc<Shared>,
    path: &str,
    user: Option<String>,
    request: Option<Request>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response<Body>, Lost> {
    let Some(user) = user else { return Ok(reply_with(0, Err(Failure::new(401, "Unauthorized")))) };
    let Some(request) = request else { return Ok(other(path)) };
    let fault = shared.lock().faults.take(&request.access);
    match fault {
        Some(Fault::Reply(failure)) => return Ok(reply_with(0, Err(failure))),
        Some(Fault::Close) => return Err(Lost::other("the test closes the connection")),
        Some(Fault::Hang) => {
            tokio::time::sleep(HANG).await;
            return Err(Lost::other("the test does not reply"));
        }
        Some(Fault::LoseReply) | None => {}
    }
    let response = authorized(shared, &user, &request, headers, body).await;
    if let Some(Fault::LoseReply) = fault {
        return Err(Lost::other("the test loses the reply"));
    }
    Ok(response)
}

async fn authorized(
    shared: &Arc<Shared>,
    user: &str,
    request: &Request,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response<Body> {
    let access = &request.access;
    // Every user may ask what that user may do.
    if access.resource == "selfsubjectaccessreviews" {
        return reply_with(201, Ok(review(shared, user, body)));
    }
    if !shared.lock().allows(user, access) {
        return reply_with(0, Err(access.forbidden(user)));
    }
    if access.group == "subresources.kubevirt.io" {
        return subresource(shared, access).await;
    }
    let Some(kind) = Kind::find(&access.group, &access.resource) else { return other("") };
    if access.verb == "watch" {
        return watch(shared, kind, request);
    }
    object(shared, kind, request, headers, body)
}

/// Answers requests for paths that are not resources.
fn other(path: &str) -> Response<Body> {
    match path {
        "/version" => reply_with(200, Ok(json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"}))),
        "/readyz" | "/livez" | "/healthz" => reply(200, "ok"),
        _ => reply(404, "404 page not found\n"),
    }
}

/// Answers a SelfSubjectAccessReview.
fn review(shared: &Shared, user: &str, body: &Bytes) -> Value {
    let mut review: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| {
        let attributes = review.pointer("/spec/resourceAttributes")?;
        attributes.get(key)?.as_str().map(str::to_owned).filter(|text| !text.is_empty())
    };
    let resource = text("resource").unwrap_or_default();
    let access = Access {
        verb: text("verb").unwrap_or_default(),
        group: text("group").unwrap_or_default(),
        resource: text("subresource").map_or(resource.clone(), |sub| format!("{resource}/{sub}")),
        namespace: text("namespace"),
        name: text("name"),
    };
    let allowed = shared.lock().allows(user, &access);
    if let Some(review) = review.as_object_mut() {
        review.insert("status".to_owned(), json!({ "allowed": allowed }));
    }
    review
}

/// Answers a request for a subresource of virt-api.
async fn subresource(shared: &Arc<Shared>, access: &Access) -> Response<Body> {
    let (Some(namespace), Some(name)) = (&access.namespace, &access.name) else { return other("") };
    let objects = shared.objects();
    let result = match access.resource.as_str() {
        "virtualmachines/start" => shared.virt.start(&objects, namespace, name).await,
        "virtualmachineinstances/unpause" => shared.virt.unpause(&objects, namespace, name).await,
        _ => return other(""),
    };
    match result {
        Ok(()) => {
            let (shared, namespace, name) = (shared.clone(), namespace.clone(), name.clone());
            tokio::spawn(async move {
                shared.virt.reconcile(&shared.objects(), &namespace, &name).await;
            });
            // The reply has no body, as from virt-api.
            reply(202, Bytes::new())
        }
        Err(failure) => reply_with(0, Err(failure)),
    }
}

fn watch(shared: &Arc<Shared>, kind: Kind, request: &Request) -> Response<Body> {
    let selector = Selector::parse(request.parameter("labelSelector"), request.parameter("fieldSelector"));
    let selector = match selector {
        Ok(selector) => selector,
        Err(failure) => return reply_with(0, Err(failure)),
    };
    let namespace = request.access.namespace.clone();
    let state = shared.lock();
    let (mut first, mut revision) = (Vec::new(), request.parameter("resourceVersion").parse().unwrap_or(0));
    if revision == 0 {
        revision = state.store.revision();
        let objects = state.store.list(kind, namespace.as_deref()).map(|(_, object)| object.clone());
        first = objects.filter(|object| selector.matches(object)).collect();
    } else if let Err(failure) = state.store.available(revision) {
        return match state.gone {
            Gone::Status => reply_with(0, Err(failure)),
            Gone::Event => reply(200, line("ERROR", &failure.body())),
        };
    }
    drop(state);
    let watch = Watch {
        kind,
        namespace,
        selector,
        revision,
        bookmarks: request.parameter("allowWatchBookmarks") == "true",
        timeout: request.parameter("timeoutSeconds").parse().ok().map(Duration::from_secs),
        first,
        breaks: shared.breaks.subscribe(),
        bookmark_requests: shared.bookmarks.subscribe(),
    };
    let (sender, channel) = Channel::<Bytes, Lost>::new(1);
    tokio::spawn(watch.run(shared.clone(), sender));
    let mut response = reply(200, Bytes::new());
    *response.body_mut() = channel.boxed();
    response
}

fn object(
    shared: &Arc<Shared>,
    kind: Kind,
    request: &Request,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response<Body> {
    let Access { verb, namespace, name, .. } = &request.access;
    let key: Key = (kind, namespace.clone().unwrap_or_default(), name.clone().unwrap_or_default());
    let mut state = shared.lock();
    let json = || serde_json::from_slice(body).map_err(|error| Failure::new(400, error.to_string()));
    let store = &mut state.store;
    let result = match verb.as_str() {
        "list" => list(store, kind, request).map(Arc::new),
        "get" => store.get(&key),
        "create" => json().and_then(|object| store.create(kind, &key.1, object)),
        "update" => json().and_then(|object| store.replace(&key, object)),
        "delete" => store.delete(&key),
        _ => {
            let content =
                headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let merges = ["application/merge-patch+json", "application/strategic-merge-patch+json"];
            if merges.contains(&content) {
                json().and_then(|patch| {
                    let mut object = (*store.get(&key)?).clone();
                    merge(&mut object, &patch);
                    store.replace(&key, object)
                })
            } else {
                Err(Failure::new(415, format!("the body of the request was in an unknown format: {content}")))
            }
        }
    };
    let status = if verb == "create" { 201 } else { 200 };
    reply_with(status, result.map(|object| (*object).clone()))
}

/// Answers a list, with `limit` and `continue`.
fn list(store: &super::store::Store, kind: Kind, request: &Request) -> Result<Value, Failure> {
    let selector = Selector::parse(request.parameter("labelSelector"), request.parameter("fieldSelector"))?;
    let mut revision = store.revision();
    let mut after = None;
    if let Some((started, key)) = request.parameter("continue").split_once('/') {
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        revision = started.parse().unwrap_or(0);
        if revision < store.oldest() {
            return Err(Failure::new(
                410,
                "The provided continue parameter is too old to display a consistent list result.",
            ));
        }
        after = Some((kind, namespace.to_owned(), name.to_owned()));
    }
    // With revision 0, a real server replies from its cache, and ignores the limit.
    let from_cache = request.parameter("resourceVersion") == "0";
    let limit = request
        .parameter("limit")
        .parse()
        .ok()
        .filter(|&limit| limit > 0 && !from_cache)
        .unwrap_or(usize::MAX);
    let namespace = request.access.namespace.as_deref();
    let mut rest = store
        .list(kind, namespace)
        .filter(|(key, object)| after.as_ref().is_none_or(|after| *key > after) && selector.matches(object));
    let (mut items, mut last) = (Vec::new(), None);
    for (key, object) in rest.by_ref().take(limit) {
        let mut object = (**object).clone();
        // The items of a list have no kind.
        if let Some(fields) = object.as_object_mut() {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        items.push(object);
        last = Some(key);
    }
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    let remaining = rest.count();
    if let (true, Some((_, namespace, name)), Some(metadata)) =
        (remaining > 0, last, metadata.as_object_mut())
    {
        metadata.insert("continue".to_owned(), json!(format!("{revision}/{namespace}/{name}")));
        metadata.insert("remainingItemCount".to_owned(), json!(remaining));
    }
    Ok(json!({
        "kind": format!("{}List", kind.name()), "apiVersion": kind.api_version(), "metadata": metadata, "items": items,
    }))
}
