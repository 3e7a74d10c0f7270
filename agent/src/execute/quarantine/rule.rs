//! Writes one nf_tables rule: what it looks at, and what becomes of the packet.
//!
//! Pure: knows the kernel's vocabulary (include/uapi/linux/netfilter/nf_tables.h) and no policy.

use super::netlink::Value;

/// What a packet has beside its bytes. Values are compared as the kernel keeps them: numbers in
/// the machine's order, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    /// Its protocol by Ethernet's numbers, big-endian.
    Protocol = 1,
    /// Its mark.
    Mark = 3,
    /// Index of the device it came in by.
    InDevice = 4,
    /// Index of the device it goes out by.
    OutDevice = 5,
    /// Kind of the device it goes out by, 16 bits.
    OutDeviceKind = 9,
    /// Id of the user whose socket it is of.
    User = 10,
    /// The family that nf_tables takes it for, 8 bits.
    Family = 15,
    /// Its transport, 8 bits.
    Transport = 16,
}

/// Where in a packet bytes are counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// The link's header.
    Link = 0,
    /// The network's.
    Network = 1,
    /// The transport's.
    Transport = 2,
}

/// A place in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At(pub(super) Header, pub(super) u32);

/// One rule: conditions in order, then a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rule(Value);

const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// The verdicts' register, and the one that conditions are worked out in.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const ACCEPT: u32 = 1;
const GOTO: i32 = -4;

impl Rule {
    /// A rule without conditions.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Its expressions, encoded.
    pub(super) const fn expressions(&self) -> &Value {
        &self.0
    }

    /// Only packets about which that is true.
    pub(super) fn meta(self, key: Meta, is: &[u8]) -> Self {
        self.load_meta(key as u32).compare(EQUAL, is)
    }

    /// Only packets that have those bytes there.
    pub(super) fn bytes(self, at: At, are: &[u8]) -> Self {
        self.load(at, are.len()).compare(EQUAL, are)
    }

    /// Only packets that have those bytes there under the mask.
    pub(super) fn masked(self, at: At, mask: &[u8], are: &[u8]) -> Self {
        self.load(at, mask.len()).mask(mask).compare(EQUAL, are)
    }

    /// Only packets that have other bytes there under the mask.
    pub(super) fn not_masked(self, at: At, mask: &[u8], are: &[u8]) -> Self {
        self.load(at, mask.len()).mask(mask).compare(NOT_EQUAL, are)
    }

    /// Only packets of at most that many bytes.
    pub(super) fn at_most(self, bytes: u32) -> Self {
        const LENGTH: u32 = 0;
        const HOST_TO_NETWORK: u32 = 1;
        // Compared byte by byte, so the order of bytes must be the order of numbers.
        let swap = Value::default()
            .number(1, REGISTER)
            .number(2, REGISTER)
            .number(3, HOST_TO_NETWORK)
            .number(4, 4)
            .number(5, 4);
        let rule = self.load_meta(LENGTH).expression("byteorder", &swap);
        rule.compare(AT_MOST, &bytes.to_be_bytes())
    }

    /// They pass this hook.
    pub(super) fn accept(self) -> Self {
        self.verdict(&Value::default().number(1, ACCEPT))
    }

    /// They are judged by that chain, and by the policy when it is silent.
    pub(super) fn go(self, chain: &str) -> Self {
        self.verdict(&Value::default().raw(1, &GOTO.to_be_bytes()).text(2, chain))
    }

    /// Their sender gets a TCP reset.
    pub(super) fn reset(self) -> Self {
        const TCP_RESET: u32 = 1;
        self.expression("reject", &Value::default().number(1, TCP_RESET))
    }

    /// Their sender is told that it is prohibited, in its own family's words.
    pub(super) fn prohibit(self) -> Self {
        const ANY_FAMILY: u32 = 2;
        const PROHIBITED: u8 = 3;
        self.expression("reject", &Value::default().number(1, ANY_FAMILY).raw(2, &[PROHIBITED]))
    }

    fn load_meta(self, key: u32) -> Self {
        self.expression("meta", &Value::default().number(2, key).number(1, REGISTER))
    }

    fn load(self, At(header, offset): At, length: usize) -> Self {
        // At most the 16 bytes of an address.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let place = Value::default()
            .number(1, REGISTER)
            .number(2, header as u32)
            .number(3, offset)
            .number(4, length);
        self.expression("payload", &place)
    }

    fn mask(self, mask: &[u8]) -> Self {
        let zeros = vec![0; mask.len()];
        let mask = Value::default()
            .number(1, REGISTER)
            .number(2, REGISTER)
            .number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX))
            .nested(4, &data(mask))
            .nested(5, &data(&zeros));
        self.expression("bitwise", &mask)
    }

    fn compare(self, how: u32, with: &[u8]) -> Self {
        let comparison = Value::default().number(1, REGISTER).number(2, how).nested(3, &data(with));
        self.expression("cmp", &comparison)
    }

    fn verdict(self, verdict: &Value) -> Self {
        let verdict = Value::default().nested(DATA_VERDICT, verdict);
        let verdict = Value::default().number(1, VERDICT).nested(2, &verdict);
        self.expression("immediate", &verdict)
    }

    fn expression(self, name: &str, what: &Value) -> Self {
        const LIST_ELEMENT: u16 = 1;
        let expression = Value::default().text(1, name).nested(2, what);
        Self(self.0.nested(LIST_ELEMENT, &expression))
    }
}

fn data(bytes: &[u8]) -> Value {
    Value::default().raw(DATA_VALUE, bytes)
}
