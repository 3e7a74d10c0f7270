//! Tests of session tickets: who opens which, and for how long.

use super::*;
use crate::clock::ManualClock;

const SECRET: &str = "a-secret-of-hubs-0123456789-abcdefgh";
const OTHER: &str = "another-secret-0123456789-abcdefghij";
const DAY: Duration = Duration::from_secs(86_400);

struct Bench {
    clock: Clock,
    hand: ManualClock,
}

impl Bench {
    fn new() -> Self {
        let (clock, hand) = Clock::manual();
        hand.set_unix_millis(1_800_000_000_000);
        Self { clock, hand }
    }

    fn tickets(&self, secret: Option<&str>) -> Tickets {
        let config = TicketConfig { secret: secret.map(Secret::inline), ..Default::default() };
        Tickets::new(config, self.clock.clone(), Entropy::system())
    }

    /// Of one server, which believes those authorities.
    fn believing(&self, secret: &str, authorities: &[&'static [u8]]) -> Arc<dyn ProducesTickets> {
        let authorities: Vec<_> =
            authorities.iter().map(|der| CertificateDer::from(*der)).collect();
        self.tickets(Some(secret)).producer(&authorities).unwrap()
    }

    fn server(&self, secret: &str) -> Arc<dyn ProducesTickets> {
        self.believing(secret, &[b"authority"])
    }
}

#[test]
fn ticket_opens_on_every_server_with_the_secret_and_on_no_other() {
    let bench = Bench::new();
    let ticket = bench.server(SECRET).encrypt(b"session").unwrap();
    assert_eq!(bench.server(SECRET).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    assert_eq!(bench.server(OTHER).decrypt(&ticket), None);
}

#[test]
fn ticket_does_not_open_where_other_authorities_are_believed() {
    let bench = Bench::new();
    let ticket = bench.believing(SECRET, &[b"a", b"b"]).encrypt(b"session").unwrap();
    assert!(bench.believing(SECRET, &[b"b", b"a"]).decrypt(&ticket).is_some(), "order is nothing");
    for others in [&[&b"a"[..]][..], &[b"a", b"b", b"c"], &[b"ab"], &[]] {
        assert_eq!(bench.believing(SECRET, others).decrypt(&ticket), None);
    }
}

#[test]
fn ticket_lives_through_six_keys_after_its_own() {
    let bench = Bench::new();
    let ticket = bench.server(SECRET).encrypt(b"session").unwrap();
    for _ in 0..LATER_EPOCHS {
        bench.hand.advance(DAY);
        assert!(bench.server(SECRET).decrypt(&ticket).is_some());
    }
    bench.hand.advance(DAY);
    assert_eq!(bench.server(SECRET).decrypt(&ticket), None);
    assert_eq!(bench.server(SECRET).lifetime(), 6 * 86_400);
}

#[test]
fn clock_of_another_server_may_be_a_key_ahead_and_no_further() {
    let bench = Bench::new();
    let now = bench.clock.unix_millis();
    let sealed_ahead = |days: u64| {
        bench.hand.set_unix_millis(now + days * 86_400_000);
        let ticket = bench.server(SECRET).encrypt(b"session").unwrap();
        bench.hand.set_unix_millis(now);
        ticket
    };
    assert!(bench.server(SECRET).decrypt(&sealed_ahead(1)).is_some());
    assert_eq!(bench.server(SECRET).decrypt(&sealed_ahead(2)), None);
}

#[test]
fn former_secret_opens_until_it_is_removed() {
    let bench = Bench::new();
    let ticket = bench.server(SECRET).encrypt(b"session").unwrap();
    let both = bench.server(&format!("{OTHER}\n{SECRET}\n"));
    assert!(both.decrypt(&ticket).is_some());
    let next = both.encrypt(b"session").unwrap();
    assert!(bench.server(OTHER).decrypt(&next).is_some(), "the first one seals");
    assert_eq!(bench.server(OTHER).decrypt(&ticket), None);
}

#[test]
fn altered_cut_and_endless_tickets_are_refused() {
    let bench = Bench::new();
    let server = bench.server(SECRET);
    let ticket = server.encrypt(b"session").unwrap();
    for at in 0..ticket.len() {
        let mut altered = ticket.clone();
        altered[at] ^= 1;
        assert_eq!(server.decrypt(&altered), None, "byte {at}");
        assert_eq!(server.decrypt(&ticket[..at]), None, "cut to {at}");
    }
    assert_eq!(server.decrypt(&vec![0; MAX_BYTES + 1]), None);
    assert_eq!(server.encrypt(&vec![0; MAX_BYTES]), None);
    assert_ne!(server.encrypt(b"session"), server.encrypt(b"session"), "each has its own key");
}

#[test]
fn without_a_secret_nobody_else_opens_a_ticket() {
    let bench = Bench::new();
    let (one, other) = (bench.tickets(None), bench.tickets(None));
    let ticket = one.producer(&[]).unwrap().encrypt(b"session").unwrap();
    assert!(one.producer(&[]).unwrap().decrypt(&ticket).is_some(), "also after an exchange");
    assert_eq!(other.producer(&[]).unwrap().decrypt(&ticket), None);
}

#[test]
fn secrets_that_are_none_are_refused() {
    let bench = Bench::new();
    let refused = |text: &str| bench.tickets(Some(text)).producer(&[]).unwrap_err();
    assert!(matches!(refused("short"), TicketError::Short));
    assert!(matches!(refused(&format!("{SECRET}\nshort")), TicketError::Short));
    assert!(matches!(refused("\n \n"), TicketError::Short));
    assert!(matches!(refused(&[SECRET; 5].join("\n")), TicketError::Many));
    let Ok(secret) = "file:/nowhere/at/all".parse();
    let config = TicketConfig { secret: Some(secret), ..Default::default() };
    let missing = Tickets::new(config, bench.clock.clone(), Entropy::system());
    assert!(matches!(missing.producer(&[]), Err(TicketError::Secret(_))));
}

#[test]
fn debug_shows_no_secret() {
    let bench = Bench::new();
    let tickets = bench.tickets(Some(SECRET));
    let shown = format!("{tickets:?} {:?}", tickets.producer(&[]).unwrap());
    assert!(!shown.contains(SECRET) && !shown.contains("own"), "{shown}");
    assert!(shown.contains("redacted"), "{shown}");
}
