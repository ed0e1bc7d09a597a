//! The labels of a domain in a cluster.

/// Labels, in one string, because there can be ten thousand domains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<str>);

/// Ends each key and each value. Neither can contain it.
const END: char = '\0';

impl Labels {
    /// Labels with these keys and values. A key or value with a NUL character is omitted.
    pub fn new<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let is_valid = |(key, value): &(&str, &str)| !key.contains(END) && !value.contains(END);
        let texts = labels.into_iter().filter(is_valid).map(|(key, value)| format!("{key}{END}{value}{END}"));
        Self(texts.collect::<String>().into())
    }

    /// The value of the label with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut parts = self.0.split_terminator(END);
        while let (Some(own), Some(value)) = (parts.next(), parts.next()) {
            if own == key {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_values_by_key() {
        let labels = Labels::new([("app", "web"), ("web", ""), ("bad\0app", "x"), ("x", "app\0web")]);
        assert_eq!((labels.get("app"), labels.get("web"), labels.get("x")), (Some("web"), Some(""), None));
        assert_eq!((Labels::default().get(""), labels.get("bad")), (None, None));
    }
}
