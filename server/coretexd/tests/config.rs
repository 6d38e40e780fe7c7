//! The loader: precedence, refusals with place and nearest name, and a dump that loads again.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use coretexd::config::dump::dump;
use coretexd::config::settings::{SECTIONS, SETTINGS};
use coretexd::config::{
    Backend, Config, Environment, Flags, Loaded, LogFormat, Origin, Size, load,
};

const NO_ENV: [(&str, &str); 0] = [];

fn flags<const N: usize>(flags: [&str; N]) -> Flags {
    Flags::parse_from(["coretexd"].into_iter().chain(flags))
}

fn env<const N: usize>(variables: [(&str, &str); N]) -> Environment {
    [("HOME", "/home/somebody")]
        .into_iter()
        .chain(variables)
        .collect()
}

fn file(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("c.toml");
    fs::write(&path, text).unwrap();
    path
}

fn with_file<const N: usize>(path: &Path, rest: [&str; N]) -> Flags {
    let path = path.to_str().unwrap();
    Flags::parse_from(["coretexd", "--config", path].into_iter().chain(rest))
}

fn refusal(flags: &Flags, env: &Environment) -> String {
    load(flags, env).unwrap_err().to_string()
}

fn refused_file(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, text);
    let refusal = refusal(&with_file(&path, []), &env(NO_ENV));
    refusal.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn without_any_source_the_defaults_hold() {
    let Loaded {
        config,
        origins,
        file,
        dump,
    } = load(&flags([]), &env(NO_ENV)).unwrap();
    let expected = Config {
        data_dir: "/home/somebody/.local/share/coretex".into(),
        ..Config::default()
    };
    assert_eq!((config, dump), (expected, false));
    assert!(origins.is_empty() && file.is_none());
    let xdg = env([("XDG_DATA_HOME", "/data")]);
    let config = load(&flags([]), &xdg).unwrap().config;
    assert_eq!(config.data_dir, Path::new("/data/coretex"));
    let nobody: Environment = NO_ENV.into_iter().collect();
    assert!(refusal(&flags([]), &nobody).contains("`data_dir` has no default here"));
}

#[test]
fn each_source_wins_over_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "listen = '127.0.0.1:1'\nadmin_listen = '127.0.0.1:2'\nstore = 'embedded'\n\
         [log]\nformat = 'json'\nfilter = 'warn'\n[retention]\njobs = '1h'\n",
    );
    let env = env([
        ("CORETEX_LISTEN", "127.0.0.1:11"),
        ("CORETEX_ADMIN_LISTEN", "127.0.0.1:12"),
        ("CORETEX_LOG", "debug"),
        ("CORETEX_DEV", ""),
    ]);
    let flags = with_file(&path, ["--listen", "127.0.0.1:21"]);
    let Loaded {
        config, origins, ..
    } = load(&flags, &env).unwrap();
    assert_eq!(config.listen.port(), 21);
    assert_eq!(config.admin_listen.port(), 12);
    assert_eq!(config.log.filter, "debug");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.retention.jobs, Duration::from_secs(3_600));
    assert_eq!(config.limits, Config::default().limits);
    assert!(!config.dev, "an empty variable counts as not set");

    assert_eq!(origins["listen"], Origin::Flag("listen"));
    assert_eq!(origins["admin_listen"], Origin::Env("CORETEX_ADMIN_LISTEN"));
    let place = format!("{}:5:10", path.display());
    assert_eq!(origins["log.format"], Origin::File(place));
    assert_eq!(origins.get("limits.max_payload"), None);

    // The file can be named by a variable; a flag wins there, too.
    let by_env: Environment = [
        ("HOME", "/".to_owned()),
        ("CORETEX_CONFIG", path.display().to_string()),
    ]
    .into_iter()
    .collect();
    assert_eq!(
        load(&Flags::default(), &by_env)
            .unwrap()
            .config
            .listen
            .port(),
        1
    );
}

#[test]
fn every_setting_can_be_set_in_the_file_and_by_its_variable() {
    let folder = tempfile::tempdir().unwrap();
    let defaults = load(&flags([]), &env(NO_ENV)).unwrap();
    for setting in SETTINGS {
        let value = match (setting.key, setting.show(&defaults.config)) {
            (_, Some(value)) => value,
            ("otlp.endpoint", None) => "'http://127.0.0.1:4317'".to_owned(),
            ("store.user" | "bus.user", None) => "'me'".to_owned(),
            (_, None) => "'/pem'".to_owned(),
        };
        let (section, name) = setting.parts();
        let header = if section.is_empty() {
            String::new()
        } else {
            format!("[{section}]\n")
        };
        // Alone, some are refused; they have a test of their own.
        let rest = match setting.key {
            "tls.cert" => "key = 'k'\n",
            "tls.key" => "cert = 'c'\n",
            "tls.client_ca" => "key = 'k'\ncert = 'c'\n",
            "store.password_file" | "store.tls_ca" => "url = 'rediss://h'\n",
            "store.user" => "url = 'rediss://h'\npassword_file = 'p'\n",
            "store.tls_cert" => "url = 'rediss://h'\ntls_key = 'k'\n",
            "store.tls_key" => "url = 'rediss://h'\ntls_cert = 'c'\n",
            "bus.password_file" | "bus.credentials_file" | "bus.nkey_file" | "bus.tls_ca" => {
                "url = 'nats://h'\n"
            }
            "bus.user" => "url = 'nats://h'\npassword_file = 'p'\n",
            "bus.tls_cert" => "url = 'tls://h'\ntls_key = 'k'\n",
            "bus.tls_key" => "url = 'tls://h'\ntls_cert = 'c'\n",
            _ => "",
        };
        let path = file(&folder, &format!("{header}{name} = {value}\n{rest}"));
        let loaded = load(&with_file(&path, []), &env(NO_ENV)).unwrap();
        let in_file = setting.show(&loaded.config);
        assert!(
            matches!(loaded.origins[setting.key], Origin::File(_)),
            "{}",
            setting.key
        );

        if !rest.is_empty() {
            continue;
        }
        let text = value.trim_matches(['"', '\'', '[', ']']);
        let given = if text.is_empty() { "," } else { text };
        let loaded = load(&flags([]), &env([(setting.env, given)])).unwrap();
        assert_eq!(
            loaded.origins[setting.key],
            Origin::Env(setting.env),
            "{}",
            setting.key
        );
        assert_eq!(setting.show(&loaded.config), in_file, "{}", setting.key);
    }
}

#[test]
fn unknown_keys_are_refused_with_place_and_nearest_name() {
    assert_eq!(
        refused_file("dev = true\n[retension]\njobs = '1d'\n"),
        "error: c.toml:2:2: unknown key `retension`; did you mean `retention`?"
    );
    assert_eq!(
        refused_file("[retention]\n  jbos = '1d'\n"),
        "error: c.toml:2:3: unknown key `retention.jbos`; did you mean `retention.jobs`?"
    );
    assert_eq!(
        refused_file("cache_size = '1MiB'\n"),
        "error: c.toml:1:1: unknown key `cache_size`; did you mean `store.cache_size`?"
    );
    assert_eq!(
        refused_file("frobnicate = 1\n"),
        "error: c.toml:1:1: unknown key `frobnicate`\nhint: docs/config.md lists the keys"
    );
    assert_eq!(
        refused_file("[cors]\nfrobnicate = 1\n"),
        "error: c.toml:2:1: unknown key `cors.frobnicate`\nhint: `cors` has the keys origins"
    );
    assert_eq!(
        refused_file("limits = 5\n"),
        "error: c.toml:1:1: `limits` is a section: write `[limits]`"
    );
}

#[test]
fn everything_wrong_is_said_at_once() {
    let refusal = refused_file(
        "listen = 50051\nretenion = 1\n[retention]\njobs = '5 minutes'\n[store]\ncache_size = true\n",
    );
    let lines: Vec<_> = refusal.lines().collect();
    for start in ["c.toml:1:10:", "c.toml:2:1:", "c.toml:4:8:", "c.toml:6:14:"] {
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with(&format!("error: {start}"))),
            "{refusal}"
        );
    }
    assert_eq!(lines.len(), 4, "{refusal}");
    assert!(
        refusal.contains("`retention.jobs` must be a duration such as"),
        "{refusal}"
    );
}

#[test]
fn broken_files_say_where() {
    let refusal = refused_file("dev = true\nlisten = \n");
    assert!(refusal.starts_with("error: c.toml:2:"), "{refusal}");
    assert!(refused_file("dev = true\ndev = false\n").starts_with("error: c.toml:2:"));
    let missing = flags(["--config", "/nowhere/c.toml"]);
    let refusal = self::refusal(&missing, &env(NO_ENV));
    assert!(
        refusal.starts_with("error: /nowhere/c.toml: cannot read the file"),
        "{refusal}"
    );
}

#[test]
fn unknown_variables_are_refused_and_those_of_others_ignored() {
    assert_eq!(
        refusal(&flags([]), &env([("CORETEX_LISTN", "x")])),
        "error: environment: unknown variable `CORETEX_LISTN`; did you mean `CORETEX_LISTEN`?"
    );
    let unknown = refusal(&flags([]), &env([("CORETEX_FROBNICATE", "")]));
    assert!(unknown.starts_with("error: environment: unknown variable `CORETEX_FROBNICATE`"));
    let foreign = env([
        ("CORETEX_SERVER", "http://127.0.0.1:1"),
        ("CORETEX_API_KEY", "k"),
        ("CORETEX_PROFILE", "p"),
        ("CORETEX_JOB_ID", "j"),
        ("CORETEX_TEST_BACKENDS", "1"),
        ("CORETEXT", "not even ours"),
    ]);
    assert!(load(&flags([]), &foreign).is_ok());
}

#[test]
fn values_out_of_bounds_are_named_with_their_origin() {
    let cases = [
        (
            "CORETEX_LIMITS_MAX_PAYLOAD",
            "4MiB",
            "`limits.max_payload` must be from 1KiB to 1536KiB",
        ),
        (
            "CORETEX_LIMITS_MAX_PAYLOAD",
            "1537KiB",
            "`limits.max_payload` must be from 1KiB to 1536KiB",
        ),
        (
            "CORETEX_TIMING_CANCEL_GRACE",
            "61m",
            "`timing.cancel_grace` must be from 0s to 1h",
        ),
        (
            "CORETEX_LIMITS_MAX_SESSIONS",
            "0",
            "`limits.max_sessions` must be from 1 to",
        ),
        (
            "CORETEX_TIMING_DRAIN_TIMEOUT",
            "2h",
            "`timing.drain_timeout` must be from 1s to 1h",
        ),
        (
            "CORETEX_TIMING_HEARTBEAT_TIMEOUT",
            "8s",
            "`timing.heartbeat_timeout` must be at least",
        ),
        (
            "CORETEX_RETENTION_JOBS",
            "0s",
            "`retention.jobs` must be from 1s",
        ),
        (
            "CORETEX_STORE_CACHE_SIZE",
            "1KiB",
            "`store.cache_size` must be at least 1MiB",
        ),
        (
            "CORETEX_STORE",
            "nats://host",
            "`store.url` must be `embedded`",
        ),
        ("CORETEX_BUS", "redis://host", "`bus.url` must be `inproc`"),
        ("CORETEX_LOG", "a=b=c", "`log.filter` is not a filter"),
        ("CORETEX_TLS_CERT", "c", "`tls.cert` needs `tls.key`"),
        ("CORETEX_TLS_KEY", "c", "`tls.key` needs `tls.cert`"),
        (
            "CORETEX_TLS_CLIENT_CA",
            "c",
            "`tls.client_ca` needs `tls.cert` and `tls.key`",
        ),
        (
            "CORETEX_CORS_ORIGINS",
            "https://a.b/path",
            "`cors.origins` must hold origins",
        ),
        (
            "CORETEX_OTLP_ENDPOINT",
            "127.0.0.1:4317",
            "`otlp.endpoint` must be a URL",
        ),
        (
            "CORETEX_ADMIN_LISTEN",
            "127.0.0.1:50051",
            "`admin_listen` must differ",
        ),
    ];
    for (variable, value, message) in cases {
        let refusal = refusal(&flags([]), &env([(variable, value)]));
        assert!(
            refusal.starts_with(&format!("error: {variable}: {message}")),
            "{refusal}"
        );
    }
    for (variable, value) in [("CORETEX_LISTEN", "here"), ("CORETEX_DEV", "maybe")] {
        let refusal = refusal(&flags([]), &env([(variable, value)]));
        assert!(
            refusal.starts_with(&format!("error: {variable}: must be")),
            "{refusal}"
        );
    }
    let refusal = refusal(&flags(["--log-format", "xml"]), &env(NO_ENV));
    assert_eq!(refusal, "error: --log-format: must be `pretty` or `json`");
}

#[test]
fn without_tls_only_loopback_is_served() {
    let open = flags(["--listen", "0.0.0.0:50051"]);
    let refused = refusal(&open, &env(NO_ENV));
    assert!(
        refused.starts_with("error: --listen: `listen` is not loopback"),
        "{refused}"
    );
    assert!(load(&open, &env([("CORETEX_ALLOW_PLAINTEXT", "true")])).is_ok());
    let tls = env([("CORETEX_TLS_CERT", "c"), ("CORETEX_TLS_KEY", "k")]);
    assert!(load(&open, &tls).is_ok());
    for local in ["127.0.0.1:1", "[::1]:1", "127.9.9.9:1", "localhost:1"] {
        assert!(
            load(&flags(["--dev", "--listen", local]), &env(NO_ENV)).is_ok(),
            "{local}"
        );
    }
    // Development mode never leaves the machine, whatever else is allowed.
    let dev = flags(["--dev", "--listen", "0.0.0.0:50051"]);
    let refused = refusal(&dev, &env([("CORETEX_ALLOW_PLAINTEXT", "true")]));
    assert!(
        refused.starts_with("error: --dev: `dev` is refused on 0.0.0.0:50051"),
        "{refused}"
    );
}

#[test]
fn the_dump_says_origins_masks_secrets_and_loads_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "store = 'redis://user:s3cret@db/0'\n[otlp]\nendpoint = 'http://c:4317'\n\
         headers = ['authorization=Bearer s3cret']\n[cors]\norigins = ['https://a.b']\n",
    );
    let variables = [
        ("CORETEX_RETENTION_JOBS", "36h"),
        ("CORETEX_DUMP_CONFIG", "true"),
    ];
    let loaded = load(
        &with_file(&path, ["--dev", "--data-dir", "/d \"x\""]),
        &env(variables),
    );
    let loaded = loaded.unwrap();
    assert!(loaded.dump);
    assert_eq!(
        loaded.config.store.url,
        Backend::Url("redis://user:s3cret@db/0".to_owned())
    );

    let text = dump(&loaded);
    for line in [
        "dev = true # --dev".to_owned(),
        "jobs = \"1d12h\" # $CORETEX_RETENTION_JOBS".to_owned(),
        format!(
            "url = \"redis://user:********@db/0\" # {}:1:9",
            path.display()
        ),
        "max_payload = \"1MiB\" # default".to_owned(),
        "# cert is not set".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("s3cret"), "{text}");
    for section in SECTIONS {
        assert!(text.contains(&format!("\n[{}]\n", section.name)));
    }

    let path = file(&folder, &text);
    let again = load(&with_file(&path, []), &env(NO_ENV)).unwrap();
    for setting in SETTINGS {
        assert_eq!(
            setting.masked(&again.config),
            setting.masked(&loaded.config),
            "{}",
            setting.key
        );
    }
    assert_eq!(again.config.limits.max_payload, Size::mebibytes(1));
}
