//! Label and field selectors.

use serde_json::Value;

use crate::kubernetes::status::Failure;

/// Which objects a list or a watch contains.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    labels: Vec<Term>,
    fields: Vec<(String, String, bool)>,
}

/// One requirement of a label selector.
#[derive(Debug, Clone)]
enum Term {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

impl Selector {
    /// Parses the query parameters `labelSelector` and `fieldSelector`.
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, Failure> {
        let invalid = |text: &str| Failure::new(400, format!("unable to parse requirement: {text:?}"));
        let labels = split(labels).into_iter().map(|term| parse_term(&term).ok_or_else(|| invalid(&term)));
        let labels = labels.collect::<Result<_, _>>()?;
        let mut parsed = Vec::new();
        for term in split(fields) {
            let (name, value) = term.split_once('=').ok_or_else(|| invalid(&term))?;
            let (name, equal) = name.strip_suffix('!').map_or((name, true), |name| (name, false));
            let value = value.strip_prefix('=').unwrap_or(value);
            if !["metadata.name", "metadata.namespace"].contains(&name) {
                return Err(Failure::new(400, format!("field label not supported: {name}")));
            }
            parsed.push((name.replace('.', "/"), value.to_owned(), equal));
        }
        Ok(Self { labels, fields: parsed })
    }

    /// Whether the selector matches an object.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let label = |key: &String| object.get("metadata")?.get("labels")?.get(key)?.as_str();
        let labels = self.labels.iter().all(|term| match term {
            Term::Exists(key) => label(key).is_some(),
            Term::Absent(key) => label(key).is_none(),
            Term::In(key, values) => label(key).is_some_and(|value| values.iter().any(|each| each == value)),
            Term::NotIn(key, values) => {
                !label(key).is_some_and(|value| values.iter().any(|each| each == value))
            }
        });
        let field =
            |path: &str| object.pointer(&format!("/{path}")).and_then(Value::as_str).unwrap_or_default();
        labels && self.fields.iter().all(|(path, value, equal)| (field(path) == value) == *equal)
    }
}

/// Splits at commas that are not in parentheses.
fn split(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut depth = 0_u32;
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(term) = terms.last_mut() {
            term.push(character);
        }
    }
    terms.iter().map(|term| term.trim().to_owned()).filter(|term| !term.is_empty()).collect()
}

fn parse_term(term: &str) -> Option<Term> {
    let list = |text: &str| -> Option<Vec<String>> {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
    };
    let owned = |text: &str| text.trim().to_owned();
    if let Some((key, values)) = term.split_once(" notin ") {
        return Some(Term::NotIn(owned(key), list(values)?));
    }
    if let Some((key, values)) = term.split_once(" in ") {
        return Some(Term::In(owned(key), list(values)?));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Some(Term::NotIn(owned(key), vec![owned(value)]));
    }
    if let Some((key, value)) = term.split_once('=') {
        return Some(Term::In(owned(key), vec![owned(value.trim_start_matches('='))]));
    }
    let key = term.strip_prefix('!');
    let valid = |key: &str| !key.is_empty() && !key.contains(char::is_whitespace);
    match key {
        Some(key) if valid(key) => Some(Term::Absent(owned(key))),
        None if valid(term) => Some(Term::Exists(owned(term))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn matches_labels_and_fields() {
        let object =
            json!({"metadata": {"name": "a", "namespace": "n", "labels": {"k": "v", "x.io/y": "1"}}});
        let matches = |labels: &str, fields: &str| Selector::parse(labels, fields).unwrap().matches(&object);
        for labels in
            ["", "k", "k=v", "k==v", "k!=w", "!z", "k in (w, v),x.io/y", "k notin (w),x.io/y=1", "z!=1"]
        {
            assert!(matches(labels, ""), "{labels}");
        }
        for labels in ["z", "k=w", "k!=v", "!k", "k in (w)", "k notin (v)", "k,z"] {
            assert!(!matches(labels, ""), "{labels}");
        }
        assert!(matches("", "metadata.name=a,metadata.namespace!=m"));
        assert!(!matches("", "metadata.name=b"));
        assert_eq!(Selector::parse("", "spec.x=1").unwrap_err().code, 400);
        assert_eq!(Selector::parse("a b", "").unwrap_err().code, 400);
    }
}
