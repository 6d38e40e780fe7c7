//! What people write is read, what is printed reads back, what is secret does not show.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::fmt;
use std::time::Duration;

use super::*;

fn read<T: Field>(text: &str) -> Result<T, String> {
    T::read(Input::Text(text))
}

fn round_trip<T: Field + PartialEq + fmt::Debug>(text: &str) {
    let value: T = read(text).unwrap();
    let document = format!("x = {}", value.toml().unwrap());
    let table = toml::de::DeTable::parse(&document).unwrap();
    let again = T::read(Input::Toml(table.get_ref().get("x").unwrap().get_ref())).unwrap();
    assert_eq!(again, value, "{text}");
}

#[test]
fn durations_and_sizes_read_what_people_write() {
    for (text, millis) in [
        ("250ms", 250),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("7d", 604_800_000),
        ("0", 0),
    ] {
        assert_eq!(read(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for bad in [
        "",
        "5",
        "5M",
        "m",
        "-1s",
        "1.5s",
        "5 m",
        "99999999999999999d",
    ] {
        assert!(read::<Duration>(bad).is_err(), "{bad}");
    }
    for (text, bytes) in [
        ("16MiB", 16 << 20),
        ("64 KiB", 64 << 10),
        ("2GB", 2_000_000_000),
        ("1_000", 1_000),
        ("0", 0),
    ] {
        assert_eq!(read(text), Ok(Size::bytes(bytes)), "{text}");
    }
    for bad in ["", "MiB", "1.5MiB", "16mib", "-1", "99999999999TiB"] {
        assert!(read::<Size>(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_printed_reads_back_equal() {
    for text in ["250ms", "90s", "36h", "7d", "0"] {
        round_trip::<Duration>(text);
    }
    for text in ["0", "1", "1536", "16MiB", "3GB"] {
        round_trip::<Size>(text);
    }
    round_trip::<SocketAddr>("localhost:1");
    round_trip::<SocketAddr>("[::1]:50051");
    round_trip::<Vec<String>>("a, \"b\",c");
    round_trip::<Headers>("Authorization=Bearer x=y,a=b");
    round_trip::<Backend>("redis://user:pass@host/0");
    round_trip::<Backend>("redis+unix:///run/redis.sock?db=1");
    round_trip::<String>("quote \" backslash \\ newline \n");
    round_trip::<f64>("1");
    round_trip::<LogFormat>("json");
}

#[test]
fn secrets_show_neither_masked_nor_in_debug() {
    for (url, masked) in [
        (
            "redis://user:s3@c/ret@host:1/0",
            "redis://user:********@host:1/0",
        ),
        ("redis://:s3cret@host", "redis://:********@host"),
        ("nats://s3cret@host", "nats://********@host"),
        (
            "nats://me:s3cret@a:1,nats://me:s3cret@b,c",
            "nats://me:********@a:1,nats://me:********@b,c",
        ),
        // No list of servers: as much as possible is hidden.
        ("nats://me:s3,cret@a/b", "nats://me:********@a/b"),
        (
            "redis+unix:///run/r?db=1&pass=s3cret&user=me",
            "redis+unix:///run/r?db=1&pass=********&user=me",
        ),
        (
            "redis+unix:///run/r?pass=s3&cret",
            "redis+unix:///run/r?pass=********",
        ),
        ("redis://host", "redis://host"),
    ] {
        let backend: Backend = read(url).unwrap();
        assert_eq!(format!("{backend:?}"), masked);
        assert_eq!(backend.masked(), Some(quoted(masked)));
    }
    let headers: Headers = read("authorization=Bearer s3cret").unwrap();
    assert!(!format!("{headers:?}").contains("s3cret"));
    assert!(!headers.masked().unwrap().contains("s3cret"));
    let error = read::<Headers>("s3cret").unwrap_err();
    assert!(!error.contains("s3cret"));
}
