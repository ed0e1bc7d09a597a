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
pub fn list<'de, D, T>(input: D, most: usize, what: &'static str) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    input.deserialize_seq(List { most, what, parts: None })
}

/// The same, where all items together have at most so many parts. What follows a part too many is not read, so that
/// it takes no memory.
///
/// # Errors
/// If it is no list of these, or a longer one, or one with more parts.
pub fn list_of_parts<'de, D, T>(
    input: D,
    most: usize,
    what: &'static str,
    parts: Parts<T>,
) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    input.deserialize_seq(List { most, what, parts: Some(parts) })
}

/// What the items of a list have, each some, and all together at most so many.
pub struct Parts<T> {
    /// How many an item has.
    pub of: fn(&T) -> usize,
    /// How many all of them may have.
    pub most: usize,
    /// What they are, for the error.
    pub what: &'static str,
}

struct List<T> {
    most: usize,
    what: &'static str,
    parts: Option<Parts<T>>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} {}", self.most, self.what)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let too_many = |most, what| A::Error::custom(format!("more than {most} {what}, which are the most"));
        let (mut items, mut parts) = (Vec::new(), 0);
        while let Some(item) = list.next_element()? {
            if items.len() == self.most {
                return Err(too_many(self.most, self.what));
            }
            if let Some(Parts { of, most, what }) = &self.parts {
                parts += of(&item);
                if parts > *most {
                    return Err(too_many(*most, what));
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
pub fn text(text: &str, most: usize) -> Result<(), String> {
    if text.len() > most {
        return Err(format!("{} has {} bytes, {most} are the most", quoted(text), text.len()));
    }
    if text.contains(char::is_control) {
        return Err(format!("{} has a control character", quoted(text)));
    }
    Ok(())
}
