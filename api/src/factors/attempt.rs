//! Trying a code: at most once each, and a bounded number of wrong ones.
//!
//! Owns the count of tries, which is in the store and so the same on every node. A wrong code and one
//! that was used already are told alike.

use std::time::Duration;

use protocol::time::Timestamp;
use serde_json::json;

use super::store::{self, Factor, Pending};
use super::totp::TotpSecret;
use crate::app::App;
use crate::audit::Kind;
use crate::auth::Principal;
use crate::db::Tx;
use crate::http::{Problem, ProblemKind};
use crate::metrics;
use crate::vault::{Column, FACTOR, PENDING_FACTOR};

/// Codes that may be wrong before none is taken for a while.
const TRIES: u32 = 5;
/// How long that is at first; it doubles with each further one.
const PAUSE: Duration = Duration::from_secs(15 * 60);
const MAX_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// Which secret a code is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Confirmed,
    Pending,
}

impl Of {
    const fn column(self) -> &'static Column {
        match self {
            Self::Confirmed => &FACTOR,
            Self::Pending => &PENDING_FACTOR,
        }
    }
}

/// Tries a code. Answers the transaction in which it is used up, for the caller to commit, and what took it.
///
/// # Errors
/// When it is refused, which is written down.
pub(super) async fn attempt(
    app: &App,
    principal: &Principal,
    code: &str,
    of: Of,
) -> Result<(Tx, (TotpSecret, i64)), Problem> {
    let (operator, now) = (principal.operator(), app.now());
    // Whoever guesses on meanwhile costs no transaction.
    let known = store::find(&mut app.db.read().await?, operator).await?;
    admit(known.as_ref(), now)?;
    let mut tx = app.db.write(principal.actor(), now).await?;
    let known = store::find(tx.conn(), operator).await?;
    admit(known.as_ref(), now)?;
    let known = known.as_ref().and_then(|factor| {
        let is_ours = |pending: &&Pending| pending.waits_for(principal.token(), now);
        let (kept, last) = match of {
            Of::Confirmed => (factor.secret.as_ref()?, factor.last_step),
            Of::Pending => (&factor.pending.as_ref().filter(is_ours)?.secret, 0),
        };
        Some((factor, kept, last))
    });
    let Some((factor, kept, last)) = known else {
        let detail = match of {
            Of::Confirmed => "you have no second factor: ask an administrator for an invitation",
            Of::Pending => {
                "no second factor that this token added waits to be confirmed: add one first"
            }
        };
        return Err(Problem::new(ProblemKind::FactorRequired, detail));
    };
    let secret = kept.open(tx.conn(), of.column(), operator).await?;
    let step = secret.step_of(code, now, last);
    if let Some(step) = step {
        let is_first = match of {
            Of::Confirmed => store::use_up(&mut tx, operator, step).await?,
            Of::Pending => true,
        };
        if is_first {
            return Ok((tx, (secret, step)));
        }
    }
    Err(refuse(app, tx, principal, factor).await?)
}

fn admit(factor: Option<&Factor>, now: Timestamp) -> Result<(), Problem> {
    match factor.and_then(|factor| factor.locked_until).filter(|until| now < *until) {
        None => Ok(()),
        Some(until) => Err(Problem::too_many("wrong codes", until.since(now))),
    }
}

async fn refuse(
    app: &App,
    mut tx: Tx,
    principal: &Principal,
    factor: &Factor,
) -> Result<Problem, Problem> {
    let (operator, now) = (principal.operator(), app.now());
    let failures = factor.failures.saturating_add(1);
    let over = failures.checked_sub(TRIES);
    let pause = over.map(|over| PAUSE.saturating_mul(1 << over.min(10)).min(MAX_PAUSE));
    let locked_until = pause.map(|pause| now.plus(pause));
    store::fail(&mut tx, operator, failures, locked_until).await?;
    let token = principal.token();
    let payload = json!({ "token": token, "refused": failures });
    tx.append(Kind::FactorCodeRefused, operator, payload);
    if let Some(pause) = pause {
        let payload = json!({ "token": token, "refused": failures, "secs": pause.as_secs() });
        tx.append(Kind::FactorLocked, operator, payload);
    }
    tx.commit().await?;
    if pause.is_some() {
        metrics::factor_locked();
        let operator = operator.as_str();
        tracing::error!(operator, %token, failures, "somebody guesses codes of a second factor");
    }
    Ok(Problem::field("/code", "is not taken: wrong, of another time, or used already"))
}
