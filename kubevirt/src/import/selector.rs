//! Label selectors, in the two formats of `actor.toml`.

use std::collections::BTreeSet;

use super::names::{key, value};
use super::wolconfig::{Expression, LabelSelector, Operator};

/// The maximum number of conditions in a label selector, and of values in each.
const MAX_CONDITIONS: usize = 64;

/// A checked label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The selector as kubectl(1) reads it, such as `role=web,tier in (a,b),!internal`, for the `vm-selector` key.
    pub text: String,
    /// The same as a value of the `labels` key of a rule, which has only labels with one or more values.
    pub labels: Option<String>,
}

impl Selector {
    /// Whether it selects everything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// Checks a label selector, and translates it.
///
/// # Errors
/// What is wrong with the selector.
pub fn translate(selector: &LabelSelector) -> Result<Selector, String> {
    let LabelSelector { match_labels, match_expressions, unknown: _ } = selector;
    if match_labels.len() + match_expressions.len() > MAX_CONDITIONS {
        return Err(format!("vmSelector: more than {MAX_CONDITIONS} conditions"));
    }
    let label = |(name, text): (&String, &String)| {
        let (name, text) = (key(name)?, value(text)?);
        let entry = Some(format!("\"{name}\" = \"{text}\""));
        Ok(Condition { text: format!("{name}={text}"), label: name.to_owned(), entry })
    };
    let conditions = match_labels.iter().map(label).chain(match_expressions.iter().map(expression));
    let conditions: Result<Vec<Condition>, String> = conditions.collect();
    let conditions = conditions.map_err(|problem| format!("vmSelector: {problem}"))?;
    let text = conditions.iter().map(|it| it.text.as_str()).collect::<Vec<_>>().join(",");
    let labels: BTreeSet<&String> = conditions.iter().map(|it| &it.label).collect();
    let entries: Option<Vec<&str>> = conditions.iter().map(|it| it.entry.as_deref()).collect();
    // A table can contain each label only once.
    let entries = entries.filter(|_| labels.len() == conditions.len());
    Ok(Selector { text, labels: entries.map(|it| format!("{{ {} }}", it.join(", "))) })
}

/// A condition in both formats.
struct Condition {
    text: String,
    label: String,
    entry: Option<String>,
}

fn expression(expression: &Expression) -> Result<Condition, String> {
    let name = key(&expression.key)?;
    let values = &expression.values;
    if values.len() > MAX_CONDITIONS {
        return Err(format!("more than {MAX_CONDITIONS} values for the label {name}"));
    }
    let needs_values = matches!(expression.operator, Operator::In | Operator::NotIn);
    if needs_values == values.is_empty() {
        let problem = if needs_values { "needs values" } else { "must not have values" };
        return Err(format!("the condition for the label {name} {problem}"));
    }
    let values = values.iter().map(|text| value(text)).collect::<Result<Vec<&str>, String>>()?;
    let list = values.join(",");
    let text = match expression.operator {
        Operator::In => format!("{name} in ({list})"),
        Operator::NotIn => format!("{name} notin ({list})"),
        Operator::Exists => name.to_owned(),
        Operator::DoesNotExist => format!("!{name}"),
    };
    let is_in = expression.operator == Operator::In;
    // The values contain only characters that both Rust and TOML write as they are.
    let entry = is_in.then(|| format!("\"{name}\" = {values:?}"));
    Ok(Condition { text, label: name.to_owned(), entry })
}
