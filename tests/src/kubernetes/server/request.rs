//! Requests: paths and queries.

use std::collections::HashMap;

use hyper::Method;

use super::access::Access;

/// A parsed request.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) access: Access,
    pub(super) query: HashMap<String, String>,
}

impl Request {
    /// Parses a request. `None` if the path is not one of a resource.
    pub(super) fn parse(method: &Method, path: &str, query: &str) -> Option<Self> {
        let query: HashMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (decode(key), decode(value)))
            .collect();
        let decoded = decode(path);
        let mut parts = decoded.split('/').filter(|part| !part.is_empty());
        let group = match parts.next()? {
            "api" => String::new(),
            "apis" => parts.next()?.to_owned(),
            _ => return None,
        };
        let _version = parts.next()?;
        let mut parts: Vec<&str> = parts.collect();
        let mut namespace = None;
        // `namespaces/NAME` alone is the namespace itself.
        if parts.len() > 2 && parts.first() == Some(&"namespaces") {
            namespace = parts.get(1).map(|&name| name.to_owned());
            parts.drain(..2);
        }
        let (plural, name) = (*parts.first()?, parts.get(1).map(|&name| name.to_owned()));
        let resource = parts.get(2).map_or_else(|| plural.to_owned(), |sub| format!("{plural}/{sub}"));
        if parts.len() > 3 {
            return None;
        }
        let is_watch = query.get("watch").is_some_and(|value| ["1", "true"].contains(&value.as_str()));
        let verb = match *method {
            Method::GET if name.is_some() => "get",
            Method::GET if is_watch => "watch",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => return None,
        };
        // As in Kubernetes, a field selector for a name restricts the request to the object with that name.
        let selected = || query.get("fieldSelector")?.strip_prefix("metadata.name=").map(str::to_owned);
        let name = name.or_else(|| if ["list", "watch"].contains(&verb) { selected() } else { None });
        Some(Self { access: Access { verb: verb.to_owned(), group, resource, namespace, name }, query })
    }

    /// A parameter of the query, empty if it is missing.
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// Decodes percent-encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match (first, tail.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_paths() {
        let parse = |method: Method, path: &str, query: &str| {
            let access = Request::parse(&method, path, query)?.access;
            let part = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
            Some(format!(
                "{} {} {} {} {}",
                access.verb,
                access.group,
                access.resource,
                part(access.namespace),
                part(access.name)
            ))
        };
        let get = |path: &str, query: &str| parse(Method::GET, path, query).unwrap();
        assert_eq!(get("/apis/g/v1/things", "limit=1"), "list g things - -");
        assert_eq!(get("/apis/g/v1/things", "watch=true"), "watch g things - -");
        assert_eq!(
            get("/apis/g/v1/namespaces/n/things", "watch=1&fieldSelector=metadata.name%3Da"),
            "watch g things n a"
        );
        assert_eq!(get("/apis/g/v1/namespaces/n/things/a", ""), "get g things n a");
        assert_eq!(get("/api/v1/namespaces", ""), "list  namespaces - -");
        assert_eq!(get("/api/v1/namespaces/n", ""), "get  namespaces - n");
        assert_eq!(
            parse(Method::PUT, "/apis/g/v1/namespaces/n/things/a/start", "").unwrap(),
            "update g things/start n a"
        );
        assert_eq!(parse(Method::GET, "/version", ""), None);
    }
}
