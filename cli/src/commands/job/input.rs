//! Inputs as they are typed or read, as payloads.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use coretex::Payload;
use serde_json::Value;

use crate::args::job::Input;
use crate::failure::Failure;

/// The input that was given; `None` if none was.
pub(in crate::commands) fn payload(input: &Input) -> Result<Option<Payload>, Failure> {
    if let Some(text) = &input.input {
        let json: Value = serde_json::from_str(text).map_err(|error| {
            Failure::usage("--input is not json")
                .cause(error)
                .hint("a text needs quotes of its own: --input '\"some text\"'")
        })?;
        return Ok(Some(Payload::from_json(&json)));
    }
    let Some(path) = &input.input_file else {
        return Ok(None);
    };
    let bytes = read(path)?;
    Ok(Some(match &input.content_type {
        Some(content_type) => Payload::from_bytes(bytes, content_type),
        None => guess(bytes),
    }))
}

/// JSON if it is JSON, else bytes, of a text where they are one.
fn guess(bytes: Vec<u8>) -> Payload {
    if let Ok(json) = serde_json::from_slice::<Value>(&bytes) {
        return Payload::from_json(&json);
    }
    let text = std::str::from_utf8(&bytes).is_ok();
    let content_type = if text {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    };
    Payload::from_bytes(bytes, content_type)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    bytes.map_err(|error| Failure::usage(format!("cannot read {}", path.display())).cause(error))
}

#[cfg(test)]
mod tests {
    use coretex::proto::payload::Data;

    use super::*;

    #[test]
    fn files_are_json_text_or_bytes() {
        let json = guess(b"{\"a\": 1}\n".to_vec());
        assert!(matches!(json.data, Some(Data::Json(_))));
        let text = guess(b"to be or not".to_vec());
        assert_eq!(text.media_type(), "text/plain");
        let bytes = guess(vec![0xff, 0xfe]);
        assert_eq!(bytes.media_type(), "application/octet-stream");
    }
}
