//! Access to elements without a namespace.

use roxmltree::Node;

use super::error::DefinitionError;
use crate::model::CpuSet;

/// An element.
#[derive(Clone, Copy)]
pub(super) struct Element<'a, 'input>(pub(super) Node<'a, 'input>);

impl<'a, 'input: 'a> Element<'a, 'input> {
    /// Its name; empty if it is in a namespace, or a text.
    pub(super) fn name(self) -> &'a str {
        let name = self.0.tag_name();
        if name.namespace().is_none() { name.name() } else { "" }
    }

    /// Its children with this name.
    pub(super) fn children(self, name: &'static str) -> impl Iterator<Item = Self> {
        self.0.children().map(Self).filter(move |child| child.name() == name)
    }

    /// Its first child with this name.
    pub(super) fn child(self, name: &'static str) -> Option<Self> {
        self.children(name).next()
    }

    /// Its text without surrounding white space.
    pub(super) fn text(self) -> Option<&'a str> {
        self.0.text().map(str::trim)
    }

    /// The text of its first child with this name.
    pub(super) fn child_text(self, name: &'static str) -> Option<&'a str> {
        self.child(name).and_then(Self::text)
    }

    /// The value of an attribute.
    pub(super) fn attribute(self, name: &str) -> Option<&'a str> {
        self.0.attribute(name)
    }

    /// The number in an attribute. `element` is the name of this element, for the error.
    pub(super) fn number(
        self,
        name: &'static str,
        element: &'static str,
    ) -> Result<Option<u32>, DefinitionError> {
        let Some(text) = self.attribute(name) else { return Ok(None) };
        let problem = || format!("{name}=\"{}\" is not a number", shorten(text));
        text.trim().parse().map(Some).map_err(|_| DefinitionError::Value { element, problem: problem() })
    }

    /// The CPUs, or other small numbers, in an attribute.
    pub(super) fn set(
        self,
        name: &'static str,
        element: &'static str,
    ) -> Result<Option<CpuSet>, DefinitionError> {
        let Some(text) = self.attribute(name) else { return Ok(None) };
        let problem = || format!("{name}=\"{}\" is not a list such as \"0-3,8\"", shorten(text));
        text.parse().map(Some).map_err(|_| DefinitionError::Value { element, problem: problem() })
    }
}

/// The first characters of a text from a definition, without control characters, for an error.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(40).filter(|character| !character.is_control()).collect()
}
