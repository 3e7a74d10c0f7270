//! Every way around a quarantine, in a small internet of namespaces: who is cut, who is not, what
//! it survives, and what a release leaves.
#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

use std::net::{SocketAddr, SocketAddrV6};
use std::sync::mpsc::{Receiver, sync_channel};

use agent::execute::Executor;
use agent::execute::quarantine::{Firewall, Lacks, Quarantine, Release, Tampering, Watch};
use agent::host::Host;
use protocol::action;
use protocol::receipt::Evidence;
use runtime::Clock;
use tempfile::TempDir;

use support::host::{sandbox, task};
use support::netns::{
    GUARD, Netns, SILENCE, Sender, agent_reaches, agent_session, carries, open_session, rounds,
    stranger_reaches, tcp_answers, told, udp_answers,
};
use support::world::{
    CONTAINER, ENDPOINT, HUB, INTERNET, NEIGHBOUR, Sniffer, World, echoes, pings, send_frames,
};

#[path = "support"]
mod support {
    pub(crate) mod host;
    #[expect(dead_code, reason = "shared with the tests of quarantine, which use the rest")]
    pub(crate) mod netns;
    pub(crate) mod world;
}

/// A world, and a host on its endpoint whose control plane is the hub.
struct Scene {
    world: World,
    host: Host,
    hubs: [SocketAddr; 2],
    _folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let hubs = echoes(&world.hub, HUB, 0);
        let (mut host, folder) = sandbox();
        host.control_plane = hubs.to_vec();
        Self { world, host, hubs, _folder: folder }
    }

    fn on(lacks: Lacks) -> Self {
        let mut scene = Self::new();
        scene.host.firewall = Firewall::lacking(lacks);
        scene
    }

    fn carry_out(&self, executor: impl Executor + 'static, number: u8) -> Evidence {
        let host = self.host.clone();
        self.world.endpoint.run(move || {
            executor.plan(&host, &task(number)).unwrap();
            executor.apply(&host, &task(number)).unwrap();
            executor.prove(&host, &task(number)).unwrap()
        })
    }

    fn quarantine(&self) -> Evidence {
        self.carry_out(quarantine(), 1)
    }

    fn watch(&self) -> (Watch, Receiver<Tampering>) {
        let (host, (tell, told)) = (self.host.clone(), sync_channel(16));
        let watch = move || Watch::start(host, move |what| tell.send(what).unwrap());
        (self.world.endpoint.run(watch).unwrap(), told)
    }

    fn load(&self, ruleset: &str) {
        self.world.endpoint.command("nft", &[ruleset]);
    }

    fn nft(&self, words: &str) -> String {
        self.world.endpoint.command("nft", &words.split(' ').collect::<Vec<_>>())
    }
}

fn quarantine() -> Quarantine {
    Quarantine::new(action::Quarantine { allow: Vec::new(), resolver: false, until: None })
}

/// A link-local echo on a machine, as the endpoint's device reaches it.
fn link_local(scene: &Scene, machine: &Netns) -> SocketAddr {
    let shown = machine.command("ip", &["-o", "-6", "addr", "show", "scope", "link"]);
    let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")).unwrap();
    let address: std::net::Ipv6Addr = address.parse().unwrap();
    let index = |machine: &Netns, device: &str| -> u32 {
        let shown = machine.command("ip", &["-o", "link", "show", "dev", device]);
        shown.split(':').next().unwrap().parse().unwrap()
    };
    let here = SocketAddrV6::new(address, 0, 0, index(machine, "nb"));
    let at = support::netns::echo_at(machine, here.into());
    SocketAddrV6::new(address, at.port(), 0, index(&scene.world.endpoint, "ep")).into()
}

#[test]
fn every_way_is_cut_in_both_directions_and_the_agents_own_stays() {
    let scene = Scene::new();
    let World { endpoint, neighbour, container, hub, internet, .. } = &scene.world;
    let resolvers = echoes(internet, INTERNET, 53);
    let others: Vec<SocketAddr> = [
        echoes(neighbour, NEIGHBOUR, 0),
        echoes(internet, INTERNET, 0),
        echoes(hub, HUB, 0),
        resolvers,
        echoes(container, CONTAINER, 0),
        [link_local(&scene, neighbour); 2],
    ]
    .concat();
    let services = echoes(endpoint, ENDPOINT, 0);
    let inside = echoes(container, CONTAINER, 0);
    let local = echoes(endpoint, ["127.0.0.1", "::1"], 0);
    // Who tries to get where.
    let mut ways: Vec<(&Netns, SocketAddr)> = others.iter().map(|to| (endpoint, *to)).collect();
    ways.extend(services.iter().flat_map(|to| [(neighbour, *to), (internet, *to), (hub, *to)]));
    ways.extend(services.iter().map(|to| (container, *to)));
    ways.extend(inside.iter().flat_map(|to| [(neighbour, *to), (internet, *to)]));
    ways.extend(scene.hubs.iter().map(|to| (container, *to)));
    for (from, to) in &ways {
        assert!(tcp_answers(from, *to, GUARD), "{to} before");
        assert!(udp_answers(from, *to, GUARD), "{to} by UDP before");
    }
    let pinged = [NEIGHBOUR, INTERNET, HUB].concat();
    assert!(pinged.iter().all(|to| pings(endpoint, to)));
    let mut sessions: Vec<_> = ways.iter().map(|(from, to)| open_session(from, *to)).collect();
    let mut own = scene.hubs.map(|hub| agent_session(endpoint, hub));

    scene.quarantine();

    std::thread::scope(|threads| {
        for session in &mut sessions {
            threads.spawn(|| {
                session.set_read_timeout(Some(SILENCE)).unwrap();
                assert!(!carries(session), "an open session survived: {:?}", session.peer_addr());
            });
        }
        for (from, to) in &ways {
            threads.spawn(move || {
                assert!(!tcp_answers(from, *to, SILENCE), "{to} after");
                assert!(!udp_answers(from, *to, SILENCE), "{to} by UDP after");
            });
        }
    });
    assert!(!pinged.iter().any(|to| pings(endpoint, to)));
    assert!(!ENDPOINT.iter().any(|to| pings(neighbour, to)));
    for (session, hub) in own.iter_mut().zip(scene.hubs) {
        assert!(carries(session), "the agent's own session died");
        assert!(agent_reaches(endpoint, hub), "{hub}");
        assert!(!tcp_answers(endpoint, hub, SILENCE), "somebody else of the same user: {hub}");
        assert!(!stranger_reaches(endpoint, hub), "another user: {hub}");
    }
    for to in local {
        assert!(tcp_answers(endpoint, to, GUARD) && udp_answers(endpoint, to, GUARD), "{to}");
    }
}

#[test]
fn own_resolver_stays_open_where_the_order_says_so_and_no_other() {
    let scene = Scene::new();
    let World { endpoint, internet, neighbour, .. } = &scene.world;
    let (own, foreign) = (echoes(internet, INTERNET, 53), echoes(neighbour, NEIGHBOUR, 53));
    let etc = scene.host.root.join("etc");
    std::fs::create_dir(&etc).unwrap();
    let text = format!("# ours\nnameserver {}\nnameserver {}\n", INTERNET[0], INTERNET[1]);
    std::fs::write(etc.join("resolv.conf"), text).unwrap();
    let order = action::Quarantine { allow: Vec::new(), resolver: true, until: None };
    scene.carry_out(Quarantine::new(order), 1);
    for to in own {
        assert!(udp_answers(endpoint, to, GUARD) && tcp_answers(endpoint, to, GUARD), "{to}");
    }
    for to in [foreign, echoes(internet, INTERNET, 0)].concat() {
        assert!(!udp_answers(endpoint, to, SILENCE) && !tcp_answers(endpoint, to, SILENCE), "{to}");
    }
    scene.carry_out(quarantine(), 2);
    assert!(!own.iter().any(|to| udp_answers(endpoint, *to, SILENCE)), "the next order says no");
}

/// From the moment an executor is asked to the last datagram that left, which another thread sends
/// without pause. To measure: `TOCSIN_TEST_ROUNDS=100`, and `--no-capture`.
#[test]
fn nothing_leaves_once_an_executor_has_applied_and_the_time_until_then_is_told() {
    let scene = Scene::new();
    let to = echoes(&scene.world.internet, INTERNET, 0)[0];
    let spans = (0..rounds()).map(|_| {
        let sender = Sender::new(&scene.world.endpoint, to);
        let host = scene.host.clone();
        let (begin, applied) = scene.world.endpoint.run(move || {
            let clock = Clock::system();
            let begin = clock.now();
            quarantine().plan(&host, &task(1)).unwrap();
            quarantine().apply(&host, &task(1)).unwrap();
            (begin, clock.now())
        });
        assert!(!udp_answers(&scene.world.endpoint, to, SILENCE));
        let span = sender.sent_after(begin);
        assert!(span <= applied.saturating_duration_since(begin), "some left after it: {span:?}");
        scene.carry_out(Release, 2);
        span
    });
    println!("{}", told("until an executor has cut", spans.collect()));
}

/// The same from a flush on, where nobody owns the tables and the watch puts them up again.
#[test]
fn flush_of_what_nobody_owns_is_made_good_and_the_time_until_then_is_told() {
    let scene = Scene::on(Lacks { owner: true, ..Lacks::default() });
    let to = echoes(&scene.world.internet, INTERNET, 0)[0];
    scene.quarantine();
    let (_watch, tampering) = scene.watch();
    let before = scene.nft("list ruleset");
    let spans = (0..rounds()).map(|_| {
        let sender = Sender::new(&scene.world.endpoint, to);
        let begin = Clock::system().now();
        scene.nft("flush ruleset");
        assert_eq!(tampering.recv_timeout(GUARD), Ok(Tampering::Removed));
        assert_eq!(scene.nft("list ruleset"), before);
        sender.sent_after(begin)
    });
    println!("{}", told("open after a flush, without owner", spans.collect()));
}

#[test]
fn neighbours_are_found_anew_under_quarantine() {
    let scene = Scene::new();
    scene.quarantine();
    for machine in [&scene.world.endpoint, &scene.world.router] {
        machine.ip("neigh flush all");
        machine.ip("-6 neigh flush all");
    }
    for hub in scene.hubs {
        assert!(agent_reaches(&scene.world.endpoint, hub), "{hub}");
    }
}

/// Frames that pass below the network stack, and a guest with a device of its own on the cable.
fn nothing_leaves_below(scene: &Scene) {
    let World { endpoint, neighbour, .. } = &scene.world;
    let guest = Netns::new();
    endpoint.ip("link add guest link ep type macvlan mode bridge");
    endpoint.hand_over("guest", &guest);
    guest.ip("addr add 10.80.0.9/24 dev guest");
    guest.ip("link set guest up");
    let at_neighbour = echoes(neighbour, NEIGHBOUR, 0)[0];
    assert!(udp_answers(&guest, at_neighbour, GUARD));
    let sniffer = Sniffer::new(neighbour, "frames-before");
    send_frames(endpoint, "ep", "frames-before");
    assert_eq!(sniffer.seen(), 4);

    let evidence = scene.quarantine();
    assert_eq!(evidence.get("egress"), Some(&"each_device".into()));
    let (_watch, _told) = scene.watch();

    assert!(!udp_answers(&guest, at_neighbour, SILENCE), "the guest is cut");
    let sniffer = Sniffer::new(neighbour, "frames-after");
    send_frames(endpoint, "ep", "frames-after");
    assert_eq!(sniffer.seen(), 0);

    // A device that comes later.
    let late = Netns::new();
    endpoint.cable("late", &["10.81.0.1"], &late, &["10.81.0.2"]);
    let mut sent = 0;
    while {
        let word = "frames-late";
        let sniffer = Sniffer::new(&late, word);
        send_frames(endpoint, "late", word);
        sent += 1;
        sniffer.seen() > 0
    } {
        assert!(sent < 50, "the new device is not covered");
    }
    for hub in scene.hubs {
        assert!(agent_reaches(endpoint, hub), "{hub}");
    }
}

#[test]
fn raw_frames_and_guests_are_cut_also_on_devices_that_come_later() {
    nothing_leaves_below(&Scene::new());
}

#[test]
fn raw_frames_are_cut_where_nobody_owns_tables() {
    nothing_leaves_below(&Scene::on(Lacks { owner: true, ..Lacks::default() }));
}

#[test]
fn kernel_without_egress_hooks_is_named_in_the_evidence() {
    let scene = Scene::on(Lacks { egress: true, ..Lacks::default() });
    let evidence = scene.quarantine();
    assert_eq!(evidence.get("egress"), Some(&"none".into()));
    let sinks = serde_json::json!({ "v4": "filtered", "v6": "filtered", "raw": "passed" });
    assert_eq!(evidence.get("sinks"), Some(&sinks));
    assert_eq!(scene.nft("list tables"), "table inet tocsin\ntable inet tocsin_canary\n");
}

#[test]
fn flush_leaves_what_the_agent_owns_and_is_told() {
    let scene = Scene::new();
    let evidence = scene.quarantine();
    assert_eq!(evidence.get("owned"), Some(&true.into()));
    let (_watch, told) = scene.watch();
    let before = scene.nft("list ruleset");
    scene.nft("flush ruleset");
    assert_eq!(told.recv_timeout(GUARD), Ok(Tampering::Flushed));
    assert_eq!(scene.nft("list ruleset"), before);
    for words in ["delete table inet tocsin", "insert rule inet tocsin output accept"] {
        let words: Vec<_> = words.split(' ').collect();
        let (success, text) = scene.world.endpoint.try_command("nft", &words);
        assert!(!success && text.contains("Operation not permitted"), "{text}");
    }
}

#[test]
fn what_nobody_owns_is_put_up_again_at_once_and_told() {
    let scene = Scene::on(Lacks { owner: true, ..Lacks::default() });
    scene.quarantine();
    let (_watch, told) = scene.watch();
    let before = scene.nft("list ruleset");
    for (words, tampering) in [
        ("flush ruleset", Tampering::Removed),
        ("delete table inet tocsin", Tampering::Removed),
        ("delete table netdev tocsin", Tampering::Altered),
        ("insert rule inet tocsin output accept", Tampering::Altered),
        ("insert rule netdev tocsin device_0 accept", Tampering::Altered),
        ("flush chain netdev tocsin leaving", Tampering::Altered),
        ("delete table inet tocsin_canary", Tampering::Flushed),
    ] {
        scene.nft(words);
        assert_eq!(told.recv_timeout(GUARD), Ok(tampering), "{words}");
        assert_eq!(scene.nft("list ruleset"), before, "{words}");
    }
    scene.carry_out(Release, 2);
    assert_eq!(scene.nft("list ruleset"), "", "a release is not mended");
    assert!(told.try_recv().is_err(), "a release is no tampering");
}

#[test]
fn other_namespaces_are_told_of_where_they_have_devices_on_ours() {
    let scene = Scene::new();
    let World { endpoint, container, .. } = &scene.world;
    let guest = Netns::new();
    endpoint.ip("link add guest link ep type macvlan mode bridge");
    endpoint.hand_over("guest", &guest);
    // What a machine shows of its processes: the endpoint itself, a container, a guest, and one that ended.
    let proc = scene.host.root.join("proc");
    for (process, namespace) in
        [("1", Some(endpoint)), ("20", Some(container)), ("30", Some(&guest))]
            .into_iter()
            .chain([("40", None)])
    {
        let folder = proc.join(process).join("ns");
        std::fs::create_dir_all(&folder).unwrap();
        let to = namespace.map_or("gone".into(), Netns::path);
        std::os::unix::fs::symlink(to, folder.join("net")).unwrap();
    }
    let named = scene.host.root.join("run/netns");
    std::fs::create_dir_all(&named).unwrap();
    std::os::unix::fs::symlink(guest.path(), named.join("visitors")).unwrap();
    let expected = serde_json::json!([
        { "namespace": "visitors", "devices": { "guest": "macvlan" } },
    ]);
    let host = scene.host.clone();
    let (plan, later) = endpoint.run(move || {
        let plan = quarantine().plan(&host, &task(1)).unwrap();
        // By then the guest has gone, and the name service tells of one more place.
        let mut host = host;
        host.root = host.root.join("empty");
        host.control_plane.push("192.0.2.9:443".parse().unwrap());
        (plan, quarantine().plan(&host, &task(1)).unwrap())
    });
    assert_ne!(plan.steps, later.steps);
    assert_eq!(plan.hash(), later.hash(), "what was approved stays");
    let line = "cut guest (macvlan) in network namespace visitors by what it lies on";
    assert!(plan.steps.iter().any(|step| step == line), "{:?}", plan.steps);
    assert_eq!(scene.quarantine().get("other_namespaces"), Some(&expected));
}

#[test]
fn device_that_leaves_for_another_namespace_is_told_of_and_others_are_not() {
    let scene = Scene::new();
    let World { endpoint, .. } = &scene.world;
    let elsewhere = Netns::new();
    endpoint.ip("tuntap add card mode tap");
    let (_watch, told) = scene.watch();
    scene.quarantine();
    // What a container gets, and what is removed for good.
    endpoint.ip("link add pipe type veth peer name epip");
    endpoint.hand_over("epip", &elsewhere);
    endpoint.ip("link del pipe");
    scene.nft("flush ruleset");
    assert_eq!(told.recv_timeout(GUARD), Ok(Tampering::Flushed), "and nothing before it");
    endpoint.hand_over("card", &elsewhere);
    assert_eq!(told.recv_timeout(GUARD), Ok(Tampering::DeviceLeft));
    assert!(told.try_recv().is_err());
}

#[test]
fn release_leaves_handles_counters_and_what_the_owner_changed_meanwhile() {
    let scene = Scene::new();
    scene.load(
        "table inet firewall {
    counter spare { packets 12 bytes 3456; }
    set ports { type inet_service; elements = { 22, 80 }; }
    chain input { type filter hook input priority 0; policy accept;
        udp dport 4 counter packets 7 bytes 700 drop; tcp dport @ports counter name spare accept; }
}
table bridge own { chain forward { type filter hook forward priority 0; policy accept; }; }",
    );
    scene.quarantine();
    scene.nft("add rule inet firewall input udp dport 5 counter packets 1 bytes 2 accept");
    scene.nft("add element inet firewall ports { 443 }");
    let others = || {
        let text = scene.nft("-a list ruleset");
        let mut keeps = true;
        let lines = text.lines().filter(move |line| {
            keeps = if line.starts_with("table ") { !line.contains(" tocsin") } else { keeps };
            keeps
        });
        (lines.collect::<Vec<_>>().join("\n"), scene.nft("list counters table inet firewall"))
    };
    let meanwhile = others();
    assert!(meanwhile.0.contains("443") && meanwhile.0.contains("udp dport 5"));
    assert!(meanwhile.1.contains("packets 12 bytes 3456"));
    let evidence = scene.carry_out(Release, 2);
    assert_eq!(others(), meanwhile);
    assert!(!scene.nft("list tables").contains("tocsin"));
    assert_eq!(evidence.get("others_unchanged"), Some(&true.into()));
    assert!(udp_answers(
        &scene.world.endpoint,
        echoes(&scene.world.neighbour, NEIGHBOUR, 0)[0],
        GUARD
    ));
}
