//! Webhooks: notices about approvals as HTTP requests that their receivers can check.
//!
//! What is sent is in [`body`], whom it may be sent to in [`address`], how in [`post`]. When, and
//! how often, is the engine's business.

mod address;
mod body;
mod post;

use std::fs;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use coretex_engine::{Endpoint, Notice, Notifier};

use self::post::{Post, Poster};
use crate::StartError;
use crate::config::notify::{SecretPlace, Webhook};

/// The shortest secret, in bytes.
const MIN_SECRET: usize = 16;

/// All webhooks.
#[derive(Debug)]
pub(crate) struct Webhooks {
    endpoints: Vec<Endpoint>,
    hooks: Vec<Hook>,
    poster: Poster,
}

struct Hook {
    webhook: Webhook,
    key: ring::hmac::Key,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook")
            .field("webhook", &self.webhook.name)
            .finish_non_exhaustive()
    }
}

impl Webhooks {
    /// Takes the endpoints of the configuration, and reads their secrets.
    ///
    /// # Errors
    /// A secret that cannot be read or is too short; no certificates to check others by.
    pub(crate) fn load(webhooks: &[Webhook]) -> Result<Arc<Self>, StartError> {
        let mut hooks = Vec::with_capacity(webhooks.len());
        for webhook in webhooks {
            let secret = secret(&webhook.secret).map_err(|reason| StartError::Setting {
                key: "notify",
                reason: format!("secret of `{}`: {reason}", webhook.name),
            })?;
            hooks.push(Hook {
                webhook: webhook.clone(),
                key: ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes()),
            });
        }
        let endpoints = webhooks.iter().map(|webhook| Endpoint {
            name: webhook.name.clone(),
            tenants: webhook.tenants.clone(),
            kinds: webhook.events.clone(),
        });
        Ok(Arc::new(Self {
            endpoints: endpoints.collect(),
            hooks,
            poster: Poster::new()?,
        }))
    }
}

fn secret(place: &SecretPlace) -> Result<String, String> {
    let text = match place {
        SecretPlace::File(path) => {
            let text = fs::read_to_string(path);
            text.map_err(|error| format!("{}: {error}", path.display()))?
        }
        SecretPlace::Env(name) => {
            std::env::var(name).map_err(|_| format!("the variable {name} is not set"))?
        }
    };
    let text = text.trim().to_owned();
    if text.len() < MIN_SECRET {
        return Err(format!("must have at least {MIN_SECRET} bytes"));
    }
    Ok(text)
}

#[async_trait]
impl Notifier for Webhooks {
    fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    async fn deliver(&self, endpoint: &str, notice: &Notice) -> Result<(), String> {
        let hook = self.hooks.iter().find(|hook| hook.webhook.name == endpoint);
        let hook = hook.ok_or_else(|| "there is no such endpoint any more".to_owned())?;
        let body = body::of(notice);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let timestamp = now.map_or(0, |now| now.as_secs()).to_string();
        let signed = [timestamp.as_bytes(), b".", body.as_bytes()].concat();
        let tag = ring::hmac::sign(&hook.key, &signed);
        let signature: String = tag
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let post = Post {
            url: &hook.webhook.url,
            allowed: &hook.webhook.allow_private,
            headers: [
                ("coretex-delivery", notice.id.clone()),
                ("coretex-timestamp", timestamp),
                ("coretex-signature", format!("v1={signature}")),
            ],
            body,
        };
        self.poster.send(post).await
    }
}

#[cfg(test)]
mod tests;
