//! What is taken for a secret, and what is not.

use std::time::{Duration, Instant};

use coretex_core::payload::{Content, Payload};
use coretex_core::policy::secrets::{Secrets, find, in_job};
use serde_json::json;

use crate::support::{Case, job};

/// Made up, and written in two parts so that nobody who looks for secrets finds them here.
fn whole(parts: &[&str]) -> String {
    parts.concat()
}

#[test]
fn secrets_of_common_shapes_are_found() {
    let letters = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY5zA7";
    let table = [
        (
            "a secret:// reference",
            whole(&["see secret", "://vault/db#password"]),
        ),
        ("a secret:// reference", whole(&["SECRET", "://X"])),
        (
            "a secret:// reference",
            whole(&[r#"{"a": "secret:"#, r#"\/\/vault"}"#]),
        ),
        (
            "a secret:// reference",
            whole(&[r#"{"a": "\u0073ecret"#, r#"\u003a//vault"}"#]),
        ),
        (
            "an AWS access key",
            whole(&["key AK", "IAIOSFODNN7EXAMPLE."]),
        ),
        ("an AWS access key", whole(&["AS", "IAIOSFODNN7EXAMPLE"])),
        ("a GitHub token", whole(&["ghp", "_", letters])),
        ("a GitHub token", whole(&["x=gho", "_", letters])),
        (
            "a GitHub token",
            whole(&["github", "_pat_", "11ABCDEFG0aBcDeFgHiJkL_x"]),
        ),
        (
            "a GitLab token",
            whole(&["glpat", "-", "aB3dE5fG7hJ9kL1mN2pQ"]),
        ),
        ("a Slack token", whole(&["xoxb", "-", "123456789012-abc"])),
        ("a Slack token", whole(&["xapp", "-1-", "A0123456789"])),
        (
            "a Slack webhook",
            whole(&["https://hooks.slack", ".com/services/T000/B000/abcdefgh"]),
        ),
        (
            "a private key",
            whole(&["-----BEGIN RSA ", "PRIVATE KEY-----\nMIIE"]),
        ),
        ("a private key", whole(&["-----BEGIN ", "PRIVATE KEY-----"])),
        (
            "a private key",
            whole(&["-----BEGIN OPENSSH ", "PRIVATE KEY-----"]),
        ),
        (
            "a private key",
            whole(&["-----BEGIN PGP ", "PRIVATE KEY BLOCK-----"]),
        ),
        (
            "a private key",
            whole(&[r"-----BEGIN EC \u0050", r"RIVATE KEY-----\n"]),
        ),
        (
            "a JSON web token",
            whole(&[
                "eyJhbGciOiJIUzI1NiJ9",
                ".eyJzdWIiOiIxMjM0In0",
                ".dozjgNryP4J3jVmN",
            ]),
        ),
        (
            "a bearer token",
            whole(&["Authorization: Bearer ", "aB3dE5fG7hJ9kL1mN2pQ4"]),
        ),
        (
            "a Google API key",
            whole(&["AIza", "SyA1234567890abcdefghijklmnopqrstuv"]),
        ),
        (
            "a Google OAuth token",
            whole(&["ya29", ".a0AfH6SMBx1234567890ab"]),
        ),
        ("a Stripe key", whole(&["sk_live", "_4eC39HqLyjWDarjt"])),
        (
            "a model provider's key",
            whole(&["sk-", "proj-abcdefghij0123456789"]),
        ),
        (
            "a model provider's key",
            whole(&["sk-ant-", "api03-abcdefghij0123456789"]),
        ),
        ("an npm token", whole(&["npm", "_", letters])),
        (
            "a password in an address",
            whole(&["postgres://ann:", "hunter22@db.acme.example/x"]),
        ),
        ("a named credential", whole(&["password=", "tr0ub4dor&3"])),
        (
            "a named credential",
            whole(&["{\"api_key\": \"", "9f8e7d6c5b4a3210\"}"]),
        ),
        (
            "a named credential",
            whole(&["{\\\"client_secret\\\": \\\"", "9f8e7d6c5b4a\\\"}"]),
        ),
        ("a named credential", whole(&["DB_PASSWORD: ", "xK9mQ2vL"])),
        (
            "a named credential",
            whole(&["export AWS_SECRET_ACCESS_KEY=", "wJalrXUtnFEMI/K7MDENG"]),
        ),
        (
            "a named credential",
            whole(&["'token' => '", "a1b2c3d4e5f6'"]),
        ),
        (
            "a named credential",
            whole(&["x-access-token: ", "a1b2c3d4e5f6"]),
        ),
    ];
    for (kind, text) in table {
        assert_eq!(find(text.as_bytes()), Some(kind), "{text}");
        let around = format!("{{\"text\": \"{}\", \"n\": 1}}", "lorem ipsum ".repeat(50));
        let text = format!("{around} {text} {around}");
        assert_eq!(find(text.as_bytes()), Some(kind), "{text}");
    }
}

#[test]
fn ordinary_text_is_no_secret() {
    let table = [
        "",
        "{\"sql\": \"select * from accounts where id = 7\"}",
        "the secret of good soup is time",
        "secret:/x and secrets://x and sec ret://x",
        "password: please choose one",
        "password reset instructions",
        "{\"password\": \"\"}",
        "{\"password\": \"changeme\"}",
        "password=${DB_PASSWORD}",
        "password=<your-password-here>",
        "password={{ vault.password }}",
        "password=********1",
        "token: string",
        "max_tokens=4096",
        "{\"max_output_tokens\": 20000000}",
        "tokens: 12345678",
        "the bearer of this letter",
        "Bearer token",
        "AKIA is a prefix, AKIA1234 too short",
        "xAKIAIOSFODNN7EXAMPLE",
        "ghp_short",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "eyJhbGciOiJIUzI1NiJ9 alone",
        "https://acme.example/path:with@signs",
        "https://ann@acme.example/",
        "mailto:ann@acme.example",
        "550e8400-e29b-41d4-a716-446655440000",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "task-management-for-everybody-and-more",
        "risk-based-authentication-guidelines-2024",
        "monkey=bananas12",
        "keyboard: qwertzuiop1",
    ];
    for text in table {
        assert_eq!(find(text.as_bytes()), None, "{text}");
    }
}

/// Puts a text somewhere into a job.
type Put = fn(&mut Case, &str);

#[test]
fn every_part_of_a_job_is_searched() {
    let reference = whole(&["secret", "://vault/x"]);
    let plain = job("job.x");
    assert_eq!(in_job(&plain.spec, None), Secrets::Absent);
    let places: [(&str, Put); 7] = [
        ("label", |case, text| {
            case.spec.labels.insert("a".to_owned(), text.to_owned());
        }),
        ("label key", |case, text| {
            case.spec.labels.insert(text.to_owned(), "a".to_owned());
        }),
        ("actor", |case, text| {
            text.clone_into(&mut case.spec.metadata.actor_id);
        }),
        ("risk tag", |case, text| {
            case.spec.metadata.risk_tags.push(text.to_owned());
        }),
        ("mcp", |case, text| {
            let mcp = case.spec.metadata.mcp.get_or_insert_default();
            text.clone_into(&mut mcp.resource);
        }),
        ("json input", |case, text| {
            let json = json!({"a": [{"b": text}]}).to_string();
            case.input = Some(Payload::json(json.into()));
        }),
        ("raw input", |case, text| {
            let bytes = [&[0, 0xff], text.as_bytes()].concat();
            case.input = Some(Payload {
                content: Content::Raw(bytes.into()),
                content_type: String::new(),
            });
        }),
    ];
    for (place, put) in places {
        let case = job("job.x").with(|case| put(case, &reference));
        let found = in_job(&case.spec, case.input.as_ref());
        assert_eq!(found, Secrets::Present("a secret:// reference"), "{place}");
    }
    let pair = job("job.x").label("password", "tr0ub4dor3");
    assert!(matches!(in_job(&pair.spec, None), Secrets::Present(_)));
    let artifact = Payload {
        content: Content::Artifact("a".to_owned()),
        content_type: String::new(),
    };
    assert_eq!(in_job(&plain.spec, Some(&artifact)), Secrets::Unknown);
}

#[test]
fn searching_takes_time_that_grows_with_the_text() {
    let started = Instant::now();
    for piece in [
        "a",
        "eyJ",
        "password=",
        "\\",
        "\\u0",
        "://a:",
        "bearer ",
        "-----BEGIN ",
        "sk-a-",
        "AKIA",
        "token:token:",
        "%@!",
    ] {
        let text = piece.repeat(256 * 1024 / piece.len());
        let _ = find(text.as_bytes());
    }
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
}
