//! What wraps every request: its id, its span, its metrics, and the headers of its answer.
//!
//! Owns cross-cutting behaviour only; decides nothing about the request.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use crate::app::App;
use crate::metrics;

const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
];

/// Gives the request an id and a span, counts it, and puts security headers on the answer.
pub async fn wrap(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = crate::audit::hex(&app.entropy.bytes::<8>());
    let path = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
    let span = tracing::info_span!(
        "request",
        request.id = %id,
        http.method = %request.method(),
        http.route = path,
    );
    let started = app.clock.now();
    let mut response = next.run(request).instrument(span).await;
    metrics::request_answered(response.status(), app.clock.now().duration_since(started));
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", value);
    }
    response
}
