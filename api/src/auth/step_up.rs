//! Step-up: what a token does only a moment after its person gave a second factor.
//!
//! Owns the policy and its judgement of a principal. Taking codes is `factors`' part. A token of no
//! person is not asked: whoever made it said so, and it is shown as such.

use std::fmt;
use std::time::Duration;

use protocol::action::Verb;
use protocol::state::VerbClass;
use serde::Deserialize;
use serde::de::{Deserializer, IntoDeserializer as _};

use super::{Principal, Scope};
use crate::app::App;
use crate::db::{Conn, DbError, sql};
use crate::http::{Problem, ProblemKind};

/// What a second factor is asked for, and how long one lasts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StepUp {
    /// Classes of verbs, verbs, and acts that are no orders. Empty: it is never asked for, but for
    /// what concerns second factors themselves and tokens of no person.
    pub needed_for: Vec<Needed>,
    /// How long one lasts, for the token that it was given with.
    #[serde(with = "runtime::config::duration")]
    pub lasts: Duration,
}

/// Something that a second factor may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// Orders of every verb of that class.
    Class(VerbClass),
    /// Orders of that verb.
    Verb(Verb),
    /// To make a token that does more than read.
    Token,
    /// To hand in a version of the trust root.
    Trust,
    /// To revoke a device.
    Revoke,
    /// To read a sealed credential.
    Escrow,
}

/// What somebody is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// To give an order of that verb.
    Order(Verb),
    /// To make a token of one's own that only reads.
    MakeReadingToken,
    /// To make a token that does more.
    MakeToken,
    /// To make a token of no person.
    MakeServiceToken,
    /// To hand in a version of the trust root.
    PublishTrust,
    /// To revoke a device.
    RevokeDevice,
    /// To read a sealed credential.
    ReadEscrow,
    /// To add, remove or let add a second factor.
    ChangeFactor,
}

impl Default for StepUp {
    fn default() -> Self {
        // What destroys or runs anything, what says who reads a credential, what lets go on or lets go, and
        // what outlives a session.
        let needed_for = vec![
            Needed::Class(VerbClass::Destructive),
            Needed::Verb(Verb::RunScript),
            Needed::Verb(Verb::RotateCredentials),
            Needed::Verb(Verb::Unlock),
            Needed::Verb(Verb::Release),
            Needed::Verb(Verb::Thaw),
            Needed::Token,
            Needed::Trust,
            Needed::Revoke,
            Needed::Escrow,
        ];
        Self { needed_for, lasts: Duration::from_secs(5 * 60) }
    }
}

impl StepUp {
    /// Whether that takes a second factor of people who gave none a moment ago.
    pub(crate) fn asks_for(&self, act: Act) -> bool {
        let needs = |needed| self.needed_for.contains(&needed);
        match act {
            Act::Order(verb) => needs(Needed::Verb(verb)) || needs(Needed::Class(verb.class())),
            Act::MakeReadingToken => false,
            Act::MakeToken => needs(Needed::Token),
            Act::PublishTrust => needs(Needed::Trust),
            Act::RevokeDevice => needs(Needed::Revoke),
            Act::ReadEscrow => needs(Needed::Escrow),
            // Whoever could do this without would be asked for nothing any more.
            Act::MakeServiceToken | Act::ChangeFactor => true,
        }
    }
}

impl Act {
    /// What making a token with these scopes is; only one's own can be of little harm.
    pub(crate) fn make_token(scopes: &[Scope], is_service: bool, is_own: bool) -> Self {
        match (is_service, is_own && scopes.iter().all(Scope::only_looks)) {
            (true, _) => Self::MakeServiceToken,
            (false, true) => Self::MakeReadingToken,
            (false, false) => Self::MakeToken,
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order(verb) => write!(f, "an order to {verb}"),
            Self::MakeReadingToken | Self::MakeToken => f.write_str("a token that does this much"),
            Self::MakeServiceToken => f.write_str("a token of no person"),
            Self::PublishTrust => f.write_str("a version of the trust root"),
            Self::RevokeDevice => f.write_str("revoking a device"),
            Self::ReadEscrow => f.write_str("reading an escrow"),
            Self::ChangeFactor => f.write_str("a change of second factors"),
        }
    }
}

impl<'de> Deserialize<'de> for Needed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let class = VerbClass::deserialize(word.as_str().into_deserializer());
        let class: Result<_, serde::de::value::Error> = class;
        let known = match word.as_str() {
            "token" => Some(Self::Token),
            "trust" => Some(Self::Trust),
            "revoke" => Some(Self::Revoke),
            "escrow" => Some(Self::Escrow),
            verb => class.map(Self::Class).ok().or_else(|| verb.parse().map(Self::Verb).ok()),
        };
        known.ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{word} is none of routine, disruptive, destructive, stop, token, trust, revoke, \
                 escrow, nor a verb"
            ))
        })
    }
}

impl Principal {
    /// Demands that the person behind the token gave a second factor a moment ago, where the act
    /// takes one. On the connection that the caller has: whoever held one and waited for another could hold
    /// them all.
    ///
    /// # Errors
    /// [`ProblemKind::StepUpRequired`], or [`ProblemKind::FactorRequired`] when there is none.
    pub(crate) async fn step_up(
        &self,
        (app, conn): (&App, &mut Conn),
        act: Act,
    ) -> Result<(), Problem> {
        let is_fresh = self.stepped_up_until().is_some_and(|until| app.now() < until);
        if is_fresh || self.is_service() || !app.policy.load().step_up.asks_for(act) {
            return Ok(());
        }
        if has_factor(conn, self).await? {
            let detail = format!("{act} takes a code of your second factor first");
            return Err(Problem::new(ProblemKind::StepUpRequired, detail));
        }
        let detail = format!(
            "{act} takes a second factor, and you have none: ask an administrator for an invitation"
        );
        Err(Problem::new(ProblemKind::FactorRequired, detail))
    }
}

async fn has_factor(conn: &mut Conn, principal: &Principal) -> Result<bool, DbError> {
    let row = sql("SELECT 1 FROM factors WHERE operator = $1 AND secret IS NOT NULL")
        .bind(principal.operator().as_str())
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(words: &str) -> Result<StepUp, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{ "needed_for": {words} }}"#))
    }

    #[test]
    fn policy_reads_classes_verbs_and_acts_and_refuses_other_words() {
        let read = policy(r#"["disruptive", "refresh", "trust"]"#).unwrap();
        let orders = |verb| read.asks_for(Act::Order(verb));
        assert!(orders(Verb::Lock) && orders(Verb::Refresh) && !orders(Verb::Wipe));
        assert!(read.asks_for(Act::PublishTrust) && !read.asks_for(Act::RevokeDevice));
        for words in [r#"["everything"]"#, r#"["Wipe"]"#, r#"[""]"#] {
            assert!(policy(words).is_err(), "{words}");
        }
    }

    #[test]
    fn hostile_policy_of_nothing_leaves_no_way_around_the_next_policy() {
        let nothing = policy("[]").unwrap();
        assert!(!nothing.asks_for(Act::Order(Verb::Wipe)) && !nothing.asks_for(Act::MakeToken));
        assert!(nothing.asks_for(Act::MakeServiceToken) && nothing.asks_for(Act::ChangeFactor));
    }

    #[test]
    fn what_stops_is_never_asked_for_a_code_by_default() {
        let policy = StepUp::default();
        for verb in [Verb::Cancel, Verb::Freeze, Verb::Lock, Verb::Quarantine, Verb::Refresh] {
            assert!(!policy.asks_for(Act::Order(verb)), "{verb}");
        }
        for verb in
            [Verb::Wipe, Verb::SelectiveWipe, Verb::CryptoLock, Verb::Thaw, Verb::RotateCredentials]
        {
            assert!(policy.asks_for(Act::Order(verb)), "{verb}");
        }
    }
}
