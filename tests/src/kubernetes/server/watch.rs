//! Watches: a stream of events, each a line of JSON.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::Sender;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::Shared;
use super::fault::{Break, Gone};
use super::selector::Selector;
use super::store::Change;
use crate::kubernetes::kind::Kind;

/// The interval of bookmarks, as in Kubernetes.
const BOOKMARKS: Duration = Duration::from_mins(1);
/// The duration of a watch without `timeoutSeconds`.
const TIMEOUT: Duration = Duration::from_mins(30);

/// The time in which a client receives what was sent.
const FLUSH: Duration = Duration::from_millis(20);

/// What a watch reports.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
    /// The revision after which changes are reported.
    pub(super) revision: u64,
    pub(super) bookmarks: bool,
    pub(super) timeout: Option<Duration>,
    /// Objects that are reported as added first.
    pub(super) first: Vec<Arc<Value>>,
    pub(super) breaks: Receiver<Break>,
    pub(super) bookmark_requests: Receiver<()>,
}

/// The client has closed the connection.
type SendFailed = ();

/// The error that ends a reply's body without its last chunk.
pub(crate) type Lost = std::io::Error;

impl Watch {
    /// Sends events until the client, the server or the timeout ends the watch.
    pub(super) async fn run(mut self, shared: Arc<Shared>, mut body: Sender<Bytes, Lost>) {
        let ended = self.send_events(&shared, &mut body).await;
        if ended != Ok(Some(Break::MidEvent)) {
            return;
        }
        let event = line("MODIFIED", &json!({"metadata": {"name": "half-an-event"}}));
        let _ = body.send_data(event.slice(..event.len() / 2)).await;
        // hyper does not report when the client has received the half. An error before that would discard it.
        tokio::time::sleep(FLUSH).await;
        body.abort(Lost::other("the test breaks the watch"));
    }

    /// Returns how the server ends the watch, `None` at the timeout, and an error if the client has ended it.
    async fn send_events(
        &mut self,
        shared: &Shared,
        body: &mut Sender<Bytes, Lost>,
    ) -> Result<Option<Break>, SendFailed> {
        let deadline = Instant::now() + self.timeout.unwrap_or(TIMEOUT);
        let mut revisions = shared.lock().store.revisions();
        let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
        let mut bookmark_is_due = false;
        for object in std::mem::take(&mut self.first) {
            body.send_data(line("ADDED", &object)).await.map_err(drop)?;
        }
        loop {
            revisions.mark_unchanged();
            let (changes, revision, expired) = {
                let state = shared.lock();
                let expired =
                    state.store.available(self.revision).err().filter(|_| state.gone == Gone::Event);
                (state.store.changes_after(self.revision), state.store.revision(), expired)
            };
            if let Some(failure) = expired {
                body.send_data(line("ERROR", &failure.body())).await.map_err(drop)?;
                return Ok(None);
            }
            for event in changes.iter().filter_map(|change| self.event(change)) {
                body.send_data(event).await.map_err(drop)?;
            }
            self.revision = revision;
            if bookmark_is_due && self.bookmarks {
                body.send_data(self.bookmark()).await.map_err(drop)?;
            }
            bookmark_is_due = false;
            tokio::select! {
                // A bookmark that was requested first is sent before the watch ends.
                biased;
                changed = revisions.changed() => if changed.is_err() { return Ok(None) },
                _ = self.bookmark_requests.changed() => bookmark_is_due = true,
                changed = self.breaks.changed() => return Ok(changed.ok().map(|()| *self.breaks.borrow())),
                _ = bookmarks.tick() => bookmark_is_due = true,
                () = tokio::time::sleep_until(deadline) => return Ok(None),
            }
        }
    }

    /// The event that reports a change to this watch.
    fn event(&self, change: &Change) -> Option<Bytes> {
        if change.key.0 != self.kind
            || self.namespace.as_ref().is_some_and(|namespace| *namespace != change.key.1)
        {
            return None;
        }
        let selected =
            |object: &Option<Arc<Value>>| object.clone().filter(|object| self.selector.matches(object));
        match (selected(&change.before), selected(&change.after)) {
            (None, Some(after)) => Some(line("ADDED", &after)),
            (Some(_), Some(after)) => Some(line("MODIFIED", &after)),
            (Some(before), None) => {
                let mut last = (*change.after.clone().unwrap_or(before)).clone();
                if let Some(metadata) = last.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.insert("resourceVersion".to_owned(), json!(change.revision.to_string()));
                }
                Some(line("DELETED", &last))
            }
            (None, None) => None,
        }
    }

    fn bookmark(&self) -> Bytes {
        let metadata = json!({"resourceVersion": self.revision.to_string(), "creationTimestamp": null});
        let object =
            json!({"kind": self.kind.name(), "apiVersion": self.kind.api_version(), "metadata": metadata});
        line("BOOKMARK", &object)
    }
}

/// One event.
pub(super) fn line(kind: &str, object: &Value) -> Bytes {
    let mut line = json!({"type": kind, "object": object}).to_string();
    line.push('\n');
    line.into()
}
