//! Reads entries of a dictionary `a{sv}`.

use wakevirt_protocol::bus::Dict;
use zbus::OwnedVariant;

/// Removes the entry with this key. `None` if it is absent or has another type, so that a service of another version
/// can be shown.
pub(super) fn take<T: TryFrom<OwnedVariant>>(dict: &mut Dict, key: &str) -> Option<T> {
    dict.remove(key).and_then(|value| value.try_into().ok())
}

/// Like [`take`], with the default value instead of `None`.
pub(super) fn take_or_default<T: TryFrom<OwnedVariant> + Default>(dict: &mut Dict, key: &str) -> T {
    take(dict, key).unwrap_or_default()
}
