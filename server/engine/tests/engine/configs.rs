//! Configuration: documents and their revisions under writers who race, crash and ask for too much.
//! What documents do to jobs is in [`effects`], how soon every replica goes by them in [`copies`], how
//! much is kept in [`bounds`].

mod bounds;
mod copies;
mod effects;

use std::collections::BTreeSet;

use coretex_core::config::{ConfigName, ConfigScope};
use coretex_engine::{
    Caller, ConfigDocument, Error, Expected, MAX_REVISIONS, Noun, PageRequest, Role,
};
use coretex_store::layers::Fault;
use serde_json::{Value as Json, json};

use crate::support::{ADMIN, Bench, caller, pass, secs};

pub(crate) fn org() -> ConfigName {
    ConfigName::parse(ConfigScope::Org, "", &ADMIN.tenant).unwrap()
}

pub(crate) fn team(id: &str) -> ConfigName {
    ConfigName::parse(ConfigScope::Team, id, &ADMIN.tenant).unwrap()
}

pub(crate) fn system() -> Caller {
    Caller {
        system: true,
        ..caller("default", "key:root", &[Role::Admin])
    }
}

pub(crate) async fn set(
    bench: &Bench,
    caller: &Caller,
    name: &ConfigName,
    data: Json,
    etag: &str,
) -> Result<ConfigDocument, Error> {
    let expected = Expected::to_write(etag.to_owned());
    let set = bench
        .engine
        .set_config(caller, name, &data, &expected, false);
    set.await
}

/// Writes a document of the tenant, whatever is there.
pub(crate) async fn put(bench: &Bench, name: &ConfigName, data: Json) -> ConfigDocument {
    set(bench, &ADMIN, name, data, "*").await.unwrap()
}

fn page(size: usize, token: String) -> PageRequest {
    PageRequest { size, token }
}

fn is_gone<T: std::fmt::Debug>(answer: &Result<T, Error>) {
    let Err(Error::NotFound {
        noun: Noun::Config, ..
    }) = answer
    else {
        panic!("{answer:?}");
    };
}

fn mismatch<T: std::fmt::Debug>(answer: Result<T, Error>) -> Option<String> {
    match answer {
        Err(Error::EtagMismatch { current }) => current,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_etag_says_what_must_be_there() {
    let bench = Bench::new().await;
    let name = team("t");
    let says = |n: u32| json!({"models": {"n": n}});
    let first = set(&bench, &ADMIN, &name, says(1), "").await.unwrap();
    assert_eq!(first.revision, 1);
    assert_eq!(first.principal_id, "key:admin");
    let current = mismatch(set(&bench, &ADMIN, &name, says(2), "").await);
    assert_eq!(current.as_deref(), Some(&*first.etag));
    pass(secs(5)).await;
    let second = set(&bench, &ADMIN, &name, says(2), &first.etag)
        .await
        .unwrap();
    assert_ne!(second.etag, first.etag);
    assert_eq!(second.create_time, first.create_time);
    assert_eq!(second.update_time.since(first.update_time), secs(5));
    let current = mismatch(set(&bench, &ADMIN, &name, says(3), &first.etag).await);
    assert_eq!(current.as_deref(), Some(&*second.etag));
    // The same call again gets the same answer, the same words of somebody else do not.
    let again = set(&bench, &ADMIN, &name, says(2), &first.etag)
        .await
        .unwrap();
    assert_eq!(again, second);
    let other = caller("acme", "key:other", &[Role::Admin]);
    mismatch(set(&bench, &other, &name, says(2), &first.etag).await);
    mismatch(set(&bench, &ADMIN, &name, says(2), "").await);
    mismatch(set(&bench, &ADMIN, &name, says(2), "7").await);
    let third = set(&bench, &ADMIN, &name, says(3), "*").await.unwrap();
    let read = bench.engine.get_config(&ADMIN, &name).await.unwrap();
    assert_eq!(read, third);
    assert_eq!(read.data, says(3));
    // What is only validated is compared as well, and changes nothing.
    let validate = |data: Json, etag: &str| {
        let expected = Expected::to_write(etag.to_owned());
        let engine = bench.engine.clone();
        async move {
            engine
                .set_config(&ADMIN, &team("t"), &data, &expected, true)
                .await
        }
    };
    mismatch(validate(says(4), &first.etag).await);
    let only = validate(says(4), &third.etag).await.unwrap();
    assert_eq!((&*only.etag, only.revision, only.data), ("", 4, says(4)));
    let Err(Error::Invalid(wrong)) = validate(json!({"limits": {"max_labels": 999}}), "*").await
    else {
        panic!("not refused");
    };
    assert_eq!(wrong[0].field, "data/limits/max_labels");
    assert_eq!(bench.engine.get_config(&ADMIN, &name).await.unwrap(), third);
    let delete = async |etag: &str| {
        let expected = Expected::to_delete(etag.to_owned());
        bench.engine.delete_config(&ADMIN, &name, &expected).await
    };
    mismatch(delete(&first.etag).await);
    delete(&third.etag).await.unwrap();
    is_gone(&delete("").await);
    is_gone(&bench.engine.get_config(&ADMIN, &name).await);
    assert_eq!(
        mismatch(set(&bench, &ADMIN, &name, says(5), &third.etag).await),
        None
    );
    // A new document under an old name goes on counting.
    let again = set(&bench, &ADMIN, &name, says(5), "").await.unwrap();
    assert_eq!(again.revision, 5);
    assert_eq!(
        set(&bench, &ADMIN, &name, says(5), "").await,
        Ok(again.clone())
    );
    assert!(again.create_time > first.create_time);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn of_many_writers_at_once_one_wins_and_none_is_lost() {
    const WRITERS: u32 = 32;
    let bench = Bench::new().await;
    let before = put(&bench, &org(), json!({})).await;
    let all = |etag: String| {
        let engine = bench.engine.clone();
        let write = move |n: u32| {
            let (engine, etag) = (engine.clone(), etag.clone());
            tokio::spawn(async move {
                let expected = Expected::to_write(etag);
                let data = json!({"models": {"writer": n}});
                engine
                    .set_config(&ADMIN, &org(), &data, &expected, false)
                    .await
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        async move {
            let mut done = Vec::new();
            for writer in writers {
                match writer.await.unwrap() {
                    Ok(document) => done.push(document),
                    Err(Error::EtagMismatch { current }) => assert!(current.is_some()),
                    Err(error) => panic!("{error}"),
                }
            }
            done
        }
    };
    let won = all(before.etag).await;
    assert_eq!(won.len(), 1);
    assert_eq!(
        bench.engine.get_config(&ADMIN, &org()).await.unwrap(),
        won[0]
    );
    // Whoever takes whatever is there is put in a row.
    let won = all("*".to_owned()).await;
    let revisions: BTreeSet<u32> = won.iter().map(|one| one.revision).collect();
    assert_eq!(revisions, (3..3 + WRITERS).collect());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn revisions_tell_what_stood_there_and_who_made_it() {
    let bench = Bench::new().await;
    let name = team("t");
    let other = caller("acme", "key:other", &[Role::Operator]);
    let mut etags = Vec::new();
    for n in 1..=130 {
        if n == 127 {
            let deleted = bench
                .engine
                .delete_config(&other, &name, &Expected::Anything);
            deleted.await.unwrap();
            continue;
        }
        pass(secs(1)).await;
        etags.push(put(&bench, &name, json!({"models": {"n": n}})).await.etag);
    }
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = page(7, token);
        let listed = bench
            .engine
            .list_config_revisions(&ADMIN, &name, page)
            .await;
        let (revisions, next) = listed.unwrap();
        assert!(revisions.len() <= 7);
        found.extend(revisions);
        if next.is_empty() {
            break;
        }
        token = next;
    }
    let numbers: Vec<u32> = found.iter().map(|one| one.revision).collect();
    let expected: Vec<u32> = (131 - MAX_REVISIONS as u32..=130).rev().collect();
    assert_eq!(numbers, expected);
    for one in &found {
        let n = one.revision;
        if n == 127 {
            assert_eq!((one.data.as_ref(), &*one.principal_id), (None, "key:other"));
            continue;
        }
        assert_eq!(one.data, Some(json!({"models": {"n": n}})));
        let at = if n > 127 { n - 2 } else { n - 1 };
        assert_eq!(one.etag, etags[at as usize]);
    }
    let bad = bench
        .engine
        .list_config_revisions(&ADMIN, &name, page(7, "x".to_owned()));
    assert_eq!(bad.await.unwrap_err(), Error::PageTokenInvalid);
    is_gone(
        &bench
            .engine
            .list_config_revisions(&ADMIN, &team("u"), page(7, String::new()))
            .await,
    );
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_made_whole_or_not_at_all() {
    let gone = || coretex_store::CommitError::Unavailable {
        reason: "gone".to_owned(),
    };
    for fault in [Fault::Before(gone()), Fault::After, Fault::Late(secs(1))] {
        for what in ["make", "change", "delete", "make again"] {
            let bench = Bench::new().await;
            let name = team("t");
            if what != "make" {
                put(&bench, &name, json!({"models": {"n": 1}})).await;
            }
            if what == "make again" {
                let deleted = bench
                    .engine
                    .delete_config(&ADMIN, &name, &Expected::Anything);
                deleted.await.unwrap();
            }
            bench.faulty.script([fault.clone()]);
            let done = match what {
                "delete" => {
                    bench
                        .engine
                        .delete_config(&ADMIN, &name, &Expected::Anything)
                        .await
                }
                _ => set(&bench, &ADMIN, &name, json!({"models": {"n": 2}}), "*")
                    .await
                    .map(|_| ()),
            };
            pass(secs(3)).await;
            let found = bench.engine.get_config(&ADMIN, &name).await;
            let as_wanted = match (&found, what) {
                (Ok(found), "make" | "change" | "make again") => found.data["models"]["n"] == 2,
                (Err(_), "delete") => true,
                _ => false,
            };
            match &done {
                Ok(()) => assert!(as_wanted, "{what} {fault:?}"),
                Err(Error::Unavailable { .. }) => assert!(!as_wanted, "{what} {fault:?}"),
                Err(error) => panic!("{what} {fault:?}: {error}"),
            }
            bench.audit().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_sees_or_changes_what_is_not_theirs() {
    let bench = Bench::new().await;
    let beta = caller("beta", "key:b", &[Role::Admin]);
    put(&bench, &org(), json!({"models": {"of": "acme"}})).await;
    put(&bench, &team("t"), json!({"models": {"of": "t"}})).await;
    is_gone(&bench.engine.get_config(&beta, &team("t")).await);
    is_gone(
        &bench
            .engine
            .delete_config(&beta, &team("t"), &Expected::Anything)
            .await,
    );
    set(
        &bench,
        &beta,
        &team("t"),
        json!({"models": {"of": "beta"}}),
        "",
    )
    .await
    .unwrap();
    let installation = ConfigName::system();
    for answer in [
        set(&bench, &beta, &installation, json!({}), "*")
            .await
            .map(|_| ()),
        bench
            .engine
            .get_config(&beta, &installation)
            .await
            .map(|_| ()),
        bench
            .engine
            .delete_config(&beta, &installation, &Expected::Anything)
            .await,
        bench
            .engine
            .list_config_revisions(&beta, &installation, page(5, String::new()))
            .await
            .map(|_| ()),
    ] {
        assert_eq!(answer, Err(Error::TenantNotAllowed));
    }
    set(
        &bench,
        &system(),
        &installation,
        json!({"models": {"all": 1}}),
        "",
    )
    .await
    .unwrap();
    let names = async |caller: &Caller, scopes: &[ConfigScope]| {
        let listed = bench
            .engine
            .list_configs(caller, scopes, page(50, String::new()))
            .await;
        let documents = listed.unwrap().0.into_iter();
        documents
            .map(|one| one.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&ADMIN, &[]).await, ["team `t`", "org"]);
    assert_eq!(names(&ADMIN, &[ConfigScope::Org]).await, ["org"]);
    assert_eq!(names(&ADMIN, &[ConfigScope::System]).await, [""; 0]);
    assert_eq!(names(&beta, &[]).await, ["team `t`"]);
    assert_eq!(names(&system(), &[]).await, ["system"]);
    // What it says holds for everybody.
    let effective = bench
        .engine
        .effective_config(&beta.tenant, "t", "", "")
        .await
        .unwrap();
    assert_eq!(effective.data, json!({"models": {"all": 1, "of": "beta"}}));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn lists_are_read_in_pages_newest_first() {
    let bench = Bench::new().await;
    let mut names = Vec::new();
    for n in 0..30 {
        let scope = if n % 3 == 0 {
            ConfigScope::Workflow
        } else {
            ConfigScope::Team
        };
        let name = ConfigName::parse(scope, &format!("n-{n}"), &ADMIN.tenant).unwrap();
        put(&bench, &name, json!({})).await;
        names.push(name);
        // Some are made in the same instant.
        if n % 4 == 0 {
            pass(secs(1)).await;
        }
    }
    let deleted = names.remove(11);
    bench
        .engine
        .delete_config(&ADMIN, &deleted, &Expected::Anything)
        .await
        .unwrap();
    for scopes in [&[][..], &[ConfigScope::Team], &[ConfigScope::Step]] {
        for size in [1, 4, 100] {
            let (mut found, mut token) = (Vec::new(), String::new());
            loop {
                let listed = bench
                    .engine
                    .list_configs(&ADMIN, scopes, page(size, token))
                    .await;
                let (documents, next) = listed.unwrap();
                assert!(documents.len() <= size);
                found.extend(documents);
                if next.is_empty() {
                    break;
                }
                token = next;
            }
            let wanted = |name: &&ConfigName| scopes.is_empty() || scopes.contains(&name.scope);
            let expected: BTreeSet<_> = names.iter().filter(wanted).collect();
            assert_eq!(found.len(), expected.len());
            assert_eq!(
                found.iter().map(|one| &one.name).collect::<BTreeSet<_>>(),
                expected
            );
            assert!(found.is_sorted_by(|left, right| left.create_time >= right.create_time));
        }
    }
    let bad = bench
        .engine
        .list_configs(&ADMIN, &[], page(5, "?".to_owned()))
        .await;
    assert_eq!(bad.unwrap_err(), Error::PageTokenInvalid);
}
