//! Bytes from the kernel are read within their bounds, and ours are laid out as it reads them.

use proptest::prelude::*;

use super::{Attributes, Value, message, messages};

#[test]
fn attributes_are_padded_and_read_back() {
    let inner = Value::default().number(7, 0x0102_0304);
    let value = Value::default().text(1, "ab").nested(4, &inner).raw(5, &[9]);
    assert_eq!(value.bytes().len() % 4, 0);
    let read = Attributes::new(value.bytes());
    assert_eq!(read.text(1), Some("ab"));
    assert_eq!(read.inside(4).number(7), Some(0x0102_0304));
    assert_eq!(read.get(5), Some(&[9][..]));
    assert_eq!(read.get(6), None);
}

#[test]
fn messages_of_one_reading_are_told_apart() {
    let bytes = [message(3, (5, 1), &[1, 2, 3]), message(4, (0, 2), &[])].concat();
    let read: Vec<_> = messages(&bytes).map(|found| (found.kind, found.body.to_vec())).collect();
    assert_eq!(read, [(3, vec![1, 2, 3]), (4, vec![])]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_an_end(bytes: Vec<u8>) {
        let walk = |bytes: &[u8]| Attributes::new(bytes).map(|(_, value)| value.len()).sum::<usize>();
        prop_assert!(walk(&bytes) <= bytes.len());
        let bodies = messages(&bytes).map(|found| found.body.len() + found.netfilter().count());
        prop_assert!(bodies.sum::<usize>() <= 2 * bytes.len());
    }
}
