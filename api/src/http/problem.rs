//! Errors as `application/problem+json` (RFC 9457).
//!
//! Owns the closed list of problem types and their status codes. Internal causes are logged, and
//! never shown.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::db::DbError;

/// Media type of problems.
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// Characters of one text in an answer.
const TEXT_CHARS: usize = 1000;

/// The kinds of problems. Each has one status code and one type URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The request cannot be read.
    Malformed,
    /// No valid token.
    Unauthenticated,
    /// The token may, once its person gives a code of their second factor: `POST /v1/step-ups`.
    StepUpRequired,
    /// The token may, and its person has no second factor.
    FactorRequired,
    /// The token does not reach that far.
    Forbidden,
    /// No such thing, or not visible with this token.
    NotFound,
    /// No such method at this route; `Allow` names those that there are.
    MethodNotAllowed,
    /// The state of the thing does not allow it.
    Conflict,
    /// It was there, or was to be, and never will be (again).
    Gone,
    /// Larger than a request may be.
    TooLarge,
    /// Not JSON.
    UnsupportedMediaType,
    /// Understood, and not acceptable; the fields say why.
    Invalid,
    /// Too often; `Retry-After` says when to come again.
    TooMany,
    /// A budget of orders is exhausted; `Retry-After` says when some of it comes back.
    OverBudget,
    /// Stopped by a lockdown.
    Locked,
    /// The same `Idempotency-Key` came with another request.
    KeyReused,
    /// Our own mistake.
    Internal,
    /// The store is not available.
    Unavailable,
}

impl ProblemKind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "malformed", "Malformed request"),
            Self::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, "unauthenticated", "Authentication needed")
            }
            Self::StepUpRequired => {
                (StatusCode::UNAUTHORIZED, "step-up-required", "Second factor needed")
            }
            Self::FactorRequired => (StatusCode::FORBIDDEN, "factor-required", "No second factor"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not permitted"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed")
            }
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "Conflict"),
            Self::Gone => (StatusCode::GONE, "gone", "Gone"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Request too large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", "JSON expected")
            }
            Self::Invalid => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Request not acceptable")
            }
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too-many", "Too many requests"),
            Self::OverBudget => {
                (StatusCode::TOO_MANY_REQUESTS, "over-budget", "Budget of orders exhausted")
            }
            Self::Locked => (StatusCode::LOCKED, "locked", "Stopped by a lockdown"),
            Self::KeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "Idempotency key was used for another request",
            ),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Temporarily unavailable")
            }
        }
    }

    /// The status code.
    pub const fn http_status(self) -> StatusCode {
        self.parts().0
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request, such as `/targets/devices/0`.
    pub pointer: String,
    /// What is wrong, for a person.
    pub detail: String,
}

/// A refusal of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// Which kind.
    pub kind: ProblemKind,
    /// The particulars, for a person.
    pub detail: String,
    /// The fields concerned.
    pub errors: Vec<FieldError>,
    /// Seconds after which to come again, for `Retry-After`.
    pub retry_after_secs: Option<u64>,
}

/// The body of a problem, as clients read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProblemBody {
    /// `urn:tocsin:problem:` and the kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind, for a person.
    pub title: String,
    /// The status code again.
    pub status: u16,
    /// The particulars, for a person.
    pub detail: String,
    /// The fields concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem of that kind.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after_secs: None }
    }

    /// A field that is not acceptable.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let error = FieldError { pointer: pointer.into(), detail: detail.clone() };
        Self { errors: vec![error], ..Self::new(ProblemKind::Invalid, detail) }
    }

    /// Too many of those; come again after that time.
    pub fn too_many(what: &str, wait: Duration) -> Self {
        let secs = wait.as_secs().saturating_add(1);
        let problem = Self::new(ProblemKind::TooMany, format!("too many {what}"));
        Self { retry_after_secs: Some(secs), ..problem }
    }

    /// No such thing, or not visible.
    pub fn not_found(what: &str) -> Self {
        Self::new(ProblemKind::NotFound, format!("no such {what}"))
    }

    /// The state does not allow it.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Conflict, detail)
    }

    /// Our own mistake: logged here, hidden from the peer.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "request failed");
        Self::new(ProblemKind::Internal, "the request could not be carried out")
    }

    fn body(&self) -> ProblemBody {
        let (status, name, title) = self.kind.parts();
        ProblemBody {
            kind: format!("urn:tocsin:problem:{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: short(&self.detail),
            errors: self.errors.iter().map(FieldError::short).collect(),
        }
    }
}

impl FieldError {
    fn short(&self) -> Self {
        Self { pointer: short(&self.pointer), detail: short(&self.detail) }
    }
}

/// What is wrong often quotes what was sent, and that may be long.
fn short(text: &str) -> String {
    text.chars().take(TEXT_CHARS).collect()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.http_status(), axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        let media_type = HeaderValue::from_static(PROBLEM_TYPE);
        headers.insert(header::CONTENT_TYPE, media_type);
        if self.kind == ProblemKind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.kind == ProblemKind::StepUpRequired {
            // As RFC 9470 has it.
            let challenge = "Bearer error=\"insufficient_user_authentication\"";
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        let fallback = (self.kind == ProblemKind::Unavailable).then_some(1);
        if let Some(secs) = self.retry_after_secs.or(fallback) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable(_) | DbError::Sqlite(_) | DbError::Failed => {
                tracing::error!(error = &error as &dyn std::error::Error, "store failed");
                Self::new(ProblemKind::Unavailable, "the store is not available")
            }
            DbError::ZeroCharacter => Self::new(ProblemKind::Invalid, error.to_string()),
            DbError::Migrate(_)
            | DbError::Unreadable(_)
            | DbError::Password(_)
            | DbError::Vault(_) => Self::internal(&error),
        }
    }
}
