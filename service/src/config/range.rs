//! Values with a range or limit, for `deserialize_with`. The error names the range.

use core::fmt;
use core::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};

use super::HumanDuration;
use crate::logs::quoted;

/// Deserializes a whole number in this range.
///
/// # Errors
/// If the value is not a whole number in the range.
pub fn number<'de, D: Deserializer<'de>>(input: D, range: RangeInclusive<u32>) -> Result<u32, D::Error> {
    input.deserialize_i64(Number(range))
}

struct Number(RangeInclusive<u32>);

impl Visitor<'_> for Number {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {}", self.0.start(), self.0.end())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
        let fits = u32::try_from(number).ok().filter(|number| self.0.contains(number));
        fits.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }
}

/// Deserializes a duration in this range.
///
/// # Errors
/// If the value is not a duration in the range.
pub fn duration<'de, D: Deserializer<'de>>(
    input: D,
    range: RangeInclusive<Duration>,
) -> Result<HumanDuration, D::Error> {
    let value = HumanDuration::deserialize(input)?;
    let duration = Duration::from(value);
    let (min, max) = range.into_inner();
    let (bound, limit) = if duration > max {
        ("most", max)
    } else if duration < min {
        ("least", min)
    } else {
        return Ok(value);
    };
    let limit = HumanDuration::from(limit);
    Err(D::Error::custom(format!("the duration must be at {bound} \"{limit}\"")))
}

/// Deserializes a list of at most `max` items. The error calls the items `name`.
///
/// # Errors
/// If the value is not a list of such items, or has more items.
pub fn list<'de, D, T>(input: D, max: usize, name: &'static str) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    input.deserialize_seq(List { max, name, parts: None })
}

/// Like [`list`], but also limits the total number of parts of the items, such as the entries of an inner list. Reading
/// stops at the limit, so that a longer list does not use more memory.
///
/// # Errors
/// If the value is not a list of such items, or has more items or parts.
pub fn list_with_parts<'de, D, T>(
    input: D,
    max: usize,
    name: &'static str,
    parts: PartLimit<T>,
) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    input.deserialize_seq(List { max, name, parts: Some(parts) })
}

/// A limit on the total number of parts of a list's items.
pub struct PartLimit<T> {
    /// Counts the parts of an item.
    pub count: fn(&T) -> usize,
    /// The maximum number of parts.
    pub max: usize,
    /// The name of the parts, for the error.
    pub name: &'static str,
}

struct List<T> {
    max: usize,
    name: &'static str,
    parts: Option<PartLimit<T>>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} {}", self.max, self.name)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let too_many = |max, name| A::Error::custom(format!("more than {max} {name}"));
        let (mut items, mut parts) = (Vec::new(), 0);
        while let Some(item) = list.next_element()? {
            if items.len() == self.max {
                return Err(too_many(self.max, self.name));
            }
            if let Some(PartLimit { count, max, name }) = &self.parts {
                parts += count(&item);
                if parts > *max {
                    return Err(too_many(*max, name));
                }
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// Checks that a string has at most `max` bytes and no control characters.
///
/// # Errors
/// A description of the problem.
pub fn check_text(text: &str, max: usize) -> Result<(), String> {
    if text.len() > max {
        return Err(format!("{} has {} bytes; the maximum is {max}", quoted(text), text.len()));
    }
    if text.contains(char::is_control) {
        return Err(format!("{} contains a control character", quoted(text)));
    }
    Ok(())
}
