//! Records that earlier versions wrote are read.

use super::*;

#[test]
fn record_from_before_directories_and_homes_is_read_and_is_complete_as_it_was() {
    let id = CommandId::new(protocol::time::Timestamp::from_millis(1_700_000_000_000), [1; 10]);
    let text = serde_json::json!({
        "command_id": id, "envelope": "e", "level": "keys", "finished": true, "targets": [{
            "path": "/dev/sda3", "format": "luks2", "uuid": "u", "marker": "00", "header_bytes": 16384,
            "keyslots": 1, "headers_before_sha256": "b", "headers_after_sha256": "a",
            "key_area": { "start": 32768, "end": 65536 }, "key_area_sha256": "k", "data": null,
            "data_done": 0, "erasure": null, "progress": "headers",
        }],
        "swaps": [], "unencrypted": [], "left": [], "files": ["/etc/company"], "drives": [], "tpm": null,
    });
    let read: Wiping = serde_json::from_value(text.clone()).unwrap();
    assert!(read.directories.is_empty() && read.homes.is_empty() && read.is_complete());
    assert_eq!(read.targets[0].window, None);
    // Who goes back to such a version is understood as well, where there are no directories.
    assert_eq!(serde_json::to_value(&read).unwrap(), text);
}
