//! The calls of `ConfigService`.

use coretex_proto::v1::config_service_client::ConfigServiceClient;

use super::call::unary;
use super::items::paged;

unary! {
    /// Writes a document of configuration, or checks whether it could be written.
    ConfigServiceClient::set_config("/coretex.v1.ConfigService/SetConfig", SetConfigRequest)
        -> SetConfigResponse;
    /// Reads a document.
    ConfigServiceClient::get_config("/coretex.v1.ConfigService/GetConfig", GetConfigRequest)
        -> GetConfigResponse;
    /// Shows a page of documents, newest first. See also [`all_configs`](Self::all_configs).
    ConfigServiceClient::list_configs("/coretex.v1.ConfigService/ListConfigs", ListConfigsRequest)
        -> ListConfigsResponse;
    /// Deletes a document. When the answer to the first try is lost, the second may say that there is
    /// no such document.
    ConfigServiceClient::delete_config(
        "/coretex.v1.ConfigService/DeleteConfig",
        DeleteConfigRequest
    ) -> DeleteConfigResponse;
    /// Shows a page of what a document has said, newest first. See also
    /// [`all_config_revisions`](Self::all_config_revisions).
    ConfigServiceClient::list_config_revisions(
        "/coretex.v1.ConfigService/ListConfigRevisions",
        ListConfigRevisionsRequest
    ) -> ListConfigRevisionsResponse;
    /// Reads the configuration in force at a place, and where its values come from.
    ConfigServiceClient::get_effective_config(
        "/coretex.v1.ConfigService/GetEffectiveConfig",
        GetEffectiveConfigRequest
    ) -> GetEffectiveConfigResponse;
}

paged! {
    /// All documents of the scopes, newest first.
    all_configs = list_configs(ListConfigsRequest) -> configs: Config;
    /// All revisions of a document that are kept, newest first.
    all_config_revisions = list_config_revisions(ListConfigRevisionsRequest)
        -> revisions: ConfigRevision;
}
