//! The OpenAPI document of the operator port, made from the handlers themselves.
//!
//! Owns what holds for all routes: title, the bearer scheme. A test compares the document with
//! `docs/openapi.json`.

use axum::Json;
use axum::routing::get;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::{approvals, cluster, commands, devices, enrollment, events, operators, trust};

/// The routes of the operator port, and their document.
pub fn operator_routes() -> (axum::Router<App>, OpenApi) {
    let (router, document) = OpenApiRouter::with_openapi(base())
        .merge(commands::router())
        .merge(approvals::router())
        .merge(devices::router())
        .merge(enrollment::router())
        .merge(trust::router())
        .merge(events::router())
        .merge(operators::router())
        .merge(cluster::router())
        .split_for_parts();
    let served = document.clone();
    let router = router.route("/openapi.json", get(async move || Json(served.clone())));
    (router, document)
}

/// The document as it is checked in: pretty JSON with a line end.
pub fn document() -> String {
    let (_, document) = operator_routes();
    let text = document.to_pretty_json().expect("the document is made of serialisable values");
    text + "\n"
}

fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Tocsin control plane")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Orders for Linux devices: durable before they are answered, signed by people where \
             it matters, proven by the devices. Every create takes an Idempotency-Key. Errors \
             are application/problem+json (RFC 9457).",
        ))
        .build();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API token, tocsin_pat_…; the scopes named are abilities"))
        .build();
    let components =
        ComponentsBuilder::new().security_scheme("token", SecurityScheme::Http(bearer)).build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}
