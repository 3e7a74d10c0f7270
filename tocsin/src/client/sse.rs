//! Server-sent events (WHATWG HTML, 9.2): reading them from a response.
//!
//! Owns the parsing, bounded in every direction, and the deadline for silence. Reconnecting
//! belongs to whoever follows.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Response;

use super::ClientError;

#[cfg(test)]
mod tests;

/// Bytes of one event at most.
const MAX_EVENT: usize = 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Its number, to come back after.
    pub id: Option<String>,
    /// Its kind.
    pub event: String,
    /// What it says.
    pub data: String,
}

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    response: Response,
    parser: Parser,
    silence: Duration,
}

impl Stream {
    /// Reads a response; `silence` is the longest pause that a living server makes.
    pub fn new(response: Response, silence: Duration) -> Self {
        Self { response, parser: Parser::default(), silence }
    }

    /// The next event; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<Message>, ClientError> {
        loop {
            if let Some(message) = self.parser.take() {
                return Ok(Some(message));
            }
            let chunk = tokio::time::timeout(self.silence, self.response.chunk())
                .await
                .map_err(|_| ClientError::Silent)?
                .map_err(|source| ClientError::Transport {
                    base: "the stream".to_owned(),
                    source: source.without_url(),
                })?;
            match chunk {
                Some(bytes) => self.parser.feed(&bytes)?,
                None => return Ok(None),
            }
        }
    }
}

/// Takes bytes as they come and gives events.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    message: Message,
    has_data: bool,
    ready: VecDeque<Message>,
}

impl Parser {
    /// Takes bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                self.take_line(line.strip_suffix('\r').unwrap_or(&line));
            } else {
                self.line.push(*byte);
            }
            if self.line.len() + self.message.data.len() > MAX_EVENT {
                return Err(ClientError::TooLong);
            }
        }
        Ok(())
    }

    /// The next whole event.
    pub fn take(&mut self) -> Option<Message> {
        self.ready.pop_front()
    }

    fn take_line(&mut self, line: &str) {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            if std::mem::take(&mut self.has_data) {
                self.ready.push_back(message);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.message.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.message.event),
            "data" => {
                if self.has_data {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
                self.has_data = true;
            }
            // A comment has an empty name; others are of a newer server.
            _ => {}
        }
    }
}
