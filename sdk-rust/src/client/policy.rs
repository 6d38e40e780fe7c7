//! The calls of `PolicyService`.

use coretex_proto::v1::policy_service_client::PolicyServiceClient;
use coretex_proto::v1::{
    PublishBundlesRequest, PublishBundlesResponse, ReplayPolicyRequest, ReplayPolicyResponse,
    RollbackPolicyRequest, RollbackPolicyResponse,
};
use tonic::{Request, Streaming};

use super::call::unary;
use super::items::paged;
use crate::{Client, Error};

unary! {
    /// Says what policy would decide.
    PolicyServiceClient::evaluate_policy(
        "/coretex.v1.PolicyService/EvaluatePolicy",
        EvaluatePolicyRequest
    ) -> EvaluatePolicyResponse;
    /// Says what policy would decide, and how it comes to that.
    PolicyServiceClient::explain_policy(
        "/coretex.v1.PolicyService/ExplainPolicy",
        ExplainPolicyRequest
    ) -> ExplainPolicyResponse;
    /// Says what policy would decide if other bundles were published.
    PolicyServiceClient::simulate_policy(
        "/coretex.v1.PolicyService/SimulatePolicy",
        SimulatePolicyRequest
    ) -> SimulatePolicyResponse;
    /// Writes a bundle as a draft. When the answer to the first try is lost, the second may say that
    /// the etag does not match.
    PolicyServiceClient::put_bundle("/coretex.v1.PolicyService/PutBundle", PutBundleRequest)
        -> PutBundleResponse;
    /// Shows a bundle.
    PolicyServiceClient::get_bundle("/coretex.v1.PolicyService/GetBundle", GetBundleRequest)
        -> GetBundleResponse;
    /// Shows a page of bundles, by id. See also [`all_bundles`](Self::all_bundles).
    PolicyServiceClient::list_bundles("/coretex.v1.PolicyService/ListBundles", ListBundlesRequest)
        -> ListBundlesResponse;
    /// Deletes a bundle that is not in force. When the answer to the first try is lost, the second
    /// may say that there is no such bundle.
    PolicyServiceClient::delete_bundle("/coretex.v1.PolicyService/DeleteBundle", DeleteBundleRequest)
        -> DeleteBundleResponse;
    /// Reads the files beside the server now.
    PolicyServiceClient::reload_policy("/coretex.v1.PolicyService/ReloadPolicy", ReloadPolicyRequest)
        -> ReloadPolicyResponse;
    /// Shows a page of snapshots, newest first. See also [`all_snapshots`](Self::all_snapshots).
    PolicyServiceClient::list_snapshots(
        "/coretex.v1.PolicyService/ListSnapshots",
        ListSnapshotsRequest
    ) -> ListSnapshotsResponse;
    /// Shows a snapshot, and what is different from another one.
    PolicyServiceClient::get_snapshot("/coretex.v1.PolicyService/GetSnapshot", GetSnapshotRequest)
        -> GetSnapshotResponse;
    /// Shows a page of who put what in force, newest first. See also
    /// [`all_policy_audit`](Self::all_policy_audit).
    PolicyServiceClient::list_policy_audit(
        "/coretex.v1.PolicyService/ListPolicyAudit",
        ListPolicyAuditRequest
    ) -> ListPolicyAuditResponse;
}

paged! {
    /// All bundles, by id.
    all_bundles = list_bundles(ListBundlesRequest) -> bundles: Bundle;
    /// All snapshots that are kept, newest first.
    all_snapshots = list_snapshots(ListSnapshotsRequest) -> snapshots: PolicySnapshot;
    /// Everybody who put something in force, newest first.
    all_policy_audit = list_policy_audit(ListPolicyAuditRequest) -> entries: PolicyAuditEntry;
}

impl Client {
    /// Judges recorded jobs again as if other bundles had been in force. The stream breaks with its
    /// connection; it changes nothing, so it can be begun again.
    ///
    /// # Errors
    /// What the contract names for the RPC, and local errors when no answer comes.
    pub async fn replay_policy(
        &self,
        request: ReplayPolicyRequest,
    ) -> Result<Streaming<ReplayPolicyResponse>, Error> {
        let open = |channel, request: Request<ReplayPolicyRequest>| async move {
            PolicyServiceClient::new(channel)
                .replay_policy(request)
                .await
        };
        self.open_stream(request, open).await
    }

    /// Puts drafts in force. Fills the idempotency key when it is empty.
    ///
    /// # Errors
    /// What the contract names for the RPC, and local errors when no answer comes.
    pub async fn publish_bundles(
        &self,
        mut request: PublishBundlesRequest,
    ) -> Result<PublishBundlesResponse, Error> {
        if request.idempotency_key.is_empty() {
            request.idempotency_key = self.shared.entropy.id();
        }
        let path = "/coretex.v1.PolicyService/PublishBundles";
        let limit = self.deadline();
        self.call(path, limit, request, |channel, request| async move {
            PolicyServiceClient::new(channel)
                .publish_bundles(request)
                .await
        })
        .await
    }

    /// Puts an earlier snapshot in force. Fills the idempotency key when it is empty.
    ///
    /// # Errors
    /// What the contract names for the RPC, and local errors when no answer comes.
    pub async fn rollback_policy(
        &self,
        mut request: RollbackPolicyRequest,
    ) -> Result<RollbackPolicyResponse, Error> {
        if request.idempotency_key.is_empty() {
            request.idempotency_key = self.shared.entropy.id();
        }
        let path = "/coretex.v1.PolicyService/RollbackPolicy";
        let limit = self.deadline();
        self.call(path, limit, request, |channel, request| async move {
            PolicyServiceClient::new(channel)
                .rollback_policy(request)
                .await
        })
        .await
    }
}
