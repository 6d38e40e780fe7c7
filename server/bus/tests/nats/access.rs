//! Who is let in, and what is said to whoever is not.

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coretex_bus::Bus;
use coretex_bus::nats::{NatsBus, NatsError};
use nkeys::KeyPair;

use crate::server::{Server, connect, options, until};

const WITH_PASSWORD: &str = "authorization { user: replica, password: opensesame }";

#[tokio::test]
async fn wrong_credentials_are_refused_at_once_and_clearly() {
    let Some(server) = Server::start(WITH_PASSWORD).await else {
        return;
    };
    let good = server.options().password("replica", "opensesame");
    assert!(connect(good).await.healthy());
    let in_address = format!("nats://replica:open%73esame@{}", server.address());
    assert!(connect(options(&in_address)).await.healthy());

    let wrong = [
        server.options(),
        server.options().password("replica", "hidden"),
        server.options().token("hidden"),
    ];
    for options in wrong {
        // A refusal is final, however long the start would wait for an absent server.
        let patient = options.startup_timeout(Duration::from_secs(3_600));
        let Err(error) = NatsBus::connect(patient).await else {
            panic!("let in with wrong credentials");
        };
        let text = error.to_string();
        assert!(matches!(error, NatsError::Credentials { .. }), "{text}");
        assert!(text.contains(&server.address()), "{text}");
        assert!(text.contains("authorization violation"), "{text}");
        assert!(!text.contains("hidden") && !format!("{error:?}").contains("hidden"));
    }
}

#[tokio::test]
async fn a_token_lets_in() {
    let Some(server) = Server::start("authorization { token: opensesame }").await else {
        return;
    };
    assert!(
        connect(server.options().token("opensesame"))
            .await
            .healthy()
    );
    let in_address = format!("nats://opensesame@{}", server.address());
    assert!(connect(options(&in_address)).await.healthy());
}

#[tokio::test]
async fn a_seed_file_lets_in_and_a_foreign_one_does_not() {
    let (known, foreign) = (KeyPair::new_user(), KeyPair::new_user());
    let config = format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        known.public_key()
    );
    let Some(server) = Server::start(&config).await else {
        return;
    };
    let file = server.folder().join("seed");
    fs::write(&file, known.seed().expect("a seed") + "\n").expect("a file");
    assert!(connect(server.options().nkey_file(&file)).await.healthy());

    fs::write(&file, foreign.seed().expect("a seed")).expect("a file");
    let refused = NatsBus::connect(server.options().nkey_file(&file)).await;
    assert!(matches!(refused, Err(NatsError::Credentials { .. })));
    fs::write(&file, "SUNOSEED").expect("a file");
    let refused = NatsBus::connect(server.options().nkey_file(&file)).await;
    assert!(matches!(refused, Err(NatsError::Credentials { .. })));
}

/// What `issuer` says about `subject`, signed as NATS wants it.
fn signed(issuer: &KeyPair, subject: &KeyPair, says: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let claims = URL_SAFE_NO_PAD.encode(format!(
        r#"{{"jti":"1","iat":1700000000,"iss":"{}","sub":"{}","name":"test","nats":{{"version":2,{says}}}}}"#,
        issuer.public_key(),
        subject.public_key(),
    ));
    let text = format!("{head}.{claims}");
    let signature = issuer.sign(text.as_bytes()).expect("a signature");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_credentials_file_lets_in_and_is_read_again_for_every_connection() {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let config = format!(
        "operator: \"{}\"\nresolver: MEMORY\nresolver_preload: {{ {}: \"{}\" }}\n",
        signed(&operator, &operator, r#""type":"operator""#),
        account.public_key(),
        signed(
            &operator,
            &account,
            r#""type":"account","limits":{"subs":-1,"data":-1,"payload":-1,"imports":-1,
                "exports":-1,"wildcards":true,"conn":-1,"leaf":-1}"#,
        ),
    );
    let Some(mut server) = Server::start(&config).await else {
        return;
    };
    let user = KeyPair::new_user();
    let jwt = signed(
        &account,
        &user,
        r#""type":"user","pub":{},"sub":{},"subs":-1,"data":-1,"payload":-1"#,
    );
    let good = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().expect("a seed"),
    );
    let stranger = KeyPair::new_user().seed().expect("a seed");
    let wrong = good.replace(&user.seed().expect("a seed"), &stranger);
    let file = server.folder().join("bus.creds");

    fs::write(&file, &wrong).expect("a file");
    match NatsBus::connect(server.options().credentials_file(&file)).await {
        Err(error @ NatsError::Credentials { .. }) => {
            assert!(!error.to_string().contains(&stranger), "{error}");
        }
        other => panic!("let in with a stranger's seed: {other:?}"),
    }
    fs::write(&file, &good).expect("a file");
    let bus = connect(server.options().credentials_file(&file)).await;

    fs::write(&file, "renewing").expect("a file");
    server.restart(&config).await;
    until("the loss", async || {
        (!bus.healthy()).then_some(()).ok_or("connected".to_owned())
    })
    .await;
    fs::write(&file, &good).expect("a file");
    until("the connection", async || {
        bus.healthy().then_some(()).ok_or("still away".to_owned())
    })
    .await;
}

#[tokio::test]
async fn credentials_that_stop_working_are_tried_again() {
    let Some(mut server) = Server::start(WITH_PASSWORD).await else {
        return;
    };
    let bus = connect(server.options().password("replica", "opensesame")).await;
    server
        .restart("authorization { user: replica, password: changed }")
        .await;
    until("the refusal to be the reason", async || {
        match bus.publish("access.again", "x".into()).await {
            Err(error) if error.to_string().contains("refused the credentials") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(!bus.healthy());
    server.restart(WITH_PASSWORD).await;
    until("the connection", async || {
        bus.healthy().then_some(()).ok_or("still away".to_owned())
    })
    .await;
}

#[tokio::test]
async fn a_forbidden_subject_does_not_disturb_the_others() {
    let config = "authorization { users: [ { user: replica, password: opensesame,
        permissions: { publish: \"coretex.>\", subscribe: \"coretex.>\" } } ] }";
    let Some(server) = Server::start(config).await else {
        return;
    };
    let bus = connect(server.options().password("replica", "opensesame")).await;
    let mut all = bus.subscribe("coretex.>", None).await.expect("allowed");
    let _forbidden = bus.subscribe("elsewhere", None).await;
    let _forbidden = bus.publish("elsewhere", "x".into()).await;
    bus.publish("coretex.ready.default", "allowed".into())
        .await
        .expect("allowed");
    let message = all.next().await.expect("a message");
    assert_eq!(&*message.subject, "coretex.ready.default");
    assert!(bus.healthy());
}
