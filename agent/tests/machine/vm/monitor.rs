//! The emulator's monitor (QMP): the hands on a virtual machine's keys and drives.
//!
//! Source: QEMU's `docs/interop/qmp-spec` and `qapi/`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

/// The test's end of the monitor.
#[derive(Debug)]
pub(crate) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    /// The monitor of a machine that was just switched on.
    pub(super) fn new(stream: UnixStream) -> Self {
        let mut monitor = Self(BufReader::new(stream));
        let greeting = monitor.message();
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        monitor.ask("qmp_capabilities", &json!({}));
        monitor
    }

    /// Runs a command and gives what it returns.
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let asked = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.0.get_mut().write_all(asked.as_bytes()).unwrap();
        loop {
            let mut message = self.message();
            match message.get_mut("return").map(Value::take) {
                Some(answer) => return answer,
                None => assert!(message.get("error").is_none(), "{command}: {message}"),
            }
        }
    }

    fn message(&mut self) -> Value {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).unwrap();
        assert!(length > 0, "the machine went off");
        serde_json::from_str(&line).unwrap()
    }
}
