//! API keys and who one is.

use coretex::proto::{ApiKey, CreateApiKeyResponse, ListApiKeysResponse, WhoAmIResponse};

use super::{Fields, Grid, Paint, Tint, age, documents, time};

documents! {
    ApiKey => details;
    CreateApiKeyResponse => created;
    ListApiKeysResponse => list;
    WhoAmIResponse => whoami;
}

fn fields(key: &ApiKey, paint: Paint) -> Fields {
    let mut fields = Fields::new(paint);
    fields.add("key", key.key_id.as_str());
    fields.add("name", key.display_name.as_str());
    fields.add("tenant", key.tenant_id.as_str());
    fields.add("roles", key.roles.join(", "));
    fields.add("teams", key.team_ids.join(", "));
    fields.add("serves tenants", key.tenants_served.join(", "));
    fields.add("created", time(key.create_time.as_ref()));
    fields.add("expires", time(key.expire_time.as_ref()));
    fields.add("last used", time(key.last_used_time.as_ref()));
    fields.tinted("revoked", Tint::Bad, time(key.revoke_time.as_ref()));
    fields
}

fn details(key: &ApiKey, paint: Paint) -> String {
    fields(key, paint).finish()
}

fn created(answer: &CreateApiKeyResponse, paint: Paint) -> String {
    let key = answer.api_key.clone().unwrap_or_default();
    let mut fields = fields(&key, paint);
    fields.add("secret", answer.secret.as_str());
    fields.finish()
}

fn list(page: &ListApiKeysResponse, paint: Paint) -> String {
    let head = [
        "KEY",
        "NAME",
        "TENANT",
        "ROLES",
        "AGE",
        "LAST USED",
        "EXPIRES",
        "REVOKED",
    ];
    let mut grid = Grid::new(paint, &head);
    for key in &page.api_keys {
        grid.row([
            key.key_id.clone(),
            key.display_name.clone(),
            key.tenant_id.clone(),
            key.roles.join(","),
            age(key.create_time.as_ref()),
            age(key.last_used_time.as_ref()),
            time(key.expire_time.as_ref()),
            time(key.revoke_time.as_ref()),
        ]);
    }
    grid.finish()
}

fn whoami(answer: &WhoAmIResponse, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("principal", answer.principal_id.as_str());
    fields.add("tenant", answer.tenant_id.as_str());
    fields.add("teams", answer.team_ids.join(", "));
    fields.add("roles", answer.roles.join(", "));
    fields.add("serves tenants", answer.tenants_served.join(", "));
    fields.finish()
}
