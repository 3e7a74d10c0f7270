//! A made-up organisation for tests: keys from fixed seeds, a trust root, two approvers, devices.
//!
//! Only compiled for tests and behind the feature `fixture`. Nothing here is secret or random, so
//! what tests sign and print is the same in every run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use crate::action::{
    Action, CollectEvidence, Credential, CryptoLock, Lock, LockLevel, RotateCredentials, RunScript,
    Sources, Verb, Wipe, WipeLevel,
};
use crate::envelope::{self, Approval, Envelope, Verifying};
use crate::frame::{CommandFrame, Hello};
use crate::id::{BootId, CommandId, DeviceId, OrderId, PersonName, SessionId};
use crate::jws::CompactJws;
use crate::key::{DeviceKey, SigningKey};
use crate::manifest::{DeviceTree, Manifest};
use crate::sealed::CaseSecret;
use crate::state::PerLane;
use crate::time::Timestamp;
use crate::trust::{Approver, CommandKey, RootKeys, SignedTrustRoot, TrustRoot};

/// The time at which the fixture's story plays: 2026-01-01T00:00:00Z.
pub const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// The key of that number.
pub fn signing_key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).expect("any 32 bytes are an Ed25519 seed")
}

/// A new device key: P-256 keys are drawn, not derived.
pub fn device_key() -> DeviceKey {
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .expect("the system draws a key");
    DeviceKey::from_pkcs8(pkcs8.as_ref()).expect("a key that was just drawn is well formed")
}

/// The device of that number.
pub fn device(number: u8) -> DeviceId {
    DeviceId::new(NOW, [number; 10])
}

/// The command of that number.
pub fn command(number: u8) -> CommandId {
    CommandId::new(NOW, [number; 10])
}

/// The order of that number.
pub fn order(number: u8) -> OrderId {
    OrderId::new(NOW, [number; 10])
}

/// The session of that number.
pub fn session(number: u8) -> SessionId {
    SessionId::new(NOW, [number; 10])
}

/// An order to lock sessions.
pub fn lock() -> Action {
    Action::Lock(Lock { level: LockLevel::Session, message: None })
}

/// An order to destroy keys and power off.
pub fn wipe() -> Action {
    Action::Wipe(Wipe { level: WipeLevel::Keys, power_off: true })
}

/// An order to run a script, and the script.
pub fn run_script() -> (Action, String) {
    let script = "#!/bin/sh\necho done\n".to_owned();
    (Action::RunScript(RunScript::of(&script, Vec::new(), 60)), script)
}

/// An order to collect evidence for the case whose secret is nines.
pub fn collect_evidence() -> Action {
    let case_key = CaseSecret::new([9; 32]).public().expect("a key");
    Action::CollectEvidence(CollectEvidence { case_key, sources: None })
}

/// The same, with files and logs beyond the first look.
pub fn collect_files(paths: &[&str]) -> Action {
    let case_key = CaseSecret::new([9; 32]).public().expect("a key");
    let sources = Sources {
        logs: true,
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        item_bytes: 1024 * 1024,
        total_bytes: 4 * 1024 * 1024,
        ..Sources::default()
    };
    Action::CollectEvidence(CollectEvidence { case_key, sources: Some(sources) })
}

/// An order to rotate that credential, for the recovery key whose secret is nines.
pub fn rotate(credential: Credential) -> Action {
    let recovery_key = CaseSecret::new([9; 32]).public().expect("a key");
    Action::RotateCredentials(RotateCredentials { credential, recovery_key })
}

/// An order to leave the volumes to a key that is escrowed for the secret of nines.
pub fn crypto_lock() -> Action {
    let recovery_key = CaseSecret::new([9; 32]).public().expect("a key");
    Action::CryptoLock(CryptoLock { recovery_key })
}

/// A `hello` of a device that has seen those sequence numbers.
pub fn hello(last_seq: PerLane<u64>) -> Hello {
    Hello {
        agent: "0.1.0".to_owned(),
        boot_id: BootId::new(NOW, [7; 10]),
        generation: 1,
        epoch: NOW.as_millis(),
        run: None,
        last_seq,
        trust_version: 1,
        capabilities: vec!["lock".to_owned()],
        degraded_since: None,
    }
}

/// The organisation: who signs, who approves, and what devices pinned.
#[derive(Debug)]
pub struct Organisation {
    /// The offline root key.
    pub root_key: SigningKey,
    /// The control plane's key.
    pub command_key: SigningKey,
    /// Two people, one of whom owns two keys.
    pub alice: SigningKey,
    /// The second key of the same person.
    pub alice_spare: SigningKey,
    /// The other person.
    pub bob: SigningKey,
    /// Version 1 of the trust root.
    pub trust: TrustRoot,
}

impl Default for Organisation {
    fn default() -> Self {
        Self::new()
    }
}

impl Organisation {
    /// The organisation, the same each time.
    pub fn new() -> Self {
        let [root_key, command_key, alice, alice_spare, bob] = [1, 2, 3, 4, 5].map(signing_key);
        let approver = |key: &SigningKey, person: &str| Approver {
            key: key.public().clone(),
            person: person.parse::<PersonName>().expect("a plain name"),
            operators: BTreeSet::new(),
        };
        let trust = TrustRoot {
            version: 1,
            issued_at: NOW,
            root: RootKeys { keys: vec![root_key.public().clone()], threshold: 1 },
            command_keys: vec![CommandKey {
                key: command_key.public().clone(),
                verbs: Verb::ALL.iter().map(|verb| verb.as_str().to_owned()).collect(),
            }],
            approvers: vec![
                approver(&alice, "alice"),
                approver(&alice_spare, "alice"),
                approver(&bob, "bob"),
            ],
            approvals: BTreeMap::new(),
            protected_devices: BTreeSet::new(),
            groups: BTreeMap::new(),
            mass: None,
            break_glass: None,
            undo_secs: BTreeMap::new(),
            thawed_at: None,
            authority_pins: BTreeSet::new(),
        };
        Self { root_key, command_key, alice, alice_spare, bob, trust }
    }

    /// The trust root, signed by the root key.
    pub fn signed_trust(&self) -> SignedTrustRoot {
        SignedTrustRoot::sign(&self.trust, &[&self.root_key]).expect("the fixture signs")
    }

    /// A device that verifies at [`NOW`].
    pub fn verifying(&self, device: DeviceId) -> Verifying<'_> {
        Verifying { device, generation: 1, now: NOW, trust: &self.trust, is_simulated: false }
    }

    /// The manifest of an order on those devices, valid for an hour.
    pub fn manifest(&self, number: u8, action: Action, devices: &DeviceTree) -> Manifest {
        Manifest {
            order_id: order(number),
            action,
            expires_at: NOW.plus(Duration::from_secs(3600)),
            device_count: u32::try_from(devices.devices().len()).expect("few devices"),
            device_root: devices.root(),
            plans: BTreeMap::new(),
            undo_secs: None,
            offline_codes: BTreeMap::new(),
            requested_by: None,
            simulated: false,
        }
    }

    /// An approval of that manifest.
    pub fn approval(&self, manifest: &Manifest, approver: &SigningKey) -> CompactJws {
        let approval = Approval { manifest: manifest.clone(), approved_at: NOW };
        envelope::approve(&approval, approver).expect("the fixture signs")
    }

    /// The claims of command `number` on one device, at that place of its lane, not approved.
    pub fn envelope(&self, number: u8, action: Action, device: DeviceId, seq: u64) -> Envelope {
        let devices = DeviceTree::new([device]).expect("one device");
        let manifest = self.manifest(number, action, &devices);
        Envelope {
            jti: command(number),
            aud: device,
            generation: 1,
            iat: NOW,
            nbf: NOW,
            exp: manifest.expires_at,
            lane: manifest.action.lane(),
            seq,
            proof: devices.proof(&device).expect("the device is in its own tree"),
            manifest,
            approvals: Vec::new(),
            script: None,
        }
    }

    /// The same claims, approved by those keys.
    pub fn approved(&self, mut envelope: Envelope, approvers: &[&SigningKey]) -> Envelope {
        envelope.approvals =
            approvers.iter().map(|key| self.approval(&envelope.manifest, key)).collect();
        envelope
    }

    /// The delivery of those claims, signed by the command key.
    pub fn deliver(&self, envelope: &Envelope, after_seq: u64) -> CommandFrame {
        CommandFrame {
            command_id: envelope.jti,
            lane: envelope.lane,
            after_seq,
            jws: envelope::sign(envelope, &self.command_key).expect("the fixture signs"),
        }
    }
}
