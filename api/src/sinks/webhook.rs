//! A webhook: events as JSON, signed with a secret that both ends know.
//!
//! The receiver recomputes HMAC-SHA256 over `<tocsin-timestamp>.<body>`, compares it with
//! `tocsin-signature: v1=<hex>`, and refuses timestamps that are old. Any answer but 2xx counts as
//! not taken; redirects are not followed.

use aws_lc_rs::hmac;
use protocol::time::Timestamp;
use runtime::files;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::{SinkError, Sinks};
use crate::audit::{Event, hex};
use crate::dial;

/// Bytes of an answer that are read; only its status counts.
const ANSWER: u64 = 8 * 1024;
/// Bytes of the secret's file.
const SECRET: usize = 4 * 1024;

/// Posts events.
pub(super) async fn post(sinks: &Sinks, now: Timestamp, events: &[Event]) -> Result<(), SinkError> {
    let Some(url) = dial::Url::parse(&sinks.webhook) else { return Ok(()) };
    let body = serde_json::to_string(&serde_json::json!({ "events": events }));
    let body = body.map_err(std::io::Error::other)?;
    let path = sinks.webhook_secret_file.clone().unwrap_or_default();
    let secret = Zeroizing::new(files::read_bounded(&path, SECRET)?);
    let at = now.as_millis() / 1000;
    let signature = sign(secret.trim_ascii(), at, &body);
    let address = dial::resolve(&sinks.webhook_allow, &url).await?;
    let mut stream =
        dial::connect(sinks.ca_file.as_deref(), address, &url.host, &[b"http/1.1"]).await?;
    let host = url.authority();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\ntocsin-timestamp: {at}\r\n\
         tocsin-signature: v1={signature}\r\n\r\n",
        url.path,
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let mut status = None;
    let mut bounded = stream.take(ANSWER);
    // Until the status is there: whatever else it says, or how long, is not waited for.
    while status.is_none() {
        if bounded.read_buf(&mut answer).await? == 0 {
            break;
        }
        status = self::status(&answer);
    }
    match status {
        Some(code) if (200..300).contains(&code) => Ok(()),
        Some(code) => Err(SinkError::Refused(code.to_string())),
        None => Err(SinkError::Refused("something that is no http".to_owned())),
    }
}

/// The signature of a body that leaves at that second.
pub(super) fn sign(secret: &[u8], at: u64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{at}.").as_bytes());
    context.update(body.as_bytes());
    hex(context.sign().as_ref())
}

/// The status of an answer, once its first line is whole.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next().filter(|l| l.len() < answer.len())?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    line.get(2..5)?.parse().ok()
}
