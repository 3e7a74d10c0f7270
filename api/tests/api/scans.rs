//! What the store reads to do something about one device does not grow with the fleet, nor with what was
//! ordered before.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use protocol::frame::AgentFrame;
use protocol::state::PerLane;
use rusqlite::{Connection, OpenFlags};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::actors::{ack, id_of};
use super::bench::{Bench, order_body};

/// The tables that grow.
const GROWING: [&str; 6] = ["commands", "orders", "events", "idempotency", "devices", "lane_seqs"];

/// What a device was ever sent grows with what was ordered before as well.
const HISTORY: &str = "USING INDEX commands_by_device (device_id=?)";

/// What is gone through all the same: an index of those alone that wait for a first wave.
const SHORT: &str = "USING COVERING INDEX commands_behind";

/// Keeps the texts of statements.
#[derive(Debug, Clone, Default)]
struct Statements(Arc<Mutex<BTreeSet<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        event.record(&mut self.clone());
    }
}

impl Visit for Statements {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "statement" {
            self.0.lock().unwrap().insert(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl Statements {
    fn forget(&self) {
        self.0.lock().unwrap().clear();
    }

    fn all(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().clone()
    }

    /// Those that go through a whole table that grows, or through all of one device, as SQLite says itself.
    fn scanning(&self, conn: &Connection) -> Vec<(String, String)> {
        let mut scanning = Vec::new();
        for text in self.all() {
            let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
            let mut rows = plan.raw_query();
            while let Some(row) = rows.next().unwrap() {
                let step: String = row.get(3).unwrap();
                let scanned = step.strip_prefix("SCAN ").unwrap_or_default();
                let table = scanned.split(' ').next().unwrap_or_default();
                let is_short = scanned.ends_with(SHORT);
                let grows = GROWING.contains(&table) || ["c", "o", "d", "s"].contains(&table);
                if (grows && !is_short) || step.ends_with(HISTORY) {
                    scanning.push((step, text.clone()));
                }
            }
        }
        scanning
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn way_of_an_order_goes_through_no_whole_table() {
    let statements = Statements::default();
    let subscriber = tracing_subscriber::registry().with(statements.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let bench = Bench::start().await;
    let agent = bench.agent("web-17", Some("berlin")).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;
    statements.forget();

    let request = bench.http.post(bench.url("/v1/orders")).bearer_auth(&bench.token);
    let request = request.header("idempotency-key", "k1");
    let created = request.json(&order_body("lock", &[agent.id])).send().await.unwrap();
    assert_eq!(created.status(), 201);
    let command = hub.command_for(agent.id).await;
    bench.until_state(&id_of(&command), "sent").await;
    hub.say(&agent, vec![ack(&command)]).await;
    bench.until_state(&id_of(&command), "acked").await;
    hub.say(&agent, vec![agent.receipt(&command, |_| {})]).await;
    hub.frames_for(agent.id).await;
    bench.until_state(&id_of(&command), "succeeded").await;
    let hello = AgentFrame::Sync { last_seq: PerLane { urgent: 1, bulk: 0 } };
    hub.say(&agent, vec![hello]).await;

    let said = statements.all().len();
    assert!(said > 20, "{said} statements");
    let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let file = bench.place.folder.path().join("data").join(api::db::FILE);
    let conn = Connection::open_with_flags(file, read_only).unwrap();
    let scanning = statements.scanning(&conn);
    assert!(scanning.is_empty(), "{scanning:#?}");
}
