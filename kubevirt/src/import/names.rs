//! Names and labels of Kubernetes: <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/> and
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>.

use wakevirt_service::logs::quoted;

/// Checks the name of a namespace: an RFC 1123 label.
///
/// # Errors
/// What is wrong.
pub fn namespace(name: &str) -> Result<&str, String> {
    let valid = is_label(name);
    valid.then_some(name).ok_or_else(|| format!("{} is not the name of a namespace", quoted(name)))
}

/// Checks the name of another object: an RFC 1123 subdomain.
///
/// # Errors
/// What is wrong.
pub fn object(name: &str) -> Result<&str, String> {
    let valid = name.len() <= 253 && name.split('.').all(is_label);
    valid.then_some(name).ok_or_else(|| format!("{} is not the name of an object", quoted(name)))
}

fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Checks the key of a label, such as `example.org/role`.
///
/// # Errors
/// What is wrong.
pub fn key(text: &str) -> Result<&str, String> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => object(prefix).ok().map(|_| name),
        None => Some(text),
    };
    let valid = name.is_some_and(|name| !name.is_empty() && value(name).is_ok());
    valid.then_some(text).ok_or_else(|| format!("{} is not the key of a label", quoted(text)))
}

/// Checks the value of a label, which can be empty.
///
/// # Errors
/// What is wrong.
pub fn value(text: &str) -> Result<&str, String> {
    let end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let valid = bytes.len() <= 63 && bytes.iter().all(allowed) && end(bytes.first()) && end(bytes.last());
    valid.then_some(text).ok_or_else(|| format!("{} is not the value of a label", quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_names_that_kubernetes_accepts() {
        for name in ["default", "a", "a-1", "0"] {
            assert!(namespace(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "a.b", "A", "a*", "a/b", "a\"", &"a".repeat(64)] {
            assert!(namespace(name).is_err(), "{name}");
        }
        assert!(object("vm.example.org").is_ok() && object(&"a.".repeat(127)).is_err());
        for name in ["role", "example.org/role", "Role_1.x"] {
            assert!(key(name).is_ok(), "{name}");
        }
        for name in ["", "/a", "a/", "a b", "a=b", "A.org/x", "a/b/c", "_a"] {
            assert!(key(name).is_err(), "{name}");
        }
        assert!(value("").is_ok() && value("a,b").is_err() && value("-a").is_err());
    }
}
