//! Requests to the operator port: method, path, query, headers and body of somebody who signed in.

use std::cell::RefCell;

use api::{Api, Config, Deps};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use broker::MemoryBroker;
use http_body_util::BodyExt as _;
use runtime::{Clock, Drain, Entropy};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// Bytes of an answer that are looked at.
const ANSWER: usize = 1 << 20;

/// A control plane of this thread's own, without its listeners being spoken to.
struct Plane {
    runtime: Runtime,
    router: Router,
    token: String,
    // Last, so that they outlive what stands on them.
    _api: Api,
    _folder: TempDir,
}

thread_local! {
    static PLANE: RefCell<Option<Plane>> = const { RefCell::new(None) };
}

impl Plane {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for the control plane");
        let folder = tempfile::tempdir().expect("a folder for the control plane");
        let config = Config {
            data_dir: folder.path().join("data"),
            operator_listen: ([127, 0, 0, 1], 0).into(),
            agent_listen: ([127, 0, 0, 1], 0).into(),
            ..Config::default()
        };
        let clock = Clock::system();
        let deps = Deps {
            broker: std::sync::Arc::new(MemoryBroker::new(clock.clone())),
            clock,
            entropy: Entropy::system(),
            drain: Drain::new(),
        };
        let api = runtime.block_on(Api::start(config, deps)).expect("a control plane");
        let first = api.first_start.as_ref().expect("the folder was empty");
        let token = first.token.expose().to_owned();
        let (router, _) = api::openapi::operator_routes();
        let router = router.with_state(api.app().clone());
        Self { runtime, router, token, _api: api, _folder: folder }
    }

    /// Any answer will do that is one of ours and blames whoever asked.
    fn ask(&self, request: Request<Body>) {
        let answer = self.router.clone().oneshot(request);
        self.runtime.block_on(async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            let (parts, body) = answer.into_parts();
            assert!(parts.status.as_u16() < 500, "answered {}", parts.status);
            let kind = parts.headers.get(header::CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            if kind.starts_with("text/event-stream") {
                return;
            }
            let body = http_body_util::Limited::new(body, ANSWER).collect().await;
            let body = body.expect("an answer is bounded").to_bytes();
            let is_framework =
                matches!(parts.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
                    && body.is_empty();
            if parts.status.is_client_error() && !is_framework {
                assert_eq!(kind, "application/problem+json", "{}", parts.status);
                let problem: serde_json::Value =
                    serde_json::from_slice(&body).expect("a problem is JSON");
                assert!(problem.get("title").is_some(), "{problem}");
            }
        });
    }
}

/// `METHOD path?query`, header lines, an empty line, a body.
pub(crate) fn run(input: &[u8]) {
    let Some(request) = request(input) else { return };
    PLANE.with_borrow_mut(|plane| {
        let plane = plane.get_or_insert_with(Plane::start);
        let (mut parts, body) = request.into_parts();
        let bearer = format!("Bearer {}", plane.token);
        let bearer = bearer.parse().expect("a token is a header's value");
        parts.headers.insert(header::AUTHORIZATION, bearer);
        plane.ask(Request::from_parts(parts, body));
    });
}

fn request(input: &[u8]) -> Option<Request<Body>> {
    let split = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = match split {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, [].as_slice()),
    };
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        request = request.header(name, value);
    }
    request.body(Body::from(body.to_vec())).ok()
}

pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let post = |path: &str, body: &str| {
        format!("POST {path}\ncontent-type: application/json\nidempotency-key: k1\n\n{body}")
            .into_bytes()
    };
    let get = |path: &str| format!("GET {path}\n\n").into_bytes();
    let device = "018f0000-0000-7000-8000-000000000001";
    let lock = format!(
        r#"{{"action":{{"verb":"lock","level":"session"}},"targets":{{"devices":["{device}"]}},"reason":"lost","dry_run":true}}"#
    );
    let token = r#"{"label":"phone","scopes":["read@*","order:lock@lab"],"ttl_secs":3600}"#;
    vec![
        ("orders", post("/v1/orders", &lock)),
        ("cancel", post(&format!("/v1/orders/{device}/cancel"), r#"{"reason":"found"}"#)),
        ("approvals", post(&format!("/v1/orders/{device}/approvals"), r#"{"jws":"a.b.c"}"#)),
        ("revoke", post(&format!("/v1/devices/{device}/revoke"), r#"{"reason":"sold"}"#)),
        ("tokens", post("/v1/tokens", token)),
        ("enrollment", post("/v1/enrollment-tokens", r#"{"group":"lab","ttl_secs":300}"#)),
        ("trust", post("/v1/trust", r#"{"signed":["a.b.c"]}"#)),
        ("devices", get("/v1/devices?limit=3&group=lab")),
        ("commands", get("/v1/commands?state=queued&cursor=x")),
        ("events", get("/v1/events?after=0&limit=2")),
        ("document", get("/openapi.json")),
    ]
}
