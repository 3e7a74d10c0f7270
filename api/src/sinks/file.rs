//! A file of JSON lines, as `tocsin events verify` reads them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use runtime::Blocking;

use super::{SinkError, Sinks};
use crate::audit::Event;

/// Only its owner reads who did what.
const MODE: u32 = 0o600;

/// Appends events, durably.
pub(super) async fn append(sinks: &Sinks, events: &[Event]) -> Result<(), SinkError> {
    let Some(path) = sinks.file.clone() else { return Ok(()) };
    let mut text = Vec::new();
    for event in events {
        serde_json::to_writer(&mut text, event).map_err(std::io::Error::other)?;
        text.push(b'\n');
    }
    let write = move || {
        let mut file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
        file.write_all(&text)?;
        file.sync_data()
    };
    Blocking::Threads.run(write).await.map_err(std::io::Error::other)??;
    Ok(())
}
