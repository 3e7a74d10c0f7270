//! Keeps the certificate fresh: renewed at two thirds of its life, over the old one, while the
//! session goes on; the next connection shows the new one. One that is past its end is renewed in
//! the same way, as long as the control plane's grace time lasts.

use std::sync::Arc;
use std::time::Duration;

use protocol::time::Timestamp;
use protocol::trust::TrustRoot;
use runtime::Backoff;
use runtime::lifecycle::CancellationToken;
use runtime::tls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::enroll::{self, EnrollError};
use crate::identity::{Identity, KeyPair, certificates, pins};
use crate::ladder::{Places, Shared};
use crate::state::{Enrollment, StateDir, TrustChain};

/// The longest sleep: wall clocks jump, and a machine that was suspended looks soon.
const LOOK: Duration = Duration::from_secs(15 * 60);
/// Back-off between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30 * 60));
/// The same when the certificate is over: then no rung of the ladder carries, and a device that
/// gets its network back must not wait for long.
const BACKOFF_LATE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What renewal works with.
#[derive(Debug)]
pub(crate) struct Renewal {
    /// Time, chance, the way to the control plane, and who says that the certificate is over.
    pub(crate) shared: Shared,
    pub(crate) key: KeyPair,
    pub(crate) enrollment: Enrollment,
    pub(crate) state: Arc<StateDir>,
    pub(crate) identity: watch::Sender<Identity>,
    pub(crate) places: watch::Sender<Places>,
    /// What the configuration file says instead of the signed directory.
    pub(crate) fixed: Places,
    pub(crate) fixed_authorities: Option<Vec<CertificateDer<'static>>>,
}

impl Renewal {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut backoff_late = Backoff::new(BACKOFF_LATE.0, BACKOFF_LATE.1);
        let mut trust_version = 0;
        loop {
            let wait = self.wait();
            let asked = self.shared.renew.clone();
            let is_due = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = asked.notified() => true,
                Ok(()) = self.shared.core.changed() => {
                    self.follow_trust(&mut trust_version);
                    false
                }
                () = tokio::time::sleep(wait) => self.wait().is_zero(),
            };
            if !is_due {
                continue;
            }
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                outcome = self.renew() => outcome,
            };
            match outcome {
                Ok(()) => {
                    let ends_at = self.identity.borrow().not_after;
                    tracing::info!(%ends_at, "certificate renewed");
                }
                Err(error) => told(&error),
            }
            let backoff = if self.is_over() { &mut backoff_late } else { &mut backoff };
            let pause = backoff.next(self.shared.entropy.next_u64()).max(BACKOFF.0);
            // Also after a success: a hub that goes on asking must not besiege the authority.
            let paused = tokio::time::sleep(pause);
            tokio::pin!(paused);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    Ok(()) = self.shared.core.changed() => self.follow_trust(&mut trust_version),
                    () = &mut paused => break,
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.identity.borrow().not_after < self.now()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.shared.clock.unix_millis())
    }

    fn wait(&self) -> Duration {
        self.identity.borrow().renew_at().since(self.now()).min(LOOK)
    }

    async fn renew(&mut self) -> Result<(), EnrollError> {
        let trust = TrustChain::load(&self.state)?;
        let identity = self.identity.borrow().clone();
        let api = self.places.borrow().api.clone();
        let with = (&self.key, &identity, trust.in_force());
        let enrollment = enroll::renew(&self.enrollment, with, (&self.shared.dialer, &api)).await?;
        let renewed = self.identity_of(&enrollment, trust.in_force())?;
        self.state.save_enrollment(&enrollment)?;
        self.places.send_replace(places(&enrollment, &self.fixed));
        self.identity.send_replace(renewed);
        self.enrollment = enrollment;
        Ok(())
    }

    fn identity_of(
        &self,
        enrollment: &Enrollment,
        trust: &TrustRoot,
    ) -> Result<Identity, EnrollError> {
        let authorities = match &self.fixed_authorities {
            Some(fixed) => fixed.clone(),
            None => certificates(&enrollment.ca)?,
        };
        let who = (enrollment.device_id, enrollment.generation);
        let trusted = (&authorities[..], &pins(&trust.authority_pins)[..]);
        Ok(Identity::new(who, &self.key, &enrollment.certificate, trusted)?)
    }

    /// Looks at the trust root when another version is told of than `seen`.
    fn follow_trust(&mut self, seen: &mut u32) {
        let version = self.shared.core.borrow_and_update().trust_version;
        if std::mem::replace(seen, version) != version {
            self.trust_anew();
        }
    }

    /// Another trust root may be in force: from the next connection on its pins count.
    fn trust_anew(&self) {
        let outcome = TrustChain::load(&self.state).map_err(EnrollError::from).and_then(|trust| {
            let trust = trust.in_force();
            let is_other = self.identity.borrow().pins != pins(&trust.authority_pins);
            is_other.then(|| self.identity_of(&self.enrollment, trust)).transpose()
        });
        match outcome {
            Ok(None) => {}
            Ok(Some(identity)) => {
                tracing::info!("other authorities are pinned");
                self.identity.send_replace(identity);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "pins of the trust root do not count yet");
            }
        }
    }
}

fn told(error: &EnrollError) {
    let error = error as &(dyn std::error::Error + 'static);
    tracing::warn!(error, "certificate was not renewed");
}

/// Where hubs and control plane are: as configured, else as signed.
pub(crate) fn places(enrollment: &Enrollment, fixed: &Places) -> Places {
    let signed = enroll::followed(enrollment);
    let (hubs, api) = signed.map(|signed| (signed.hubs, signed.api)).unwrap_or_default();
    let or = |fixed: &Vec<String>, signed| if fixed.is_empty() { signed } else { fixed.clone() };
    Places { hubs: or(&fixed.hubs, hubs), api: or(&fixed.api, api) }
}
