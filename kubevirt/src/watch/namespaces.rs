//! Finds and watches the namespaces that a label selector selects.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio_stream::StreamExt as _;
use wakevirt_actor::hypervisor::HypervisorError;

use crate::client::failed;

/// How long one watch request lasts, in seconds. If the server does not end the watch by then, the connection is dead.
pub(super) const TIMEOUT: u32 = 60;
/// The maximum number of errors in a row, after which the connection counts as lost.
pub(super) const MAX_ERRORS: u32 = 5;
/// The number of namespaces in a page of a list.
const PAGE: u32 = 500;
/// The maximum number of selected namespaces.
const MAX_NAMESPACES: usize = 10_000;

/// The names of namespaces.
pub(crate) type Selected = BTreeSet<Arc<str>>;

/// Watches the selected namespaces. Calls `listed` with their names, and returns when they have changed, or with the
/// error that ended the watch.
pub(super) async fn follow(
    client: Client,
    selector: String,
    listed: impl FnOnce(Selected),
) -> Result<(), HypervisorError> {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let config = watcher::Config::default().page_size(PAGE).timeout(TIMEOUT).labels(&selector);
    let mut events = pin!(watcher(api, config));
    let (mut known, mut listing, mut listed) = (Selected::new(), Selected::new(), Some(listed));
    let mut errors = 0;
    while let Some(event) = events.next().await {
        let name = |object: &PartialObjectMeta<Namespace>| object.metadata.name.as_deref().map(Arc::from);
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(object)) => {
                let name = name(&object).filter(|_| listing.len() < MAX_NAMESPACES);
                listing.extend(name);
            }
            Ok(Event::InitDone) => match listed.take() {
                Some(listed) => {
                    known.clone_from(&listing);
                    listed(std::mem::take(&mut listing));
                }
                None if known == listing => {}
                None => return Ok(()),
            },
            Ok(Event::Apply(object)) if name(&object).is_some_and(|name| known.contains(&name)) => {}
            Ok(Event::Apply(_) | Event::Delete(_)) => return Ok(()),
            Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) => {
                return Err(failed("list and watch the namespaces")(error));
            }
            Err(error) => {
                errors += 1;
                tracing::debug!("watch of namespaces interrupted: {error}");
                if errors >= MAX_ERRORS {
                    return Ok(());
                }
                continue;
            }
        }
        errors = 0;
    }
    Ok(())
}
