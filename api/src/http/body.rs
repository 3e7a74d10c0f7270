//! A request's JSON body: bounded, typed, and remembered for idempotency.
//!
//! Owns reading and the wording of what is wrong with it. Unknown or odd values end here as a
//! problem, never as a panic.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use super::{FieldError, Problem, ProblemKind};

/// Bytes of a request's body on the operator port.
pub const MAX_BODY: usize = 512 * 1024;

/// A request's body with what makes the request repeatable.
#[derive(Debug)]
pub struct Body<T> {
    /// What was sent.
    pub value: T,
    /// How to recognise the same request again.
    pub ticket: Ticket,
}

/// What tells one request from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Method and path.
    pub route: String,
    /// The `Idempotency-Key`, if the client sent one.
    pub key: Option<String>,
    /// SHA-256 of the body.
    pub request_hash: Vec<u8>,
}

/// What is answered to a longer one, whoever notices.
pub fn too_large() -> Problem {
    Problem::new(ProblemKind::TooLarge, format!("a body has at most {MAX_BODY} bytes"))
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| too_large())?;
        if !is_json(&parts.headers) && !bytes.is_empty() {
            let detail = "the content type must be application/json";
            return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
        }
        let ticket = Ticket {
            route: format!("{} {}", parts.method, parts.uri.path()),
            key: idempotency_key(&parts.headers)?,
            request_hash: digest(&SHA256, &bytes).as_ref().to_vec(),
        };
        let bytes = if bytes.is_empty() { b"{}".as_slice() } else { &bytes };
        Ok(Self { value: parse(bytes)?, ticket })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Some(text.to_owned()))
    } else {
        let detail = "an Idempotency-Key has 1 to 255 printable characters without spaces";
        Err(Problem::new(ProblemKind::Malformed, detail))
    }
}

/// Reads JSON; what is wrong is named by its place.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let detail = error.inner().to_string();
        let is_data = error.inner().is_data();
        let kind = if is_data { ProblemKind::Invalid } else { ProblemKind::Malformed };
        let errors = vec![FieldError { pointer: pointer(error.path()), detail: detail.clone() }];
        Problem { errors, ..Problem::new(kind, detail) }
    })?;
    deserializer.end().map_err(|error| Problem::new(ProblemKind::Malformed, error.to_string()))?;
    Ok(value)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path {
        let written = match segment {
            Segment::Seq { index } => write!(text, "/{index}"),
            Segment::Map { key } => {
                write!(text, "/{}", key.replace('~', "~0").replace('/', "~1"))
            }
            Segment::Enum { variant } => write!(text, "/{variant}"),
            Segment::Unknown => Ok(()),
        };
        written.expect("writing to a string does not fail");
    }
    text
}
