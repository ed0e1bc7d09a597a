//! Conditions for the labels of a domain.

use std::collections::BTreeMap;

use serde::Deserialize;
use wakevirt_service::config;
use wakevirt_service::logs::quoted;

use crate::model::Domain;

/// The maximum number of labels in a rule.
const MAX_LABELS: usize = 32;
/// The maximum number of values of a label in a rule.
const MAX_VALUES: usize = 32;
/// The maximum length of a key: a prefix of 253 bytes, `/`, and a name of 63 bytes
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>).
const MAX_KEY: usize = 317;
/// The maximum length of a value.
const MAX_VALUE: usize = 63;

/// Labels, each with the values that match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Values>")]
pub(super) struct LabelPatterns(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string, or a list of strings")]
enum Values {
    One(String),
    Any(Vec<String>),
}

impl LabelPatterns {
    /// Whether the domain has all these labels, each with one of the values.
    pub(super) fn matches(&self, domain: &Domain) -> bool {
        let has = |(key, values): (&String, &Vec<String>)| {
            domain.labels.get(key).is_some_and(|own| values.iter().any(|value| value == own))
        };
        self.0.iter().all(has)
    }

    /// The labels in the format of `actor.toml`, with strings in this format.
    pub(super) fn text(&self, string: fn(&str) -> String) -> String {
        let label = |(key, values): (&String, &Vec<String>)| {
            let texts: Vec<String> = values.iter().map(|value| string(value)).collect();
            let value = match texts.as_slice() {
                [value] => value.clone(),
                values => format!("[{}]", values.join(", ")),
            };
            format!("{} = {value}", string(key))
        };
        format!("{{ {} }}", self.0.iter().map(label).collect::<Vec<_>>().join(", "))
    }
}

impl TryFrom<BTreeMap<String, Values>> for LabelPatterns {
    type Error = String;

    fn try_from(labels: BTreeMap<String, Values>) -> Result<Self, String> {
        if labels.is_empty() {
            return Err("an empty table matches everything; write a label such as { app = \"web\" }, or remove the key".to_owned());
        }
        if labels.len() > MAX_LABELS {
            return Err(format!("{} labels; the maximum is {MAX_LABELS}", labels.len()));
        }
        let checked = |(key, values): (String, Values)| {
            config::check_text(&key, MAX_KEY)?;
            let values = match values {
                Values::One(value) => vec![value],
                Values::Any(values) => values,
            };
            if values.is_empty() || values.len() > MAX_VALUES {
                return Err(format!(
                    "label {} has {} values; write 1 to {MAX_VALUES}",
                    quoted(&key),
                    values.len()
                ));
            }
            values.iter().try_for_each(|value| config::check_text(value, MAX_VALUE))?;
            Ok((key, values))
        };
        labels.into_iter().map(checked).collect::<Result<_, String>>().map(Self)
    }
}
