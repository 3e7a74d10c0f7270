//! Malformed input at every route: made from the document's own schemas, and wrong on purpose.
//!
//! Whatever comes in, the answer is never a 5xx, and every refusal is a problem (RFC 9457). The
//! seed is in every message; SEED=n tries another one.

use reqwest::{RequestBuilder, Response};
use runtime::Entropy;
use serde_json::{Map, Value, json};

use super::bench::Bench;
use super::documents::Route;

/// Bodies for each route that takes one, beside the fixed ones.
const BODIES: usize = 40;
/// How deep a schema is followed, and how deep a wrong value goes.
const DEPTH: usize = 6;

struct Chaos {
    seed: u64,
    entropy: Entropy,
    document: Value,
}

impl Chaos {
    fn new() -> Self {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| Entropy::system().next_u64());
        let document = serde_json::from_str(&api::openapi::document()).unwrap();
        Self { seed, entropy: Entropy::seeded(seed), document }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.entropy.below(u64::try_from(bound).unwrap())).unwrap()
    }

    fn one<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Texts that are no ids, no names, no dates, and sometimes are.
    fn text(&self) -> String {
        // Longer than any text of ours, and short enough to be read before it is refused.
        let long = "x".repeat(3_000);
        let odd = [
            "",
            " ",
            "\0",
            "a\0b",
            "\u{202e}",
            "\u{1f514}",
            "'; DROP TABLE events; --",
            "../../etc",
            "%00",
            "0",
            "-1",
            "9223372036854775808",
            "1e999",
            "null",
            "*@*",
            "read@*",
            "order:*@*",
            "0197a1b2-0000-7000-8000-000000000000",
            "2026-02-30T25:61:00Z",
            "a.b.c",
            "tocsin_pat_",
            "https://127.0.0.1/",
            "\u{feff}",
            &long,
        ];
        (*self.one(&odd)).to_owned()
    }

    fn number(&self) -> Value {
        let numbers = [
            "0",
            "-1",
            "1",
            "255",
            "4294967296",
            "9223372036854775807",
            "18446744073709551615",
            "1e308",
            "-0.5",
            "123456789012345678901234567890",
        ];
        serde_json::from_str(self.one::<&str>(&numbers)).unwrap()
    }

    /// Anything.
    fn anything(&self, depth: usize) -> Value {
        match self.below(if depth == 0 { 4 } else { 6 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => self.number(),
            3 => json!(self.text()),
            4 => (0..self.below(4)).map(|_| self.anything(depth - 1)).collect(),
            _ => (0..self.below(4)).map(|_| (self.text(), self.anything(depth - 1))).collect(),
        }
    }

    /// A value of that schema, which goes wrong here and there.
    fn nearly(&self, schema: &Value, depth: usize) -> Value {
        if depth == 0 || self.below(8) == 0 {
            return self.anything(2);
        }
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.trim_start_matches('#');
            return self.nearly(self.document.pointer(name).unwrap(), depth - 1);
        }
        for choice in ["oneOf", "anyOf", "allOf"] {
            if let Some(schemas) = schema[choice].as_array() {
                return self.nearly(self.one(schemas), depth - 1);
            }
        }
        if let Some(example) = schema.get("example").filter(|_| self.below(2) == 0) {
            return example.clone();
        }
        let kinds = schema["type"].as_array();
        let kind = kinds.map_or(&schema["type"], |kinds| self.one(kinds));
        match kind.as_str().unwrap_or_default() {
            "object" => self.object(schema, depth),
            "array" => {
                (0..self.below(4)).map(|_| self.nearly(&schema["items"], depth - 1)).collect()
            }
            "integer" | "number" => self.number(),
            "boolean" => json!(self.below(2) == 0),
            "string" => json!(self.text()),
            _ => self.anything(2),
        }
    }

    fn object(&self, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if self.below(6) != 0 {
                object.insert(name.clone(), self.nearly(property, depth - 1));
            }
        }
        if self.below(10) == 0 {
            object.insert(self.text(), self.anything(1));
        }
        object.into()
    }

    /// What is no JSON, or no body.
    fn bytes(&self) -> Vec<u8> {
        let nested = [vec![b'['; 5_000], vec![b']'; 5_000]].concat();
        let wrong: [&[u8]; 9] = [
            b"",
            b"{",
            b"{}{}",
            b"\xff\xfe\x00",
            b"nul",
            b"{\"a\":1,\"a\":2}",
            b"[1,]",
            &nested,
            b"\"\\ud800\"",
        ];
        self.one(&wrong).to_vec()
    }
}

/// An answer that anybody may get: no fault of ours, and a refusal says what it is.
async fn is_decent(response: Response, route: &Route, place: &str) {
    let status = response.status();
    assert!(status.as_u16() < 500, "{place}: {status}");
    let media_type = response.headers().get("content-type").cloned();
    if status.is_success() {
        let documented = &route.operation["responses"];
        assert!(documented.get(status.as_str()).is_some(), "{place}: {status} is not documented");
        return;
    }
    assert_eq!(media_type.unwrap(), "application/problem+json", "{place}: {status}");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status.as_u16(), "{place}: {problem}");
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.starts_with("urn:tocsin:problem:"), "{place}: {problem}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{place}: {problem}");
    let length = problem["detail"].as_str().unwrap().len();
    assert!(length < 4096, "{place}: a refusal of {length} bytes");
}

/// What fits into a head.
fn short(text: String) -> String {
    text.chars().take(500).collect()
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn send(request: RequestBuilder, route: &Route, place: &str) {
    match request.send().await {
        Ok(response) => is_decent(response, route, place).await,
        // What no request can be made of, such as a zero in a header, is no request.
        Err(error) => assert!(error.is_builder(), "{place}: {error}"),
    }
}

fn request(bench: &Bench, route: &Route, path: &str) -> RequestBuilder {
    bench.http.request(route.method.clone(), bench.url(path)).bearer_auth(&bench.token)
}

const ID: &str = "0197a1b2-0000-7000-8000-000000000000";

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bodies_are_refused_as_problems_at_every_route() {
    let (bench, chaos) = (Bench::start().await, Chaos::new());
    let mut tried = 0;
    for route in Route::all() {
        let schema = &route.operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        let path = route.path.replace("{id}", ID);
        for _ in 0..BODIES {
            let body = chaos.nearly(schema, DEPTH);
            let shown: String = body.to_string().chars().take(300).collect();
            let place = format!("SEED={} {}: {shown}", chaos.seed, route.name());
            send(request(&bench, &route, &path).json(&body), &route, &place).await;
            tried += 1;
        }
        for _ in 0..8 {
            let bytes = chaos.bytes();
            let kinds = ["application/json", "text/plain", "", "application/json; charset=latin1"];
            let kind = *chaos.one(&kinds);
            let start = bytes.get(..16).unwrap_or(&bytes).to_vec();
            let place = format!("SEED={} {}: {kind:?} {start:?}", chaos.seed, route.name());
            let request = request(&bench, &route, &path).header("content-type", kind).body(bytes);
            send(request.header("idempotency-key", short(chaos.text())), &route, &place).await;
        }
    }
    assert!(tried >= 8 * BODIES, "the document has routes with bodies");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_paths_queries_and_headers_are_refused_as_problems_at_every_route() {
    let (bench, chaos) = (Bench::start().await, Chaos::new());
    bench.agent("a", None).await;
    for route in Route::all() {
        let names = route.operation["parameters"].as_array().cloned().unwrap_or_default();
        for _ in 0..25 {
            let id =
                if chaos.below(2) == 0 { ID.to_owned() } else { escaped(&short(chaos.text())) };
            let mut path = route.path.replace("{id}", &id);
            let in_query = names.iter().filter(|parameter| parameter["in"] == "query");
            for (index, parameter) in in_query.enumerate() {
                if chaos.below(3) != 0 {
                    let name = parameter["name"].as_str().unwrap();
                    let value = if chaos.below(2) == 0 {
                        chaos.number().to_string()
                    } else {
                        escaped(&short(chaos.text()))
                    };
                    path += &format!("{}{name}={value}", if index == 0 { '?' } else { '&' });
                }
            }
            let place = format!("SEED={} {} {path}", chaos.seed, route.method);
            let mut request = request(&bench, &route, &path);
            if chaos.below(4) == 0 {
                request = request.header("last-event-id", short(chaos.text()));
            }
            if route.operation.get("requestBody").is_some() {
                request = request.json(&chaos.anything(1));
            }
            // An id that is no path at all meets another route: its answer is a problem as well.
            send(request, &route, &place).await;
        }
    }
}

/// Every route has an end of what it takes in: a body, a header, a query, a page.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_what_is_too_large() {
    let bench = Bench::start().await;
    for route in Route::all() {
        let path = route.path.replace("{id}", ID);
        let name = route.name();
        if route.operation.get("requestBody").is_some() {
            // Announced, and not sent: nobody waits for it.
            let request = request(&bench, &route, &path).header("content-length", "600000");
            let place = format!("{name} with a long body");
            let body = reqwest::Body::wrap_stream(futures_util::stream::pending::<
                Result<Vec<u8>, std::io::Error>,
            >());
            let response = request.header("content-type", "application/json").body(body);
            let response = response.send().await.unwrap();
            assert_eq!(response.status().as_u16(), 413, "{place}");
            is_decent(response, &route, &place).await;
        }
        let long = request(&bench, &route, &path).header("x-long", "x".repeat(9 * 1024));
        // Refused below all routes, by the connection: it may be cut before the answer is read.
        if let Ok(response) = long.send().await {
            assert_eq!(response.status().as_u16(), 431, "{name} with a long head");
        }
        let query = format!("{path}?limit={}", "9".repeat(9 * 1024));
        if let Ok(response) = request(&bench, &route, &query).send().await {
            assert!(matches!(response.status().as_u16(), 414 | 431), "{name} with a long query");
        }
        let names = route.operation["parameters"].as_array();
        let has_pages = names.is_some_and(|names| names.iter().any(|one| one["name"] == "limit"));
        for limit in ["0", "501", "4294967295"].iter().filter(|_| has_pages) {
            let path = format!("{path}?limit={limit}");
            let response = request(&bench, &route, &path).send().await.unwrap();
            assert_eq!(response.status().as_u16(), 422, "{name} with a page of {limit}");
            is_decent(response, &route, &name).await;
        }
    }
}
