//! API keys: who they are, what they may make, when they end.

use std::collections::BTreeSet;

use coretex_core::id::TenantId;
use coretex_engine::{
    Caller, DEFAULT_TENANT, Error, NewApiKey, PageRequest, Role, SYSTEM_TENANT, grants,
};
use coretex_store::Shard;

use crate::support::{Bench, Setup, admin, caller, jump, pass, secs};

fn new(roles: &[Role]) -> NewApiKey {
    NewApiKey {
        display_name: "a key".to_owned(),
        tenant: None,
        roles: roles.iter().copied().collect(),
        team_ids: BTreeSet::new(),
        tenants_served: BTreeSet::new(),
        expire_time: None,
    }
}

fn tenant(name: &str) -> Option<TenantId> {
    Some(TenantId::parse(name).unwrap())
}

fn system() -> Caller {
    Caller {
        system: true,
        ..caller(SYSTEM_TENANT, "key:root", &[Role::Admin])
    }
}

fn everything() -> PageRequest {
    PageRequest {
        size: 100,
        token: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_who_it_was_made_for() {
    let bench = Bench::new().await;
    let mut wanted = new(&[Role::Submitter, Role::Viewer]);
    wanted.team_ids.insert("red".to_owned());
    wanted.tenants_served.insert("acme".to_owned());
    let (key, secret) = bench.engine.create_api_key(&admin(), wanted).await.unwrap();
    let who = bench.engine.authenticate(&secret).await.unwrap();
    assert_eq!(who.principal_id, format!("key:{}", key.key_id));
    assert_eq!(who.tenant.as_str(), "acme");
    assert_eq!(who.roles, [Role::Submitter, Role::Viewer].into());
    assert_eq!(who.team_ids, ["red".to_owned()].into());
    assert_eq!(who.tenants_served, ["acme".to_owned()].into());
    assert!(!who.system);
    // The secret is nowhere.
    let part = secret.split_once('.').unwrap().1;
    assert!(!format!("{key:?}").contains(part));
    assert!(!String::from_utf8_lossy(&key.secret_hash).contains(part));
}

#[tokio::test(start_paused = true)]
async fn wrong_secrets_are_refused_and_leave_no_trace() {
    let bench = Bench::new().await;
    let (key, secret) = bench
        .engine
        .create_api_key(&admin(), new(&[Role::Viewer]))
        .await
        .unwrap();
    let (other, _) = bench
        .engine
        .create_api_key(&admin(), new(&[Role::Admin]))
        .await
        .unwrap();
    let part = secret.split_once('.').unwrap().1.to_owned();
    let mut flipped = secret.clone();
    let last = if flipped.pop() == Some('0') { '1' } else { '0' };
    flipped.push(last);
    let wrong = [
        String::new(),
        "x".to_owned(),
        "ctx_".to_owned(),
        "ctx_.".to_owned(),
        format!("ctx_{}", key.key_id),
        format!("ctx_{}.", key.key_id),
        format!("ctx_{}.{}", other.key_id, part),
        format!("ctx_{}.{}", "f".repeat(16), part),
        format!("ctx_../../{}.{}", key.key_id, part),
        format!("ctx_{}.{}", "x".repeat(5_000), part),
        secret.to_uppercase(),
        secret[..secret.len() - 1].to_owned(),
        format!("{secret}0"),
        format!(" {secret}"),
        flipped,
    ];
    for wrong in &wrong {
        let refused = bench.engine.authenticate(wrong).await;
        assert_eq!(refused.err(), Some(Error::CredentialInvalid), "{wrong:?}");
        jump(secs(30)).await;
    }
    let (keys, _) = bench
        .engine
        .list_api_keys(&admin(), everything(), false)
        .await
        .unwrap();
    assert!(
        keys.iter().all(|key| key.last_used_time.is_none()),
        "nobody has used them"
    );
    bench.engine.authenticate(&secret).await.unwrap();
    pass(secs(1)).await;
    let (keys, _) = bench
        .engine
        .list_api_keys(&admin(), everything(), false)
        .await
        .unwrap();
    let used = keys
        .iter()
        .filter(|key| key.last_used_time.is_some())
        .count();
    assert_eq!(used, 1);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_is_refused_at_once_and_elsewhere_within_ten_seconds() {
    let bench = Bench::with(Setup {
        exclusive: false,
        ..Setup::default()
    })
    .await;
    let (other, _tap) = bench.another().await.unwrap();
    let (key, secret) = bench
        .engine
        .create_api_key(&admin(), new(&[Role::Viewer]))
        .await
        .unwrap();
    bench.engine.authenticate(&secret).await.unwrap();
    other.authenticate(&secret).await.unwrap();
    let stranger = caller("other", "key:o", &[Role::Admin]);
    assert!(
        bench
            .engine
            .revoke_api_key(&stranger, &key.key_id)
            .await
            .is_err()
    );
    pass(secs(1)).await;
    let revoked = bench.engine.revoke_api_key(&admin(), &key.key_id).await;
    let revoked = revoked.unwrap();
    assert_eq!(revoked.revoke_time, Some(bench.now()));
    assert_eq!(
        bench.engine.authenticate(&secret).await.err(),
        Some(Error::CredentialInvalid)
    );
    pass(secs(10)).await;
    assert_eq!(
        other.authenticate(&secret).await.err(),
        Some(Error::CredentialInvalid)
    );
    // It stays revoked since the first time.
    let again = bench.engine.revoke_api_key(&admin(), &key.key_id).await;
    assert_eq!(again.unwrap().revoke_time, revoked.revoke_time);
    let missing = bench.engine.revoke_api_key(&admin(), "nope").await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    let (keys, _) = bench
        .engine
        .list_api_keys(&admin(), everything(), false)
        .await
        .unwrap();
    assert!(keys.is_empty());
    let names = bench.names.keys(Shard::Sys);
    assert!(names.iter().any(|name| name.starts_with(b"key/")));
}

#[tokio::test(start_paused = true)]
async fn a_key_ends_at_its_time_also_when_it_is_remembered() {
    let bench = Bench::new().await;
    let past = NewApiKey {
        expire_time: Some(bench.now()),
        ..new(&[Role::Viewer])
    };
    let refused = bench.engine.create_api_key(&admin(), past).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
    let soon = NewApiKey {
        expire_time: Some(bench.now() + secs(5)),
        ..new(&[Role::Viewer])
    };
    let (_, secret) = bench.engine.create_api_key(&admin(), soon).await.unwrap();
    bench.engine.authenticate(&secret).await.unwrap();
    pass(secs(4)).await;
    bench.engine.authenticate(&secret).await.unwrap();
    pass(secs(2)).await;
    assert_eq!(
        bench.engine.authenticate(&secret).await.err(),
        Some(Error::CredentialInvalid)
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_hands_out_more_than_it_has() {
    let bench = Bench::new().await;
    let engine = &bench.engine;
    let submitter = caller("acme", "key:s", &[Role::Submitter]);
    for role in Role::ALL {
        let made = engine.create_api_key(&submitter, new(&[role])).await;
        match role {
            Role::Submitter => assert!(made.is_ok()),
            _ => assert!(
                matches!(made, Err(Error::RoleNotAllowed { .. })),
                "{role:?}"
            ),
        }
    }
    let none = engine.create_api_key(&admin(), new(&[])).await;
    assert!(matches!(none, Err(Error::Invalid(_))));
    // Not for other tenants, nor for the system.
    for name in ["other", SYSTEM_TENANT, DEFAULT_TENANT] {
        let foreign = NewApiKey {
            tenant: tenant(name),
            ..new(&[Role::Admin])
        };
        let refused = engine.create_api_key(&admin(), foreign).await;
        assert_eq!(refused.err(), Some(Error::TenantNotAllowed), "{name}");
    }
    let mut serving = new(&[Role::Worker]);
    serving.tenants_served = ["acme".to_owned(), "other".to_owned()].into();
    let refused = engine.create_api_key(&admin(), serving.clone()).await;
    assert_eq!(refused.err(), Some(Error::TenantNotAllowed));
    engine.create_api_key(&system(), serving).await.unwrap();
    // A tenant admin's keys have no system rights, whatever its tenant is called.
    let fake = caller(SYSTEM_TENANT, "key:f", &[Role::Admin]);
    let (key, _) = engine
        .create_api_key(&fake, new(&[Role::Admin]))
        .await
        .unwrap();
    assert!(!key.system);
    let for_tenant = NewApiKey {
        tenant: tenant("other"),
        ..new(&[Role::Admin])
    };
    let (key, _) = engine.create_api_key(&system(), for_tenant).await.unwrap();
    assert!(!key.system);
    assert_eq!(key.tenant.as_str(), "other");
    let (key, _) = engine
        .create_api_key(&system(), new(&[Role::Viewer]))
        .await
        .unwrap();
    assert!(!key.system, "a viewer of the system is no admin of it");
    let (key, _) = engine
        .create_api_key(&system(), new(&[Role::Admin]))
        .await
        .unwrap();
    assert!(key.system);
}

#[tokio::test(start_paused = true)]
async fn the_first_admin_key_is_made_once() {
    let bench = Bench::new().await;
    let secret = bench.engine.ensure_admin_key().await.unwrap().unwrap();
    assert_eq!(bench.engine.ensure_admin_key().await.unwrap(), None);
    let who = bench.engine.authenticate(&secret).await.unwrap();
    assert_eq!(who.tenant.as_str(), DEFAULT_TENANT);
    assert!(who.system && who.roles.contains(&Role::Admin));
}

#[tokio::test(start_paused = true)]
async fn keys_are_listed_by_pages_for_their_tenant_only() {
    let bench = Bench::new().await;
    let mut should = BTreeSet::new();
    for _ in 0..11 {
        let (key, _) = bench
            .engine
            .create_api_key(&admin(), new(&[Role::Viewer]))
            .await
            .unwrap();
        should.insert(key.key_id);
    }
    // A tenant whose name begins with ours.
    let longer = caller("acme-2", "key:l", &[Role::Admin]);
    bench
        .engine
        .create_api_key(&longer, new(&[Role::Viewer]))
        .await
        .unwrap();
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let request = PageRequest { size: 4, token };
        let (keys, next) = bench
            .engine
            .list_api_keys(&admin(), request, false)
            .await
            .unwrap();
        found.extend(keys.into_iter().map(|key| key.key_id));
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found.len(), 11);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), should);
    for garbage in ["a b", "../x", "\u{0}"] {
        let request = PageRequest {
            size: 4,
            token: garbage.to_owned(),
        };
        let refused = bench.engine.list_api_keys(&admin(), request, false).await;
        assert_eq!(refused.err(), Some(Error::PageTokenInvalid), "{garbage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_checked_is_remembered_for_a_while() {
    let bench = Bench::new().await;
    let (_, secret) = bench
        .engine
        .create_api_key(&admin(), new(&[Role::Viewer]))
        .await
        .unwrap();
    bench.engine.authenticate(&secret).await.unwrap();
    pass(secs(1)).await;
    bench.faulty.take_down();
    bench.engine.authenticate(&secret).await.unwrap();
    pass(secs(10)).await;
    let unknown = bench.engine.authenticate(&secret).await;
    assert!(
        matches!(unknown, Err(Error::Unavailable { .. })),
        "not a wrong credential"
    );
    bench.faulty.restore();
    bench.engine.authenticate(&secret).await.unwrap();
}

#[test]
fn the_role_table_gives_each_what_it_needs_and_no_more() {
    let may = |role| -> Vec<&str> {
        [
            "jobs.submit",
            "jobs.read",
            "jobs.output",
            "jobs.cancel",
            "workers.connect",
            "workers.drain",
            "pools.pause",
            "keys.create",
            "keys.revoke",
        ]
        .into_iter()
        .filter(|permission| grants(role, permission))
        .collect()
    };
    assert_eq!(may(Role::Admin).len(), 9);
    assert_eq!(
        may(Role::Operator),
        [
            "jobs.submit",
            "jobs.read",
            "jobs.output",
            "jobs.cancel",
            "workers.drain",
            "pools.pause"
        ]
    );
    assert_eq!(may(Role::Approver), ["jobs.read", "jobs.output"]);
    assert_eq!(
        may(Role::Submitter),
        ["jobs.submit", "jobs.read", "jobs.output", "jobs.cancel"]
    );
    assert_eq!(may(Role::Worker), ["workers.connect"]);
    assert_eq!(may(Role::Viewer), ["jobs.read"]);
    assert_eq!(may(Role::Auditor), ["jobs.read"]);
    for role in Role::ALL {
        assert_eq!(Role::parse(role.name()), Some(role));
        assert!(grants(role, "authenticated"));
        assert!(role == Role::Admin || !grants(role, "no.such.permission"));
    }
    assert_eq!(Role::parse("root"), None);
}
