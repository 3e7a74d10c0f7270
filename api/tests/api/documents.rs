//! The OpenAPI document: checked in and served. `matrix` holds that it is obeyed.

use std::path::Path;

use reqwest::Method;
use serde_json::Value;

use super::bench::Bench;

/// Set this variable to write the document anew instead of comparing.
const WRITE: &str = "TOCSIN_WRITE_OPENAPI";

/// A route of the document.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) operation: Value,
}

impl Route {
    pub(crate) fn all() -> Vec<Self> {
        let document: Value = serde_json::from_str(&api::openapi::document()).unwrap();
        let mut routes = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let method = method.to_uppercase().parse().unwrap();
                routes.push(Self { method, path: path.clone(), operation: operation.clone() });
            }
        }
        routes
    }

    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

#[test]
fn checked_in_document_is_the_present_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let present = api::openapi::document();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &present).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(checked_in == present, "run the test once with {WRITE}=1 and look at the difference");
}

#[tokio::test(flavor = "multi_thread")]
async fn document_is_served_as_it_is_checked_in() {
    let bench = Bench::start().await;
    let served = bench.http.get(bench.url("/openapi.json")).send().await.unwrap();
    let served: Value = served.json().await.unwrap();
    let document: Value = serde_json::from_str(&api::openapi::document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(served, document);
}
