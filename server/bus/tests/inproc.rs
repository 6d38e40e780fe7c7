//! The in-process engine passes the suite, and so does the fault decorator while nothing is wrong.

use std::sync::Arc;

use async_trait::async_trait;
use coretex_bus::conformance::Factory;
use coretex_bus::{Bus, Faults, Faulty, InProcBus};

#[derive(Debug)]
struct InProc(InProcBus);

#[async_trait]
impl Factory for InProc {
    async fn connect(&self) -> Arc<dyn Bus> {
        Arc::new(self.0.peer())
    }
}

async fn plain() -> Option<InProc> {
    Some(InProc(InProcBus::new()))
}

async fn small() -> Option<InProc> {
    Some(InProc(InProcBus::with_capacity(2_048)))
}

#[derive(Debug)]
struct Decorated(InProcBus);

#[async_trait]
impl Factory for Decorated {
    async fn connect(&self) -> Arc<dyn Bus> {
        Arc::new(Faulty::new(Arc::new(self.0.peer()), Faults::NONE, 1))
    }
}

async fn decorated() -> Option<Decorated> {
    Some(Decorated(InProcBus::new()))
}

coretex_bus::bus_conformance!(inproc, crate::plain);
coretex_bus::bus_conformance!(inproc_small_queues, crate::small);
coretex_bus::bus_conformance!(faulty_without_faults, crate::decorated);
