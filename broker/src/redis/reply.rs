//! Reading the answers of a server, which may be anything.

use redis::Value;

/// The items of a list.
pub(super) fn list(value: &Value) -> Option<&[Value]> {
    if let Value::Array(items) | Value::Set(items) = value { Some(items) } else { None }
}

/// A whole number.
pub(super) fn int(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(*number) } else { None }
}

/// The bytes of a string.
pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    if let Value::BulkString(bytes) = value {
        Some(bytes)
    } else if let Value::SimpleString(text) = value {
        Some(text.as_bytes())
    } else if let Value::VerbatimString { text, .. } = value {
        Some(text.as_bytes())
    } else {
        None
    }
}

/// A string that is text.
pub(super) fn text(value: &Value) -> Option<&str> {
    std::str::from_utf8(bytes(value)?).ok()
}

/// What follows a key in a map, or in a list of keys and values.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    if let Value::Map(pairs) = value {
        return pairs.iter().find(|(key, _)| text(key) == Some(name)).map(|(_, value)| value);
    }
    let pairs = list(value)?.chunks_exact(2);
    pairs.into_iter().find(|pair| text(&pair[0]) == Some(name)).map(|pair| &pair[1])
}
