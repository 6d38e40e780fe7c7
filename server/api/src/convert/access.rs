//! API keys and callers.

use std::collections::BTreeSet;

use coretex_core::id::TenantId;
use coretex_engine::{ApiKey, Caller, NewApiKey, Role};
use coretex_proto::v1;

use super::query::team;
use super::time;
use crate::validate::{Fields, MAX_LIST};

/// The longest name of a key, in characters.
const MAX_DISPLAY_NAME: usize = 128;

/// Reads what a new key should be.
pub(crate) fn read(fields: &mut Fields, request: v1::CreateApiKeyRequest) -> NewApiKey {
    if request.display_name.chars().count() > MAX_DISPLAY_NAME {
        let rule = format!("must be at most {MAX_DISPLAY_NAME} characters long");
        fields.refuse("display_name", rule);
    }
    // A character has at most four bytes.
    let display_name = fields.line("display_name", request.display_name, 4 * MAX_DISPLAY_NAME);
    NewApiKey {
        display_name,
        tenant: fields.optional_id("tenant_id", &request.tenant_id, TenantId::parse),
        roles: roles(fields, &request.roles),
        team_ids: fields
            .ids("team_ids", &request.team_ids, MAX_LIST, team)
            .into_iter()
            .collect(),
        tenants_served: fields
            .ids("tenants_served", &request.tenants_served, MAX_LIST, team)
            .into_iter()
            .collect(),
        expire_time: fields.time("expire_time", request.expire_time),
    }
}

fn roles(fields: &mut Fields, names: &[String]) -> BTreeSet<Role> {
    if names.is_empty() {
        fields.refuse("roles", "must name at least one role");
    }
    if !fields.at_most("roles", names.len(), MAX_LIST) {
        return BTreeSet::new();
    }
    let mut roles = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        match Role::parse(name) {
            Some(role) => {
                roles.insert(role);
            }
            None => {
                let known = Role::ALL.map(Role::name).join(", ");
                fields.refuse(
                    &format!("roles[{index}]"),
                    format!("must be one of {known}"),
                );
            }
        }
    }
    roles
}

/// Writes a key.
pub(crate) fn write(key: ApiKey) -> v1::ApiKey {
    v1::ApiKey {
        key_id: key.key_id,
        display_name: key.display_name,
        tenant_id: key.tenant.to_string(),
        roles: names(&key.roles),
        team_ids: key.team_ids.into_iter().collect(),
        tenants_served: served(key.tenants_served, &key.tenant),
        create_time: Some(time(key.create_time)),
        expire_time: key.expire_time.map(time),
        last_used_time: key.last_used_time.map(time),
        revoke_time: key.revoke_time.map(time),
    }
}

/// Writes who calls.
pub(crate) fn caller(caller: &Caller) -> v1::WhoAmIResponse {
    v1::WhoAmIResponse {
        principal_id: caller.principal_id.clone(),
        tenant_id: caller.tenant.to_string(),
        team_ids: caller.team_ids.iter().cloned().collect(),
        roles: names(&caller.roles),
        tenants_served: served(caller.tenants_served.clone(), &caller.tenant),
    }
}

fn names(roles: &BTreeSet<Role>) -> Vec<String> {
    roles.iter().map(|role| role.name().to_owned()).collect()
}

/// Tenants whose jobs a worker gets: those listed, else its own.
fn served(listed: BTreeSet<String>, own: &TenantId) -> Vec<String> {
    if listed.is_empty() {
        return vec![own.to_string()];
    }
    listed.into_iter().collect()
}
