//! Masks names and addresses in a report.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wakevirt_protocol::MacAddr;

/// Replaces names and addresses. The same name always gets the same replacement, so that it can be recognised.
#[derive(Debug, Default)]
pub struct Mask {
    /// The known names, longest first.
    names: Vec<(String, String)>,
    addresses: BTreeMap<String, String>,
}

impl Mask {
    /// Masks these names. Their replacements are `kind` with a number.
    pub fn names<'a>(&mut self, kind: &str, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            if !name.is_empty() && !self.names.iter().any(|(known, _)| known == name) {
                let number = self.names.iter().filter(|(_, mask)| mask.starts_with(kind)).count() + 1;
                self.names.push((name.to_owned(), format!("{kind}-{number}")));
            }
        }
        self.names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    /// Replaces names and addresses in a string.
    pub fn apply(&mut self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut word = String::new();
        for char in text.chars() {
            if char.is_alphanumeric() || "._:-%".contains(char) {
                word.push(char);
                continue;
            }
            masked.push_str(&self.word(&std::mem::take(&mut word)));
            masked.push(char);
        }
        masked + &self.word(&word)
    }

    fn word(&mut self, word: &str) -> String {
        // A word can end with the punctuation of the sentence.
        let core = word.trim_end_matches(['.', ':', '-']);
        let rest = word.strip_prefix(core).unwrap_or_default();
        if let Some((_, mask)) = self.names.iter().find(|(name, _)| name == core) {
            return format!("{mask}{rest}");
        }
        let address = [word, core].into_iter().find_map(|it| kind(it).map(|kind| (it, kind)));
        if let Some((address, kind)) = address {
            let rest = word.strip_prefix(address).unwrap_or_default();
            let number = self.addresses.values().filter(|mask| mask.starts_with(kind)).count() + 1;
            let mask = self.addresses.entry(address.to_owned()).or_insert_with(|| format!("{kind}-{number}"));
            return format!("{mask}{rest}");
        }
        // A name inside a longer word, such as a path or an option.
        self.names.iter().filter(|(name, _)| name.len() > 2).fold(word.to_owned(), |word, (name, mask)| {
            if word.contains(['.', '-', '_']) { word.replace(name.as_str(), mask) } else { word }
        })
    }
}

/// The kind of an address. `None` if the word is not an address, or every host has this address.
fn kind(word: &str) -> Option<&'static str> {
    if word.parse::<MacAddr>().is_ok() {
        return Some("mac");
    }
    let address: IpAddr = word.parse().ok()?;
    let is_common = address.is_loopback() || address.is_unspecified();
    (!is_common).then_some(if address.is_ipv4() { "ipv4" } else { "ipv6" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_names_and_addresses_consistently() {
        let mut mask = Mask::default();
        mask.names("domain", ["win11", "web"]);
        let text = "\"win11\" has 52:54:00:12:34:56. It was sent from 192.168.1.7 to 52:54:00:12:34:56, not web: see \
                    /etc/wakevirt/actor.d/50-allow-win11.toml, 127.0.0.1, 0.1.0 and fd00::1/64";
        assert_eq!(
            mask.apply(text),
            "\"domain-1\" has mac-1. It was sent from ipv4-1 to mac-1, not domain-2: see \
             /etc/wakevirt/actor.d/50-allow-domain-1.toml, 127.0.0.1, 0.1.0 and ipv6-1/64"
        );
    }
}
