//! Access to elements without a namespace.

use roxmltree::{Document, Node};

use super::error::DefinitionError;
use crate::model::CpuSet;

/// An element.
#[derive(Clone, Copy)]
pub(crate) struct Element<'a, 'input>(Node<'a, 'input>);

impl<'a, 'input: 'a> Element<'a, 'input> {
    /// The root element.
    pub(crate) fn root(document: &'a Document<'input>) -> Self {
        Self(document.root_element())
    }

    /// Its name; empty if it is in a namespace, or a text.
    pub(crate) fn name(self) -> &'a str {
        let name = self.0.tag_name();
        if name.namespace().is_none() { name.name() } else { "" }
    }

    /// All its children.
    pub(crate) fn elements(self) -> impl Iterator<Item = Self> {
        self.0.children().map(Self)
    }

    /// Its children with this name.
    pub(crate) fn children(self, name: &'static str) -> impl Iterator<Item = Self> {
        self.elements().filter(move |child| child.name() == name)
    }

    /// Its first child with this name.
    pub(crate) fn child(self, name: &'static str) -> Option<Self> {
        self.children(name).next()
    }

    /// Its text without surrounding white space.
    pub(crate) fn text(self) -> Option<&'a str> {
        self.0.text().map(str::trim)
    }

    /// The text of its first child with this name.
    pub(crate) fn child_text(self, name: &'static str) -> Option<&'a str> {
        self.child(name).and_then(Self::text)
    }

    /// The value of an attribute.
    pub(crate) fn attribute(self, name: &str) -> Option<&'a str> {
        self.0.attribute(name)
    }

    /// The number in an attribute. `element` is the name of this element, for the error.
    pub(crate) fn number(
        self,
        name: &'static str,
        element: &'static str,
    ) -> Result<Option<u32>, DefinitionError> {
        let Some(text) = self.attribute(name) else { return Ok(None) };
        let problem = || format!("{name}=\"{}\" is not a number", shorten(text));
        text.trim().parse().map(Some).map_err(|_| DefinitionError::Value { element, problem: problem() })
    }

    /// The CPUs, or other small numbers, in an attribute.
    pub(crate) fn set(
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
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(40).filter(|character| !character.is_control()).collect()
}
