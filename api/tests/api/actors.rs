//! Whom a control plane meets: an agent, and a hub's end of the bus.

use std::sync::Arc;

use broker::{Broker as _, Downstream, HubLease, MemoryBroker, Presence, Subscription, Upstream};
use protocol::action::Verb;
use protocol::enrollment::EnrollResponse;
use protocol::envelope::{Verified, Verifying};
use protocol::frame::{AgentFrame, CommandFrame, Exchange, Hello, HubFrame};
use protocol::id::{BootId, CommandId, DeviceId, OrderId, SessionId};
use protocol::jws::CompactJws;
use protocol::key::DeviceKey;
use protocol::notice::{self, Notice};
use protocol::proof::{self, Proof};
use protocol::receipt::{self, Evidence, Outcome, Receipt};
use protocol::state::PerLane;
use protocol::time::Timestamp;
use protocol::trust::TrustRoot;
use reqwest::{Response, StatusCode};
use runtime::tls;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::bench::{Bench, GUARD, json_of};

/// An agent's keys and what it says.
pub(crate) struct TestAgent {
    pub(crate) tls: rustls::ClientConfig,
    pub(crate) id: DeviceId,
    pub(crate) generation: u32,
    pub(crate) key: rcgen::KeyPair,
    pub(crate) signing: DeviceKey,
    pub(crate) trust: TrustRoot,
    pub(crate) config: CompactJws,
    pub(crate) http: reqwest::Client,
    pub(crate) enrolled: EnrollResponse,
}

impl TestAgent {
    pub(crate) fn hello(&self) -> AgentFrame {
        AgentFrame::Hello(Hello {
            agent: "0.1.0".to_owned(),
            boot_id: BootId::from_uuid(Uuid::nil()),
            generation: self.generation,
            epoch: 0,
            run: None,
            last_seq: PerLane::default(),
            trust_version: self.trust.version,
            capabilities: vec!["lock".to_owned(), "refresh".to_owned()],
            degraded_since: None,
        })
    }

    pub(crate) async fn check_in(&self, bench: &Bench, frames: Vec<AgentFrame>) -> Vec<HubFrame> {
        let response = self.try_check_in(bench, frames).await;
        let answer = json_of(response, StatusCode::OK).await;
        serde_json::from_value::<Exchange<HubFrame>>(answer).unwrap().frames
    }

    /// Checks in with those newest numbers on disk.
    pub(crate) async fn check_in_with(
        &self,
        bench: &Bench,
        last_seq: PerLane<u64>,
    ) -> Vec<HubFrame> {
        self.check_in_as(bench, |hello| hello.last_seq = last_seq).await
    }

    /// Checks in with another hello.
    pub(crate) async fn check_in_as(
        &self,
        bench: &Bench,
        change: impl FnOnce(&mut Hello),
    ) -> Vec<HubFrame> {
        let AgentFrame::Hello(mut hello) = self.hello() else { unreachable!() };
        change(&mut hello);
        let hello = AgentFrame::Hello(hello);
        let url = bench.agent_url("/agent/v1/checkin");
        let response = self.http.post(url).json(&Exchange { frames: vec![hello] }).send().await;
        let answer = json_of(response.unwrap(), StatusCode::OK).await;
        serde_json::from_value::<Exchange<HubFrame>>(answer).unwrap().frames
    }

    pub(crate) async fn try_check_in(&self, bench: &Bench, frames: Vec<AgentFrame>) -> Response {
        let body = Exchange { frames: [vec![self.hello()], frames].concat() };
        let url = bench.agent_url("/agent/v1/checkin");
        self.http.post(url).json(&body).send().await.unwrap()
    }

    /// A check-in over a TLS connection of its own: whether it resumed an earlier one, and the
    /// answer as it came.
    pub(crate) async fn check_in_by_hand(&self, bench: &Bench) -> (bool, String) {
        let name = tls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(bench.api.agent_addr).await.unwrap();
        let connector = tls::TlsConnector::from(Arc::new(self.tls.clone()));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let handshake = stream.get_ref().1.handshake_kind();
        let body = serde_json::to_string(&Exchange { frames: vec![self.hello()] }).unwrap();
        let head = format!(
            "POST /agent/v1/checkin HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        tokio::time::timeout(GUARD, reading).await.unwrap().unwrap();
        (handshake == Some(rustls::HandshakeKind::Resumed), answer)
    }

    pub(crate) fn verify(&self, bench: &Bench, jws: &CompactJws) -> Verified {
        let verifying = Verifying {
            device: self.id,
            generation: self.generation,
            now: bench.now(),
            trust: &self.trust,
            is_simulated: false,
        };
        verifying.verify(jws).unwrap()
    }

    /// A receipt for an envelope, changed by `change` before it is signed.
    pub(crate) fn receipt(
        &self,
        command: &CommandFrame,
        change: impl FnOnce(&mut Receipt),
    ) -> AgentFrame {
        let mut claims = Receipt {
            iss: self.id,
            generation: self.generation,
            command_id: command.command_id,
            order_id: None,
            verb: None,
            outcome: Outcome::Succeeded { evidence: Evidence::new().with("sessions", 0) },
            started_at: Timestamp::from_millis(1),
            finished_at: Timestamp::from_millis(2),
            boot_id: BootId::from_uuid(Uuid::nil()),
            agent_version: "0.1.0".to_owned(),
            envelope_sha256: command.jws.sha256(),
        };
        change(&mut claims);
        let random = aws_lc_rs::rand::SystemRandom::new();
        let jws = receipt::sign(&claims, &self.signing.signer(&random)).unwrap();
        AgentFrame::Receipt { command_id: command.command_id, jws }
    }

    /// A notice about that command, changed and signed.
    pub(crate) fn notice(
        &self,
        command: &CommandFrame,
        change: impl FnOnce(&mut Notice),
    ) -> AgentFrame {
        let mut claims = Notice {
            iss: self.id,
            generation: self.generation,
            command_id: command.command_id,
            what: "quarantine_flushed".to_owned(),
            at: Timestamp::from_millis(3),
            boot_id: BootId::from_uuid(Uuid::nil()),
            agent_version: "0.1.0".to_owned(),
        };
        change(&mut claims);
        let random = aws_lc_rs::rand::SystemRandom::new();
        let jws = notice::sign(&claims, &self.signing.signer(&random)).unwrap();
        AgentFrame::Notice { command_id: command.command_id, jws }
    }

    /// A proof for an envelope, changed by `change` before it is signed.
    pub(crate) fn proof(
        &self,
        command: &CommandFrame,
        change: impl FnOnce(&mut Proof),
    ) -> AgentFrame {
        let mut claims = Proof {
            iss: self.id,
            generation: self.generation,
            command_id: command.command_id,
            order_id: OrderId::from_uuid(Uuid::nil()),
            verb: Verb::Wipe,
            evidence: Evidence::new(),
            proved_at: Timestamp::from_millis(1),
            boot_id: BootId::from_uuid(Uuid::nil()),
            agent_version: "0.1.0".to_owned(),
            envelope_sha256: command.jws.sha256(),
        };
        change(&mut claims);
        let random = aws_lc_rs::rand::SystemRandom::new();
        let jws = proof::sign(&claims, &self.signing.signer(&random)).unwrap();
        AgentFrame::Proof { command_id: command.command_id, jws }
    }
}

/// A hub's end of the bus.
pub(crate) struct TestHub {
    pub(crate) lease: HubLease,
    pub(crate) subscription: Box<dyn Subscription>,
    pub(crate) broker: Arc<MemoryBroker>,
}

impl TestHub {
    pub(crate) async fn arrive(&self, device: DeviceId, session: SessionId) {
        self.broker.arrive(device, Presence::new(&self.lease, session, 0)).await.unwrap();
    }

    pub(crate) async fn say(&self, agent: &TestAgent, frames: Vec<AgentFrame>) {
        let session = SessionId::from_uuid(Uuid::nil());
        let batch = frames.into_iter().map(|frame| Upstream {
            device: agent.id,
            generation: agent.generation,
            hub: self.lease.hub.clone(),
            session,
            frame,
        });
        self.broker.send_upstream(batch.collect()).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Downstream {
        tokio::time::timeout(GUARD, self.subscription.next()).await.unwrap().unwrap()
    }

    /// The next frames for that device.
    pub(crate) async fn frames_for(&mut self, device: DeviceId) -> Vec<HubFrame> {
        loop {
            if let Downstream::Deliver { device: to, frames } = self.next().await
                && to == device
            {
                return frames;
            }
        }
    }

    /// The next command for that device.
    pub(crate) async fn command_for(&mut self, device: DeviceId) -> CommandFrame {
        loop {
            if let Some(command) = commands(&self.frames_for(device).await).into_iter().next() {
                return command;
            }
        }
    }
}

pub(crate) fn commands(frames: &[HubFrame]) -> Vec<CommandFrame> {
    let command = |frame: &HubFrame| {
        if let HubFrame::Command(command) = frame { Some(command.clone()) } else { None }
    };
    frames.iter().filter_map(command).collect()
}

pub(crate) fn confirmed(frames: &[HubFrame]) -> Vec<String> {
    let receipts = |frame: &HubFrame| {
        if let HubFrame::Confirmed { receipts } = frame { receipts.clone() } else { Vec::new() }
    };
    frames.iter().flat_map(receipts).collect()
}

pub(crate) fn id_of(command: &CommandFrame) -> Value {
    json!(command.command_id)
}

pub(crate) fn ack(command: &CommandFrame) -> AgentFrame {
    let command_id: CommandId = command.command_id;
    AgentFrame::Ack { command_id }
}
