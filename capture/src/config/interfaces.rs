//! The interfaces on which packets are received.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer};
use wakevirt_protocol::sniffer::MAX_BOUND;
use wakevirt_service::config::{BadInterfacePattern, InterfacePattern, from_text, toml_array};

use crate::network::links::Interface;

/// A pattern that includes interfaces, or excludes them if it begins with `!`.
#[derive(Debug, Clone)]
pub struct InterfaceEntry {
    excludes: bool,
    pattern: InterfacePattern,
}

impl InterfaceEntry {
    /// The name of the single interface that this entry includes.
    fn name(&self) -> Option<&str> {
        self.pattern.name().filter(|_| !self.excludes)
    }
}

impl FromStr for InterfaceEntry {
    type Err = BadInterfacePattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (excludes, text) = match text.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, text),
        };
        Ok(Self { excludes, pattern: text.parse()? })
    }
}

impl<'de> Deserialize<'de> for InterfaceEntry {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        from_text(input, "the name or glob of an interface")
    }
}

impl fmt::Display for InterfaceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.excludes { "!" } else { "" }, self.pattern)
    }
}

/// The value of the `interfaces` key.
#[derive(Debug, Clone)]
pub struct InterfaceList(Vec<InterfaceEntry>);

impl InterfaceList {
    /// A list of these entries. It includes an interface if an entry includes it and no entry excludes it. If all entries
    /// are exclusions, it includes all other interfaces.
    #[must_use]
    pub const fn new(entries: Vec<InterfaceEntry>) -> Self {
        Self(entries)
    }

    /// Whether the list includes the interface, by any of its names.
    #[must_use]
    pub fn includes(&self, interface: &Interface) -> bool {
        let (exclude, include): (Vec<&InterfaceEntry>, Vec<&InterfaceEntry>) =
            self.0.iter().partition(|entry| entry.excludes);
        let matches = |entry: &&InterfaceEntry| interface.names().any(|name| entry.pattern.matches(name));
        (include.is_empty() || include.iter().any(matches)) && !exclude.iter().any(matches)
    }

    /// Whether the list includes every interface, even one that disappeared before its name was known.
    #[must_use]
    pub fn includes_all(&self) -> bool {
        let is_all = |entry: &InterfaceEntry| entry.pattern.text() == "*";
        self.0.iter().all(|entry| !entry.excludes) && (self.0.is_empty() || self.0.iter().any(is_all))
    }

    /// The names in the list, if it includes only a few interfaces, and each by its name: at most [`MAX_BOUND`].
    #[must_use]
    pub fn few_names(&self) -> Option<Vec<&str>> {
        let included = self.0.iter().filter(|entry| !entry.excludes);
        let names: Vec<&str> = included.map(InterfaceEntry::name).collect::<Option<_>>()?;
        (1..=MAX_BOUND).contains(&names.len()).then_some(names)
    }

    /// The names in the list, without globs and exclusions. The interfaces need not exist.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(InterfaceEntry::name)
    }
}

impl fmt::Display for InterfaceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            // The list is empty only if the key is absent; then every interface is included.
            [] => f.write_str("[\"*\"]"),
            entries => f.write_str(&toml_array(entries)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interface with these names. The first one is its main name.
    fn interface(names: &[&str]) -> Interface {
        let (name, alternatives) = names.split_first().unwrap();
        let alternatives = alternatives.iter().map(|name| (*name).to_owned()).collect();
        Interface { name: (*name).to_owned(), alternatives }
    }

    fn list(texts: &[&str]) -> InterfaceList {
        InterfaceList::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn includes_interfaces_that_match_and_are_not_excluded() {
        for (texts, name, included) in [
            (&["*"] as &[&str], "eth0", true),
            (&["*", "!vnet*"], "vnet3", false),
            (&["*", "!vnet*"], "br0", true),
            (&["!vnet*"], "br0", true),
            (&["!vnet*"], "vnet0", false),
            (&["br0", "en*"], "br0", true),
            (&["br0", "en*"], "enp3s0", true),
            (&["br0", "en*"], "br01", false),
            (&["br[0-3]"], "br2", true),
            (&["!br0", "br0"], "br0", false),
        ] {
            assert_eq!(list(texts).includes(&interface(&[name])), included, "{texts:?} {name}");
        }
    }

    #[test]
    fn includes_and_excludes_by_alternative_names() {
        let card = interface(&["eth0", "enp1s0", "enx525400000001"]);
        for (texts, included) in [
            (&["enp1s0"] as &[&str], true),
            (&["eth0"], true),
            (&["enp1*"], true),
            (&["wlan*"], false),
            (&["*", "!enp1s0"], false),
            (&["eth0", "!enx*"], false),
            (&["eth0", "!wlan*"], true),
        ] {
            assert_eq!(list(texts).includes(&card), included, "{texts:?}");
        }
    }

    #[test]
    fn includes_all_only_without_exclusions() {
        assert!(list(&["*"]).includes_all());
        assert!(list(&["br0", "*"]).includes_all());
        assert!(!list(&["*", "!vnet*"]).includes_all());
        assert!(!list(&["br0"]).includes_all());
    }

    #[test]
    fn lists_names_without_globs_and_exclusions() {
        let list = list(&["br0", "en*", "!wlan0"]);
        assert_eq!(list.names().collect::<Vec<_>>(), ["br0"]);
    }

    #[test]
    fn rejects_impossible_names() {
        for text in ["", "!", "!!br0", "a name", "!a/b", "br[0"] {
            assert!(text.parse::<InterfaceEntry>().is_err(), "{text:?}");
        }
    }
}
