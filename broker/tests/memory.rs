//! The bus inside one process keeps the contract of every bus.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker::contract::Harness;
use broker::{Broker, MemoryBroker};
use runtime::Clock;
use runtime::clock::ManualClock;

struct InOneProcess {
    broker: Arc<MemoryBroker>,
    hand: ManualClock,
}

#[async_trait]
impl Harness for InOneProcess {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.broker.clone()
    }

    async fn advance(&self, by: Duration) {
        self.hand.advance(by);
    }
}

fn fresh() -> std::future::Ready<InOneProcess> {
    let (clock, hand) = Clock::manual();
    std::future::ready(InOneProcess { broker: Arc::new(MemoryBroker::new(clock)), hand })
}

broker::contract_tests!(fresh);
