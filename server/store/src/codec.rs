//! The encoding of record values: one format byte, then named fields in MessagePack.
//!
//! The format byte belongs to the caller: it names the shape of the struct, so that a later build
//! can read what an earlier one wrote. Checksums are the engine's affair, not this module's.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;

/// Encodes a value as its format byte followed by MessagePack with named fields.
///
/// Named fields cost a few bytes each, and buy that a field can be added or dropped without a new
/// format as long as the struct has a default for it.
///
/// # Errors
/// [`StoreError::Invalid`] when the value cannot be encoded, for example a map that does not know
/// its own length.
pub fn encode<T: Serialize + ?Sized>(format: u8, value: &T) -> Result<Bytes, StoreError> {
    let mut out = Vec::with_capacity(512);
    out.push(format);
    rmp_serde::encode::write_named(&mut out, value).map_err(|error| StoreError::Invalid {
        reason: format!("value cannot be encoded: {error}"),
    })?;
    Ok(Bytes::from(out))
}

/// The format byte of an encoded value, to choose the type to decode before decoding it.
///
/// # Errors
/// [`StoreError::DataLoss`] when there are no bytes at all.
pub fn format_of(bytes: &[u8]) -> Result<u8, StoreError> {
    bytes.first().copied().ok_or_else(|| StoreError::DataLoss {
        what: "an empty value".to_owned(),
    })
}

/// Decodes a value and tells its format byte.
///
/// # Errors
/// [`StoreError::DataLoss`] when the bytes are not what [`encode`] makes of a `T`, or when anything
/// follows the value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(u8, T), StoreError> {
    let format = format_of(bytes)?;
    let mut rest = &bytes[1..];
    let value = rmp_serde::decode::from_read(&mut rest).map_err(|error| StoreError::DataLoss {
        what: format!("a value of format {format}: {error}"),
    })?;
    if rest.is_empty() {
        Ok((format, value))
    } else {
        Err(StoreError::DataLoss {
            what: format!("a value of format {format}: {} bytes too many", rest.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        reason = "a failed step of a test should stop the test"
    )]

    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        id: String,
        count: u64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        id: String,
        #[serde(default)]
        labels: BTreeMap<String, String>,
        count: u64,
    }

    #[test]
    fn a_value_comes_back_with_its_format() {
        let old = Old {
            id: "a".to_owned(),
            count: u64::MAX,
        };
        let bytes = encode(3, &old).unwrap();
        assert_eq!(format_of(&bytes).unwrap(), 3);
        assert_eq!(decode::<Old>(&bytes).unwrap(), (3, old));
    }

    #[test]
    fn fields_may_come_and_go() {
        let new = New {
            id: "a".to_owned(),
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            count: 7,
        };
        let old = Old {
            id: "a".to_owned(),
            count: 7,
        };
        assert_eq!(decode::<Old>(&encode(1, &new).unwrap()).unwrap().1, old);
        let widened = decode::<New>(&encode(1, &old).unwrap()).unwrap().1;
        assert_eq!((widened.count, widened.labels.len()), (7, 0));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = encode(
            1,
            &Old {
                id: "abc".to_owned(),
                count: 300,
            },
        )
        .unwrap();
        for length in 0..bytes.len() {
            let cut = decode::<Old>(&bytes[..length]);
            assert!(matches!(cut, Err(StoreError::DataLoss { .. })), "{length}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(matches!(
            decode::<Old>(&longer),
            Err(StoreError::DataLoss { .. })
        ));
    }
}
