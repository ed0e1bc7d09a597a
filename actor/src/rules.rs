//! The allowlist: which domains may be woken by a packet, and by which one.

mod pattern;
mod secure_on;

use core::fmt;

use serde::Deserialize;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_service::logs::quoted;

pub(crate) use pattern::DomainPattern;
use pattern::{InterfacePattern, MacPattern, Source};
pub use secure_on::{Error as SecureOnError, SecureOn};

use crate::hypervisor::Domain;

/// The rules, in the order of their precedence. Without any, nothing is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    metadata: bool,
}

impl Rules {
    /// These rules; with `metadata`, a domain's own metadata may allow it as well.
    #[must_use]
    pub const fn new(rules: Vec<Rule>, metadata: bool) -> Self {
        Self { rules, metadata }
    }

    /// Whether a domain's own metadata may allow it.
    #[must_use]
    pub const fn metadata(&self) -> bool {
        self.metadata
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, in the order of their precedence.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// The rules that are about this domain and MAC address, whatever else they ask for.
    pub fn about(&self, domain: &Domain, mac: MacAddr) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.is_about(domain, mac))
    }

    /// Whether the domain's own metadata allows it.
    #[must_use]
    pub const fn by_metadata(&self, domain: &Domain) -> bool {
        self.metadata && domain.opt_in
    }

    /// By what a packet for this MAC address may wake the domain, whatever else is asked for.
    #[must_use]
    pub fn allowing(&self, domain: &Domain, mac: MacAddr) -> Option<String> {
        let rule = self.about(domain, mac).next().map(ToString::to_string);
        rule.or_else(|| self.by_metadata(domain).then(|| METADATA.to_owned()))
    }

    /// Whether a rule names this domain, by name, glob or UUID.
    #[must_use]
    pub fn name(&self, domain: &Domain) -> bool {
        self.rules.iter().any(|rule| rule.names(domain))
    }

    /// Reads the passwords that rules ask for.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read_passwords(&mut self) -> Result<(), SecureOnError> {
        let credentials = credentials();
        self.asked_for().try_for_each(|secure_on| secure_on.read(credentials.as_deref()))
    }

    /// Reads the passwords that rules ask for, but for credentials that cannot be read: the service manager
    /// passes them to the service, and neither to who checks its configuration in a shell nor (systemd 252) to
    /// what `ExecReload=` runs. Returns those that were left out, as they are written.
    ///
    /// # Errors
    /// If one of the others cannot be read.
    pub fn try_passwords(&mut self) -> Result<Vec<String>, SecureOnError> {
        let credentials = credentials();
        let mut left_out = Vec::new();
        for secure_on in self.asked_for() {
            match secure_on.read(credentials.as_deref()) {
                Err(SecureOnError::NoCredentials(_) | SecureOnError::Read { .. })
                    if secure_on.is_credential() =>
                {
                    left_out.push(secure_on.text().to_owned());
                }
                read => read?,
            }
        }
        Ok(left_out)
    }

    fn asked_for(&mut self) -> impl Iterator<Item = &mut SecureOn> {
        self.rules.iter_mut().filter_map(|rule| rule.secure_on.as_mut())
    }
}

/// Where the service manager's credentials are: systemd.exec(5), `LoadCredential=`.
fn credentials() -> Option<std::path::PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(std::path::PathBuf::from)
}

/// What is told as the rule where the domain's own metadata allows it.
pub const METADATA: &str = "metadata of the domain";

/// What is done with a domain that somebody has paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paused {
    /// It is resumed.
    #[default]
    Resume,
    /// It is left as it is.
    Leave,
}

/// One rule: `[[allow]]` in the configuration. It is shown as it is written there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Rule {
    target: Target,
    connection: Option<String>,
    interfaces: Option<Vec<InterfacePattern>>,
    sources: Option<Vec<Source>>,
    secure_on: Option<SecureOn>,
    paused: Option<Paused>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Domain(DomainPattern),
    Mac(MacPattern),
}

impl Rule {
    fn is_about(&self, domain: &Domain, mac: MacAddr) -> bool {
        self.is_connected(domain)
            && match &self.target {
                Target::Domain(pattern) => pattern.matches(domain),
                Target::Mac(pattern) => pattern.matches(mac),
            }
    }

    /// The interfaces that the rule names, globs left out.
    pub fn named_interfaces(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().flatten().filter_map(InterfacePattern::name)
    }

    /// Whether the rule is about domains, not about MAC addresses.
    #[must_use]
    pub const fn is_for_domains(&self) -> bool {
        matches!(self.target, Target::Domain(_))
    }

    /// Whether the rule names this domain, by name, glob or UUID.
    #[must_use]
    pub fn names(&self, domain: &Domain) -> bool {
        self.is_connected(domain)
            && matches!(&self.target, Target::Domain(pattern) if pattern.matches(domain))
    }

    fn is_connected(&self, domain: &Domain) -> bool {
        self.connection.as_deref().is_none_or(|uri| uri == &*domain.id.connection)
    }

    /// Whether the rule takes packets that came in there, from them.
    #[must_use]
    pub fn takes(&self, details: &PacketDetails) -> bool {
        let interface = |interfaces: &Vec<InterfacePattern>| interfaces.iter().any(|it| it.matches(details));
        let source = |sources: &Vec<Source>| sources.iter().any(|it| it.matches(details));
        self.interfaces.as_ref().is_none_or(interface) && self.sources.as_ref().is_none_or(source)
    }

    /// The password that the rule asks for.
    #[must_use]
    pub const fn secure_on(&self) -> Option<&SecureOn> {
        self.secure_on.as_ref()
    }

    /// What is done with a domain that somebody has paused.
    #[must_use]
    pub fn paused(&self) -> Paused {
        self.paused.unwrap_or_default()
    }

    /// The keys and their values, each as it is written in the configuration.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let target = match &self.target {
            Target::Domain(pattern) => format!("domain = {}", quoted(&pattern.text)),
            Target::Mac(pattern) => format!("mac = {}", quoted(&pattern.0)),
        };
        let interfaces = self.interfaces.as_ref().map(|it| list("interfaces", it.iter().map(|it| &*it.text)));
        let sources = self.sources.as_ref().map(|it| list("sources", it.iter().map(|it| &*it.text)));
        let paused = self.paused.map(|paused| match paused {
            Paused::Resume => "paused = \"resume\"".to_owned(),
            Paused::Leave => "paused = \"leave\"".to_owned(),
        });
        [
            Some(target),
            self.connection.as_ref().map(|uri| format!("connection = {}", quoted(uri))),
            interfaces,
            sources,
            self.secure_on.as_ref().map(|it| format!("secure-on = {}", quoted(it.text()))),
            paused,
        ]
        .into_iter()
        .flatten()
    }
}

fn list<'a>(key: &str, texts: impl Iterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.map(|text| quoted(text).to_string()).collect();
    format!("{key} = [{}]", texts.join(", "))
}

/// The keys of a rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    domain: Option<DomainPattern>,
    mac: Option<MacPattern>,
    connection: Option<String>,
    interfaces: Option<Vec<InterfacePattern>>,
    sources: Option<Vec<Source>>,
    secure_on: Option<SecureOn>,
    paused: Option<Paused>,
}

impl TryFrom<Written> for Rule {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { domain, mac, connection, interfaces, sources, secure_on, paused } = written;
        let target = match (domain, mac) {
            (Some(domain), None) => Target::Domain(domain),
            (None, Some(mac)) => Target::Mac(mac),
            (None, None) => {
                return Err("a rule allows a domain or a MAC address; add domain = \"…\" or mac = \"…\"");
            }
            (Some(_), Some(_)) => {
                return Err("a rule has either domain or mac, not both; make two rules of it");
            }
        };
        if interfaces.as_ref().is_some_and(Vec::is_empty) || sources.as_ref().is_some_and(Vec::is_empty) {
            return Err("an empty list allows nothing; leave interfaces or sources out to allow all of them");
        }
        Ok(Self { target, connection, interfaces, sources, secure_on, paused })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.keys().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use uuid::Uuid;

    use super::pattern::octets;
    use super::*;
    use crate::hypervisor::{Id, State};

    fn rules(text: &str) -> Rules {
        #[derive(Deserialize)]
        struct File {
            allow: Vec<Rule>,
        }
        Rules::new(toml::from_str::<File>(text).unwrap().allow, true)
    }

    fn domain(name: &str) -> Domain {
        Domain {
            id: Id { connection: "test:///".into(), uuid: Uuid::from_u128(7) },
            name: name.to_owned(),
            macs: BTreeSet::new(),
            opt_in: false,
            state: State::ShutOff,
        }
    }

    fn mac() -> MacAddr {
        MacAddr::new([0x52, 0x54, 0, 0x12, 0x34, 0x56])
    }

    #[test]
    fn allows_domains_by_name_glob_and_uuid() {
        for (pattern, name, allowed) in [
            ("win11", "win11", true),
            ("win11", "win110", false),
            ("win11", "Win11", false),
            ("win*", "win11", true),
            ("*", "anything at all", true),
            ("web-[0-9]", "web-3", true),
            ("web-[0-9]", "web-10", false),
            ("vm[1]", "vm[1]", true),
            ("{a,b}", "b", true),
            ("00000000-0000-0000-0000-000000000007", "whatever", true),
            ("00000000-0000-0000-0000-000000000008", "whatever", false),
        ] {
            let rules = rules(&format!("[[allow]]\ndomain = {pattern:?}"));
            assert_eq!(rules.allowing(&domain(name), mac()).is_some(), allowed, "{pattern} {name}");
            assert_eq!(rules.name(&domain(name)), allowed);
        }
    }

    #[test]
    fn allows_by_mac_address() {
        for (pattern, allowed) in [
            ("52:54:00:12:34:56", true),
            ("52-54-00-12-34-56", true),
            ("52:54:00:12:34:57", false),
            ("52:54:00:*", true),
            ("52:54:01:*", false),
            ("*", true),
            ("52:54:*:12:34:*", true),
            ("52:54:*:13:34:*", false),
            ("*:*:*:*:*:56", true),
        ] {
            let rules = rules(&format!("[[allow]]\nmac = {pattern:?}"));
            assert_eq!(rules.allowing(&domain("any"), mac()).is_some(), allowed, "{pattern}");
            assert!(!rules.name(&domain("any")), "a MAC address names no domain");
        }
    }

    #[test]
    fn the_first_rule_that_fits_is_named() {
        let rules =
            rules("[[allow]]\nmac = \"aa:*\"\n[[allow]]\ndomain = \"w*\"\n[[allow]]\ndomain = \"win11\"");
        assert_eq!(rules.allowing(&domain("win11"), mac()).unwrap(), "domain = \"w*\"");
        let aa = MacAddr::new([0xaa; 6]);
        assert_eq!(rules.allowing(&domain("win11"), aa).unwrap(), "mac = \"aa:*\"");
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        assert!(Rules::default().allowing(&domain("win11"), mac()).is_none());
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        for text in
            ["", "52:54", "52:54:*:00", "52:54:00:12:34:5*", "52:54:00:12:34:56:*", "**", "5*:*", "x:*"]
        {
            assert!(octets(text).is_none(), "{text}");
        }
        assert!(DomainPattern::try_from("web-[".to_owned()).is_err());
        assert!(DomainPattern::try_from(String::new()).is_err());
    }

    fn details(interface: &str, source: Option<&str>, source_mac: Option<&str>) -> PacketDetails {
        PacketDetails {
            interface: Some(interface.to_owned()),
            source: source.map(|it| it.parse().unwrap()),
            source_mac: source_mac.map(|it| it.parse().unwrap()),
            ..PacketDetails::default()
        }
    }

    #[test]
    fn narrows_by_interface_and_source() {
        let lan = details("br0", Some("192.168.1.7"), Some("02:00:00:00:00:07"));
        let mapped = details("br0", Some("::ffff:192.168.1.7"), None);
        let frame = details("eth1", None, Some("02:00:00:00:00:08"));
        for (keys, expected) in [
            ("", [true, true, true]),
            ("interfaces = [\"br0\"]", [true, true, false]),
            ("interfaces = [\"eth*\", \"x\"]", [false, false, true]),
            ("sources = [\"192.168.1.0/24\"]", [true, true, false]),
            ("sources = [\"192.168.1.8\"]", [false, false, false]),
            ("sources = [\"02:00:00:00:00:07\"]", [true, false, false]),
            ("sources = [\"fd00::/8\", \"02:00:*\"]", [true, false, true]),
            ("interfaces = [\"br0\"]\nsources = [\"02:00:00:00:00:08\"]", [false, false, false]),
        ] {
            let rules = rules(&format!("[[allow]]\ndomain = \"*\"\n{keys}"));
            let rule = rules.iter().next().unwrap();
            assert_eq!([&lan, &mapped, &frame].map(|it| rule.takes(it)), expected, "{keys}");
            let shown = rule.keys().collect::<Vec<_>>().join("\n");
            assert_eq!(shown, format!("domain = \"*\"\n{keys}").trim());
        }
        assert!(
            !rules("[[allow]]\ndomain = \"*\"\ninterfaces = [\"*\"]")
                .iter()
                .next()
                .unwrap()
                .takes(&PacketDetails::default())
        );
    }

    #[test]
    fn a_rule_may_be_for_one_connection() {
        let rules = rules("[[allow]]\ndomain = \"*\"\nconnection = \"lxc:///\"");
        assert!(!rules.name(&domain("a")));
        let mut other = domain("a");
        other.id.connection = "lxc:///".into();
        assert!(rules.name(&other));
        assert!(rules.allowing(&other, mac()).is_some());
    }

    #[test]
    fn a_domain_may_allow_itself() {
        let own = Domain { opt_in: true, ..domain("a") };
        assert_eq!(Rules::new(Vec::new(), true).allowing(&own, mac()).as_deref(), Some(METADATA));
        assert_eq!(Rules::new(Vec::new(), false).allowing(&own, mac()), None);
        assert_eq!(Rules::new(Vec::new(), true).allowing(&domain("a"), mac()), None);
    }
}
