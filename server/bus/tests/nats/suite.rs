//! The engine passes the suite of the contract.

use std::sync::Arc;

use async_trait::async_trait;
use coretex_bus::Bus;
use coretex_bus::conformance::Factory;

use crate::server::{Server, connect};

#[derive(Debug)]
struct Nats(Server);

#[async_trait]
impl Factory for Nats {
    async fn connect(&self) -> Arc<dyn Bus> {
        Arc::new(connect(self.0.options()).await)
    }
}

async fn nats() -> Option<Nats> {
    Server::start("").await.map(Nats)
}

/// A server that carries less than the others.
async fn small_payloads() -> Option<Nats> {
    Server::start("max_payload: 32KB").await.map(Nats)
}

coretex_bus::bus_conformance!(nats, crate::suite::nats);
coretex_bus::bus_conformance!(nats_small_payloads, crate::suite::small_payloads);
