//! The gate of the operator port: what the OpenAPI document does not let in stays out.
//!
//! Owns the first check of every request, read from the document itself: who may knock at which
//! route. A route that the document lacks, or that names no security there, lets nobody in. How
//! far somebody reaches, by group and verb, is judged by the handlers, with permits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use utoipa::openapi::OpenApi;

use super::Principal;
use crate::app::App;
use crate::http::{Problem, ProblemKind};

/// Name of the security scheme in the document.
const SCHEME: &str = "token";

/// Who is let in at one route: alternatives, of which one has to be met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Door(Vec<Alternative>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Alternative {
    /// Nothing is asked for.
    Everybody,
    /// A token with all of these abilities, somewhere; with none named, any token.
    Token(Vec<String>),
}

/// The doors of the operator port.
#[derive(Debug, Clone)]
pub struct Gate(Arc<HashMap<String, BTreeMap<String, Door>>>);

/// The part of the document that is read here.
#[derive(Debug, Deserialize)]
struct Operation {
    security: Option<Vec<BTreeMap<String, Vec<String>>>>,
}

impl Gate {
    /// The gate that a document describes.
    ///
    /// # Panics
    /// Never: a document is made of serialisable values, and tests make this one.
    pub fn new(document: &OpenApi) -> Self {
        let paths = serde_json::to_value(&document.paths.paths)
            .and_then(serde_json::from_value::<HashMap<String, BTreeMap<String, Operation>>>)
            .expect("every item of the document is a map of operations");
        let doors = |item: BTreeMap<String, Operation>| {
            item.into_iter().map(|(method, op)| (method.to_uppercase(), Door::of(op))).collect()
        };
        Self(Arc::new(paths.into_iter().map(|(path, item)| (path, doors(item))).collect()))
    }

    /// The door of a route, or the methods that have one there.
    fn door(&self, method: &Method, path: &str) -> Result<&Door, String> {
        // A look at the head of an answer is a look at the answer.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let doors = self.0.get(path);
        let methods = || {
            let known = doors.into_iter().flat_map(BTreeMap::keys).map(String::as_str);
            let known =
                known.flat_map(|name| if name == "GET" { vec!["GET", "HEAD"] } else { vec![name] });
            known.collect::<Vec<_>>().join(", ")
        };
        doors.and_then(|doors| doors.get(method.as_str())).ok_or_else(methods)
    }
}

impl Door {
    fn of(operation: Operation) -> Self {
        let alternative = |mut entry: BTreeMap<String, Vec<String>>| {
            if entry.is_empty() {
                return Some(Alternative::Everybody);
            }
            // A scheme that is not known here cannot be met.
            let abilities = entry.remove(SCHEME).filter(|_| entry.is_empty());
            abilities.map(Alternative::Token)
        };
        Self(operation.security.into_iter().flatten().filter_map(alternative).collect())
    }

    fn is_public(&self) -> bool {
        self.0.contains(&Alternative::Everybody)
    }

    fn admit(&self, principal: &Principal) -> Result<(), Problem> {
        let mut missing = Vec::new();
        for alternative in &self.0 {
            let Alternative::Token(abilities) = alternative else { return Ok(()) };
            let lacks = |ability: &&String| !principal.knocks(ability);
            match abilities.iter().find(lacks) {
                None => return Ok(()),
                Some(ability) => missing.push(ability.as_str()),
            }
        }
        let detail = format!("this token has no scope for `{}`", missing.join("` or `"));
        Err(Problem::new(ProblemKind::Forbidden, detail))
    }
}

/// Lets a request in, with its principal, or answers it.
pub async fn guard(
    State((app, gate)): State<(App, Gate)>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>().cloned() else {
        return next.run(request).await;
    };
    let door = match gate.door(request.method(), path.as_str()) {
        Ok(door) => door,
        Err(methods) => return not_allowed(&methods),
    };
    if door.is_public() {
        return next.run(request).await;
    }
    let place = (request.method(), request.uri());
    let principal = match Principal::authenticate(&app, place, request.headers()).await {
        Ok(principal) => principal,
        Err(refusal) => return refusal.into_response(),
    };
    let response = match door.admit(&principal) {
        Ok(()) => {
            request.extensions_mut().insert(principal.clone());
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    };
    if response.status().is_success() {
        return response;
    }
    // No transaction has asked whether the token of a refusal stands: whose does not is told that first.
    principal.confirmed(&app).await.map_or_else(Problem::into_response, |_| response)
}

fn not_allowed(methods: &str) -> Response {
    let detail = format!("this route has the methods {methods}");
    let mut response = Problem::new(ProblemKind::MethodNotAllowed, detail).into_response();
    if let Ok(methods) = HeaderValue::from_str(methods) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(security: Option<&str>) -> Door {
        let security = security.map(|text| serde_json::from_str(text).unwrap());
        Door::of(Operation { security })
    }

    #[test]
    fn route_that_names_no_security_lets_nobody_in() {
        let owner = Principal::for_test(&["*@*"]);
        for security in
            [None, Some("[]"), Some(r#"[{"other":[]}]"#), Some(r#"[{"token":[],"other":[]}]"#)]
        {
            let door = door(security);
            assert!(!door.is_public() && door.admit(&owner).is_err(), "{security:?}");
        }
        assert!(door(Some(r#"[{"token":[]}]"#)).admit(&owner).is_ok());
        assert!(door(Some("[{}]")).is_public());
    }

    #[test]
    fn one_alternative_suffices_and_each_is_met_whole() {
        let both = door(Some(r#"[{"token":["order"]},{"token":["stop","read"]}]"#));
        for (scopes, is_in) in [
            (&["order:lock@a"][..], true),
            (&["stop@*"], false),
            (&["stop@*", "read@a"], true),
            (&["events@*"], false),
        ] {
            assert_eq!(both.admit(&Principal::for_test(scopes)).is_ok(), is_in, "{scopes:?}");
        }
    }
}
