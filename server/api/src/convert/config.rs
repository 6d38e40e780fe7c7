//! Documents of configuration, and what comes out of them.

use coretex_core::config::{ConfigName, ConfigScope, Effective};
use coretex_core::id::check_id;
use coretex_engine::{Caller, ConfigDocument, ConfigRevision};
use coretex_proto::v1;
use coretex_proto::value::struct_from_json;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde_json::Value as Json;

use super::{count, json, time};
use crate::validate::Fields;

const fn read_scope(scope: v1::ConfigScope) -> Option<ConfigScope> {
    match scope {
        v1::ConfigScope::Unspecified => None,
        v1::ConfigScope::System => Some(ConfigScope::System),
        v1::ConfigScope::Org => Some(ConfigScope::Org),
        v1::ConfigScope::Team => Some(ConfigScope::Team),
        v1::ConfigScope::Workflow => Some(ConfigScope::Workflow),
        v1::ConfigScope::Step => Some(ConfigScope::Step),
    }
}

const fn write_scope(scope: ConfigScope) -> v1::ConfigScope {
    match scope {
        ConfigScope::System => v1::ConfigScope::System,
        ConfigScope::Org => v1::ConfigScope::Org,
        ConfigScope::Team => v1::ConfigScope::Team,
        ConfigScope::Workflow => v1::ConfigScope::Workflow,
        ConfigScope::Step => v1::ConfigScope::Step,
    }
}

/// Reads which document is meant.
pub(crate) fn name(fields: &mut Fields, scope: i32, id: &str, caller: &Caller) -> ConfigName {
    let known = fields.value("scope", scope).and_then(read_scope);
    let Some(known) = known else {
        if scope == 0 {
            fields.refuse("scope", "must not be unspecified");
        }
        // What no scope has is wrong in any case.
        if !id.is_empty() && id.split('/').any(|part| check_id(part).is_err()) {
            fields.refuse("scope_id", "is no id of any scope");
        }
        return ConfigName::system();
    };
    ConfigName::parse(known, id, &caller.tenant).unwrap_or_else(|rule| {
        fields.refuse("scope_id", rule);
        ConfigName::system()
    })
}

/// Reads scopes to select by.
pub(crate) fn scopes(fields: &mut Fields, scopes: &[i32]) -> Vec<ConfigScope> {
    let scopes: Vec<v1::ConfigScope> = fields.values("scopes", scopes);
    scopes.into_iter().filter_map(read_scope).collect()
}

/// Reads what a document says; what it may say is the engine's business.
pub(crate) fn data(fields: &mut Fields, data: Option<Struct>) -> Json {
    let kind = Kind::StructValue(data.unwrap_or_default());
    let mut text = Vec::new();
    if let Err(error) = json::write(&Value { kind: Some(kind) }, &mut text) {
        fields.refuse("data", error.to_string());
        return Json::Null;
    }
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        fields.refuse("data", error.to_string());
        Json::Null
    })
}

/// Writes an object.
fn object(data: &Json) -> Struct {
    match data {
        Json::Object(fields) => struct_from_json(fields),
        _ => Struct::default(),
    }
}

/// Writes what workers see; nothing is unset.
pub(crate) fn visible(config: &Effective) -> Option<Struct> {
    (!config.visible.is_empty()).then(|| struct_from_json(&config.visible))
}

/// Writes a document.
pub(crate) fn document(document: ConfigDocument) -> v1::Config {
    v1::Config {
        scope: write_scope(document.name.scope).into(),
        scope_id: document.name.id,
        data: Some(object(&document.data)),
        etag: document.etag,
        revision: count(document.revision),
        principal_id: document.principal_id,
        create_time: Some(time(document.create_time)),
        update_time: Some(time(document.update_time)),
    }
}

/// Writes a revision.
pub(crate) fn revision(revision: ConfigRevision) -> v1::ConfigRevision {
    v1::ConfigRevision {
        revision: count(revision.revision),
        data: revision.data.as_ref().map(object),
        deleted: revision.data.is_none(),
        etag: revision.etag,
        principal_id: revision.principal_id,
        update_time: Some(time(revision.time)),
    }
}

/// Writes the configuration in force.
pub(crate) fn effective(config: &Effective) -> v1::GetEffectiveConfigResponse {
    let origins = config.origins.iter().map(|one| v1::ConfigOrigin {
        scope: write_scope(one.source.name.scope).into(),
        scope_id: one.source.name.id.clone(),
        etag: one.source.etag.clone(),
        revision: count(one.source.revision),
        pointers: one.pointers.clone(),
    });
    v1::GetEffectiveConfigResponse {
        data: Some(object(&config.data)),
        version: count(config.version),
        hash: config.hash.clone(),
        origins: origins.collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use coretex_core::id::TenantId;
    use coretex_engine::{Error, Role};

    use super::*;
    use crate::problem::Problem;
    use crate::validate::check;

    fn caller() -> Caller {
        Caller {
            principal_id: "key:1".to_owned(),
            tenant: TenantId::from_trusted("acme"),
            team_ids: Default::default(),
            roles: [Role::Operator].into(),
            tenants_served: Default::default(),
            system: false,
        }
    }

    fn refused<T: std::fmt::Debug>(read: impl FnOnce(&mut Fields) -> T) -> Vec<String> {
        match check(read) {
            Err(Problem::Engine(Error::Invalid(wrong))) => {
                wrong.into_iter().map(|one| one.field).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_read_by_their_scope() {
        let read = |scope: v1::ConfigScope, id: &str| {
            check(|fields| name(fields, scope.into(), id, &caller()))
                .map(|name| name.id)
                .ok()
        };
        assert_eq!(read(v1::ConfigScope::Org, "").as_deref(), Some("acme"));
        assert_eq!(read(v1::ConfigScope::Step, "w/s").as_deref(), Some("w/s"));
        for (scope, id, wrong) in [
            (0, "", &["scope"][..]),
            (0, "a b", &["scope", "scope_id"]),
            (99, "a//b", &["scope", "scope_id"]),
            (1, "x", &["scope_id"]),
            (2, "beta", &["scope_id"]),
            (3, "", &["scope_id"]),
            (5, "w", &["scope_id"]),
        ] {
            let found = refused(|fields| name(fields, scope, id, &caller()));
            assert_eq!(found, wrong, "{scope} {id}");
        }
        assert_eq!(refused(|fields| scopes(fields, &[2, 0])), ["scopes[1]"]);
    }

    #[test]
    fn every_scope_has_a_number_of_the_contract() {
        for scope in ConfigScope::ALL {
            let wire = write_scope(scope);
            assert_eq!(read_scope(wire), Some(scope));
            assert_eq!(wire as i32, scope as i32);
        }
    }

    #[test]
    fn data_survives_the_way_there_and_back() {
        let json = serde_json::json!({"models": {"a": [1, 2.5, "x", null, {"b": true}]}});
        let read = check(|fields| data(fields, Some(object(&json)))).unwrap();
        assert_eq!(read, json);
        assert_eq!(
            check(|fields| data(fields, None)),
            Ok(serde_json::json!({}))
        );
        let kind = Some(Kind::NumberValue(f64::NAN));
        let wrong = BTreeMap::from([("x".to_owned(), Value { kind })]);
        let wrong = Struct { fields: wrong };
        assert_eq!(refused(|fields| data(fields, Some(wrong))), ["data"]);
    }
}
