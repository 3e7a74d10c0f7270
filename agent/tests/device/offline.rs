//! Offline codes on a real quarantine: whose they are, how often they work, and who is told.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use agent::journal::Journal;
use agent::offline::{Answer, Effect, ask};
use agent::{Agent, Deps};
use protocol::action::{Action, Quarantine};
use protocol::fixture::device;
use protocol::frame::{AgentFrame, CommandFrame, HubFrame};
use protocol::ledger::Record;
use protocol::notice::{self, Notice};
use protocol::offline::OfflineSecret;
use protocol::receipt::Outcome;
use runtime::clock::ManualClock;
use runtime::{Clock, Drain, Entropy};

use crate::bench::{Bench, confirmed, now};
use crate::netns::Lan;
use crate::notices::stands;
use crate::server::{HubSide, Server};

/// A device that is quarantined by an order with a code, and whoever has its secret.
struct Scene {
    bench: Bench,
    server: Server,
    secret: OfflineSecret,
    clock: Clock,
    hand: ManualClock,
    command: CommandFrame,
}

impl Scene {
    /// Quarantines, and returns the agent that did and its hub.
    async fn quarantined() -> (Self, Agent, HubSide) {
        let mut bench = Bench::sandboxed();
        let server = bench.server().await;
        let (clock, hand) = Clock::manual();
        hand.set_unix_millis(now().as_millis());
        let secret = OfflineSecret::new([3; 32]);
        let quarantine = Quarantine { allow: Vec::new(), resolver: false, until: None };
        let mut envelope = bench.envelope(1, Action::Quarantine(quarantine), 1);
        let commit =
            |number| (device(number), secret.code(&device(number)).commitment(&device(number)));
        envelope.manifest.offline_codes = [commit(1), commit(2)].into();
        let command = bench.organisation.deliver(&envelope, 0);
        let mut scene = Self { bench, server, secret, clock, hand, command };
        let agent = scene.start();
        let mut hub = scene.server.session().await;
        hub.send(HubFrame::Command(scene.command.clone())).await;
        let receipt = hub.receipt().await;
        let outcome = scene.bench.receipt(&receipt).outcome;
        assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
        hub.send(confirmed(&receipt)).await;
        (scene, agent, hub)
    }

    fn start(&self) -> Agent {
        let (clock, entropy) = (self.clock.clone(), Entropy::system());
        Agent::start(self.bench.config.clone(), Deps { clock, entropy, drain: Drain::new() })
            .unwrap()
    }

    /// The code of that device.
    fn code(&self, number: u8) -> String {
        self.secret.code(&device(number)).reveal()
    }

    /// What the running agent says to a code.
    async fn try_code(&self, code: String) -> Answer {
        let state_dir = self.bench.config.state_dir.clone();
        let asking = move || ask(&state_dir, Effect::Quarantine, &code);
        tokio::task::spawn_blocking(asking).await.unwrap().unwrap()
    }

    /// What `tocsin-agent release` says to a code, by itself if no agent runs.
    fn release(&self, code: &str) -> Output {
        let config = self.bench.config.state_dir.with_file_name("agent.toml");
        let host = &self.bench.config.host;
        let text = format!(
            "[host]\narming = \"sandboxed\"\nroot = {:?}\ndbus = \"\"\npower = {{ record = {:?} }}\n",
            host.root,
            self.bench.power_log()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tocsin-agent"))
            .args(["release", "--code", "-", "--config"])
            .arg(config)
            .arg("--state")
            .arg(&self.bench.config.state_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(code.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The next notice, confirmed.
    async fn told(&self, hub: &mut HubSide) -> Notice {
        let frame = hub.wait_for(|frame| matches!(frame, AgentFrame::Notice { .. })).await;
        let AgentFrame::Notice { jws, .. } = frame else { unreachable!("a notice") };
        hub.send(HubFrame::Confirmed { receipts: vec![jws.sha256()] }).await;
        let notice = notice::verify(&jws, &self.bench.key).unwrap();
        assert_eq!(notice.command_id, self.command.command_id);
        notice
    }

    fn record(&self) -> String {
        std::fs::read_to_string(self.bench.config.state_dir.join("offline.json")).unwrap()
    }
}

/// Runs a test's body on an endpoint of its own.
fn on_endpoint<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
    let lan = Lan::new();
    lan.endpoint.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
}

#[test]
fn code_of_the_device_and_order_releases_it_once_and_is_told() {
    on_endpoint(async || {
        let (scene, agent, mut hub) = Scene::quarantined().await;
        let command_id = scene.command.command_id;
        let recorded = scene.bench.config.state_dir.join("quarantine.json");
        let put_back = std::fs::read(&recorded).unwrap();

        let typo = scene.try_code(scene.code(1).replacen('-', "Z", 1)).await;
        assert!(matches!(typo, Answer::Mistyped { .. }), "{typo:?}");
        let other = OfflineSecret::new([4; 32]).code(&device(1)).reveal();
        let wrong = |wait_secs| Answer::Wrong { wait_secs, command_id };
        assert_eq!(scene.try_code(scene.code(2)).await, wrong(2), "another device's");
        assert_eq!(scene.told(&mut hub).await.what, "offline_code_wrong");
        scene.hand.advance(Duration::from_secs(2));
        assert_eq!(scene.try_code(other).await, wrong(4), "another order's");
        assert!(stands());
        scene.hand.advance(Duration::from_secs(4));
        assert_eq!(scene.try_code(scene.code(1)).await, Answer::Ended { command_id });
        assert!(!stands());
        let at = now().whole_secs();
        let mut notice = scene.told(&mut hub).await;
        // That somebody tried is told until it is confirmed, and may have been on its way again.
        while notice.what == "offline_code_wrong" {
            notice = scene.told(&mut hub).await;
        }
        assert_eq!(notice.what, "released_offline");
        assert!(notice.at.since(at) < Duration::from_secs(60), "as of the device's clock");
        assert_eq!(scene.try_code(scene.code(1)).await, Answer::Absent);
        drop(hub);
        agent.drain().await.unwrap();

        let agent = scene.start();
        assert!(!stands(), "a restart puts up nothing");
        agent.drain().await.unwrap();
        // Whoever puts the record back has a quarantine again, and a code that is used up.
        std::fs::write(&recorded, put_back).unwrap();
        let agent = scene.start();
        assert!(stands());
        assert_eq!(scene.try_code(scene.code(1)).await, Answer::Used);
        assert!(stands());
        agent.drain().await.unwrap();
        // Had the power gone between the code and the release, the next start would have released.
        let begun = scene.record().replace("\"phase\":\"ended\"", "\"phase\":\"begun\"");
        std::fs::write(scene.bench.config.state_dir.join("offline.json"), begun).unwrap();
        let agent = scene.start();
        assert!(!stands() && !recorded.exists());
        agent.drain().await.unwrap();
    });
}

#[test]
fn wrong_codes_make_the_next_try_wait_and_neither_restart_nor_clock_shortens_it() {
    on_endpoint(async || {
        let (scene, agent, hub) = Scene::quarantined().await;
        let command_id = scene.command.command_id;
        for wait_secs in [2, 4, 8] {
            let answer = scene.try_code(scene.code(2)).await;
            assert_eq!(answer, Answer::Wrong { wait_secs, command_id });
            let early = scene.try_code(scene.code(1)).await;
            assert_eq!(early, Answer::Wait { wait_secs }, "the right one is not looked at");
            scene.hand.advance(Duration::from_secs(wait_secs));
        }
        drop(hub);
        agent.drain().await.unwrap();
        // The time until here counts for nothing any more, and the wall clock for nothing at all.
        let agent = scene.start();
        scene.hand.set_unix_millis(now().as_millis() + 86_400_000);
        assert_eq!(scene.try_code(scene.code(1)).await, Answer::Wait { wait_secs: 8 });
        scene.hand.advance(Duration::from_secs(8));
        assert_eq!(scene.try_code(scene.code(1)).await, Answer::Ended { command_id });
        agent.drain().await.unwrap();
    });
}

#[test]
fn code_works_without_an_agent_and_the_use_is_told_when_the_device_returns() {
    on_endpoint(async || {
        let (mut scene, agent, hub) = Scene::quarantined().await;
        drop(hub);
        agent.drain().await.unwrap();
        // As after a crash before the outcome: the journal says that it had begun.
        let path = scene.bench.journal_path();
        let mut records = Journal::open(&path).unwrap().records;
        records.retain(|record| !matches!(record, Record::Done { .. } | Record::Confirmed { .. }));
        std::fs::remove_file(&path).unwrap();
        Journal::create(&path).unwrap();
        Journal::open(&path).unwrap().journal.append(&records).unwrap();

        let wrong = scene.release(&scene.code(2));
        assert!(!wrong.status.success());
        assert!(scene.record().contains(":1}"), "counted: {}", scene.record());
        assert!(stands());
        let right = scene.release(&scene.code(1));
        assert!(right.status.success(), "{right:?}");
        let said = String::from_utf8_lossy(&right.stderr);
        assert!(said.contains("waiting 2 s"), "also where no agent counts: {said}");
        assert!(!stands());
        let again = scene.release(&scene.code(1));
        assert!(String::from_utf8_lossy(&again.stderr).contains("no such order"), "{again:?}");

        let agent = scene.start();
        let mut hub = scene.server.session().await;
        let (mut notice, mut outcome) = (None, None);
        while notice.is_none() || outcome.is_none() {
            let frame = hub
                .wait_for(|frame| {
                    matches!(frame, AgentFrame::Notice { .. } | AgentFrame::Receipt { .. })
                })
                .await;
            if let AgentFrame::Notice { jws, .. } = &frame {
                notice = Some(notice::verify(jws, &scene.bench.key).unwrap().what);
                hub.send(HubFrame::Confirmed { receipts: vec![jws.sha256()] }).await;
            } else {
                outcome = Some(scene.bench.receipt(&frame).outcome);
                hub.send(confirmed(&frame)).await;
            }
        }
        assert_eq!(notice.as_deref(), Some("released_offline"));
        let Some(Outcome::Failed { failure, .. }) = outcome else { panic!("{outcome:?}") };
        assert!(failure.detail.contains("offline code"), "{failure:?}");
        assert!(!stands(), "the order does not begin again");
        crate::bench::until(|| scene.record().contains("\"is_told\":true")).await;
        agent.drain().await.unwrap();
        // It is told once.
        let agent = scene.start();
        let mut hub = scene.server.session().await;
        let refresh = Action::Refresh(protocol::action::Refresh {});
        hub.send(HubFrame::Command(scene.bench.command(2, refresh, 1))).await;
        let next = hub
            .wait_for(|frame| {
                matches!(frame, AgentFrame::Notice { .. } | AgentFrame::Receipt { .. })
            })
            .await;
        assert!(matches!(next, AgentFrame::Receipt { .. }), "{next:?}");
        agent.drain().await.unwrap();
    });
}

#[test]
fn hostile_code_in_an_order_that_was_verified_without_one_ends_nothing() {
    on_endpoint(async || {
        let (scene, agent, hub) = Scene::quarantined().await;
        drop(hub);
        agent.drain().await.unwrap();
        let recorded = scene.bench.config.state_dir.join("quarantine.json");
        let mut record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&recorded).unwrap()).unwrap();
        // As an agent leaves it that verified the order without knowing codes.
        record["offline_code"] = serde_json::Value::Null;
        std::fs::write(&recorded, record.to_string()).unwrap();
        let agent = scene.start();
        assert_eq!(scene.try_code(scene.code(1)).await, Answer::NoCode);
        assert!(stands());
        agent.drain().await.unwrap();
    });
}
