//! The calls of `SystemService`.

use coretex_proto::v1::system_service_client::SystemServiceClient;

use super::call::unary;

unary! {
    /// Shows version, backends, replicas and load.
    SystemServiceClient::get_status("/coretex.v1.SystemService/GetStatus", GetStatusRequest)
        -> GetStatusResponse;
}
