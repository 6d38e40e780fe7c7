//! Reading the configuration again: what a file holds now, what a start would make of it, and which
//! settings differ. What a running server does about it is tested from outside.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::fs;
use std::io::Write;
use std::path::Path;

use clap::Parser;
use coretexd::config::reload::{content, differing};
use coretexd::config::{Config, Environment, Flags, Size, Source, load};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn env() -> Environment {
    [("HOME", "/home/somebody"), ("CORETEX_LOG", "warn")]
        .into_iter()
        .collect()
}

fn flags(file: &Path) -> Flags {
    let file = file.to_str().unwrap();
    Flags::parse_from(["coretexd", "--listen", "127.0.0.1:7", "--config", file])
}

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_source_makes_of_other_text_what_a_start_would() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    let first = "listen = '127.0.0.1:1'\n[log]\nfilter = 'debug'\n[pools.a]\n";
    fs::write(&file, first).unwrap();
    let loaded = load(&flags(&file), &env()).unwrap();
    let source = Source::of(&loaded, flags(&file), env()).unwrap();
    assert_eq!((source.path(), source.text()), (file.as_path(), first));

    let again = source.load(first.to_owned()).unwrap();
    assert_eq!(again.config, loaded.config);
    let other =
        "listen = '127.0.0.1:2'\n[log]\nfilter = 'trace'\n[pools.b]\n[limits]\nmax_watches = 5\n";
    let other = source.load(other.to_owned()).unwrap().config;
    // The flag and the variable are still over the file.
    assert_eq!(other.listen.port(), 7);
    assert_eq!(other.log.filter, "warn");
    assert_ne!(other.routing, loaded.config.routing);
    assert_eq!(differing(&loaded.config, &other), ["limits.max_watches"]);

    let error = source.load("[pools.b]\nx = 1\n".to_owned()).unwrap_err();
    let place = format!("{}:2:1", file.display());
    assert_eq!(error.problems[0].place, place);
}

#[test]
fn only_a_regular_file_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let none = load(&Flags::default(), &env()).unwrap();
    assert!(Source::of(&none, Flags::default(), env()).is_none());
    // As with `--config <(command)`.
    let path = folder.path().join("pipe");
    pipe(&path);
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut pipe = fs::OpenOptions::new().write(true).open(path).unwrap();
            pipe.write_all(b"[pools.a]\n").unwrap();
        })
    };
    let loaded = load(&flags(&path), &env()).unwrap();
    writer.join().unwrap();
    assert_eq!(loaded.config.routing.pools().count(), 1);
    assert!(Source::of(&loaded, flags(&path), env()).is_none());
}

#[test]
fn what_cannot_be_read_is_told_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("good"), "dev = true\n").unwrap();
    assert_eq!(content(&path("good")), Ok("dev = true\n".to_owned()));
    pipe(&path("pipe"));
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("bytes"), b"a = 1\nb\xff").unwrap();
    let large = fs::File::create(path("large")).unwrap();
    large.set_len(17 * 1024 * 1024).unwrap();
    for (name, expected) in [
        (
            "missing",
            ": cannot read the file: No such file or directory",
        ),
        ("pipe", ": is no regular file any more"),
        ("folder", ": is no regular file any more"),
        ("bytes", ":2:2: the file is not UTF-8"),
        ("large", ": the file is larger than 16MiB"),
    ] {
        let found = content(&path(name)).unwrap_err();
        let expected = format!("{}{expected}", path(name).display());
        assert!(found.starts_with(&expected), "{found}");
    }
}

#[test]
fn settings_that_differ_are_named_without_their_values() {
    let one = Config::default();
    assert!(differing(&one, &one.clone()).is_empty());
    let mut other = one.clone();
    other.limits.max_payload = Size::mebibytes(2);
    other.otlp.endpoint = Some("http://s3cret:1".to_owned());
    assert_eq!(
        differing(&one, &other),
        ["otlp.endpoint", "limits.max_payload"]
    );
}
