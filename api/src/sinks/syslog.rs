//! Syslog over TLS: RFC 5424 messages in the frames of RFC 5425.
//!
//! The protocol has no answer: what was written to a connection that then breaks may be lost or
//! doubled. Each message carries the event's place and hash, by which a gap is seen.

use tokio::io::AsyncWriteExt as _;

use super::{SinkError, Sinks};
use crate::audit::Event;
use crate::dial;

/// Facility 13 (log audit), severity 5 (notice).
const PRIORITY: u8 = 13 * 8 + 5;
/// Bytes of one message's text; a longer payload is cut, and the place and hash stand before it.
const TEXT: usize = 6 * 1024;
/// The structured data's name, with the number that is for documentation (RFC 5612).
const DATA: &str = "tocsin@32473";

/// Writes events, each as one message.
pub(super) async fn send(sinks: &Sinks, node: &str, events: &[Event]) -> Result<(), SinkError> {
    let Some((host, port)) = dial::host_and_port(&sinks.syslog) else { return Ok(()) };
    let none = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    let address = tokio::net::lookup_host((host.as_str(), port)).await?.next().ok_or_else(none)?;
    let mut stream = dial::connect(sinks.ca_file.as_deref(), address, &host, &[]).await?;
    let mut text = String::new();
    for event in events {
        let message = message(node, event);
        text.push_str(&format!("{} {message}", message.len()));
    }
    stream.write_all(text.as_bytes()).await?;
    // Says that it is over, and so that all of it was written.
    stream.shutdown().await?;
    Ok(())
}

/// One event as a message.
pub(super) fn message(node: &str, event: &Event) -> String {
    let at = u64::try_from(event.at).unwrap_or(0);
    let at = crate::time::Time(protocol::time::Timestamp::from_millis(at));
    let host = name(node, 255);
    let kind = name(&event.kind, 32);
    let data = format!(
        "[{DATA} seq=\"{}\" hash=\"{}\" actor=\"{}\" subject=\"{}\"]",
        event.seq,
        escaped(&event.hash),
        escaped(&event.actor),
        escaped(&event.subject)
    );
    let end = event.payload.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = end.take_while(|end| *end <= TEXT).last().unwrap_or(0);
    let payload: String = event.payload[..end].chars().map(visible).collect();
    format!("<{PRIORITY}>1 {at} {host} tocsin - {kind} {data} {payload}")
}

/// A header's word: printable ASCII, or `-`.
fn name(text: &str, most: usize) -> String {
    let word: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

/// A parameter's value (RFC 5424, 6.3.3).
fn escaped(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for c in text.chars().map(visible) {
        if matches!(c, '"' | '\\' | ']') {
            value.push('\\');
        }
        value.push(c);
    }
    value
}

/// A line is one event, whatever a device calls itself.
fn visible(c: char) -> char {
    if c.is_control() { '\u{fffd}' } else { c }
}
