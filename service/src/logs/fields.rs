//! The format of messages on standard error and in syslog: the text, followed by its fields.

use core::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use super::quoted;

/// The prefix of the fields in the journal.
const PREFIX: &str = "WAKEVIRT_";

/// Writes fields without the prefix that they have in the journal, and without the message ID.
#[derive(Debug)]
pub(super) struct ReadableFields;

impl<'writer> FormatFields<'writer> for ReadableFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = FieldWriter { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct FieldWriter<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl FieldWriter<'_> {
    fn write(&mut self, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            let name = name.strip_prefix(PREFIX).unwrap_or(name);
            write!(self.writer, "{}=", name.to_ascii_lowercase().replace('_', "-"))?;
        }
        write!(ControlEscaper(&mut self.writer), "{value}")
    }
}

impl Visit for FieldWriter<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "MESSAGE_ID" {
            self.result =
                self.result.and_then(|()| self.write(field.name(), format_args!("{}", quoted(value))));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.result = self.result.and_then(|()| self.write(field.name(), format_args!("{value:?}")));
    }
}

/// Escapes the control characters in text, such as an error from another program. Strings in fields have already been
/// quoted and escaped.
struct ControlEscaper<'a, 'writer>(&'a mut Writer<'writer>);

impl fmt::Write for ControlEscaper<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '\n' | '\t' => self.0.write_char(c),
            c if c.is_control() => write!(self.0, "{}", c.escape_debug()),
            c => self.0.write_char(c),
        })
    }
}
