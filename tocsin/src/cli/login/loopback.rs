//! The loopback end of a sign-in (RFC 8252, 7.3): a browser comes back to this machine with a code.
//!
//! Owns the listener, and what is believed of whoever comes: anything on this machine may, at any time.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::cli::Failure;

/// For a browser to send its request.
const REQUEST: Duration = Duration::from_secs(10);
/// Bytes of its request that are read.
const MAX_HEAD: usize = 16 * 1024;
/// Connections that are read at once: more than a browser opens beside the one that counts.
const MAX_VISITS: usize = 16;
const PAGE: &str = "You may close this window: what there is to say is in the terminal.\n";

/// The listener of one sign-in.
#[derive(Debug)]
pub(super) struct Loopback(TcpListener);

/// How the answer of this sign-in is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) state: &'a str,
    pub(super) issuer: &'a str,
    /// Whether the provider says that it names itself in each answer (RFC 9207).
    pub(super) names_itself: bool,
}

impl Loopback {
    /// On that port; 0 for any.
    pub(super) async fn bind(port: u16) -> Result<Self, Failure> {
        Ok(Self(TcpListener::bind(("127.0.0.1", port)).await?))
    }

    /// Where the browser is sent back to.
    pub(super) fn redirect(&self) -> Result<String, Failure> {
        Ok(format!("http://127.0.0.1:{}/", self.0.local_addr()?.port()))
    }

    /// The code that the browser brings. Whoever brings another state, or nothing, is waited for beside it.
    pub(super) async fn code(&self, expected: Expected<'_>) -> Result<String, Failure> {
        let mut visits = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.0.accept(), if visits.len() < MAX_VISITS => {
                    let (mut stream, _) = accepted?;
                    visits.spawn(async move {
                        let query = tokio::time::timeout(REQUEST, query_of(&mut stream)).await;
                        Some((query.ok().flatten()?, stream))
                    });
                }
                Some(visit) = visits.join_next() => {
                    let Ok(Some((query, stream))) = visit else { continue };
                    if let Some(outcome) = answer(stream, &query, expected).await {
                        return outcome;
                    }
                }
            }
        }
    }
}

/// Answers a browser; what it brought, if it was sent back by this sign-in's provider.
async fn answer(
    mut stream: TcpStream,
    query: &str,
    expected: Expected<'_>,
) -> Option<Result<String, Failure>> {
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| decoded(value))
    };
    let is_ours = value("state").is_some_and(|given| given == expected.state);
    let status = if is_ours { "200 OK" } else { "400 Bad Request" };
    let page = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{PAGE}",
        PAGE.len()
    );
    let _ = tokio::time::timeout(REQUEST, stream.write_all(page.as_bytes())).await;
    if !is_ours {
        return None;
    }
    let issuer = value("iss");
    let is_named = issuer.as_deref().map_or(!expected.names_itself, |it| it == expected.issuer);
    if !is_named {
        return Some(Err(Failure::new("the answer is of another provider than was asked")));
    }
    let refused = || {
        let error = value("error").unwrap_or_else(|| "no reason given".to_owned());
        let error = crate::output::text::clean(&error);
        Failure::new(format!("the provider refused: {error}"))
    };
    Some(value("code").ok_or_else(refused))
}

/// The query of a browser's request for `/`.
async fn query_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let line = std::str::from_utf8(&head).ok()?.lines().next()?;
    let query = line.strip_prefix("GET /?")?.split(' ').next()?;
    Some(query.to_owned())
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        };
        match (first, tail.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_redirect_are_read_as_they_were_meant() {
        for (text, meant) in
            [("a%2Fb+c", "a/b c"), ("%", "%"), ("%2", "%2"), ("%zz", "%zz"), ("", "")]
        {
            assert_eq!(decoded(text), meant);
        }
    }

    async fn visit(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    const EXPECTED: Expected<'_> =
        Expected { state: "s", issuer: "https://idp.example", names_itself: false };

    async fn bind() -> (Loopback, std::net::SocketAddr) {
        let loopback = Loopback::bind(0).await.unwrap();
        let address = loopback.0.local_addr().unwrap();
        (loopback, address)
    }

    #[tokio::test]
    async fn hostile_redirect_with_another_state_neither_ends_nor_answers_the_sign_in() {
        let (loopback, address) = bind().await;
        let visits = async {
            for path in ["/?code=evil&state=other", "/?code=evil", "/favicon.ico?x=1"] {
                assert!(!visit(address, path).await.contains("200 OK"), "{path}");
            }
            assert!(visit(address, "/?code=good%2D1&state=s").await.contains("200 OK"));
        };
        let (code, ()) = tokio::join!(loopback.code(EXPECTED), visits);
        assert_eq!(code.unwrap(), "good-1");
        let refused = visit(address, "/?error=access_denied&state=s");
        let (code, _) = tokio::join!(loopback.code(EXPECTED), refused);
        assert!(code.unwrap_err().text().contains("access_denied"));
    }

    #[tokio::test]
    async fn hostile_visitor_who_says_nothing_keeps_no_browser_waiting() {
        let (loopback, address) = bind().await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let visits = async {
            tokio::select! {
                biased;
                _ = visit(address, "/?code=good&state=s") => {}
                _ = silent.read_u8() => panic!("the silent one was waited for"),
            }
        };
        let (code, ()) = tokio::join!(loopback.code(EXPECTED), visits);
        assert_eq!(code.unwrap(), "good");
    }

    #[tokio::test]
    async fn hostile_answer_of_another_provider_gives_no_code() {
        let (loopback, address) = bind().await;
        let named = Expected { names_itself: true, ..EXPECTED };
        for (expected, iss, is_taken) in [
            (named, "&iss=https%3A%2F%2Fidp.example", true),
            (EXPECTED, "&iss=https%3A%2F%2Fidp.example", true),
            (EXPECTED, "", true),
            (EXPECTED, "&iss=https%3A%2F%2Fevil.example", false),
            (named, "", false),
        ] {
            let path = format!("/?code=c&state=s{iss}");
            let (code, _) = tokio::join!(loopback.code(expected), visit(address, &path));
            assert_eq!(code.is_ok(), is_taken, "{path}");
        }
    }
}
