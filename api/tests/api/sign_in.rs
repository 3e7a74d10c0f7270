//! Sign-in by OpenID Connect, against a provider of the test's own that says whatever it is told to.
//!
//! A real provider is met in `tocsin/tests/oidc.rs`; this one lies.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::sign_in::Oidc;
use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use reqwest::StatusCode;
use runtime::Drain;
use runtime::http::{ConnectionInfo, HttpLimits, serve_tls};
use runtime::tls::pki_types::PrivateKeyDer;
use runtime::tls::{self, ClientAuth, Identity};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::bench::{Bench, Place, json_of};

const SECRET: &str = "a secret that only this sign-in knows";

/// A key of the provider.
enum Key {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(RsaKeyPair),
}

impl Key {
    fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
            Self::Rs256(_) => "RS256",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| BASE64.encode(bytes);
        match self {
            Self::Es256(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (text(&point[1..33]), text(&point[33..]));
                json!({ "kid": kid, "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig" })
            }
            Self::EdDsa(key) => {
                let x = text(key.public_key().as_ref());
                json!({ "kid": kid, "kty": "OKP", "crv": "Ed25519", "x": x })
            }
            Self::Rs256(key) => {
                let parts: PublicKeyComponents<Vec<u8>> = key.public_key().into();
                let (n, e) = (text(&parts.n), text(&parts.e));
                json!({ "kid": kid, "kty": "RSA", "n": n, "e": e, "alg": "RS256" })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::EdDsa(key) => key.sign(message).as_ref().to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }
}

/// What the provider publishes, and how often it was asked.
#[derive(Default)]
struct Published {
    discovery: Value,
    keys: Vec<Value>,
    asked: usize,
}

struct Provider {
    issuer: String,
    ca_file: std::path::PathBuf,
    published: Arc<Mutex<Published>>,
    _tasks: JoinSet<()>,
}

impl Provider {
    async fn start(place: &Place) -> Self {
        tls::install_provider();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let ca_file = place.folder.path().join("provider.pem");
        std::fs::write(&ca_file, certificate.pem()).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let identity = Identity { chain: vec![certificate.der().clone()], key: private };
        let config = tls::server_config(&identity, ClientAuth::None, &[b"http/1.1"]).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let issuer = format!("https://localhost:{}/realm", listener.local_addr().unwrap().port());
        let discovery = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/auth"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/keys"),
        });
        let published = Arc::new(Mutex::new(Published { discovery, ..Published::default() }));
        let (one, two) = (published.clone(), published.clone());
        let router = axum::Router::new()
            .route(
                "/realm/.well-known/openid-configuration",
                get(async move || axum::Json(one.lock().unwrap().discovery.clone())),
            )
            .route(
                "/realm/keys",
                get(async move || {
                    let mut published = two.lock().unwrap();
                    published.asked += 1;
                    axum::Json(json!({ "keys": published.keys.clone() }))
                }),
            );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let tls = Arc::new(ArcSwap::from_pointee(config));
            let served = move |_: ConnectionInfo| router.clone();
            serve_tls(listener, tls, HttpLimits::default(), Drain::new(), served).await;
        });
        Self { issuer, ca_file, published, _tasks: tasks }
    }

    fn publish(&self, keys: &[(&str, &Key)]) {
        let keys = keys.iter().map(|(kid, key)| key.jwk(kid)).collect();
        self.published.lock().unwrap().keys = keys;
    }

    fn asked(&self) -> usize {
        self.published.lock().unwrap().asked
    }

    fn settings(&self) -> Oidc {
        let roles = [
            ("sec-ops", "responder@*"),
            ("helpdesk", "viewer@lab"),
            ("audit", "auditor"),
            ("owners", "administrator"),
        ];
        Oidc {
            issuer: self.issuer.clone(),
            client_id: "tocsin".to_owned(),
            allow: ["127.0.0.1", "::1"].map(|ip| ip.parse().unwrap()).into(),
            ca_file: Some(self.ca_file.clone()),
            roles: roles.map(|(group, role)| (group.to_owned(), role.parse().unwrap())).into(),
            ..Oidc::default()
        }
    }
}

/// A control plane with that provider.
async fn bench() -> (Bench, Provider, Key) {
    let place = Place::new().await;
    let provider = Provider::start(&place).await;
    let bench = Bench::start_in(place, Duration::ZERO).await;
    let oidc = provider.settings();
    let bench = bench.restart_with(|config| {
        config.oidc = oidc;
        config.sign_ins_per_min = 0;
    });
    let key = Key::es256();
    provider.publish(&[("one", &key)]);
    (bench.await, provider, key)
}

fn nonce() -> String {
    BASE64.encode(digest(&SHA256, SECRET.as_bytes()))
}

impl Bench {
    fn claims(&self, provider: &Provider, groups: &[&str]) -> Value {
        let now = self.now().as_millis() / 1000;
        json!({
            "iss": provider.issuer,
            "aud": "tocsin",
            "sub": "248289761001",
            "preferred_username": "nina",
            "groups": groups,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce(),
            // Two tokens of one second are different ones.
            "jti": self.entropy.next_u64().to_string(),
        })
    }

    async fn sign_in(&self, id_token: &str) -> reqwest::Response {
        self.sign_in_with(id_token, SECRET).await
    }

    async fn sign_in_with(&self, id_token: &str, secret: &str) -> reqwest::Response {
        let body = json!({ "id_token": id_token, "nonce_secret": secret });
        self.http.post(self.url("/v1/sign-ins")).json(&body).send().await.unwrap()
    }

    async fn signed_in(&self, id_token: &str) -> Value {
        json_of(self.sign_in(id_token).await, StatusCode::CREATED).await
    }
}

fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let text = |value: &Value| BASE64.encode(value.to_string());
    let message = format!("{}.{}", text(header), text(claims));
    let signature = BASE64.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn token(kid: &str, key: &Key, claims: &Value) -> String {
    let header = json!({ "alg": key.algorithm(), "kid": kid, "typ": "JWT" });
    signed(&header, claims, |message| key.sign(message))
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_gives_a_token_with_the_roles_of_the_groups() {
    let (bench, provider, key) = bench().await;
    let about = bench.http.get(bench.url("/v1/sign-ins/provider")).send().await.unwrap();
    let about = json_of(about, StatusCode::OK).await;
    assert_eq!(about["client_id"], "tocsin");
    assert_eq!(about["issuer"], provider.issuer.as_str());
    assert_eq!(provider.asked(), 0, "nobody asks the provider for that");

    let claims = bench.claims(&provider, &["everybody", "sec-ops"]);
    let id_token = token("one", &key, &claims);
    let made = bench.signed_in(&id_token).await;
    assert_eq!((&made["operator"], &made["role"]), (&json!("nina"), &json!("responder@*")));
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("tocsin_sgn_"));
    assert_eq!(bench.status_as(secret, "/v1/devices").await, StatusCode::OK);
    assert_eq!(bench.status_as(secret, "/v1/events").await, StatusCode::FORBIDDEN);
    let event = bench.events("operator_signed_in").await.remove(0);
    assert_eq!(event["actor"], "operator:nina");
    assert_eq!(event["payload"]["roles"], json!(["responder@*"]));

    let again = json_of(bench.sign_in(&id_token).await, StatusCode::UNAUTHORIZED).await;
    assert!(again["detail"].as_str().unwrap().contains("already"), "used once: {again}");

    let both = token("one", &key, &bench.claims(&provider, &["helpdesk", "audit"]));
    let made = bench.signed_in(&both).await;
    assert_eq!(made["operator"], "nina", "the same subject is the same operator");
    assert_eq!(made["scopes"], json!(["read@lab", "read@*", "events@*"]));

    bench.hand.advance(Duration::from_secs(4 * 3600 + 1));
    assert_eq!(bench.status_as(secret, "/v1/devices").await, StatusCode::UNAUTHORIZED, "hours");
}

/// The same signature over other claims.
fn with_other_groups(good: &str, claims: &Value) -> String {
    let parts: Vec<_> = good.split('.').collect();
    let mut claims = claims.clone();
    claims["groups"] = json!(["sec-ops", "audit"]);
    format!("{}.{}.{}", parts[0], BASE64.encode(claims.to_string()), parts[2])
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_id_tokens_are_refused() {
    let (bench, provider, key) = bench().await;
    let claims = bench.claims(&provider, &["sec-ops"]);
    let now = bench.now().as_millis() / 1000;
    let changed = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        token("one", &key, &claims)
    };
    let without = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        token("one", &key, &claims)
    };
    let other = Key::es256();
    let public = key.jwk("one");
    let hmac = |secret: Vec<u8>| {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        signed(&json!({ "alg": "HS256", "kid": "one" }), &claims, |message| {
            hmac::sign(&secret, message).as_ref().to_vec()
        })
    };
    let with_header = |header: Value| signed(&header, &claims, |message| key.sign(message));
    let good = token("one", &key, &claims);
    let (message, _) = good.rsplit_once('.').unwrap();
    let altered = with_other_groups(&good, &claims);
    let cases = [
        ("another audience", changed("aud", json!("another"))),
        ("several audiences without a party", changed("aud", json!(["tocsin", "another"]))),
        ("another party", changed("azp", json!("another"))),
        ("another issuer", changed("iss", json!("https://idp.example"))),
        ("an issuer that begins alike", changed("iss", json!(format!("{}/", provider.issuer)))),
        ("over", changed("exp", json!(now - 61))),
        ("without an end", without("exp")),
        ("not yet", changed("nbf", json!(now + 120))),
        ("of the future", changed("iat", json!(now + 120))),
        ("of an hour ago", changed("iat", json!(now - 3600))),
        ("another nonce", changed("nonce", json!("another"))),
        ("without a nonce", without("nonce")),
        ("without a subject", without("sub")),
        ("a key that is not known", token("two", &other, &claims)),
        ("another key of the same name", token("one", &other, &claims)),
        ("no algorithm", signed(&json!({ "alg": "none", "kid": "one" }), &claims, |_| Vec::new())),
        ("No algorithm", with_header(json!({ "alg": "None", "kid": "one" }))),
        ("a secret that is the public key", hmac(public.to_string().into_bytes())),
        ("a secret that is its point", hmac(BASE64.decode(public["x"].as_str().unwrap()).unwrap())),
        ("another algorithm than the key's", with_header(json!({ "alg": "RS256", "kid": "one" }))),
        (
            "what must be understood",
            with_header(json!({ "alg": "ES256", "kid": "one", "crit": ["x"] })),
        ),
        ("an access token", with_header(json!({ "alg": "ES256", "kid": "one", "typ": "at+jwt" }))),
        ("a key in the header", with_header(json!({ "alg": "ES256", "kid": "x", "jwk": public }))),
        ("no signature", format!("{message}.")),
        ("altered", altered),
        ("nothing", String::new()),
        ("dots", "...".to_owned()),
        ("long", "a".repeat(20_000)),
    ];
    for (what, id_token) in cases {
        let response = bench.sign_in(&id_token).await;
        let status = response.status();
        let problem = json_of(response, StatusCode::UNAUTHORIZED).await;
        assert_eq!(problem["type"], "urn:tocsin:problem:unauthenticated", "{what}: {status}");
    }
    let stolen = bench.sign_in_with(&good, "another secret than that of the nonce").await;
    assert_eq!(stolen.status(), StatusCode::UNAUTHORIZED, "who only has the id token");
    assert_eq!(bench.events("operator_signed_in").await.len(), 0);
    bench.signed_in(&good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_groups_is_refused_and_loses_the_tokens() {
    let (bench, provider, key) = bench().await;
    let sign = |groups: &[&str]| token("one", &key, &bench.claims(&provider, groups));
    let made = bench.signed_in(&sign(&["sec-ops"])).await;
    let secret = made["secret"].as_str().unwrap();
    let pat = bench.token_for(&["read@*"]).await;
    let refused = bench.sign_in(&sign(&["everybody"])).await;
    let problem = json_of(refused, StatusCode::FORBIDDEN).await;
    assert!(problem["detail"].as_str().unwrap().contains("groups"), "{problem}");
    assert_eq!(bench.status_as(secret, "/v1/devices").await, StatusCode::UNAUTHORIZED);
    assert_eq!(bench.status_as(&pat, "/v1/devices").await, StatusCode::OK, "others' go on");
    let event = bench.events("sign_in_refused").await.remove(0);
    assert_eq!(event["subject"], "nina");
    assert_eq!(event["payload"]["ended_tokens"], 1);
    for _ in 0..5 {
        let again = bench.sign_in(&sign(&["everybody"])).await;
        assert_eq!(again.status(), StatusCode::FORBIDDEN);
    }
    // The first ended something; of the others, one counts.
    assert_eq!(bench.events("sign_in_refused").await.len(), 2, "nobody fills the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_id_token_with_another_signature_is_the_same_token() {
    let (bench, provider, key) = bench().await;
    let claims = bench.claims(&provider, &["sec-ops"]);
    let (first, second) = (token("one", &key, &claims), token("one", &key, &claims));
    assert_ne!(first, second, "each signature of this kind is another one");
    bench.signed_in(&first).await;
    let again = json_of(bench.sign_in(&second).await, StatusCode::UNAUTHORIZED).await;
    assert!(again["detail"].as_str().unwrap().contains("already"), "used once: {again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sign_in_makes_ends_with_it_and_other_groups_end_what_the_former_gave() {
    let (bench, provider, key) = bench().await;
    let sign = |groups: &[&str]| token("one", &key, &bench.claims(&provider, groups));
    let made = bench.signed_in(&sign(&["owners"])).await;
    let (secret, ends) = (made["secret"].as_str().unwrap(), &made["expires_at"]);
    let mut body = json!({ "label": "for later", "scopes": ["read@*"], "ttl_secs": 86_400 * 300 });
    let minted = bench.post_as(secret, "/v1/tokens", &body).await;
    assert_eq!(&json_of(minted, StatusCode::CREATED).await["expires_at"], ends);
    body["operator"] = json!("somebody-else");
    let other = bench.post_as(secret, "/v1/tokens", &body).await;
    json_of(other, StatusCode::FORBIDDEN).await;

    bench.signed_in(&sign(&["owners"])).await;
    assert_eq!(bench.status_as(secret, "/v1/devices").await, StatusCode::OK, "the same again");
    bench.signed_in(&sign(&["helpdesk"])).await;
    assert_eq!(bench.status_as(secret, "/v1/devices").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn name_belongs_to_the_subject_that_had_it_first() {
    let (bench, provider, key) = bench().await;
    let mut claims = bench.claims(&provider, &["sec-ops"]);
    for (subject, name, status) in [
        ("1", "admin", StatusCode::CONFLICT),
        ("1", "Nina", StatusCode::CREATED),
        ("2", "nina", StatusCode::CONFLICT),
        ("1", "somebody-else-now", StatusCode::CREATED),
        ("3", "no name\u{202e}", StatusCode::UNPROCESSABLE_ENTITY),
        // The sign of the kelvin, which is a small k when small letters are made of it.
        ("4", "\u{212a}im", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        (claims["sub"], claims["preferred_username"]) = (json!(subject), json!(name));
        claims["jti"] = json!(bench.entropy.next_u64().to_string());
        let made = json_of(bench.sign_in(&token("one", &key, &claims)).await, status).await;
        if status == StatusCode::CREATED {
            assert_eq!(made["operator"], "nina", "{subject} {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_again_when_they_rotate_and_not_for_each_that_is_made_up() {
    let (bench, provider, key) = bench().await;
    let sign = |kid: &str, key: &Key| token(kid, key, &bench.claims(&provider, &["sec-ops"]));
    bench.signed_in(&sign("one", &key)).await;
    bench.signed_in(&sign("one", &key)).await;
    assert_eq!(provider.asked(), 1, "known keys are not asked for");
    for made_up in 0..20 {
        let refused = bench.sign_in(&sign(&made_up.to_string(), &key)).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(provider.asked(), 1, "and made-up ones at most every ten seconds");
    let ed = Key::EdDsa(Ed25519KeyPair::generate().unwrap());
    let rsa = Key::Rs256(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    provider.publish(&[("ed", &ed), ("rsa", &rsa)]);
    bench.hand.advance(Duration::from_secs(11));
    bench.signed_in(&sign("ed", &ed)).await;
    bench.signed_in(&sign("rsa", &rsa)).await;
    assert_eq!(provider.asked(), 2);
    let former = bench.sign_in(&sign("one", &key)).await;
    assert_eq!(former.status(), StatusCode::UNAUTHORIZED, "a key that was taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_that_says_it_is_another_or_is_where_none_may_be_is_not_believed() {
    let (bench, provider, key) = bench().await;
    provider.published.lock().unwrap().discovery["issuer"] = json!("https://idp.example");
    let sign = || token("one", &key, &bench.claims(&provider, &["sec-ops"]));
    assert_eq!(bench.sign_in(&sign()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    provider.published.lock().unwrap().discovery["issuer"] = json!(provider.issuer);
    bench.hand.advance(Duration::from_secs(11));
    bench.signed_in(&sign()).await;
    let mut oidc = provider.settings();
    oidc.allow.clear();
    let bench = bench.restart_with(|config| {
        config.oidc = oidc;
        config.sign_ins_per_min = 2;
    });
    let bench = bench.await;
    let sign = || token("one", &key, &bench.claims(&provider, &["sec-ops"]));
    let asked = provider.asked();
    assert_eq!(bench.sign_in(&sign()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(provider.asked(), asked, "not a byte went there");
    bench.sign_in(&sign()).await;
    let third = bench.sign_in(&sign()).await;
    assert_eq!(third.status(), StatusCode::TOO_MANY_REQUESTS, "from one address, in a minute");
}
