//! The bus on one server keeps the contract of every bus.

use broker::fixture::RedisServer;
use broker::redis::RedisMode;

use crate::support::OnRedis;

fn fresh() -> std::future::Ready<OnRedis> {
    let servers = vec![RedisServer::start()];
    std::future::ready(OnRedis { servers, mode: RedisMode::Standalone })
}

broker::contract_tests!(fresh);
