//! The course of a wipe: every target is taken step by step, and each step is recorded.
//!
//! Owns the order (the keys of all before the headers of all before any data) and the evidence.
//! What the targets are is decided before; how one is destroyed is the part of `destroy`.

use protocol::grade::{GRADE, Grade};
use protocol::id::CommandId;
use protocol::receipt::{Evidence, Failure, FailureKind};
use serde_json::{Value, json};

use super::destroy::{self, DestroyError};
use super::graph::SwapKind;
use super::record::{Progress, Swap, Target, Wiping};
use super::volume::Disk;
use super::{particulars, swap};
use crate::execute::failure;
use crate::execute::state_file::StateFile as _;
use crate::host::Host;

/// A wipe on its way, as it is recorded.
#[derive(Debug)]
pub(super) struct Course<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) host: &'a Host,
    pub(super) wiping: Wiping,
}

impl<'a> Course<'a> {
    /// The wipe of that command as recorded.
    pub(super) fn load(
        disk: &'a dyn Disk,
        host: &'a Host,
        command_id: CommandId,
        stage: &str,
    ) -> Result<Option<Self>, Failure> {
        let recorded = Wiping::load(host, stage)?.filter(|wiping| wiping.command_id == command_id);
        Ok(recorded.map(|wiping| Self { disk, host, wiping }))
    }

    /// Destroys the keys and the headers of every volume. One that fails does not protect the
    /// others.
    pub(super) fn destroy_keys(&mut self) -> Result<(), Failure> {
        let mut wrong = Vec::new();
        for to in [Progress::Keys, Progress::Headers] {
            wrong.extend(self.advance(to, &|_| {}));
        }
        self.end("apply", &wrong)
    }

    /// Erases what the level asks for beyond the keys.
    pub(super) fn erase(&mut self, tell: &dyn Fn(&str)) -> Result<(), Failure> {
        let mut wrong = self.erase_swap();
        if Progress::goal(self.wiping.level) == Progress::Data {
            wrong.extend(self.advance(Progress::Data, tell));
        }
        self.end("finish", &wrong)
    }

    /// Records that everything is done, where it is.
    fn end(&mut self, stage: &str, wrong: &[(FailureKind, String)]) -> Result<(), Failure> {
        if let Some((first, _)) = wrong.first() {
            let all: Vec<_> = wrong.iter().map(|(_, detail)| detail.as_str()).collect();
            return Err(failure(*first, stage, all.join("; ")));
        }
        if self.wiping.is_complete() {
            self.wiping.finished = true;
            self.wiping.save(self.host, stage)?;
        }
        Ok(())
    }

    /// Takes every target one step of the way.
    fn advance(&mut self, to: Progress, tell: &dyn Fn(&str)) -> Vec<(FailureKind, String)> {
        let mut wrong = Vec::new();
        for at in 0..self.wiping.targets.len() {
            // A header goes only when the keys behind it are gone, and the data after both.
            if self.wiping.targets[at].progress.next() != Some(to) {
                continue;
            }
            if let Err(error) = self.step(at, to, tell) {
                let detail = particulars(&self.wiping.targets[at].path, &error);
                wrong.push((error.kind(), detail));
            } else if let Err(error) = self.wiping.save(self.host, "apply") {
                // Destroying goes on: without the record a crash only repeats this step.
                wrong.push((error.kind, error.detail));
            }
        }
        wrong
    }

    fn step(&mut self, at: usize, to: Progress, tell: &dyn Fn(&str)) -> Result<(), DestroyError> {
        let mut target = self.wiping.targets[at].clone();
        let done = match to {
            Progress::Pending => Ok(()),
            Progress::Keys => destroy::keys(self.disk, &mut target),
            Progress::Headers => destroy::headers(self.disk, &mut target),
            Progress::Data => destroy::data(self.disk, &mut target, |target| {
                self.wiping.targets[at] = target.clone();
                tell(&share(&self.wiping));
                self.note();
            }),
        };
        self.wiping.targets[at] = target;
        done
    }

    fn erase_swap(&mut self) -> Vec<(FailureKind, String)> {
        let mut wrong = Vec::new();
        for at in 0..self.wiping.swaps.len() {
            let mut swap = self.wiping.swaps[at].clone();
            if swap.is_done() {
                continue;
            }
            swap::switch_off(self.host, &swap);
            let erased = swap::erase(self.disk, &mut swap, |swap| {
                self.wiping.swaps[at] = swap.clone();
                self.note();
            });
            wrong.extend(erased.err().map(|e| (e.kind(), particulars(&swap.path, &e))));
            self.wiping.swaps[at] = swap;
            self.note();
        }
        wrong
    }

    /// Writes down how far it is. Without that a crash only repeats a part.
    fn note(&self) {
        if let Err(error) = self.wiping.save(self.host, "finish") {
            tracing::warn!(error = error.detail, "progress could not be recorded");
        }
    }

    /// Looks at everything as far as the record says, or says what is not as it should be.
    pub(super) fn observe(&self) -> Result<Evidence, String> {
        let Wiping { targets, swaps, unencrypted, .. } = &self.wiping;
        if !self.wiping.has_reached(Progress::Headers) {
            return Err("the keys of this wipe are not recorded as destroyed".to_owned());
        }
        let mut seen = Vec::new();
        for target in targets {
            let after = destroy::verify(self.disk, target)
                .map_err(|error| particulars(&target.path, &error))?;
            seen.push(observed(target, &after));
        }
        for swap in swaps {
            swap::verify(self.disk, swap).map_err(|error| particulars(&swap.path, &error))?;
        }
        // Data on another device than its keys is not this wipe's to erase.
        let no_data_left = self.wiping.has_reached(Progress::Data)
            && targets.iter().all(|target| target.data.is_some());
        let grade = if no_data_left { Grade::ProvenMedia } else { Grade::Proven };
        let mut evidence = Evidence::new()
            .with(GRADE, grade.as_str())
            .with("header_backup_opens", !no_data_left)
            .with("targets", seen);
        if !swaps.is_empty() {
            evidence = evidence.with("swaps", swaps.iter().map(swapped).collect::<Vec<_>>());
        }
        if !unencrypted.is_empty() {
            evidence = evidence.with("unencrypted", json!(unencrypted));
        }
        Ok(evidence)
    }
}

/// Whether a wipe of that command is recorded: it began.
pub(super) fn is_recorded(host: &Host, command_id: CommandId) -> bool {
    let recorded = Wiping::load(host, "recover");
    recorded.is_ok_and(|wiping| wiping.is_some_and(|wiping| wiping.command_id == command_id))
}

fn observed(target: &Target, headers_after: &str) -> Value {
    let data = target.data.as_ref().filter(|_| target.progress == Progress::Data);
    json!({
        "path": target.path,
        "format": target.format,
        "uuid": target.uuid,
        "headers_before_sha256": target.headers_before_sha256,
        "headers_after_sha256": headers_after,
        "keyslots_before": target.keyslots,
        "keyslots_left": 0,
        "data_bytes": data.map_or(0, |data| data.end - data.start),
        "erasure": data.and(target.erasure),
    })
}

fn swapped(swap: &Swap) -> Value {
    let grade = match swap.kind {
        // Nobody can look into the kernel's memory after the power is gone.
        SwapKind::RandomKey => Grade::Presumed,
        SwapKind::Plain if swap.is_done() => Grade::ProvenMedia,
        SwapKind::Plain => Grade::Unproven,
    };
    json!({ "path": swap.path, "kind": swap.kind, "grade": grade, "erasure": swap.erasure })
}

/// How much of the data is erased.
fn share(wiping: &Wiping) -> String {
    let areas = || wiping.targets.iter().filter_map(|t| Some((t.data.as_ref()?, t.data_done)));
    let all: u64 = areas().map(|(data, _)| data.end - data.start).sum();
    let done: u64 = areas().map(|(data, done)| done.saturating_sub(data.start)).sum();
    format!("data {} %", u128::from(done) * 100 / u128::from(all.max(1)) / 10 * 10)
}
