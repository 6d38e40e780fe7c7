//! Signatures of bundles: Ed25519 over the id, a zero byte and the content.
//!
//! Keys are those of `openssl genpkey -algorithm ed25519`: PEM, PKCS #8 for the private and SPKI for
//! the public part.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// What ends a key of a PEM text.
const END: &str = "-----END PUBLIC KEY-----";

/// Keys whose signatures count.
#[derive(Clone, Default)]
pub struct PublicKeys(Vec<VerifyingKey>);

impl fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} public keys", self.0.len())
    }
}

/// Why there is no signature that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It has none.
    #[error("has no signature")]
    Missing,
    /// It is no signature in base64.
    #[error("has a signature that is not 64 bytes in base64")]
    Malformed,
    /// It is not by a key that counts, or of something else.
    #[error("has a signature by no key that is trusted, or of another content")]
    Untrusted,
}

/// Why a text holds no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

/// What is signed.
fn message(bundle_id: &str, content: &str) -> Vec<u8> {
    [bundle_id.as_bytes(), &[0], content.as_bytes()].concat()
}

impl PublicKeys {
    /// Reads the keys of a PEM text, one or more.
    ///
    /// # Errors
    /// It holds none, or something else.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some(end) = rest.find(END) {
            let (block, after) = rest.split_at(end + END.len());
            let start = block.find("-----BEGIN").unwrap_or_default();
            let number = keys.len() + 1;
            let key = VerifyingKey::from_public_key_pem(&block[start..]).map_err(|error| {
                KeyError(format!(
                    "public key {number} is no Ed25519 key in PEM: {error}"
                ))
            })?;
            keys.push(key);
            rest = after;
        }
        if keys.is_empty() || !rest.trim().is_empty() {
            return Err(KeyError(
                "must hold Ed25519 public keys in PEM and nothing else".to_owned(),
            ));
        }
        Ok(Self(keys))
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the keys has signed this bundle.
    ///
    /// # Errors
    /// Why not.
    pub fn verify(
        &self,
        bundle_id: &str,
        content: &str,
        signature: &str,
    ) -> Result<(), SignatureError> {
        if signature.is_empty() {
            return Err(SignatureError::Missing);
        }
        let bytes = BASE64
            .decode(signature)
            .map_err(|_| SignatureError::Malformed)?;
        let signature = Signature::from_slice(&bytes).map_err(|_| SignatureError::Malformed)?;
        let message = message(bundle_id, content);
        let trusted = |key: &VerifyingKey| key.verify_strict(&message, &signature).is_ok();
        if self.0.iter().any(trusted) {
            Ok(())
        } else {
            Err(SignatureError::Untrusted)
        }
    }
}

/// Signs a bundle with a private key in PEM; the signature in base64.
///
/// # Errors
/// The text holds no key.
pub fn sign(key_pem: &str, bundle_id: &str, content: &str) -> Result<String, KeyError> {
    let key = SigningKey::from_pkcs8_pem(key_pem)
        .map_err(|error| KeyError(format!("is no Ed25519 private key in PEM: {error}")))?;
    let signature = key.sign(&message(bundle_id, content));
    Ok(BASE64.encode(signature.to_bytes()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
    use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey};

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn private(seed: u8) -> String {
        key(seed).to_pkcs8_pem(LineEnding::LF).unwrap().to_string()
    }

    fn public(seed: u8) -> String {
        let key = key(seed).verifying_key();
        key.to_public_key_pem(LineEnding::LF).unwrap()
    }

    #[test]
    fn a_signature_counts_for_its_bundle_and_content_alone() {
        let keys = PublicKeys::from_pem(&format!("{}\n{}", public(1), public(2))).unwrap();
        for trusted in [1, 2] {
            let signature = sign(&private(trusted), "spend", "version: 1\n").unwrap();
            keys.verify("spend", "version: 1\n", &signature).unwrap();
        }
        let stranger = sign(&private(3), "spend", "version: 1\n").unwrap();
        let signature = sign(&private(1), "spend", "version: 1\n").unwrap();
        for (id, content, signature, error) in [
            (
                "spend2",
                "version: 1\n",
                signature.as_str(),
                SignatureError::Untrusted,
            ),
            (
                "spend",
                "version: 1\n ",
                &signature,
                SignatureError::Untrusted,
            ),
            (
                "spend",
                "version: 1\n",
                &stranger,
                SignatureError::Untrusted,
            ),
            ("spend", "version: 1\n", "", SignatureError::Missing),
            ("spend", "version: 1\n", "AAAA", SignatureError::Malformed),
            (
                "spend",
                "version: 1\n",
                "not base64",
                SignatureError::Malformed,
            ),
        ] {
            assert_eq!(keys.verify(id, content, signature), Err(error));
        }
        let none = PublicKeys::default();
        let trusted = none.verify("spend", "version: 1\n", &signature);
        assert_eq!(trusted, Err(SignatureError::Untrusted));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "hello", &private(1), &format!("{}trailing", public(1))] {
            assert!(PublicKeys::from_pem(text).is_err(), "{text}");
        }
        assert!(sign(&public(1), "a", "b").is_err());
    }
}
