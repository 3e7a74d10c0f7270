//! Glewlwyd, a real OpenID Connect provider of Debian, in a folder of the test's own.
//!
//! Owns its configuration, its people, and a browser that signs in there.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use runtime::tls;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

/// Shape and first administrator of its store, as the package has them.
const SCHEMA: &str = "/usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz";

/// A running provider with the client `tocsin`. Dropping it kills it.
pub(crate) struct Glewlwyd {
    child: Child,
    http: reqwest::Client,
    base: String,
}

/// Somebody with a browser who has signed in.
pub(crate) struct Browser<'a> {
    provider: &'a Glewlwyd,
    cookie: String,
}

impl Glewlwyd {
    pub(crate) async fn start(folder: &Path) -> Self {
        tls::install_provider();
        std::fs::create_dir_all(folder).expect("a writable folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        std::fs::write(folder.join("cert.pem"), &certificate).expect("a writable folder");
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("a writable folder");
        let loaded = Command::new("sh")
            .arg("-c")
            .arg(format!("zcat {SCHEMA} | sqlite3 store.db"))
            .current_dir(folder)
            .status();
        assert!(loaded.is_ok_and(|status| status.success()), "the package glewlwyd is installed");
        let ca = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        let config = tls::client_config(&[ca], None, &[b"http/1.1"]).expect("tls");
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(20))
            .build()
            .expect("a client");
        let (child, port) = launch(folder, &http).await;
        let provider = Self { child, http, base: format!("https://localhost:{port}/api") };
        provider.configure(&key).await;
        provider
    }

    pub(crate) fn issuer(&self) -> String {
        format!("{}/oidc", self.base)
    }

    /// A person in these groups.
    pub(crate) async fn put_person(&self, name: &str, groups: &[&str], is_new: bool) {
        let person = json!({
            "username": name, "name": name, "email": format!("{name}@example.test"),
            "password": "correct horse", "enabled": true, "scope": ["openid"], "groups": groups,
        });
        let (method, path) = if is_new {
            (Method::POST, "/user/".to_owned())
        } else {
            (Method::PUT, format!("/user/{name}"))
        };
        self.administer(method, &path, &person).await;
    }

    /// Has the client come back to that address.
    pub(crate) async fn put_redirect(&self, redirect: &str) {
        self.administer(Method::PUT, "/client/tocsin", &client(redirect)).await;
    }

    pub(crate) async fn browser(&self, name: &str) -> Browser<'_> {
        let cookie = self.sign_in(name, "correct horse").await;
        let browser = Browser { provider: self, cookie };
        let scope = json!({ "scope": "openid" });
        let granted = browser.ask(Method::PUT, "/auth/grant/tocsin", &scope).await;
        assert_eq!(granted.status(), StatusCode::OK);
        browser
    }

    async fn sign_in(&self, name: &str, password: &str) -> String {
        let body = json!({ "username": name, "password": password });
        let response = self.http.post(format!("{}/auth/", self.base)).json(&body).send().await;
        let response = response.expect("the provider answers");
        assert_eq!(response.status(), StatusCode::OK, "{name} signs in");
        let cookie = response.headers()["set-cookie"].to_str().expect("a text").to_owned();
        cookie.split(';').next().expect("a cookie").to_owned()
    }

    async fn administer(&self, method: Method, path: &str, body: &Value) {
        let cookie = self.sign_in("admin", "password").await;
        let browser = Browser { provider: self, cookie };
        let response = browser.ask(method, path, body).await;
        let status = response.status();
        assert_eq!(status, StatusCode::OK, "{path}: {:?}", response.text().await);
    }

    async fn configure(&self, key: &rcgen::KeyPair) {
        let people = json!({
            "module": "database", "name": "database", "display_name": "people", "order_rank": 0,
            "parameters": {
                "use-glewlwyd-connection": true,
                "data-format": { "groups": { "multiple": true, "read": true, "write": true } },
            },
        });
        self.administer(Method::PUT, "/mod/user/database", &people).await;
        self.administer(Method::PUT, "/mod/user/database/reset", &json!({})).await;
        let claim = |name: &str, property: &str| {
            json!({
                "name": name, "user-property": property, "type": "string", "mandatory": true,
                "on-demand": false, "scope": [],
            })
        };
        let plugin = json!({
            "module": "oidc", "name": "oidc", "display_name": "oidc",
            "parameters": {
                "iss": self.issuer(), "jwt-type": "ecdsa", "jwt-key-size": "256",
                "key": key.serialize_pem(), "cert": key.public_key_pem(),
                "access-token-duration": 3600, "refresh-token-duration": 3600,
                "code-duration": 600, "refresh-token-rolling": false, "allow-non-oidc": false,
                "auth-type-code-enabled": true, "auth-type-token-enabled": false,
                "auth-type-id-token-enabled": true, "auth-type-none-enabled": false,
                "auth-type-password-enabled": false, "auth-type-client-enabled": false,
                "auth-type-refresh-enabled": false, "auth-type-device-enabled": true,
                "device-authorization-expiration": 600, "device-authorization-interval": 1,
                "pkce-allowed": true, "pkce-method-plain-allowed": false, "pkce-required": true,
                "pkce-required-public-client": true, "subject-type": "public", "scope": [],
                "additional-parameters": [],
                "claims": [claim("groups", "groups"), claim("preferred_username", "username")],
                "name-claim": "no", "email-claim": "no", "scope-claim": "no", "jwks-show": true,
                "jwks-x5c": [],
            },
        });
        self.administer(Method::POST, "/mod/plugin/", &plugin).await;
        self.administer(Method::POST, "/client/", &client("http://127.0.0.1/")).await;
    }
}

impl Drop for Glewlwyd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Browser<'_> {
    async fn ask(&self, method: Method, path: &str, body: &Value) -> Response {
        let url = format!("{}{path}", self.provider.base);
        let request = self.provider.http.request(method, url).header("cookie", &self.cookie);
        request.json(body).send().await.expect("the provider answers")
    }

    /// Opens an address of the provider and goes on there; where that leads.
    pub(crate) async fn follow(&self, url: &str) -> String {
        let request = self.provider.http.get(format!("{url}&g_continue"));
        let response = request.header("cookie", &self.cookie).send().await;
        let response = response.expect("the provider answers");
        assert_eq!(response.status(), StatusCode::FOUND, "{url}");
        response.headers()["location"].to_str().expect("a text").to_owned()
    }
}

fn client(redirect: &str) -> Value {
    json!({
        "client_id": "tocsin", "name": "tocsin", "confidential": false, "enabled": true,
        "authorization_type": ["code", "device_authorization"], "redirect_uri": [redirect],
        "scope": [],
    })
}

/// Starts the server on a port that was free a moment ago, and waits until it answers.
async fn launch(folder: &Path, http: &reqwest::Client) -> (Child, u16) {
    loop {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let place = folder.display();
        let config = format!(
            "port={port}\nbind_address=\"127.0.0.1\"\nexternal_url=\"https://localhost:{port}\"\n\
             login_url=\"login.html\"\napi_prefix=\"api\"\nlog_mode=\"console\"\n\
             log_level=\"NONE\"\ncookie_domain=\"localhost\"\ncookie_secure=1\n\
             session_expiration=3600\nsession_key=\"SESSION\"\nadmin_scope=\"g_admin\"\n\
             profile_scope=\"g_profile\"\nuser_module_path=\"/usr/lib/glewlwyd/user\"\n\
             client_module_path=\"/usr/lib/glewlwyd/client\"\n\
             user_auth_scheme_module_path=\"/usr/lib/glewlwyd/scheme\"\n\
             plugin_module_path=\"/usr/lib/glewlwyd/plugin\"\nuse_secure_connection=true\n\
             secure_connection_key_file=\"{place}/key.pem\"\n\
             secure_connection_pem_file=\"{place}/cert.pem\"\nhash_algorithm=\"SHA512\"\n\
             database = {{ type = \"sqlite3\" path = \"{place}/store.db\" }};\n"
        );
        let file = folder.join("glewlwyd.conf");
        std::fs::write(&file, config).expect("a writable folder");
        let mut child = Command::new("glewlwyd")
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the package glewlwyd is installed");
        // It ends when somebody else took the port meanwhile.
        while child.try_wait().expect("it is ours").is_none() {
            let asked = http.get(format!("https://localhost:{port}/api/auth/")).send().await;
            if asked.is_ok() {
                return (child, port);
            }
            tokio::task::yield_now().await;
        }
    }
}
