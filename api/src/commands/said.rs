//! A hello held against what was known of its device: whether it is of another boot or run, and whether it gives
//! a second machine away.
//!
//! Pure; whoever hears it writes down what is new.

use protocol::frame::Hello;
use protocol::id::DeviceId;
use protocol::run::Heard;
use serde_json::{Value, json};

use super::store::delivery::Boots;

/// A hello that says something new, with what was known before.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) device: DeviceId,
    pub(super) hello: Hello,
    pub(super) capabilities: Vec<String>,
    pub(super) agent_version: Option<String>,
    pub(super) boots: Boots,
}

impl Said {
    /// Whether its boot follows the one that was known.
    pub(super) fn is_other_boot(&self) -> bool {
        self.boots.present.is_some_and(|present| present != self.hello.boot_id)
    }

    /// Whether its boot was followed by another before, and goes on all the same: no machine
    /// returns to an earlier boot, so there are two of them, or one that was put back. Or whether no
    /// agent that is alone in this boot says this.
    pub(super) fn is_of_a_clone(&self) -> bool {
        let is_back = self.is_other_boot() && self.boots.former == Some(self.hello.boot_id);
        is_back || self.boots.is_contradicted_by(&self.hello)
    }

    /// What gives a second machine away.
    pub(super) fn evidence(&self) -> Value {
        let (boots, hello) = (&self.boots, &self.hello);
        match (boots.is_contradicted_by(hello), boots.heard, hello.run) {
            (true, Some(heard), Some(run)) => json!({
                "boot": hello.boot_id,
                "runs_us": [[run.started_us, run.previous_us, run.at_us], [heard.started_us, heard.at_us]],
            }),
            _ => json!({ "boots": [hello.boot_id, boots.present] }),
        }
    }

    /// What is to be remembered of the agent's runs in this boot.
    pub(super) fn heard(&self) -> Option<Heard> {
        let former = self.boots.heard.filter(|_| !self.is_other_boot());
        let Some(run) = self.hello.run else { return former };
        Some(former.map_or_else(|| run.into(), |former| former.and(run)))
    }
}

impl Boots {
    /// Whether it is told of the present boot by another run than the latest that was heard of.
    pub(super) fn is_other_run(&self, hello: &Hello) -> bool {
        let Some(run) = hello.run else { return false };
        self.heard.is_none_or(|heard| run.started_us > heard.started_us)
            || (!self.is_cloned && self.is_contradicted_by(hello))
    }

    /// Whether its agent and the one that was heard in the same boot are two.
    fn is_contradicted_by(&self, hello: &Hello) -> bool {
        let is_same_boot = self.present == Some(hello.boot_id);
        let (Some(heard), Some(run), true) = (self.heard, hello.run, is_same_boot) else {
            return false;
        };
        heard.is_contradicted_by(run)
    }
}
