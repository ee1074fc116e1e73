//! Messages of the D-Bus protocol, as far as talking to logind takes (pure): calls and answers made of strings, numbers
//! and file descriptors ("D-Bus Specification", Message Protocol). Written little-endian, read in either order.

/// The longest message that is read, bytes: those of logind are a fraction of it.
const LONGEST: usize = 1 << 20;
/// Bytes before the header's fields.
const FIXED: usize = 16;

/// What a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A question.
    #[default]
    Call,
    /// Its answer.
    Return,
    /// Why there is none.
    Error,
    /// Told to whoever listens.
    Signal,
    /// Of a later version of the protocol: to be ignored.
    Unknown,
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its number, not 0; answers name it.
    pub serial: u32,
    /// The number of the message it answers.
    pub reply_to: Option<u32>,
    /// The object that is asked or tells.
    pub path: Option<String>,
    /// What the member belongs to.
    pub interface: Option<String>,
    /// What is asked or told.
    pub member: Option<String>,
    /// The name of an error.
    pub error: Option<String>,
    /// Whom it is for.
    pub destination: Option<String>,
    /// Who sent it: written by the bus.
    pub sender: Option<String>,
    /// The types of the body's values.
    pub signature: String,
    /// How many file descriptors come along.
    pub n_fds: u32,
    /// The values, in the byte order of [`Message::big_endian`].
    pub body: Vec<u8>,
    /// The body's byte order.
    pub big_endian: bool,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no D-Bus message: {0}")]
pub struct Malformed(&'static str);

impl Malformed {
    /// An answer without the file descriptor it is to carry.
    pub const NO_FD: Malformed = Malformed("the answer has no file descriptor");
}

impl Message {
    /// A call of a method whose arguments are strings.
    pub fn call(serial: u32, [destination, path, interface, member]: [&str; 4], arguments: &[&str]) -> Message {
        let mut body = Vec::new();
        for argument in arguments {
            put_string(&mut body, argument);
        }
        Message {
            serial,
            path: Some(path.to_owned()),
            interface: Some(interface.to_owned()),
            member: Some(member.to_owned()),
            destination: Some(destination.to_owned()),
            signature: "s".repeat(arguments.len()),
            body,
            ..Message::default()
        }
    }

    /// As bytes, little-endian; the body has to be so, too.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Unknown => 0,
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
        };
        let mut fields = Vec::new();
        let strings = [
            (1, "o", &self.path),
            (6, "s", &self.destination),
            (2, "s", &self.interface),
            (3, "s", &self.member),
            (4, "s", &self.error),
            (7, "s", &self.sender),
        ];
        for (code, signature, text) in strings {
            if let Some(text) = text {
                put_field(&mut fields, code, signature);
                put_string(&mut fields, text);
            }
        }
        let fds = Some(self.n_fds).filter(|n_fds| *n_fds > 0);
        for (code, number) in [(5, self.reply_to), (9, fds)] {
            if let Some(number) = number {
                put_field(&mut fields, code, "u");
                put_u32(&mut fields, number);
            }
        }
        if !self.signature.is_empty() {
            put_field(&mut fields, 8, "g");
            put_signature(&mut fields, &self.signature);
        }
        let mut bytes = vec![b'l', kind, 0, 1];
        put_u32(&mut bytes, length(&self.body));
        put_u32(&mut bytes, self.serial);
        put_u32(&mut bytes, length(&fields));
        bytes.extend(fields);
        pad(&mut bytes, 8);
        bytes.extend(&self.body);
        bytes
    }

    /// The message the bytes begin with, and how many it takes; `None` while some are missing.
    ///
    /// # Errors
    /// They are no message: what follows cannot be understood either.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, Malformed> {
        let Some(order) = bytes.first() else { return Ok(None) };
        let big_endian = match order {
            b'l' => false,
            b'B' => true,
            _ => return Err(Malformed("unknown byte order")),
        };
        let Some(fixed) = bytes.get(..FIXED) else { return Ok(None) };
        if fixed.get(3) != Some(&1) {
            return Err(Malformed("unknown version"));
        }
        let mut start = Reader { bytes: fixed, at: 4, big_endian };
        let (body, serial, fields) = (start.length()?, start.u32()?, start.length()?);
        let header = (FIXED + fields).next_multiple_of(8);
        let end = header + body;
        let Some(whole) = bytes.get(..end) else { return Ok(None) };
        let kind = match fixed.get(1) {
            Some(1) => Kind::Call,
            Some(2) => Kind::Return,
            Some(3) => Kind::Error,
            Some(4) => Kind::Signal,
            _ => Kind::Unknown,
        };
        let body = whole.get(header..).unwrap_or_default().to_vec();
        let mut message = Message { kind, serial, body, big_endian, ..Message::default() };
        let fields = whole.get(..FIXED + fields).unwrap_or_default();
        message.read_fields(Reader { bytes: fields, at: FIXED, big_endian })?;
        Ok(Some((message, end)))
    }

    fn read_fields(&mut self, mut fields: Reader<'_>) -> Result<(), Malformed> {
        while !fields.is_empty() {
            fields.align(8);
            let code = fields.u8()?;
            match (code, fields.signature()?.as_str()) {
                (1, "o") => self.path = Some(fields.string()?),
                (2, "s") => self.interface = Some(fields.string()?),
                (3, "s") => self.member = Some(fields.string()?),
                (4, "s") => self.error = Some(fields.string()?),
                (5, "u") => self.reply_to = Some(fields.u32()?),
                (6, "s") => self.destination = Some(fields.string()?),
                (7, "s") => self.sender = Some(fields.string()?),
                (8, "g") => self.signature = fields.signature()?,
                (9, "u") => self.n_fds = fields.u32()?,
                // Fields of later versions are to be ignored, as far as their length is known.
                (_, "s" | "o") => drop(fields.string()?),
                (_, "g") => drop(fields.signature()?),
                (_, "u") => drop(fields.u32()?),
                _ => return Err(Malformed("a header field of unknown type")),
            }
        }
        Ok(())
    }

    /// The body's values, in order.
    pub fn values(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0, big_endian: self.big_endian }
    }
}

/// Reads values one after the other; each is aligned to its own size.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl Reader<'_> {
    fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.align(N);
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk());
        self.at += N;
        found.copied().ok_or(Malformed("it ends too early"))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    /// A `u`.
    ///
    /// # Errors
    /// There is none.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take()?;
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// A `t`.
    ///
    /// # Errors
    /// There is none.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take()?;
        Ok(if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    /// A `b`.
    ///
    /// # Errors
    /// There is none.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither true nor false")),
        }
    }

    /// An `s` or `o`.
    ///
    /// # Errors
    /// There is none.
    pub fn string(&mut self) -> Result<String, Malformed> {
        let length = self.length()?;
        self.text(length)
    }

    /// A `g`; a variant begins with that of its value.
    ///
    /// # Errors
    /// There is none.
    pub fn signature(&mut self) -> Result<String, Malformed> {
        let length = self.u8()?;
        self.text(length.into())
    }

    /// A variant's value, which must be of this type.
    ///
    /// # Errors
    /// It is another or none.
    pub fn variant_of(&mut self, signature: &str) -> Result<(), Malformed> {
        if self.signature()? == signature { Ok(()) } else { Err(Malformed("a value of another type")) }
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if length > LONGEST { Err(Malformed("it is too long")) } else { Ok(length) }
    }

    /// Bytes with a NUL behind them.
    fn text(&mut self, length: usize) -> Result<String, Malformed> {
        let text = self.bytes.get(self.at..self.at + length).ok_or(Malformed("it ends too early"))?;
        self.at += length + 1;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed("text that is not UTF-8"))
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

/// Header fields begin at a multiple of 8 of the message, as the first of them does.
fn put_field(bytes: &mut Vec<u8>, code: u8, signature: &str) {
    pad(bytes, 8);
    bytes.push(code);
    put_signature(bytes, signature);
}

fn put_signature(bytes: &mut Vec<u8>, signature: &str) {
    bytes.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    bytes.extend(signature.bytes());
    bytes.push(0);
}

fn put_u32(bytes: &mut Vec<u8>, number: u32) {
    pad(bytes, 4);
    bytes.extend(number.to_le_bytes());
}

/// An `s` or `o` at the end of little-endian values.
fn put_string(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, u32::try_from(text.len()).unwrap_or(u32::MAX));
    bytes.extend(text.bytes());
    bytes.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `Hello`, as `dbus-send` of Debian 12 writes it.
    const HELLO: &[u8] = b"l\x01\0\x01\0\0\0\0\x01\0\0\0n\0\0\0\
        \x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0\
        \x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\
        \x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\
        \x03\x01s\0\x05\0\0\0Hello\0\0\0";

    #[test]
    fn a_call_is_written_as_others_write_it() {
        let name = "org.freedesktop.DBus";
        let call = Message::call(1, [name, "/org/freedesktop/DBus", name, "Hello"], &[]);
        assert_eq!(call.encode(), HELLO);
        assert_eq!(Message::decode(HELLO), Ok(Some((call, HELLO.len()))));
    }

    #[test]
    fn values_are_read_in_either_byte_order() {
        let mut message = Message { signature: "vb".to_owned(), ..Message::default() };
        message.body = [b"\x01t\0".as_slice(), &[0; 5], &5_000_000_u64.to_le_bytes(), &1_u32.to_le_bytes()].concat();
        let little = message.clone();
        message.body = [b"\x01t\0".as_slice(), &[0; 5], &5_000_000_u64.to_be_bytes(), &1_u32.to_be_bytes()].concat();
        message.big_endian = true;
        for message in [little, message] {
            let mut values = message.values();
            assert_eq!(values.variant_of("t"), Ok(()));
            assert_eq!((values.u64(), values.bool()), (Ok(5_000_000), Ok(true)));
            assert!(values.bool().is_err() && values.string().is_err(), "nothing is left");
            assert!(message.values().variant_of("b").is_err());
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (bytes, why) in [
            (b"HTTP/1.1 400 Bad".as_slice(), "unknown byte order"),
            (b"l\x01\0\x02\0\0\0\0\x01\0\0\0\0\0\0\0", "unknown version"),
            (b"l\x01\0\x01\xff\xff\xff\xff\x01\0\0\0\0\0\0\0", "it is too long"),
            (b"l\x01\0\x01\0\0\0\0\x01\0\0\0\x04\0\0\0\x01\x01x\0\0\0\0\0", "a header field of unknown type"),
        ] {
            assert_eq!(Message::decode(bytes), Err(Malformed(why)));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_again(
            texts in proptest::collection::vec(proptest::option::of("[a-z./:0-9]{0,40}"), 6),
            (kind, serial, reply_to, n_fds) in (1..5_u8, 1..u32::MAX, proptest::option::of(any::<u32>()), 0..3_u32),
            arguments in proptest::collection::vec("\\PC{0,20}", 0..4),
        ) {
            let kind = [Kind::Call, Kind::Return, Kind::Error, Kind::Signal][usize::from(kind) - 1];
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let call = Message::call(serial, [""; 4], &arguments);
            let [path, interface, member, error, destination, sender] = texts.try_into().unwrap();
            let message =
                Message { kind, reply_to, path, interface, member, error, destination, sender, n_fds, ..call };
            let bytes = message.encode();
            for end in 0..bytes.len() {
                prop_assert_eq!(Message::decode(&bytes[..end]), Ok(None));
            }
            let (read, taken) = Message::decode(&bytes).unwrap().unwrap();
            prop_assert_eq!(taken, bytes.len());
            let mut values = read.values();
            for argument in arguments {
                prop_assert_eq!(values.string().unwrap(), argument);
            }
            prop_assert_eq!(read, message);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&bytes);
            let mut likely = vec![b'l', 2, 0, 1, 8, 0, 0, 0, 1, 0, 0, 0, 64, 0, 0, 0];
            likely.extend(bytes);
            if let Ok(Some((message, _))) = Message::decode(&likely) {
                let _ = (message.values().string(), message.values().signature(), message.values().u64());
            }
        }
    }
}
