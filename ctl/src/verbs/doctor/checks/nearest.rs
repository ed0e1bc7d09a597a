//! Similar names and addresses, for one that is misspelt.

use wakevirt_protocol::MacAddr;

/// The most similar name. `None` if all names differ too much.
#[must_use]
pub fn name<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &str| strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
    let nearest = names.into_iter().map(|name| (distance(name), name)).min()?;
    (nearest.0 <= (wrong.chars().count() / 2).max(2)).then_some(nearest.1)
}

/// The number of hexadecimal digits in which two addresses differ.
#[must_use]
pub fn digits(left: MacAddr, right: MacAddr) -> usize {
    let pairs = left.octets().into_iter().zip(right.octets());
    pairs
        .map(|(left, right)| {
            usize::from((left ^ right) & 0xf0 != 0) + usize::from((left ^ right) & 0x0f != 0)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_similar_names_and_addresses() {
        assert_eq!(name("win1", ["web", "win11", "db"]), Some("win11"));
        assert_eq!(name("enp1s0", ["lo", "enp0s1"]), Some("enp0s1"));
        assert_eq!(name("database", ["win11", "web"]), None);
        let mac = |text: &str| text.parse::<MacAddr>().unwrap();
        assert_eq!(digits(mac("52:54:00:12:34:56"), mac("52:54:00:21:34:56")), 2);
    }
}
