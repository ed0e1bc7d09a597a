//! Replies to `ExplainRules`: the domains with the MAC address, and each rule and alias with its verdict.

use core::ptr;

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_protocol::explain::{
    ExplainedAlias, ExplainedDomain, ExplainedRule, Explanation, RuleKind, RuleVerdict,
};
use wakevirt_service::logs::quoted;

use super::super::Engine;
use super::room::Room;
use super::sentence::sentence;
use crate::engine::report::{MAX_RULE, truncated, truncated_name};
use crate::model::Domain;
use crate::policy::alias::Alias;
use crate::policy::decision::{Admission, Found, Presented, evaluate};
use crate::policy::origin::Origin;
use crate::policy::rules::{METADATA, Metadata, Rule};

/// The maximum number of domains in a reply. Each takes less than 2 KiB.
const MAX_DOMAINS: usize = 16;
/// The room for rules and aliases in a reply, in bytes. Everything else in a reply of 256 KiB takes less than 56 KiB.
const MAX_BYTES: usize = 200 * 1024;
/// The size of an entry without its strings, in bytes: keys, signatures, numbers and padding.
const ENTRY: usize = 256;

/// The domain that a packet is for.
enum Target<'a> {
    Nothing,
    One(&'a Domain),
    Several(&'a [&'a Domain]),
}

impl Engine {
    /// What the actor would do with a packet with this address and these details, and how it would reach that decision.
    pub(in crate::engine) fn explain_rules(&self, mac: MacAddr, details: &PacketDetails) -> Explanation {
        let admission = self.admit_packet(mac, details, Presented::NotFetched);
        let forecast = self.forecast(mac, details, &admission);
        let found = match self.index.find(mac) {
            Found::Nothing => Vec::new(),
            Found::One(domain) => vec![domain],
            Found::Several(domains) => domains,
        };
        let selected = selected(&admission);
        let target = match (selected, found.as_slice()) {
            (Some(domain), _) => Target::One(domain),
            (None, []) => Target::Nothing,
            (None, domains) => Target::Several(domains),
        };
        let is_selected = |domain: &Domain| selected.is_some_and(|selected| selected.id == domain.id);
        let mut room = Room::new(MAX_BYTES);
        let rules = self.explained_rules(&target, &admission, mac, details);
        let (rules, rules_omitted) = room.fit(rules, rule_size);
        let aliases = self.policy.aliases.iter().zip(1..).map(|(alias, number)| {
            let alias = explained_alias(alias, number, mac, &found);
            (alias.mac == mac.to_string(), alias)
        });
        let (aliases, aliases_omitted) = room.fit(aliases, alias_size);
        Explanation {
            mac: mac.to_string(),
            would_wake: forecast.would_wake,
            reason: forecast.reason,
            outcome: forecast.outcome.map(str::to_owned),
            action: Some(forecast.action),
            unavailable: self.hypervisors.unavailable_uris().map(str::to_owned).collect(),
            // The selected domain comes first, so that it is never left out.
            domains: found
                .iter()
                .filter(|domain| is_selected(domain))
                .chain(found.iter().filter(|domain| !is_selected(domain)))
                .take(MAX_DOMAINS)
                .map(|domain| self.explained_domain(domain, mac, is_selected(domain)))
                .collect(),
            domains_omitted: u32::try_from(found.len().saturating_sub(MAX_DOMAINS)).unwrap_or(u32::MAX),
            rules,
            rules_omitted,
            aliases,
            aliases_omitted,
        }
    }

    fn explained_domain(&self, domain: &Domain, mac: MacAddr, selected: bool) -> ExplainedDomain {
        let success = self.history.last_success(&domain.id);
        let remaining = success.and_then(|at| self.policy.timing.cool_down.checked_sub(at.elapsed()));
        let remaining = remaining.filter(|remaining| !remaining.is_zero());
        ExplainedDomain {
            connection: domain.id.connection.to_string(),
            name: truncated_name(&domain.name),
            uuid: domain.id.uuid.to_string(),
            state: self.known_state(domain).to_string(),
            selected,
            opt_in: domain.opt_in,
            alias: !domain.macs.contains(&mac),
            wake: self.wakes.pending(&domain.id),
            cool_down: remaining.map(|remaining| u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX)),
            last_wake: self.history.last_success_time(&domain.id),
        }
    }

    /// All rules, followed by the metadata. The rules that match the domain are marked as important.
    fn explained_rules(
        &self,
        target: &Target<'_>,
        admission: &Admission<'_>,
        mac: MacAddr,
        details: &PacketDetails,
    ) -> impl Iterator<Item = (bool, ExplainedRule)> {
        let rules = &self.policy.rules;
        let mut is_decided = false;
        let rules_with_verdicts = rules.iter().zip(1..).map(move |(rule, number)| {
            let (verdict, reason) = verdict(rule, target, mac, details);
            let decides = !is_decided && decides(admission, rule, verdict);
            is_decided |= decides;
            let (file, line) = file_and_line(rule.origin());
            let is_important = !matches!(
                verdict,
                RuleVerdict::Domain | RuleVerdict::Mac | RuleVerdict::Connection | RuleVerdict::NoDomain
            );
            let text = truncated(rule.to_string(), MAX_RULE);
            let (kind, verdict) = (Some(RuleKind::Allow), Some(verdict));
            (is_important, ExplainedRule { number, kind, text, file, line, verdict, reason, decides })
        });
        let verdict = match target {
            _ if *rules.metadata() == Metadata::Ignored => RuleVerdict::Disabled,
            Target::Nothing => RuleVerdict::NoDomain,
            Target::Several(_) => RuleVerdict::Ambiguous,
            Target::One(domain) if rules.allowed_by_metadata(domain) => RuleVerdict::Allows,
            Target::One(_) => RuleVerdict::NoOptIn,
        };
        let metadata = ExplainedRule {
            number: rules.iter().zip(2..).last().map_or(1, |(_, number)| number),
            kind: Some(RuleKind::Metadata),
            text: METADATA.to_owned(),
            verdict: Some(verdict),
            reason: sentence(verdict, details),
            decides: matches!(
                admission,
                Admission::Admitted(_, grant) if grant.rule.as_deref() == Some(METADATA)
            ),
            ..ExplainedRule::default()
        };
        rules_with_verdicts.chain(core::iter::once((true, metadata)))
    }
}

/// The domain that the rules are compared with.
const fn selected<'a>(admission: &Admission<'a>) -> Option<&'a Domain> {
    match admission {
        Admission::Unknown | Admission::Ambiguous(_) => None,
        Admission::NotAllowed(domain)
        | Admission::ConditionsNotMet(domain, ..)
        | Admission::FetchPassword(domain, _)
        | Admission::BadPassword(domain, _)
        | Admission::Admitted(domain, _) => Some(domain),
    }
}

/// Whether this rule determines the decision, unless an earlier rule does.
fn decides(admission: &Admission<'_>, rule: &Rule, verdict: RuleVerdict) -> bool {
    match admission {
        Admission::Admitted(..) => verdict == RuleVerdict::Allows,
        Admission::ConditionsNotMet(_, named, _)
        | Admission::FetchPassword(_, named)
        | Admission::BadPassword(_, named) => ptr::eq(*named, rule),
        Admission::Unknown | Admission::Ambiguous(_) | Admission::NotAllowed(_) => false,
    }
}

/// The verdict of a rule on the packet, and the reason for it.
fn verdict(rule: &Rule, target: &Target<'_>, mac: MacAddr, details: &PacketDetails) -> (RuleVerdict, String) {
    let verdict = match target {
        Target::One(domain) => evaluate(rule, domain, mac, details, Presented::NotFetched),
        _ if rule.excludes_mac(mac) => RuleVerdict::Mac,
        Target::Nothing => RuleVerdict::NoDomain,
        Target::Several(domains) => {
            let named = domains.iter().filter(|domain| rule.names(domain)).count();
            if named == 0 && rule.is_for_domains() {
                RuleVerdict::Domain
            } else {
                let reason =
                    format!("it names {named} of the {} domains with this MAC address", domains.len());
                return (RuleVerdict::Ambiguous, reason);
            }
        }
    };
    (verdict, sentence(verdict, details))
}

fn explained_alias(alias: &Alias, number: u32, mac: MacAddr, found: &[&Domain]) -> ExplainedAlias {
    let owner = found.iter().find(|domain| domain.matches(&alias.domain)).filter(|_| alias.mac == mac);
    let reason = match owner {
        Some(domain) => format!("it gives the MAC address to {}", quoted(&truncated_name(&domain.name))),
        None if alias.mac == mac => "no known domain matches it".to_owned(),
        None => "it is for a different MAC address".to_owned(),
    };
    let (file, line) = file_and_line(alias.origin());
    let domain = truncated(alias.domain.text().to_owned(), MAX_RULE);
    ExplainedAlias {
        number,
        mac: alias.mac.to_string(),
        domain,
        file,
        line,
        applies: owner.is_some(),
        reason,
    }
}

fn file_and_line(origin: Option<&Origin>) -> (Option<String>, Option<u32>) {
    (origin.map(|it| it.file.to_string_lossy().into_owned()), origin.map(|it| it.line))
}

fn rule_size(rule: &ExplainedRule) -> usize {
    ENTRY + rule.text.len() + rule.reason.len() + rule.file.as_ref().map_or(0, String::len)
}

fn alias_size(alias: &ExplainedAlias) -> usize {
    ENTRY + alias.domain.len() + alias.reason.len() + alias.file.as_ref().map_or(0, String::len)
}
