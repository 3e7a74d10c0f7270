//! Records that earlier versions wrote are read.

use super::*;

#[test]
fn record_from_before_directories_is_read_and_is_complete_as_it_was() {
    let id = CommandId::new(protocol::time::Timestamp::from_millis(1_700_000_000_000), [1; 10]);
    let text = serde_json::json!({
        "command_id": id, "envelope": "e", "level": "keys", "finished": true, "targets": [],
        "swaps": [], "unencrypted": [], "left": [], "files": ["/etc/company"], "drives": [], "tpm": null,
    });
    let read: Wiping = serde_json::from_value(text.clone()).unwrap();
    assert!(read.directories.is_empty() && read.is_complete());
    // Who goes back to such a version is understood as well, where there are no directories.
    assert_eq!(serde_json::to_value(&read).unwrap(), text);
}
