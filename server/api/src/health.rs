//! `grpc.health.v1`: whether the server takes work, for load balancers and probes.

use std::fmt;

use coretex_proto::v1::access_service_server::SERVICE_NAME as ACCESS;
use coretex_proto::v1::approval_service_server::SERVICE_NAME as APPROVALS;
use coretex_proto::v1::config_service_server::SERVICE_NAME as CONFIGS;
use coretex_proto::v1::dlq_service_server::SERVICE_NAME as DLQ;
use coretex_proto::v1::job_service_server::SERVICE_NAME as JOBS;
use coretex_proto::v1::policy_service_server::SERVICE_NAME as POLICY;
use coretex_proto::v1::system_service_server::SERVICE_NAME as SYSTEM;
use coretex_proto::v1::worker_service_server::SERVICE_NAME as WORKERS;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// What is reported on: the server as a whole, and each service by name.
const SERVICES: [&str; 9] = [
    "", JOBS, WORKERS, SYSTEM, ACCESS, DLQ, APPROVALS, POLICY, CONFIGS,
];

/// Sets what health checks answer. All clones are one.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            reporter: HealthReporter::new(),
        }
    }

    pub(crate) const fn reporter(&self) -> &HealthReporter {
        &self.reporter
    }

    /// Says whether the server takes work. Before the first call the server as a whole is said to
    /// and nothing is known of its services.
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
