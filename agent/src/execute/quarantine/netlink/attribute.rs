//! Netlink attributes: type, length, value, padded to four bytes; values may be attributes again.

/// What marks a value as attributes (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;
/// The bits of a type that name it (`NLA_TYPE_MASK`).
const TYPE: u16 = 0x3fff;
const HEADER: usize = 4;

/// Attributes on their way to the kernel. Numbers of nf_tables are big-endian.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Value(Vec<u8>);

impl Value {
    /// The encoded attributes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds bytes as they are.
    #[must_use]
    pub(crate) fn raw(mut self, kind: u16, value: &[u8]) -> Self {
        let length = HEADER + value.len();
        // Nothing of ours comes near 64 KiB; the kernel declines what is cut short.
        self.0.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number.
    #[must_use]
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.raw(kind, &value.to_be_bytes())
    }

    /// Adds a text with the zero that ends it.
    #[must_use]
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.raw(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds attributes as the value of one.
    #[must_use]
    pub(crate) fn nested(self, kind: u16, value: &Self) -> Self {
        self.raw(kind | NESTED, &value.0)
    }
}

/// Attributes from the kernel: type and value, in order. Bytes that are none end them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes in those bytes.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of that type.
    pub(crate) fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The attributes in the first attribute of that type; none when it is not there.
    pub(crate) fn inside(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    /// A text, without the zero that ends it.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        text(self.get(kind)?)
    }

    /// A number of nf_tables.
    pub(crate) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(*self.get(kind)?.first_chunk()?))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind) & TYPE, value))
    }
}

/// A text of the kernel, without the zero that ends it.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}
