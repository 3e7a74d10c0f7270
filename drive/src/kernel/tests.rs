//! What the kernel answers where there is no drive, and what it makes of the arguments.

use super::*;
use crate::said::{Said, Tongue};

#[test]
fn file_is_no_drive_in_any_tongue() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, [1; 4096]).unwrap();
    let line = Kernel::open(&path).unwrap();
    let said = Said::by(&line);
    assert_eq!(said, Said { tongue: Tongue::Unknown, has_opal: false });
    assert!(line.opal_revert("LABEL").is_err());
    let too_long = line.opal_revert(&"x".repeat(OPAL_KEY)).unwrap_err();
    assert!(
        matches!(too_long, LineError::Io(error) if error.kind() == io::ErrorKind::InvalidInput)
    );
    let file = File::open(&path).unwrap();
    let discarded = discard_securely(&file, 0..4096).unwrap_err();
    assert_eq!(discarded.kind(), io::ErrorKind::Unsupported);
    assert_eq!(std::fs::read(&path).unwrap(), [1; 4096]);
}

#[test]
fn what_the_drive_said_is_told_from_what_the_adapter_did() {
    let said = |status, host_status, sense: [u8; 32]| {
        let command = ScsiCommand {
            interface_id: 0,
            dxfer_direction: NO_DATA,
            cmd_len: 0,
            mx_sb_len: 0,
            iovec_count: 0,
            dxfer_len: 0,
            dxferp: ptr::null_mut(),
            cmdp: ptr::null(),
            sbp: ptr::null_mut(),
            timeout_ms: 0,
            flags: 0,
            pack_id: 0,
            usr_ptr: ptr::null_mut(),
            status,
            masked_status: 0,
            msg_status: 0,
            sb_len_wr: 0,
            host_status,
            driver_status: 8,
            resid: 0,
            duration: 0,
            info: 0,
        };
        judged(&command, &sense)
    };
    let mut sense = [0; 32];
    // Aborted command; then the descriptor of what the drive returned, with ABRT as its error.
    (sense[0], sense[1], sense[8], sense[11]) = (0x72, 0xb, 9, 4);
    assert!(matches!(said(2, 0, sense), Err(LineError::Declined(0xb04))));
    (sense[0], sense[2]) = (0x70, 5);
    assert!(matches!(said(2, 0, sense), Err(LineError::Declined(0x500))));
    let timed_out = said(0, 3, sense).unwrap_err();
    assert!(matches!(timed_out, LineError::Io(error) if error.kind() == io::ErrorKind::TimedOut));
    assert!(matches!(said(0, 1, sense), Err(LineError::Io(_))));
}
