//! The OpenAPI document of the operator port, made from the handlers themselves.
//!
//! Owns what holds for all routes: title, the bearer scheme. A test compares the document with
//! `docs/openapi.json`.

use std::sync::Arc;

use axum::{Extension, Json};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, ResponseBuilder,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::problem::PROBLEM_TYPE;
use crate::{
    approvals, cluster, collections, commands, devices, enrollment, escrows, events, factors,
    operators, sign_in, trust,
};

/// The routes of the operator port, and their document.
pub fn operator_routes() -> (axum::Router<App>, OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(base())
        .merge(commands::router())
        .merge(collections::router())
        .merge(approvals::router())
        .merge(devices::router())
        .merge(enrollment::router())
        .merge(escrows::router())
        .merge(trust::router())
        .merge(events::router())
        .merge(operators::router())
        .merge(factors::router())
        .merge(cluster::router())
        .merge(sign_in::router())
        .routes(routes!(serve))
        .split_for_parts();
    describe_errors(&mut document);
    (router.layer(Extension(Arc::new(document.clone()))), document)
}

/// Answers this document.
#[utoipa::path(get, path = "/openapi.json", tag = "about", security(()),
    responses((status = 200, body = serde_json::Value, content_type = "application/json")))]
async fn serve(Extension(document): Extension<Arc<OpenApi>>) -> Json<OpenApi> {
    Json((*document).clone())
}

/// The document as it is checked in: pretty JSON with a line end.
pub fn document() -> String {
    let (_, document) = operator_routes();
    let text = document.to_pretty_json().expect("the document is made of serialisable values");
    text + "\n"
}

/// Every route answers its errors in one form, and that the store is away.
fn describe_errors(document: &mut OpenApi) {
    let described = |description: &str| {
        let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody"))).build();
        ResponseBuilder::new().description(description).content(PROBLEM_TYPE, body).build()
    };
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("4XX".to_owned(), described("Refused").into());
            responses.insert("503".to_owned(), described("The store is not available").into());
        }
    }
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
