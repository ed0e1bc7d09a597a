//! Values within bounds, for `deserialize_with`: an error names the range.

use core::fmt;
use core::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};

use super::HumanDuration;
use crate::logs::quoted;

/// A whole number in this range.
///
/// # Errors
/// If it is none.
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

/// A duration in this range.
///
/// # Errors
/// If it is none, or shorter or longer.
pub fn duration<'de, D: Deserializer<'de>>(
    input: D,
    range: RangeInclusive<Duration>,
) -> Result<HumanDuration, D::Error> {
    let written = HumanDuration::deserialize(input)?;
    let duration = Duration::from(written);
    let (shortest, longest) = range.into_inner();
    let (bound, limit) = if duration > longest {
        ("most", longest)
    } else if duration < shortest {
        ("least", shortest)
    } else {
        return Ok(written);
    };
    let limit = HumanDuration::from(limit);
    Err(D::Error::custom(format!("a duration here is at {bound} \"{limit}\"")))
}

/// A list of at most so many; `what` they are goes into the error.
///
/// # Errors
/// If it is no list of these, or a longer one.
pub fn list<'de, D, T>(input: D, max: usize, name: &'static str) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    input.deserialize_seq(List { max, name, parts: None })
}

/// The same, where all items together have at most so many parts. What follows a part too many is not read, so that
/// it takes no memory.
///
/// # Errors
/// If it is no list of these, or a longer one, or one with more parts.
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

/// The most parts that all items of a list may have together.
pub struct PartLimit<T> {
    /// Counts the parts of an item.
    pub count: fn(&T) -> usize,
    /// The most parts of all items.
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
        let too_many = |max, name| A::Error::custom(format!("more than {max} {name}, which are the most"));
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

/// A text of at most so many bytes, which are all written: none of them is a control character.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_text(text: &str, max: usize) -> Result<(), String> {
    if text.len() > max {
        return Err(format!("{} has {} bytes, {max} are the most", quoted(text), text.len()));
    }
    if text.contains(char::is_control) {
        return Err(format!("{} has a control character", quoted(text)));
    }
    Ok(())
}
