//! Reads typed values from a body of type `a{sv}`.

use zbus::OwnedVariant;

use crate::bus::Dict;

/// Removes and returns the entry with this key. Returns `None` if it is absent or has an unexpected type, because a
/// service of a different version may omit or change it.
pub fn take<T: TryFrom<OwnedVariant>>(dict: &mut Dict, key: &str) -> Option<T> {
    dict.remove(key).and_then(|value| value.try_into().ok())
}

/// Like [`take`], but returns the default value instead of `None`.
pub fn take_or_default<T: TryFrom<OwnedVariant> + Default>(dict: &mut Dict, key: &str) -> T {
    take(dict, key).unwrap_or_default()
}
