//! Warns about rules that name an interface on which wakevirt does not capture packets.
//!
//! The actor cannot see the interfaces of the host: it runs in its own network namespace. The announcer knows all their
//! names.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::watch;
use wakevirt_protocol::bus::Error;
use wakevirt_service::logs::{kind, quoted};
use zbus::Connection;
use zbus::names::OwnedUniqueName;

use crate::announcer::proxy::proxy;
use crate::policy::rules::Rules;

/// The interface names in the rules, each with its rule.
pub(crate) type NamedInterfaces = Arc<[(String, String)]>;

/// The interface names in these rules, excluding globs.
pub(crate) fn named_interfaces(rules: &Rules) -> NamedInterfaces {
    let names = |rule| move |name: &str| (name.to_owned(), format!("{rule}"));
    rules.iter().flat_map(|rule| rule.named_interfaces().map(names(rule))).collect()
}

/// Warns about each name that none of the announcer's interfaces has. Checks the names for each new announcer, and
/// after each reload. Returns when the service exits.
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
            match interface_names(connection, announcer).await {
                Ok(known) => {
                    for (name, rule) in names.iter().filter(|(name, _)| !known.contains(name)) {
                        if warned.insert((name.clone(), rule.clone())) {
                            tracing::warn!(
                                MESSAGE_ID = kind::RULE_INTERFACE_MISSING,
                                WAKEVIRT_RULE = %rule,
                                WAKEVIRT_INTERFACE = name,
                                "rule {rule} names the interface {}, on which wakevirt does not capture packets",
                                quoted(name)
                            );
                        }
                    }
                }
                // This check is only a hint. Other tasks log persistent failures.
                Err(error) => tracing::debug!("cannot list the announcer's interfaces: {error}"),
            }
        }
        tokio::select! {
            Ok(()) = owner.changed() => {}
            Ok(()) = named.changed() => named.mark_changed(),
            else => return,
        }
    }
}

/// All names of the interfaces on which wakevirt captures packets.
async fn interface_names(
    connection: &Connection,
    announcer: OwnedUniqueName,
) -> Result<HashSet<String>, Error> {
    let announcer = proxy(connection, announcer).await?;
    let names = announcer.interfaces().await?;
    let alternatives = announcer.alternative_names().await?;
    Ok(names.into_iter().chain(alternatives.into_values().flatten()).collect())
}
