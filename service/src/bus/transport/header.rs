//! The part of a D-Bus message header that admission needs (see "Message Protocol" in the D-Bus Specification). The
//! parser checks every length before it uses it.

/// The length of the part before the array of header fields, in bytes.
pub(super) const FIXED_LENGTH: usize = 16;
/// The maximum length of a message in the specification: 128 MiB.
const MAX_MESSAGE: usize = 1 << 27;

/// The types that are encoded like a string: strings and object paths.
const STRING_TYPES: [u8; 2] = *b"so";
const MEMBER: u8 = 3;
const SENDER: u8 = 7;
const UNIX_FDS: u8 = 9;

/// The types of messages, and the flag of calls that expect no reply.
pub(super) const METHOD_CALL: u8 = 1;
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;
pub(super) const NO_REPLY_EXPECTED: u8 = 1;

/// The part of the header that has a fixed length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FixedHeader {
    little_endian: bool,
    pub kind: u8,
    pub flags: u8,
    pub serial: u32,
    /// Where the header fields end, before the padding.
    pub fields_end: usize,
    /// The length of the whole message, in bytes.
    pub total: usize,
}

/// The header fields that admission uses.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    pub sender: Option<&'a str>,
    pub member: Option<&'a str>,
    /// The number of file descriptors that accompany the message.
    pub descriptors: u32,
}

/// The value of a header field.
enum Value<'a> {
    Text(&'a str),
    Number(u32),
    /// A signature, or a string that is not UTF-8.
    Other,
}

impl FixedHeader {
    /// Parses the first bytes of a message; `None` if no message begins with these bytes.
    pub(super) fn parse(bytes: &[u8; FIXED_LENGTH]) -> Option<Self> {
        let [endian, kind, flags, _, ..] = *bytes;
        let little_endian = match endian {
            b'l' => true,
            b'B' => false,
            _ => return None,
        };
        let number = |at| number(bytes, at, little_endian);
        let (body, serial, fields) = (number(4)?, number(8)?, number(12)?);
        let fields_end = FIXED_LENGTH.checked_add(usize::try_from(fields).ok()?)?;
        let total = aligned(fields_end, 8).checked_add(usize::try_from(body).ok()?)?;
        (total <= MAX_MESSAGE).then_some(Self { little_endian, kind, flags, serial, fields_end, total })
    }

    /// The fields of the message that begins with these bytes, up to the first invalid field.
    pub(super) fn fields<'a>(&self, bytes: &'a [u8]) -> Fields<'a> {
        let mut fields = Fields::default();
        let mut at = FIXED_LENGTH;
        while let Some((code, value, next)) = self.field(bytes, at) {
            match (code, value) {
                (MEMBER, Value::Text(text)) => fields.member = Some(text),
                (SENDER, Value::Text(text)) => fields.sender = Some(text),
                (UNIX_FDS, Value::Number(number)) => fields.descriptors = number,
                _ => {}
            }
            at = next;
        }
        fields
    }

    /// The code and value of the field at this offset, and the offset of its end.
    fn field<'a>(&self, bytes: &'a [u8], at: usize) -> Option<(u8, Value<'a>, usize)> {
        let bytes = bytes.get(..self.fields_end)?;
        let at = aligned(at, 8);
        let &[code, 1, kind, 0] = bytes.get(at..at.checked_add(4)?)? else { return None };
        let at = at + 4;
        if STRING_TYPES.contains(&kind) {
            let length = usize::try_from(number(bytes, at, self.little_endian)?).ok()?;
            let end = (at + 4).checked_add(length)?;
            let text = core::str::from_utf8(bytes.get(at + 4..end)?);
            return Some((code, text.map_or(Value::Other, Value::Text), end + 1));
        }
        match kind {
            b'u' => Some((code, Value::Number(number(bytes, at, self.little_endian)?), at + 4)),
            b'g' => Some((code, Value::Other, at + usize::from(*bytes.get(at)?) + 2)),
            _ => None,
        }
    }
}

fn number(bytes: &[u8], at: usize, little_endian: bool) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(if little_endian { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
}

pub(super) const fn aligned(at: usize, to: usize) -> usize {
    at.next_multiple_of(to)
}

#[cfg(test)]
mod tests {
    use zbus::Message;
    use zbus::wire::Endian;

    use super::*;

    #[test]
    fn parses_messages_from_zbus() {
        for endian in [Endian::Little, Endian::Big] {
            let message = Message::method_call("/some/path", "Wake")
                .endian(endian)
                .sender(":1.23")
                .destination("org.wakevirt.Actor1")
                .interface("org.wakevirt.Actor1")
                .build(&("52:54:00:00:00:01", 7_u64))
                .unwrap();
            let bytes: &[u8] = message.data();
            let fixed = FixedHeader::parse(bytes[..FIXED_LENGTH].try_into().unwrap()).unwrap();
            assert_eq!(fixed.total, bytes.len());
            assert_eq!((fixed.kind, fixed.flags), (METHOD_CALL, 0));
            assert_eq!(fixed.serial, message.primary_header().serial_num().get());
            let fields = Fields { sender: Some(":1.23"), member: Some("Wake"), descriptors: 0 };
            assert_eq!(fixed.fields(bytes), fields);
            // Every truncated header parses without a panic.
            for end in FIXED_LENGTH..fixed.fields_end {
                let _ = fixed.fields(&bytes[..end]);
            }
        }
    }

    #[test]
    fn rejects_invalid_fixed_headers() {
        assert_eq!(FixedHeader::parse(&[b'x'; FIXED_LENGTH]), None);
        let mut long = [0; FIXED_LENGTH];
        long[0] = b'l';
        long[12..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(FixedHeader::parse(&long), None);
    }

    #[test]
    fn never_panics_on_a_changed_byte() {
        // Changes each byte of the message in turn.
        let message = Message::method_call("/a", "B").sender(":1.2").build(&()).unwrap();
        let bytes: &[u8] = message.data();
        for at in 0..bytes.len() {
            for value in [0, 1, 7, 0x7f, 0xff, b's', b'u', b'g'] {
                let mut bytes = bytes.to_vec();
                bytes[at] = value;
                if let Some(fixed) = FixedHeader::parse(bytes[..FIXED_LENGTH].try_into().unwrap()) {
                    let _ = fixed.fields(&bytes);
                }
            }
        }
    }
}
