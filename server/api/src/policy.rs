//! `PolicyService`: bundles, what is in force, and what it says.

mod replay;

use coretex_core::id::TenantId;
use coretex_engine::{Engine, Expected, MAX_BUNDLES, PutBundle, Subject};
use coretex_proto::v1;
use coretex_proto::v1::policy_service_server::PolicyService;
use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use self::replay::Replay;
use crate::call::answer;
use crate::convert::{self, bundle, explanation, query, submit};
use crate::page::{self, MAX_RESPONSE_BYTES, list_name};
use crate::validate::{Fields, MAX_NAME, check, principal};

/// Room in an answer for everything but the contents of bundles.
const BESIDE: usize = 512 * 1024;

/// The service over an engine.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    engine: Engine,
}

impl Policy {
    pub(crate) const fn new(engine: Engine) -> Self {
        Self { engine }
    }

    /// Reads a subject.
    fn subject(&self, fields: &mut Fields, subject: Option<v1::PolicySubject>) -> Subject {
        let subject = subject.unwrap_or_default();
        fields.within("subject", |fields| {
            let tenant = fields.optional_id("tenant_id", &subject.tenant_id, TenantId::parse);
            let principal_id = fields.optional_id("principal_id", &subject.principal_id, principal);
            // A subject has the fields of a job that is submitted, with the same rules.
            let job = v1::SubmitJobRequest {
                topic: subject.topic,
                team_id: subject.team_id,
                priority: subject.priority,
                labels: subject.labels,
                metadata: subject.metadata,
                budget: subject.budget,
                estimated_cost: subject.estimated_cost,
                input: subject.input,
                ..v1::SubmitJobRequest::default()
            };
            let job = submit::read(fields, job, self.engine.limits(), "");
            Subject {
                tenant,
                principal_id: principal_id.unwrap_or_default(),
                spec: job.spec,
                input: job.input,
            }
        })
    }
}

/// Reads bundles that take the place of others in a question.
fn candidates(fields: &mut Fields, bundles: Vec<v1::Bundle>) -> Vec<PutBundle> {
    if bundles.is_empty() {
        fields.refuse("candidate_bundles", "must not be empty");
    }
    if !fields.at_most("candidate_bundles", bundles.len(), MAX_BUNDLES) {
        return Vec::new();
    }
    let each = bundles.into_iter().enumerate();
    each.map(|(place, one)| {
        fields.within(&format!("candidate_bundles[{place}]"), |fields| {
            bundle::candidate(fields, one)
        })
    })
    .collect()
}

/// Leaves out contents for which there is no room in the answer.
fn fit(snapshot: &mut v1::PolicySnapshot) {
    let mut room = MAX_RESPONSE_BYTES - BESIDE;
    for bundle in &mut snapshot.bundles {
        match room.checked_sub(bundle.encoded_len()) {
            Some(left) => room = left,
            None => bundle.content.clear(),
        }
    }
}

#[async_trait]
impl PolicyService for Policy {
    type ReplayPolicyStream = Replay;

    async fn evaluate_policy(
        &self,
        request: Request<v1::EvaluatePolicyRequest>,
    ) -> Result<Response<v1::EvaluatePolicyResponse>, Status> {
        answer(request, |call, request| async move {
            let subject = check(|fields| self.subject(fields, request.subject))?;
            let decision = self.engine.evaluate_policy(&call.caller, subject).await?;
            Ok(v1::EvaluatePolicyResponse {
                decision: Some(convert::policy::decision(&decision, 0)),
            })
        })
        .await
    }

    async fn explain_policy(
        &self,
        request: Request<v1::ExplainPolicyRequest>,
    ) -> Result<Response<v1::ExplainPolicyResponse>, Status> {
        answer(request, |call, request| async move {
            let subject = check(|fields| self.subject(fields, request.subject))?;
            let explained = self.engine.explain_policy(&call.caller, subject).await?;
            Ok(explanation::write(&explained))
        })
        .await
    }

    async fn simulate_policy(
        &self,
        request: Request<v1::SimulatePolicyRequest>,
    ) -> Result<Response<v1::SimulatePolicyResponse>, Status> {
        answer(request, |call, request| async move {
            let (subject, candidates) = check(|fields| {
                let subject = self.subject(fields, request.subject);
                (subject, candidates(fields, request.candidate_bundles))
            })?;
            let simulated = self
                .engine
                .simulate_policy(&call.caller, subject, &candidates)
                .await?;
            Ok(v1::SimulatePolicyResponse {
                differs: simulated.differs(),
                current: Some(convert::policy::decision(&simulated.current, 0)),
                candidate: Some(convert::policy::decision(&simulated.candidate, 0)),
            })
        })
        .await
    }

    async fn replay_policy(
        &self,
        request: Request<v1::ReplayPolicyRequest>,
    ) -> Result<Response<Self::ReplayPolicyStream>, Status> {
        answer(request, |call, request| async move {
            let (candidates, filter) = check(|fields| {
                let candidates = candidates(fields, request.candidate_bundles);
                let mut filter = query::filter(fields, "filter", request.filter);
                let after = fields.time("created_after", request.created_after);
                let before = fields.time("created_before", request.created_before);
                // The narrower of the two counts.
                filter.created_after = filter.created_after.max(after);
                filter.created_before = match (filter.created_before, before) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
                (candidates, filter)
            })?;
            let items = self
                .engine
                .replay_policy(&call.caller, &candidates, filter)
                .await?;
            Ok(Replay::new(call, items))
        })
        .await
    }

    async fn put_bundle(
        &self,
        request: Request<v1::PutBundleRequest>,
    ) -> Result<Response<v1::PutBundleResponse>, Status> {
        answer(request, |call, request| async move {
            let (put, etag) = check(|fields| {
                let put = bundle::put(fields, "bundle", request.bundle);
                (
                    put,
                    Expected::to_write(fields.line("etag", request.etag, MAX_NAME)),
                )
            })?;
            let written = self
                .engine
                .put_bundle(&call.caller, put, etag, request.validate_only)
                .await?;
            Ok(v1::PutBundleResponse {
                bundle: Some(bundle::bundle(written)),
            })
        })
        .await
    }

    async fn get_bundle(
        &self,
        request: Request<v1::GetBundleRequest>,
    ) -> Result<Response<v1::GetBundleResponse>, Status> {
        answer(request, |call, request| async move {
            let id = check(|fields| fields.name("bundle_id", &request.bundle_id))?;
            let found = self
                .engine
                .get_bundle(&call.caller, &id, request.published)
                .await?;
            Ok(v1::GetBundleResponse {
                bundle: Some(bundle::bundle(found)),
            })
        })
        .await
    }

    async fn list_bundles(
        &self,
        request: Request<v1::ListBundlesRequest>,
    ) -> Result<Response<v1::ListBundlesResponse>, Status> {
        answer(request, |call, request| async move {
            let name = list_name(["bundles"]);
            let page = check(|fields| page::read(fields, request.page_size, request.page_token))?;
            let page = page::unseal(page, name)?;
            let (bundles, next) = self.engine.list_bundles(&call.caller, page).await?;
            Ok(v1::ListBundlesResponse {
                bundles: bundles.into_iter().map(bundle::bundle).collect(),
                next_page_token: page::seal(&next, name),
            })
        })
        .await
    }

    async fn delete_bundle(
        &self,
        request: Request<v1::DeleteBundleRequest>,
    ) -> Result<Response<v1::DeleteBundleResponse>, Status> {
        answer(request, |call, request| async move {
            let (id, etag) = check(|fields| {
                let id = fields.name("bundle_id", &request.bundle_id);
                (
                    id,
                    Expected::to_delete(fields.line("etag", request.etag, MAX_NAME)),
                )
            })?;
            self.engine.delete_bundle(&call.caller, &id, etag).await?;
            Ok(v1::DeleteBundleResponse {})
        })
        .await
    }

    async fn publish_bundles(
        &self,
        request: Request<v1::PublishBundlesRequest>,
    ) -> Result<Response<v1::PublishBundlesResponse>, Status> {
        answer(request, |call, request| async move {
            let (ids, note, key) = check(|fields| {
                let ids = &request.bundle_ids;
                let ids = fields.ids("bundle_ids", ids, MAX_BUNDLES, query::team);
                let note = bundle::note(fields, request.note);
                let key = submit::idempotency_key(fields, request.idempotency_key);
                (ids, note, key)
            })?;
            let only = request.validate_only;
            let published = self
                .engine
                .publish_bundles(&call.caller, &ids, &note, &key, only)
                .await?;
            Ok(v1::PublishBundlesResponse {
                snapshot_id: published.snapshot_id,
                previous_snapshot_id: published.previous,
                replayed: published.replayed,
            })
        })
        .await
    }

    async fn rollback_policy(
        &self,
        request: Request<v1::RollbackPolicyRequest>,
    ) -> Result<Response<v1::RollbackPolicyResponse>, Status> {
        answer(request, |call, request| async move {
            let (id, note, key) = check(|fields| {
                let id = fields.name("snapshot_id", &request.snapshot_id);
                let note = bundle::note(fields, request.note);
                let key = submit::idempotency_key(fields, request.idempotency_key);
                (id, note, key)
            })?;
            let published = self
                .engine
                .rollback_policy(&call.caller, &id, &note, &key)
                .await?;
            Ok(v1::RollbackPolicyResponse {
                snapshot_id: published.snapshot_id,
                previous_snapshot_id: published.previous,
                replayed: published.replayed,
            })
        })
        .await
    }

    async fn reload_policy(
        &self,
        request: Request<v1::ReloadPolicyRequest>,
    ) -> Result<Response<v1::ReloadPolicyResponse>, Status> {
        answer(request, |call, v1::ReloadPolicyRequest {}| async move {
            let snapshot_id = self.engine.reload_policy(&call.caller).await?;
            Ok(v1::ReloadPolicyResponse {
                snapshot_id,
                problems: self.engine.policy_problems(),
            })
        })
        .await
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        answer(request, |call, request| async move {
            let name = list_name(["snapshots"]);
            let page = check(|fields| page::read(fields, request.page_size, request.page_token))?;
            let page = page::unseal(page, name)?;
            let (snapshots, next) = self.engine.list_snapshots(&call.caller, page).await?;
            Ok(v1::ListSnapshotsResponse {
                snapshots: snapshots.into_iter().map(bundle::snapshot).collect(),
                next_page_token: page::seal(&next, name),
            })
        })
        .await
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        answer(request, |call, request| async move {
            let (id, other) = check(|fields| {
                let id = fields.optional_id("snapshot_id", &request.snapshot_id, query::team);
                let other = fields.optional_id("compare_with", &request.compare_with, query::team);
                (id.unwrap_or_default(), other.unwrap_or_default())
            })?;
            let (snapshot, changes) = self.engine.get_snapshot(&call.caller, &id, &other).await?;
            let mut snapshot = bundle::snapshot(snapshot);
            fit(&mut snapshot);
            Ok(v1::GetSnapshotResponse {
                snapshot: Some(snapshot),
                changes: changes.iter().map(bundle::change).collect(),
            })
        })
        .await
    }

    async fn list_policy_audit(
        &self,
        request: Request<v1::ListPolicyAuditRequest>,
    ) -> Result<Response<v1::ListPolicyAuditResponse>, Status> {
        answer(request, |call, request| async move {
            let name = list_name(["policy audit"]);
            let page = check(|fields| page::read(fields, request.page_size, request.page_token))?;
            let page = page::unseal(page, name)?;
            let (entries, next) = self.engine.list_policy_audit(&call.caller, page).await?;
            Ok(v1::ListPolicyAuditResponse {
                entries: entries.into_iter().map(bundle::audit_entry).collect(),
                next_page_token: page::seal(&next, name),
            })
        })
        .await
    }
}
