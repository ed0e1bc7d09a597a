//! Warnings about rules that name an interface on which no packet can come in.
//!
//! The actor has a network of its own, without interfaces. The announcer knows those of the host by all their
//! names.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::watch;
use wakevirt_protocol::bus::{Capture1Proxy, Error};
use wakevirt_service::logs::quoted;
use zbus::Connection;
use zbus::names::OwnedUniqueName;
use zbus::proxy::CacheProperties;

use crate::policy::rules::Rules;

/// The names of interfaces in rules, each with its rule.
pub(crate) type NamedInterfaces = Arc<[(String, String)]>;

/// The names of interfaces in these rules, globs left out.
pub(crate) fn named_interfaces(rules: &Rules) -> NamedInterfaces {
    let names = |rule| move |name: &str| (name.to_owned(), format!("{rule}"));
    rules.iter().flat_map(|rule| rule.named_interfaces().map(names(rule))).collect()
}

/// Warns of each name that is none of the announcer's interfaces: when there is a new announcer, and when the
/// rules were read again. It ends when nobody reads rules any more.
pub(crate) async fn check(
    connection: &Connection,
    mut owner: watch::Receiver<Option<OwnedUniqueName>>,
    mut named: watch::Receiver<NamedInterfaces>,
) {
    let mut warned = HashSet::new();
    loop {
        let announcer = owner.borrow_and_update().clone();
        if named.has_changed().unwrap_or(false) {
            warned.clear();
        }
        let names = Arc::clone(&named.borrow_and_update());
        if let Some(announcer) = announcer.filter(|_| !names.is_empty()) {
            match known(connection, announcer).await {
                Ok(known) => {
                    for (name, rule) in names.iter().filter(|(name, _)| !known.contains(name)) {
                        if warned.insert((name.clone(), rule.clone())) {
                            tracing::warn!(
                                "there is no interface {} now that capture receives packets on, but the rule {rule} \
                                 names it",
                                quoted(name)
                            );
                        }
                    }
                }
                // It is a hint only, and whatever else fails with the announcer is told elsewhere.
                Err(error) => tracing::debug!("cannot ask the announcer for its interfaces: {error}"),
            }
        }
        tokio::select! {
            Ok(()) = owner.changed() => {}
            Ok(()) = named.changed() => named.mark_changed(),
            else => return,
        }
    }
}

/// All names of the interfaces that the announcer receives packets on.
async fn known(connection: &Connection, announcer: OwnedUniqueName) -> Result<HashSet<String>, Error> {
    // The very connection that is believed; a call to the well-known name could start a service.
    let announcer = Capture1Proxy::builder(connection)
        .destination(announcer)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let names = announcer.interfaces().await?;
    let alternatives = announcer.alternative_names().await?;
    Ok(names.into_iter().chain(alternatives.into_values().flatten()).collect())
}
