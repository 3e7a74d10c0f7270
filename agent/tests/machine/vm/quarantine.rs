//! A quarantine through a real boot, with everything that the network card sends in sight.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use protocol::action::{Action, Quarantine, Reboot, Release};
use protocol::receipt::Outcome;
use serde_json::json;

use crate::on_a_machine;
use crate::scene::Scene;
use crate::units::{is_reached, wait_until_reached};
use crate::vm::Vm;

/// Talks to whoever listens from the first moment on.
const TALKER: &str = "[Unit]
DefaultDependencies=no
[Service]
ExecStart=bash -c 'while :; do echo x > /dev/udp/10.78.0.1/9; (echo > /dev/tcp/10.78.0.1/9); \
sleep 0.2; done'
StandardError=null
Restart=always
[Install]
WantedBy=sysinit.target
";

/// Where the first record of a file of packets is.
const FIRST_RECORD: usize = 24;

/// One frame of the machine's, as far as it is judged here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Frame {
    /// Address resolution.
    Arp,
    /// To that port of that address, with that protocol's number.
    V4 {
        protocol: u8,
        to: [u8; 4],
        port: u16,
    },
    /// The protocol's number, and the kind where it is ICMP.
    V6 {
        protocol: u8,
        kind: u8,
    },
    Other(u16),
}

impl Frame {
    /// Whether a quarantine lets it out: to the hub, and what a link needs to be one.
    fn is_allowed(&self, hub: SocketAddr) -> bool {
        match self {
            Self::Arp => true,
            Self::V4 { protocol, to, port } => {
                *protocol == 6 && hub == SocketAddr::from((*to, *port))
            }
            // Solicitations and advertisements of routers and neighbours.
            Self::V6 { protocol: 58, kind } => (133..=136).contains(kind),
            // A router alert comes before the report of who listens, which is all that goes with one.
            Self::V6 { protocol, .. } => *protocol == 0,
            Self::Other(_) => false,
        }
    }
}

impl Vm {
    /// What kinds of frames the machine sent, from that place of the record on.
    fn sent(&self, from: usize) -> BTreeSet<Frame> {
        const RECORD_HEAD: usize = 16;
        let bytes = fs::read(self.packets()).unwrap();
        let mut frames = BTreeSet::new();
        let mut at = from;
        while let Some(head) = bytes.get(at..at + RECORD_HEAD) {
            let length = u32::from_le_bytes(head[8..12].try_into().unwrap()) as usize;
            at += RECORD_HEAD + length;
            let Some(frame) = bytes.get(at - length..at) else { break };
            if frame[6..12] == [0x52, 0x54, 0, 0x12, 0x34, 0x56] {
                frames.insert(judged(frame));
            }
        }
        frames
    }

    /// Waits until it sent such a frame, from that place of the record on.
    fn wait_until_sent(&self, from: usize, such: impl Fn(&Frame) -> bool) {
        while !self.sent(from).iter().any(&such) {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Where the record of packets ends.
    fn recorded(&self) -> usize {
        fs::read(self.packets()).unwrap().len()
    }
}

fn judged(frame: &[u8]) -> Frame {
    match u16::from_be_bytes([frame[12], frame[13]]) {
        0x0806 => Frame::Arp,
        0x0800 => {
            let header = usize::from(frame[14] & 0xf) * 4;
            let ports = &frame[14 + header..];
            Frame::V4 {
                protocol: frame[23],
                to: frame[30..34].try_into().unwrap(),
                port: u16::from_be_bytes([ports[2], ports[3]]),
            }
        }
        0x86dd => Frame::V6 { protocol: frame[20], kind: frame[54] },
        other => Frame::Other(other),
    }
}

#[test]
fn quarantine_stands_before_the_network_of_the_next_boot_and_nothing_else_leaves_the_card() {
    let test = "vm::quarantine::quarantine_stands_before_the_network_of_the_next_boot_and_nothing_else_leaves_the_card";
    on_a_machine(test, || async {
        let mut scene = Scene::virtual_machine().await;
        scene.machine.write("/etc/systemd/system/bench-talker.service", TALKER, 0o644);
        scene.machine.offline(&["systemctl", "enable", "bench-talker.service"]);
        scene.machine.boot();
        wait_until_reached();
        let to_nobody = |frame: &Frame| matches!(frame, Frame::V4 { port: 9, .. });
        scene.machine.wait_until_sent(FIRST_RECORD, to_nobody);

        let order = Quarantine { allow: Vec::new(), resolver: false, until: None };
        let evidence = scene.proven(Action::Quarantine(order)).await;
        assert_eq!(evidence.get("egress"), Some(&json!("each_device")));
        assert_eq!(evidence.get("sinks").unwrap()["raw"], json!("filtered"));
        let from = scene.machine.recorded();
        let command = scene.give(Action::Reboot(Reboot {})).await;
        scene.machine.wait_until_rebooted();
        let stood = scene.machine.entered("tocsin-reassert.service");
        assert!(0 < stood && stood < scene.machine.entered("bench-network.service"));
        let outcome = scene.outcome(&command).await.outcome;
        assert!(matches!(outcome, Outcome::Succeeded { .. }), "through it: {outcome:?}");
        assert!(!is_reached());
        let hooks = scene.machine.sh("nft list table netdev tocsin");
        assert!(hooks.contains("hook egress device \"host0\""), "{hooks}");
        assert!(scene.machine.succeeds("systemctl is-active --quiet bench-talker"));
        let hub = scene.address();
        for frame in scene.machine.sent(from) {
            assert!(frame.is_allowed(hub), "{frame:?}");
        }

        scene.proven(Action::Release(Release {})).await;
        wait_until_reached();
        let from = scene.machine.recorded();
        scene.machine.wait_until_sent(from, to_nobody);
    });
}
