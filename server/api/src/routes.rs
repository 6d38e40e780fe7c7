//! The services and the layers in front of them, in an order that matters.
//!
//! From the outside in:
//! 1. CORS answers the preflights of browsers, which carry no credential;
//! 2. gRPC-Web is translated, so that everything behind it sees plain gRPC;
//! 3. observe: id, span, metrics, so that every refusal below is seen too;
//! 4. complete: refusals of the transport get a reason;
//! 5. deadline, before anything that may wait;
//! 6. authorize, so that a stranger's request is not even read;
//! 7. intake: what requests hold while they are read;
//! 8. the services.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use coretex_engine::Engine;
use coretex_proto::FILE_DESCRIPTOR_SET;
use coretex_proto::v1::access_service_server::AccessServiceServer;
use coretex_proto::v1::approval_service_server::ApprovalServiceServer;
use coretex_proto::v1::config_service_server::ConfigServiceServer;
use coretex_proto::v1::dlq_service_server::DlqServiceServer;
use coretex_proto::v1::job_service_server::JobServiceServer;
use coretex_proto::v1::policy_service_server::PolicyServiceServer;
use coretex_proto::v1::system_service_server::SystemServiceServer;
use coretex_proto::v1::worker_service_server::WorkerServiceServer;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Status, transport};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tonic_web::GrpcWebLayer;
use tower::util::option_layer;
use tower::{Service, ServiceBuilder};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::access::Access;
use crate::approvals::Approvals;
use crate::configs::Configs;
use crate::dlq::Dlq;
use crate::health::Health;
use crate::jobs::Jobs;
use crate::layers::authorize::{AuthorizeLayer, TENANT};
use crate::layers::complete::complete;
use crate::layers::deadline::DeadlineLayer;
use crate::layers::intake::Intake;
use crate::layers::observe::{ObserveLayer, REQUEST_ID};
use crate::methods::MethodTable;
use crate::options::ApiOptions;
use crate::policy::Policy;
use crate::system::System;
use crate::workers::Workers;

/// The most bytes of a request: a batch of jobs, and everything else.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// How long a browser may remember what a preflight allowed.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3_600);

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An allowed origin is not the value of a header.
    #[error("not an origin: {0:?}")]
    Origin(String),
    /// The descriptors of the contract cannot be served; a defect of the build.
    #[error("reflection is not available")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The certificate or its key cannot be used.
    #[error("the certificate or its key cannot be used")]
    Tls(#[source] transport::Error),
    /// The transport failed.
    #[error("the transport failed")]
    Transport(#[source] transport::Error),
}

/// Everything that is served, as one service.
///
/// # Errors
/// An origin is none, or the descriptors are broken.
pub(crate) fn routes(
    engine: &Engine,
    options: &ApiOptions,
    health: &Health,
    cut: &CancellationToken,
) -> Result<
    impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
    + use<>,
    ServeError,
> {
    let observe = ObserveLayer {
        methods: Arc::new(MethodTable::new()),
        ids: Arc::clone(&options.ids),
        cut: cut.clone(),
    };
    let authorize = AuthorizeLayer {
        engine: engine.clone(),
        origins: options.allowed_origins.clone().into(),
    };
    let intake = Intake::new(options);
    Ok(ServiceBuilder::new()
        .layer(option_layer(cors(&options.allowed_origins)?))
        .layer(GrpcWebLayer::new())
        .layer(observe)
        .map_response(complete)
        .layer(DeadlineLayer)
        .layer(authorize)
        .map_request(move |request| intake.watch(request))
        .service(services(engine, options, health)?))
}

/// The services, without anything in front of them.
fn services(engine: &Engine, options: &ApiOptions, health: &Health) -> Result<Routes, ServeError> {
    let jobs = JobServiceServer::new(Jobs::new(engine.clone()))
        .max_decoding_message_size(MAX_BATCH_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let workers = WorkerServiceServer::new(Workers::new(engine.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let system =
        SystemServiceServer::new(System::new(engine.clone(), Arc::clone(&options.backends)))
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .accept_compressed(CompressionEncoding::Gzip);
    let access = AccessServiceServer::new(Access::new(engine.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let dlq = DlqServiceServer::new(Dlq::new(engine.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let policy = PolicyServiceServer::new(Policy::new(engine.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let configs = ConfigServiceServer::new(Configs::new(engine.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let approvals = ApprovalServiceServer::new(Approvals::new(engine.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let health = HealthService::from_health_reporter(health.reporter().clone());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Either version tells of both: tools look there before they call anything.
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            )
    };
    let v1 = reflection().build_v1().map_err(ServeError::Reflection)?;
    let v1alpha = reflection()
        .build_v1alpha()
        .map_err(ServeError::Reflection)?;
    Ok(Routes::new(jobs)
        .add_service(workers)
        .add_service(system)
        .add_service(access)
        .add_service(dlq)
        .add_service(policy)
        .add_service(configs)
        .add_service(approvals)
        .add_service(HealthServer::new(health))
        .add_service(v1)
        .add_service(v1alpha)
        .prepare())
}

/// CORS for the listed origins; none is no CORS at all.
fn cors(origins: &[String]) -> Result<Option<CorsLayer>, ServeError> {
    if origins.is_empty() {
        return Ok(None);
    }
    let mut allowed = Vec::with_capacity(origins.len());
    for origin in origins {
        let value = HeaderValue::from_str(origin).ok();
        // The wildcard is refused: it would let every page in.
        let value = value.filter(|_| origin.contains("://"));
        allowed.push(value.ok_or_else(|| ServeError::Origin(origin.clone()))?);
    }
    let name = HeaderName::from_static;
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(allowed))
        .allow_methods([Method::POST])
        .allow_headers([
            http::header::AUTHORIZATION,
            http::header::CONTENT_TYPE,
            TENANT,
            REQUEST_ID,
            name("grpc-timeout"),
            name("traceparent"),
            name("x-grpc-web"),
            name("x-user-agent"),
        ])
        .expose_headers([
            Status::GRPC_STATUS,
            Status::GRPC_MESSAGE,
            Status::GRPC_STATUS_DETAILS,
            REQUEST_ID,
        ])
        .max_age(PREFLIGHT_AGE);
    Ok(Some(layer))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing as support;

    #[tokio::test(start_paused = true)]
    async fn the_layers_stand_in_their_order() {
        let engine = support::engine(true).await;
        let mut options = ApiOptions::new(support::SeededIds::new(1));
        options.allowed_origins.push("https://a.example".to_owned());
        let cut = CancellationToken::new();
        let service = routes(&engine, &options, &Health::new(), &cut).unwrap();
        let name = std::any::type_name_of_val(&service);
        let order = [
            "Cors<",
            "GrpcWebService<",
            "Observe<",
            "MapResponse<",
            "Deadline<",
            "Authorize<",
            "MapRequest<",
            "Routes",
        ];
        let places: Vec<_> = order.iter().map(|layer| name.find(layer)).collect();
        assert!(places.iter().all(Option::is_some), "{name}");
        assert!(places.is_sorted(), "{name}");
    }

    #[test]
    fn origins_are_checked() {
        let cors = |origin: &str| cors(&[origin.to_owned()]);
        assert!(matches!(cors("https://a.example"), Ok(Some(_))));
        for bad in ["*", "a.example", "https://a\n.example"] {
            assert!(matches!(cors(bad), Err(ServeError::Origin(_))), "{bad}");
        }
        assert!(matches!(super::cors(&[]), Ok(None)));
    }
}
