//! The OpenAPI document: checked in, served, and every route guarded.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::Value;

use super::bench::Bench;

/// Set this variable to write the document anew instead of comparing.
const WRITE: &str = "TOCSIN_WRITE_OPENAPI";

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

#[test]
fn every_route_has_a_security_requirement() {
    let document: Value = serde_json::from_str(&api::openapi::document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20);
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].as_array();
            let is_guarded = security.is_some_and(|list| {
                !list.is_empty() && list.iter().all(|entry| entry.get("token").is_some())
            });
            assert!(is_guarded, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_route_demands_a_token() {
    let bench = Bench::start().await;
    let served = bench.http.get(bench.url("/openapi.json")).send().await.unwrap();
    let document: Value = served.json().await.unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "0197a1b2-0000-7000-8000-000000000000");
        for method in item.as_object().unwrap().keys() {
            let method = method.to_uppercase().parse().unwrap();
            let request = bench.http.request(method, bench.url(&path)).bearer_auth("tocsin_pat_no");
            assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path}");
        }
    }
}
