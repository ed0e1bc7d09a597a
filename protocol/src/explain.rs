//! The reply to `ExplainRules`: what a packet would do, and how the actor reaches that decision.
//!
//! The actor sends these types as `a{sv}`, which its callers parse. `Serialize` is for callers that print the reply.

use std::collections::HashMap;

use serde::{Serialize, Serializer};
use zbus::Variant;

use crate::bus::Dict;
use crate::dict::{take, take_or_default};

/// An outgoing body of type `a{sv}`.
pub type Body = HashMap<&'static str, Variant<'static>>;

/// Defines an enum with a word for each variant.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$word_doc])* $variant,)*
        }

        impl $name {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word on the bus.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl Word for $name {
            fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|it| it.as_str() == word)
            }
        }
    };
}

/// A type with a word for each value.
trait Word: Sized {
    fn from_word(word: &str) -> Option<Self>;
}

words! {
    /// What the actor would do with the packet.
    PlannedAction {
        /// Nothing.
        Nothing = "none",
        /// Start the domain.
        Start = "start",
        /// Resume the paused domain.
        Resume = "resume",
        /// Wake up the suspended guest.
        WakeUp = "wake-up",
        /// Wait until the domain has shut down or the operation that paused it has ended, then decide again.
        Wait = "wait",
        /// Hold the packet or the wake until the hypervisor is available.
        Hold = "hold",
        /// Join the domain's wake, which is already running or held.
        Join = "join",
    }
}

words! {
    /// The result of comparing a rule with the packet.
    RuleVerdict {
        /// The rule allows the packet.
        Allows = "allows",
        /// The rule allows the packet if its password is correct. `ExplainRules` does not check the password.
        PasswordUnchecked = "password-unchecked",
        /// The rule requires a password, and the packet has none.
        PasswordMissing = "password-missing",
        /// The rule requires a different password, or the password could not be fetched.
        PasswordWrong = "password-wrong",
        /// The rule is for packets from other interfaces.
        Interface = "interface",
        /// The rule is for packets from certain interfaces, and the packet's interface is unknown.
        InterfaceUnknown = "interface-unknown",
        /// The rule is for packets in other VLANs.
        Vlan = "vlan",
        /// The rule is for packets in certain VLANs, and the packet's VLAN is unknown.
        VlanUnknown = "vlan-unknown",
        /// The rule is for packets from other sources.
        Source = "source",
        /// The rule is for packets from certain sources, and the packet's source is unknown.
        SourceUnknown = "source-unknown",
        /// The rule is for domains on another hypervisor.
        Connection = "connection",
        /// The rule names other domains.
        Domain = "domain",
        /// The rule is for other MAC addresses.
        Mac = "mac",
        /// The rule was not compared, because several domains have the MAC address.
        Ambiguous = "ambiguous",
        /// The rule was not compared, because no known domain has the MAC address.
        NoDomain = "no-domain",
        /// The domain's metadata does not allow the packet.
        NoOptIn = "no-opt-in",
        /// The configuration contains `metadata = false`.
        Disabled = "disabled",
    }
}

words! {
    /// What can allow a packet.
    RuleKind {
        /// An `[[allow]]` table.
        Allow = "allow",
        /// The domain's metadata.
        Metadata = "metadata",
    }
}

words! {
    /// The unfinished wake of a domain.
    PendingWake {
        /// It is running.
        Running = "running",
        /// It is waiting for the hypervisor.
        Held = "held",
    }
}

/// The reply to `ExplainRules`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// The MAC address in the packet.
    pub mac: String,
    /// Whether the packet would wake a domain, either now or after a hold. The same as in the reply to `Explain`.
    pub would_wake: bool,
    /// The reason. The same as in the reply to `Explain`.
    pub reason: String,
    /// The outcome of a packet that would not wake a domain: an outcome of `WakeFinished`, or `no-such-domain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What the actor would do. `None` if only a later version knows the value.
    pub action: Option<PlannedAction>,
    /// The URIs of the hypervisors that are unavailable. Their domains may be unknown.
    pub unavailable: Vec<String>,
    /// The domains that have the MAC address.
    pub domains: Vec<ExplainedDomain>,
    /// How many domains were left out to limit the length of the reply.
    pub domains_omitted: u32,
    /// The rules, in the order of their precedence. The last rule is the domain's metadata.
    pub rules: Vec<ExplainedRule>,
    /// How many rules were left out. Rules that match the domain are left out last.
    pub rules_omitted: u32,
    /// The aliases, in the order of the configuration.
    pub aliases: Vec<ExplainedAlias>,
    /// How many aliases were left out. Aliases with the MAC address are left out last.
    pub aliases_omitted: u32,
}

/// A domain that has the MAC address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainedDomain {
    /// The URI of its hypervisor.
    pub connection: String,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its state, as in `ListDomains`.
    pub state: String,
    /// Whether the packet is for this domain. If no domain is selected, the MAC address is ambiguous.
    pub selected: bool,
    /// Whether its metadata allows packets to wake it.
    pub opt_in: bool,
    /// Whether only an alias gives it the MAC address.
    pub alias: bool,
    /// Its unfinished wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wake: Option<PendingWake>,
    /// Its remaining cool-down, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cool_down: Option<u64>,
    /// When it was last woken successfully: CLOCK_REALTIME, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_wake: Option<u64>,
}

/// A rule, and the result of comparing it with the packet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainedRule {
    /// Its number in the order of precedence, counted from 1.
    pub number: u32,
    /// Its kind. `None` if only a later version knows the value.
    pub kind: Option<RuleKind>,
    /// The rule on one line.
    pub text: String,
    /// Its configuration file, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its line number in this file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The result of the comparison. `None` if only a later version knows the value.
    pub verdict: Option<RuleVerdict>,
    /// The verdict, as a sentence.
    pub reason: String,
    /// Whether this rule determines the decision.
    pub decides: bool,
}

/// An alias, and whether it gives a domain the MAC address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainedAlias {
    /// Its number in the configuration, counted from 1.
    pub number: u32,
    /// Its MAC address.
    pub mac: String,
    /// The name, glob or UUID of its domain.
    pub domain: String,
    /// Its configuration file, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its line number in this file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Whether it gives the packet's MAC address to a known domain.
    pub applies: bool,
    /// The reason, as a sentence.
    pub reason: String,
}

impl From<Explanation> for Body {
    fn from(it: Explanation) -> Self {
        let bodies = |list: Vec<Self>| Variant::from(list);
        let mut body = Self::from([
            ("mac", it.mac.into()),
            ("would-wake", it.would_wake.into()),
            ("reason", it.reason.into()),
            ("unavailable", it.unavailable.into()),
            ("domains", bodies(it.domains.into_iter().map(Self::from).collect())),
            ("domains-omitted", it.domains_omitted.into()),
            ("rules", bodies(it.rules.into_iter().map(Self::from).collect())),
            ("rules-omitted", it.rules_omitted.into()),
            ("aliases", bodies(it.aliases.into_iter().map(Self::from).collect())),
            ("aliases-omitted", it.aliases_omitted.into()),
        ]);
        body.extend(it.outcome.map(|outcome| ("outcome", outcome.into())));
        body.extend(it.action.map(|action| ("action", action.as_str().into())));
        body
    }
}

impl From<ExplainedDomain> for Body {
    fn from(it: ExplainedDomain) -> Self {
        let mut body = Self::from([
            ("connection", it.connection.into()),
            ("name", it.name.into()),
            ("uuid", it.uuid.into()),
            ("state", it.state.into()),
            ("selected", it.selected.into()),
            ("opt-in", it.opt_in.into()),
            ("alias", it.alias.into()),
        ]);
        body.extend(it.wake.map(|wake| ("wake", wake.as_str().into())));
        body.extend(it.cool_down.map(|remaining| ("cool-down", remaining.into())));
        body.extend(it.last_wake.map(|time| ("last-wake", time.into())));
        body
    }
}

impl From<ExplainedRule> for Body {
    fn from(it: ExplainedRule) -> Self {
        let mut body = Self::from([
            ("number", it.number.into()),
            ("text", it.text.into()),
            ("reason", it.reason.into()),
            ("decides", it.decides.into()),
        ]);
        body.extend(it.kind.map(|kind| ("kind", kind.as_str().into())));
        body.extend(it.verdict.map(|verdict| ("verdict", verdict.as_str().into())));
        body.extend(location(it.file, it.line));
        body
    }
}

impl From<ExplainedAlias> for Body {
    fn from(it: ExplainedAlias) -> Self {
        let mut body = Self::from([
            ("number", it.number.into()),
            ("mac", it.mac.into()),
            ("domain", it.domain.into()),
            ("applies", it.applies.into()),
            ("reason", it.reason.into()),
        ]);
        body.extend(location(it.file, it.line));
        body
    }
}

/// The file and the line, if known.
fn location(
    file: Option<String>,
    line: Option<u32>,
) -> impl Iterator<Item = (&'static str, Variant<'static>)> {
    let file = file.map(|file| ("file", file.into()));
    file.into_iter().chain(line.map(|line| ("line", line.into())))
}

/// Takes the value with this word. `None` if the word is absent or unknown.
fn take_word<T: Word>(dict: &mut Dict, key: &str) -> Option<T> {
    take(dict, key).and_then(|word: String| T::from_word(&word))
}

fn take_list<T: From<Dict>>(dict: &mut Dict, key: &str) -> Vec<T> {
    let list: Vec<Dict> = take_or_default(dict, key);
    list.into_iter().map(T::from).collect()
}

impl From<Dict> for Explanation {
    fn from(mut dict: Dict) -> Self {
        let dict = &mut dict;
        Self {
            mac: take_or_default(dict, "mac"),
            would_wake: take_or_default(dict, "would-wake"),
            reason: take_or_default(dict, "reason"),
            outcome: take(dict, "outcome"),
            action: take_word(dict, "action"),
            unavailable: take_or_default(dict, "unavailable"),
            domains: take_list(dict, "domains"),
            domains_omitted: take_or_default(dict, "domains-omitted"),
            rules: take_list(dict, "rules"),
            rules_omitted: take_or_default(dict, "rules-omitted"),
            aliases: take_list(dict, "aliases"),
            aliases_omitted: take_or_default(dict, "aliases-omitted"),
        }
    }
}

impl From<Dict> for ExplainedDomain {
    fn from(mut dict: Dict) -> Self {
        let dict = &mut dict;
        Self {
            connection: take_or_default(dict, "connection"),
            name: take_or_default(dict, "name"),
            uuid: take_or_default(dict, "uuid"),
            state: take_or_default(dict, "state"),
            selected: take_or_default(dict, "selected"),
            opt_in: take_or_default(dict, "opt-in"),
            alias: take_or_default(dict, "alias"),
            wake: take_word(dict, "wake"),
            cool_down: take(dict, "cool-down"),
            last_wake: take(dict, "last-wake"),
        }
    }
}

impl From<Dict> for ExplainedRule {
    fn from(mut dict: Dict) -> Self {
        let dict = &mut dict;
        Self {
            number: take_or_default(dict, "number"),
            kind: take_word(dict, "kind"),
            text: take_or_default(dict, "text"),
            file: take(dict, "file"),
            line: take(dict, "line"),
            verdict: take_word(dict, "verdict"),
            reason: take_or_default(dict, "reason"),
            decides: take_or_default(dict, "decides"),
        }
    }
}

impl From<Dict> for ExplainedAlias {
    fn from(mut dict: Dict) -> Self {
        let dict = &mut dict;
        Self {
            number: take_or_default(dict, "number"),
            mac: take_or_default(dict, "mac"),
            domain: take_or_default(dict, "domain"),
            file: take(dict, "file"),
            line: take(dict, "line"),
            applies: take_or_default(dict, "applies"),
            reason: take_or_default(dict, "reason"),
        }
    }
}

#[cfg(test)]
mod tests {
    use zbus::OwnedVariant;

    use super::*;

    fn explanation() -> Explanation {
        let text = str::to_owned;
        Explanation {
            mac: text("52:54:00:00:00:01"),
            would_wake: false,
            reason: text("no rule allows \"win11\""),
            outcome: Some(text("not-allowed")),
            action: Some(PlannedAction::Nothing),
            unavailable: vec![text("lxc:///")],
            domains: vec![ExplainedDomain {
                name: text("win11"),
                selected: true,
                opt_in: true,
                wake: Some(PendingWake::Held),
                cool_down: Some(1),
                last_wake: Some(2),
                ..ExplainedDomain::default()
            }],
            domains_omitted: 1,
            rules: vec![ExplainedRule {
                number: 3,
                kind: Some(RuleKind::Allow),
                text: text("domain = \"win\""),
                file: Some(text("/etc/wakevirt/actor.toml")),
                line: Some(7),
                verdict: Some(RuleVerdict::Domain),
                reason: text("it names other domains"),
                decides: false,
            }],
            rules_omitted: 2,
            aliases: vec![ExplainedAlias { number: 1, applies: true, ..ExplainedAlias::default() }],
            aliases_omitted: 3,
        }
    }

    fn sent(explanation: Explanation) -> Dict {
        let body = Body::from(explanation).into_iter();
        body.map(|(key, value)| (key.to_owned(), OwnedVariant::try_from(value).unwrap())).collect()
    }

    #[test]
    fn parses_what_it_sends() {
        assert_eq!(Explanation::from(sent(explanation())), explanation());
        assert_eq!(Explanation::from(sent(Explanation::default())), Explanation::default());
    }

    #[test]
    fn reads_replies_from_later_versions() {
        let mut dict = sent(explanation());
        dict.insert("action".to_owned(), OwnedVariant::try_from(Variant::from("teleport")).unwrap());
        dict.insert("rules".to_owned(), OwnedVariant::from(7_u32));
        dict.insert("new".to_owned(), OwnedVariant::from(true));
        let expected = Explanation { action: None, rules: Vec::new(), ..explanation() };
        assert_eq!(Explanation::from(dict), expected);
        assert_eq!(Explanation::from(Dict::new()), Explanation::default());
    }

    #[test]
    fn prints_the_words_and_keys_that_the_bus_uses() {
        let json = serde_json::to_value(explanation()).unwrap();
        assert_eq!(json["rules"][0]["verdict"], "domain");
        assert_eq!(json["domains"][0]["cool-down"], 1);
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(keys(&json), sent(explanation()).into_keys().collect());
    }
}
