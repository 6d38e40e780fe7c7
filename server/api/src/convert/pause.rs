//! Pauses.

use coretex_core::id::{PoolName, TenantId};
use coretex_core::pause::{Pause, PauseScope};
use coretex_core::routing::pattern::TopicPattern;
use coretex_engine::Caller;
use coretex_proto::v1;

use super::{text, time};
use crate::validate::Fields;

/// What a caller wants to pause, or to resume.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) pool: String,
    pub(crate) topic: String,
    pub(crate) tenant_id: String,
    pub(crate) all_tenants: bool,
}

/// Reads a scope. Without another tenant it is about the caller's own.
pub(crate) fn scope(fields: &mut Fields, named: &Named, caller: &Caller) -> PauseScope {
    let tenant = fields.optional_id("tenant_id", &named.tenant_id, TenantId::parse);
    let pool = fields.optional_id("pool", &named.pool, PoolName::parse);
    let topic = (!named.topic.is_empty())
        .then(|| TopicPattern::parse(&named.topic))
        .and_then(|read| {
            read.map_err(|error| fields.refuse("topic", error.to_string()))
                .ok()
        });
    if named.all_tenants && tenant.is_some() {
        fields.refuse("all_tenants", "may not be set together with `tenant_id`");
    }
    let nothing = named.pool.is_empty() && named.topic.is_empty();
    if nothing && named.tenant_id.is_empty() && !named.all_tenants {
        fields.refuse(
            "tenant_id",
            "must be set where neither `pool` nor `topic` is: everything of the tenant stops",
        );
    }
    PauseScope {
        tenant: if named.all_tenants {
            None
        } else {
            Some(tenant.unwrap_or_else(|| caller.tenant.clone()))
        },
        pool,
        topic,
    }
}

/// Writes a pause.
pub(crate) fn write(pause: &Pause) -> v1::Pause {
    let scope = &pause.scope;
    v1::Pause {
        pool: text(scope.pool.as_ref()),
        topic: text(scope.topic.as_ref()),
        tenant_id: text(scope.tenant.as_ref()),
        reason: pause.reason.clone(),
        principal_id: pause.principal_id.clone(),
        create_time: Some(time(pause.time)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use coretex_engine::Role;

    use super::*;
    use crate::validate::check;

    fn named(pool: &str, topic: &str, tenant_id: &str, all_tenants: bool) -> Named {
        Named {
            pool: pool.to_owned(),
            topic: topic.to_owned(),
            tenant_id: tenant_id.to_owned(),
            all_tenants,
        }
    }

    #[test]
    fn a_scope_names_something_and_one_tenant_or_all() {
        let caller = Caller {
            principal_id: "key:1".to_owned(),
            tenant: TenantId::from_trusted("acme"),
            team_ids: Default::default(),
            roles: [Role::Operator].into(),
            tenants_served: Default::default(),
            system: false,
        };
        let read = |named: Named| check(|fields| scope(fields, &named, &caller)).ok();
        let acme = TenantId::parse("acme").ok();
        let found = read(named("fast", "", "", false)).unwrap();
        assert_eq!((found.tenant, found.topic), (acme.clone(), None));
        let found = read(named("", "job.a.>", "", true)).unwrap();
        assert_eq!((found.tenant, found.pool), (None, None));
        let found = read(named("", "", "acme", false)).unwrap();
        assert_eq!(found.tenant, acme);
        for bad in [
            named("", "", "", false),
            named("a/b", "", "", false),
            named("", "job", "", false),
            named("fast", "", "acme", true),
        ] {
            let text = format!("{bad:?}");
            assert!(read(bad).is_none(), "{text}");
        }
    }
}
