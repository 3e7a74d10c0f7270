//! A small internet in namespaces: an endpoint with a container behind it, a neighbour on its
//! network, a router, and beyond that a hub and a host that nobody allowed.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::netns::{Netns, echo_in};

/// All machines. Each network has an IPv4 and an IPv6 prefix.
pub(crate) struct World {
    /// Where the agent runs.
    pub(crate) endpoint: Netns,
    /// On the endpoint's own network.
    pub(crate) neighbour: Netns,
    /// Behind the endpoint.
    pub(crate) container: Netns,
    /// Hub and control plane, beyond the router.
    pub(crate) hub: Netns,
    /// Somebody on the internet.
    pub(crate) internet: Netns,
    /// Between them.
    pub(crate) router: Netns,
}

pub(crate) const ENDPOINT: [&str; 2] = ["10.80.0.1", "fd80::1"];
pub(crate) const NEIGHBOUR: [&str; 2] = ["10.80.0.2", "fd80::2"];
const ROUTER: [&str; 2] = ["10.80.0.254", "fd80::fe"];
const GATEWAY: [&str; 2] = ["172.30.0.1", "fd30::1"];
pub(crate) const CONTAINER: [&str; 2] = ["172.30.0.2", "fd30::2"];
pub(crate) const HUB: [&str; 2] = ["203.0.113.2", "fd13::2"];
pub(crate) const INTERNET: [&str; 2] = ["198.51.100.2", "fd98::2"];

impl World {
    /// Everything, with routes between all.
    pub(crate) fn new() -> Self {
        let [endpoint, neighbour, container, hub, internet, router] =
            std::array::from_fn(|_| Netns::new());
        for machine in [&endpoint, &neighbour, &container, &hub, &internet, &router] {
            // Addresses are usable at once, those of the link too.
            machine.run(|| {
                for scope in ["all", "default"] {
                    let path = format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad");
                    std::fs::write(path, "0").unwrap();
                }
            });
        }
        for forwarding in [&endpoint, &router] {
            forwarding.run(|| {
                for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                    std::fs::write(format!("/proc/sys/net/{family}"), "1").unwrap();
                }
            });
        }
        // The endpoint's network is a switch that the router has.
        router.ip("link add lan type bridge");
        router.cable("ep", &[], &endpoint, &ENDPOINT);
        router.cable("nb", &[], &neighbour, &NEIGHBOUR);
        for port in ["ep", "nb"] {
            router.ip(&format!("link set {port} master lan"));
        }
        router.ip("addr add 10.80.0.254/24 dev lan");
        router.ip("addr add fd80::fe/64 dev lan nodad");
        router.ip("link set lan up");
        router.cable("hub", &["203.0.113.1", "fd13::1"], &hub, &HUB);
        router.cable("net", &["198.51.100.1", "fd98::1"], &internet, &INTERNET);
        endpoint.cable("pod", &GATEWAY, &container, &CONTAINER);
        let ways = [
            (&endpoint, ROUTER),
            (&neighbour, ROUTER),
            (&container, GATEWAY),
            (&hub, ["203.0.113.1", "fd13::1"]),
            (&internet, ["198.51.100.1", "fd98::1"]),
        ];
        for (machine, [v4, v6]) in ways {
            machine.ip(&format!("route add default via {v4}"));
            machine.ip(&format!("-6 route add default via {v6}"));
        }
        router.ip(&format!("route add 172.30.0.0/24 via {}", ENDPOINT[0]));
        router.ip(&format!("-6 route add fd30::/64 via {}", ENDPOINT[1]));
        Self { endpoint, neighbour, container, hub, internet, router }
    }
}

/// A TCP and UDP echo at both addresses of a machine; port 0 takes a free one.
pub(crate) fn echoes(machine: &Netns, addresses: [&str; 2], port: u16) -> [SocketAddr; 2] {
    addresses.map(|address| echo_in(machine, address, port))
}

/// Whether a machine answers an ICMP echo of either family.
pub(crate) fn pings(from: &Netns, to: &str) -> bool {
    const SCRIPT: &str = "
import socket, struct, sys
to = sys.argv[1]; six = ':' in to
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, 58 if six else 1)
s.settimeout(0.7)
head = struct.pack('!BBHHH', 128 if six else 8, 0, 0, 7, 1)
total = 0 if six else 0xffff - sum(struct.unpack('!4H', head)) % 0xffff
s.sendto(head[:2] + struct.pack('!H', total) + head[4:], (to, 0))
while True:
    data, (who, *_) = s.recvfrom(2000)
    kind = data[0] if six else data[(data[0] & 15) * 4]
    if who == to and kind == (129 if six else 0): break
";
    from.try_command("python3", &["-c", SCRIPT, to]).0
}

/// Waits for frames with a certain word in them, on any device of a machine.
pub(crate) struct Sniffer(Child);

impl Sniffer {
    /// Listens from now on.
    pub(crate) fn new(machine: &Netns, word: &'static str) -> Self {
        const SCRIPT: &str = "
import select, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
print('ready', flush=True)
word = sys.argv[1].encode(); seen = 0; over = False
while True:
    ready = select.select([s] if over else [s, sys.stdin], [], [], 0.3 if over else None)[0]
    if s in ready: seen += word in s.recv(65535)
    elif over: break
    else: over = True
print(seen, flush=True)
";
        machine.run(move || {
            let mut python = Command::new("python3");
            python.args(["-c", SCRIPT, word]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = python.spawn().unwrap();
            let mut ready = String::new();
            BufReader::with_capacity(6, child.stdout.as_mut().unwrap())
                .read_line(&mut ready)
                .unwrap();
            assert_eq!(ready, "ready\n");
            Self(child)
        })
    }

    /// How many came.
    pub(crate) fn seen(mut self) -> u32 {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }
}

/// Sends frames with that word past the network stack out of a device: one of an unknown type, one
/// with IPv4 in it, the same when the kernel is told that it is ARP, and one past the queue.
pub(crate) fn send_frames(from: &Netns, device: &str, word: &str) {
    const SCRIPT: &str = "
import socket, struct, sys
device, word = sys.argv[1], sys.argv[2].encode()
head = b'\\xff' * 6 + b'\\x02\\0\\0\\0\\0\\1'
udp = struct.pack('!HHHH', 4000, 9, 8 + 40, 0) + word.ljust(40, b'.')
ip = lambda total: struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, total,
                               socket.inet_aton('10.80.0.1'), socket.inet_aton('10.80.0.2'))
ip = ip(0xffff - sum(struct.unpack('!10H', ip(0))) % 0xffff)
ipv4 = head + b'\\x08\\0' + ip + udp
other = head + b'\\x88\\xb5' + word.ljust(60, b'.')
def send(frame, protocol, bypass):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    if bypass: s.setsockopt(263, 20, 1)
    try: s.sendto(frame, (device, protocol))
    except OSError: pass
send(other, 0x88b5, False); send(ipv4, 0x0800, False); send(ipv4, 0x0806, False)
send(other, 0x88b5, True)
";
    from.command("python3", &["-c", SCRIPT, device, word]);
}
