//! One line of a batch file as a request.

use coretex::proto::SubmitJobRequest;
use coretex::{Payload, proto_json};
use serde_json::{Map, Value};

/// The fields of a Payload, in both spellings, and which of them hold data.
const PAYLOAD_FIELDS: [(&str, bool); 6] = [
    ("json", true),
    ("raw", true),
    ("artifact_id", true),
    ("artifactId", true),
    ("content_type", false),
    ("contentType", false),
];

/// Reads a SubmitJobRequest as proto JSON, whose `input` may also be the data itself.
pub(super) fn read(line: &str) -> Result<SubmitJobRequest, String> {
    let json: Value = serde_json::from_str(line).map_err(|error| format!("not json: {error}"))?;
    let Value::Object(mut fields) = json else {
        return Err("not a json object".to_owned());
    };
    let data = match fields.get("input") {
        None | Some(Value::Null) => None,
        Some(Value::Object(input)) if is_payload(input) => None,
        Some(_) => fields.remove("input"),
    };
    let mut request: SubmitJobRequest =
        proto_json::from_value(&Value::Object(fields)).map_err(|error| error.to_string())?;
    if request.wait.is_some() {
        return Err("wait: cannot be part of a batch; use --wait".to_owned());
    }
    if let Some(data) = data {
        request.input = Some(Payload::from_json(&data));
    }
    Ok(request)
}

/// Whether an object has the form of a Payload with data.
fn is_payload(input: &Map<String, Value>) -> bool {
    let known = |key: &str| PAYLOAD_FIELDS.iter().find(|(name, _)| *name == key);
    let all_known = input.keys().all(|key| known(key).is_some());
    all_known
        && input
            .keys()
            .any(|key| known(key).is_some_and(|(_, data)| *data))
}

#[cfg(test)]
mod tests {
    use coretex::proto::payload::Data;
    use serde_json::json;

    use super::*;

    fn input(line: &str) -> Option<Value> {
        let request = read(line).unwrap_or_default();
        request
            .input
            .and_then(|input| input.to_json().ok().flatten())
    }

    #[test]
    fn an_input_is_a_payload_or_the_data_itself() {
        assert_eq!(
            input(r#"{"topic":"job.x","input":{"json":[1]}}"#),
            Some(json!([1]))
        );
        assert_eq!(
            input(r#"{"topic":"job.x","input":{"text":"a"}}"#),
            Some(json!({"text": "a"}))
        );
        assert_eq!(input(r#"{"topic":"job.x","input":"a"}"#), Some(json!("a")));
        assert_eq!(input(r#"{"topic":"job.x","input":{}}"#), Some(json!({})));
        let mixed = r#"{"topic":"job.x","input":{"json":1,"more":2}}"#;
        assert_eq!(input(mixed), Some(json!({"json": 1, "more": 2})));
        let raw =
            read(r#"{"input":{"raw":"aGk=","content_type":"text/plain"}}"#).unwrap_or_default();
        assert_eq!(
            raw.input.and_then(|input| input.data),
            Some(Data::Raw("hi".into()))
        );
        assert_eq!(read(r#"{"topic":"job.x"}"#).unwrap_or_default().input, None);
    }

    #[test]
    fn bad_lines_say_where_they_are_bad() {
        let problem = |line: &str| read(line).err().unwrap_or_default();
        assert!(problem("{").contains("not json"));
        assert!(problem("[]").contains("object"));
        assert!(problem(r#"{"topik":"job.x"}"#).contains("`topic`"));
        assert!(problem(r#"{"retry":{"max_attempts":"x"}}"#).starts_with("retry.max_attempts"));
        assert!(problem(r#"{"wait":"3s"}"#).contains("--wait"));
    }
}
