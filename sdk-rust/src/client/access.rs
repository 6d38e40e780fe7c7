//! The calls of `AccessService`.

use coretex_proto::v1::access_service_client::AccessServiceClient;

use super::call::unary;
use super::items::paged;

unary! {
    /// Makes an API key. Never repeated by itself: each call makes another key.
    AccessServiceClient::create_api_key(
        "/coretex.v1.AccessService/CreateApiKey",
        CreateApiKeyRequest
    ) -> CreateApiKeyResponse;
    /// Shows a page of API keys, newest first. See also [`all_api_keys`](Self::all_api_keys).
    AccessServiceClient::list_api_keys("/coretex.v1.AccessService/ListApiKeys", ListApiKeysRequest)
        -> ListApiKeysResponse;
    /// Makes an API key useless.
    AccessServiceClient::revoke_api_key(
        "/coretex.v1.AccessService/RevokeApiKey",
        RevokeApiKeyRequest
    ) -> RevokeApiKeyResponse;
    /// Tells whom the credential of this client stands for.
    AccessServiceClient::who_am_i("/coretex.v1.AccessService/WhoAmI", WhoAmIRequest)
        -> WhoAmIResponse;
}

paged! {
    /// All API keys of the tenant, newest first.
    all_api_keys = list_api_keys(ListApiKeysRequest) -> api_keys: ApiKey;
}
