//! Every listener of an installation speaks TLS 1.3 and nothing before it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::installation::Installation;

/// An alert record: fatal, `protocol_version` (RFC 8446, 6.2).
const PROTOCOL_VERSION: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];

/// The first message of a client of that version, with the suites and the extensions that servers of
/// TLS 1.2 ask for (RFC 5246, 7.4.1.2), and no word of TLS 1.3.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let with_length = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        [&length[..], bytes].concat()
    };
    let extension = |kind: u8, body: &[u8]| [&[0, kind][..], &with_length(body)].concat();
    let suites = [0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x2c, 0xc0, 0x30, 0x00, 0x2f];
    let extensions = [
        // Named groups, point formats, signature algorithms.
        extension(10, &with_length(&[0, 29, 0, 23])),
        extension(11, &[1, 0]),
        extension(13, &with_length(&[4, 3, 8, 4, 4, 1])),
    ];
    let body = [
        &version[..],
        &[7; 32],
        &[0],
        &with_length(&suites),
        &[1, 0],
        &with_length(&extensions.concat()),
    ];
    let body = body.concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

#[test]
fn hostile_client_of_an_earlier_tls_is_refused_by_every_listener() {
    let installation = Installation::new();
    for listener in installation.listeners() {
        for version in [[3, 3], [3, 2], [3, 1]] {
            let mut stream = TcpStream::connect(listener).expect("it listens");
            stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can be set");
            stream.write_all(&client_hello(version)).expect("it leaves");
            let mut answer = [0; 7];
            stream.read_exact(&mut answer).expect("an alert comes");
            assert_eq!(answer, PROTOCOL_VERSION, "{listener} {version:?}");
        }
    }
}
