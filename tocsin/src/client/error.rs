//! Why a request had no good answer.
//!
//! Owns telling a fault that passes from one that stays, and what a person can do next.

use std::error::Error as _;

use api::http::problem::ProblemBody;

/// Why a request had no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The profile's authority or pin cannot be read.
    #[error("the authority of the profile is not usable")]
    Authority,
    /// TLS cannot be set up.
    #[error("tls cannot be set up")]
    Tls(#[source] runtime::tls::TlsError),
    /// No connection, or it broke.
    #[error("cannot talk to {base}")]
    Transport {
        /// The address.
        base: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The control plane refused, and said why.
    #[error("{}", problem_text(.0))]
    Problem(Box<ProblemBody>),
    /// An answer that is none of the control plane's.
    #[error("the server answered with status {0} and no explanation")]
    Status(u16),
    /// The answer is not what belongs here.
    #[error("the answer is not understood")]
    Answer(#[source] serde_json::Error),
    /// The answer does not end.
    #[error("the answer is too long")]
    TooLong,
    /// A stream went silent.
    #[error("the stream went silent")]
    Silent,
}

fn problem_text(problem: &ProblemBody) -> String {
    use crate::output::text::clean;
    match problem.errors.as_slice() {
        [] => clean(&problem.detail),
        errors => {
            let errors: Vec<_> = errors
                .iter()
                .map(|error| clean(&format!("{} {}", error.pointer, error.detail)))
                .collect();
            errors.join("; ")
        }
    }
}

impl ClientError {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport { source, .. } => !self.is_tls() && !source.is_builder(),
            Self::Problem(problem) => problem.status == 503,
            Self::Status(status) => matches!(status, 502..=504),
            Self::Silent => true,
            Self::Authority | Self::Tls(_) | Self::Answer(_) | Self::TooLong => false,
        }
    }

    /// The problem's kind, if the control plane gave one: what follows `urn:tocsin:problem:`.
    pub fn problem_kind(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => problem.kind.strip_prefix("urn:tocsin:problem:"),
            Self::Authority
            | Self::Tls(_)
            | Self::Transport { .. }
            | Self::Status(_)
            | Self::Answer(_)
            | Self::TooLong
            | Self::Silent => None,
        }
    }

    /// What a person can do next.
    pub fn next(&self) -> Option<&'static str> {
        match self {
            Self::Authority | Self::Tls(_) => {
                Some("run `tocsin login` again with --ca FILE or --ca-pin HEX")
            }
            Self::Transport { .. } if self.is_tls() => Some(
                "the certificate is not of the authority in your profile: is this the right \
                 address? if the authority changed, run `tocsin login` again",
            ),
            Self::Transport { .. } => Some("is `tocsin up` (or `tocsin api`) running there?"),
            Self::Problem(_) if self.problem_kind() == Some("step-up-required") => Some(
                "run it in a terminal, or give the code on standard input; `tocsin operator \
                 step-up` gives it beforehand",
            ),
            Self::Problem(_) if self.problem_kind() == Some("factor-required") => Some(
                "`tocsin operator totp invite NAME` by an administrator makes an invitation, and \
                 `tocsin operator totp add` takes it",
            ),
            Self::Problem(problem) => match problem.status {
                401 => Some("the token is missing, expired or revoked: run `tocsin login`"),
                403 => Some("ask whoever administers tokens for a wider scope"),
                503 => Some("the store is not available: look at the log of the control plane"),
                _ => None,
            },
            Self::Status(_) | Self::Answer(_) => {
                Some("is this the operator port of a control plane of the same version?")
            }
            Self::TooLong | Self::Silent => None,
        }
    }

    /// Whether the two sides could not agree on TLS: no retry mends that.
    fn is_tls(&self) -> bool {
        let Self::Transport { source, .. } = self else { return false };
        let mut cause = source.source();
        while let Some(error) = cause {
            // The connector wraps rustls's error in types of its own, which are private.
            let is_rustls = error.downcast_ref::<rustls::Error>().is_some();
            if is_rustls || error.to_string().contains("peer certificate") {
                return true;
            }
            cause = error.source();
        }
        false
    }
}
