//! Compares introspection XML by its content: "Introspection Data Format" in the D-Bus specification.

use std::collections::BTreeSet;

use roxmltree::{Document, Node, ParsingOptions};

use crate::host::{Host, User, project, succeed};

/// The members of an interface, such as `method Replay(in s epoch, …)` and `property Epoch s read`. They include
/// argument names and annotations.
///
/// # Panics
/// If the XML cannot be read, or does not describe the interface.
#[must_use]
pub fn members(xml: &str, interface: &str) -> BTreeSet<String> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options).expect("introspection data is XML");
    let interface = document
        .descendants()
        .find(|node| node.has_tag_name("interface") && node.attribute("name") == Some(interface))
        .unwrap_or_else(|| panic!("{interface} is not in:\n{xml}"));
    let members = elements(interface).filter(|node| !node.has_tag_name("annotation"));
    annotations(interface).into_iter().chain(members.map(member)).collect()
}

/// The content of the XML file in `dbus/` for the service with this name.
///
/// # Panics
/// If there is no such file.
#[must_use]
pub fn reference(service: &str) -> String {
    let file = project().join(format!("dbus/{service}.xml"));
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The introspection data of the running service with this name, requested by an unprivileged user.
///
/// # Panics
/// If the request fails.
#[must_use]
pub fn of_service(host: &Host, service: &str) -> String {
    let object = format!("/{}", service.replace('.', "/"));
    let mut gdbus = host.command_as(User::Unprivileged, "gdbus");
    succeed(gdbus.args(["introspect", "--system", "--xml", "--dest", service, "--object-path", &object]))
}

fn member(node: Node<'_, '_>) -> String {
    let attribute = |name| node.attribute(name).unwrap_or_default();
    let kind = node.tag_name().name();
    let body = match kind {
        "property" => format!(" {} {}", attribute("type"), attribute("access")),
        _ => {
            let default = if kind == "signal" { "" } else { "in " };
            let arguments = elements(node).filter(|child| child.has_tag_name("arg")).map(|argument| {
                let attribute = |name| argument.attribute(name).unwrap_or_default();
                // The arguments of signals always have the same direction, which can be omitted.
                let direction = match (kind, attribute("direction")) {
                    ("signal", _) | (_, "") => default.to_owned(),
                    (_, direction) => format!("{direction} "),
                };
                format!("{direction}{} {}", attribute("type"), attribute("name"))
            });
            format!("({})", arguments.collect::<Vec<_>>().join(", "))
        }
    };
    let annotations = annotations(node);
    let annotations: String = annotations.iter().map(|annotation| format!(" {annotation}")).collect();
    format!("{kind} {}{body}{annotations}", attribute("name"))
}

/// The annotations, without the default value of `EmitsChangedSignal`.
fn annotations(node: Node<'_, '_>) -> BTreeSet<String> {
    elements(node)
        .filter(|child| child.has_tag_name("annotation"))
        .map(|child| {
            let attribute = |name| child.attribute(name).unwrap_or_default();
            format!("[{}={}]", attribute("name"), attribute("value"))
        })
        .filter(|annotation| annotation != "[org.freedesktop.DBus.Property.EmitsChangedSignal=true]")
        .collect()
}

fn elements<'a, 'input>(node: Node<'a, 'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(Node::is_element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_order_and_defaults() {
        let one = "<node><interface name='a.B'>
            <method name='M'><arg name='x' type='s'/><arg name='y' type='t' direction='out'/></method>
            <signal name='S'><arg name='z' type='s' direction='out'/></signal>
            <property name='P' type='u' access='read'>
              <annotation name='org.freedesktop.DBus.Property.EmitsChangedSignal' value='true'/>
            </property></interface></node>";
        let same = "<node><interface name='a.B'><property name='P' type='u' access='read'/>
            <signal name='S'><arg name='z' type='s'/></signal>
            <method name='M'><arg name='x' type='s' direction='in'/><arg name='y' type='t' direction='out'/></method>
            </interface></node>";
        assert_eq!(members(one, "a.B"), members(same, "a.B"));
        assert!(members(one, "a.B").contains("method M(in s x, out t y)"));
        assert_ne!(members(one, "a.B"), members(&same.replace("'z'", "'zz'"), "a.B"));
    }
}
