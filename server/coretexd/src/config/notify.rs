//! The endpoints that are told of approvals: the section `notify` of the file, one entry for each.
//!
//! Secrets are named by file or variable and never stand here.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use coretex_core::id::{TenantId, check_id};
use coretex_engine::ApprovalEventKind;
use toml::de::{DeTable, DeValue};

use super::routing::Finding;
use super::routing::keys::{Key, Table, key};
use super::routing::reader::{Entry, path};
use super::value::{quoted, show_list};

/// The most endpoints.
const MAX_ENDPOINTS: usize = 32;

/// The section.
pub(super) static NOTIFY: Table = Table {
    name: "notify",
    example: "notify.NAME",
    doc: "One entry for each endpoint that is told of approvals, by an HTTP POST of JSON: at least \
          once, for up to an hour. Read at the start of the server only.",
    keys: &[
        key(
            "url",
            "URL",
            "must be there",
            "Where to. `https`; `http` only to this machine, where `allow_private` lists it. \
             Redirects are not followed.",
        ),
        key(
            "secret_file",
            "path",
            "none",
            "The file with the secret that deliveries are signed with; spaces and line ends around \
             it do not count.",
        ),
        key(
            "secret_env",
            "text",
            "none",
            "The variable with it instead. One of both must be there.",
        ),
        key(
            "tenants",
            "list of names, not empty",
            "all tenants",
            "Whose approvals are told of.",
        ),
        key(
            "events",
            "list of `requested`, `voted`, `escalated`, `renewed`, `resolved`",
            "all",
            "What is told of them.",
        ),
        key(
            "allow_private",
            "list of addresses or networks (`10.1.2.0/24`)",
            "none",
            "Addresses that are called although they are private, link-local or of this machine. \
             Looked at when a connection is made, after the name was looked up.",
        ),
    ],
};

/// What deliveries are signed with: where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretPlace {
    /// In this file.
    File(PathBuf),
    /// In this variable.
    Env(String),
}

/// A network of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most)?,
            None => most,
        };
        Some(Self { address, bits })
    }

    /// Whether an address is one of it.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(four) => u128::from(u32::from(four)) << 96,
            IpAddr::V6(six) => u128::from(six),
        };
        let shift = 128 - u32::from(self.bits);
        let same = bits(self.address) ^ bits(address);
        self.address.is_ipv4() == address.is_ipv4() && same.checked_shr(shift).unwrap_or(0) == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name.
    pub name: String,
    /// Where to.
    pub url: http::Uri,
    /// What deliveries are signed with.
    pub secret: SecretPlace,
    /// Whose approvals; empty = of all tenants.
    pub tenants: Vec<TenantId>,
    /// What of them; empty = everything.
    pub events: Vec<ApprovalEventKind>,
    /// Addresses that may be called although they are not public.
    pub allow_private: Vec<Network>,
}

/// The name of a kind in the file and in deliveries.
#[must_use]
pub const fn event_name(kind: ApprovalEventKind) -> &'static str {
    match kind {
        ApprovalEventKind::Requested => "requested",
        ApprovalEventKind::Voted => "voted",
        ApprovalEventKind::Escalated => "escalated",
        ApprovalEventKind::Renewed => "renewed",
        ApprovalEventKind::Resolved => "resolved",
    }
}

const KINDS: [ApprovalEventKind; 5] = [
    ApprovalEventKind::Requested,
    ApprovalEventKind::Voted,
    ApprovalEventKind::Escalated,
    ApprovalEventKind::Renewed,
    ApprovalEventKind::Resolved,
];

/// Reads the section of a document. It counts only if nothing was found.
pub(super) fn read(document: &DeTable<'_>, findings: &mut Vec<Finding>) -> Vec<Webhook> {
    let Some((name, value)) = document.get_key_value(NOTIFY.name) else {
        return Vec::new();
    };
    let DeValue::Table(entries) = value.get_ref() else {
        let message = "`notify` is a section of entries: write `[notify.NAME]`";
        findings.push(Finding::new(name.span(), message));
        return Vec::new();
    };
    if entries.len() > MAX_ENDPOINTS {
        let message = format!("`notify` must have at most {MAX_ENDPOINTS} entries");
        findings.push(Finding::new(name.span(), message));
        return Vec::new();
    }
    let mut webhooks = Vec::new();
    for (name, value) in entries {
        let path = path(NOTIFY.name, name.get_ref());
        let DeValue::Table(keys) = value.get_ref() else {
            let message = format!("`{path}` must be a section: write `[{path}]`");
            findings.push(Finding::new(name.span(), message));
            continue;
        };
        let mut entry = Entry::new(path, name.span(), keys, findings);
        if let Err(error) = check_id(name.get_ref()) {
            entry.refuse_name(&error.to_string());
        }
        webhooks.extend(webhook(name.get_ref(), &mut entry));
    }
    webhooks
}

fn webhook(name: &str, entry: &mut Entry<'_, '_>) -> Option<Webhook> {
    entry.knows_only(NOTIFY.keys);
    let tenants = entry.names("tenants", TenantId::parse);
    let events = entry.texts("events");
    let known = |text: &String| KINDS.into_iter().find(|kind| event_name(*kind) == text);
    if !events.iter().all(|text| known(text).is_some()) {
        let names = KINDS.map(event_name).join("`, `");
        entry.refuse("events", format_args!("must be a list of `{names}`"));
    }
    let allowed = entry.texts("allow_private");
    let networks: Vec<Network> = allowed
        .iter()
        .filter_map(|text| Network::parse(text))
        .collect();
    if networks.len() < allowed.len() {
        entry.refuse("allow_private", "must be a list of addresses or networks");
    }
    let url = url(entry, &networks);
    let secret = secret(entry);
    Some(Webhook {
        name: name.to_owned(),
        url: url?,
        secret: secret?,
        tenants: tenants.into_iter().map(|(tenant, _)| tenant).collect(),
        events: events.iter().filter_map(known).collect(),
        allow_private: networks,
    })
}

fn url(entry: &mut Entry<'_, '_>, allowed: &[Network]) -> Option<http::Uri> {
    if !entry.has("url") {
        entry.missing("url");
        return None;
    }
    let text: String = entry.read("url")?;
    let url = text.parse::<http::Uri>().ok();
    let sound = url.filter(|url| {
        let scheme = url.scheme_str();
        let plain = scheme == Some("http") && !allowed.is_empty();
        let authority = url.authority().map_or("", |authority| authority.as_str());
        (scheme == Some("https") || plain) && url.host().is_some() && !authority.contains('@')
    });
    if sound.is_none() {
        // The text is not shown: it may hold a secret.
        entry.refuse(
            "url",
            "must be an https URL without user and password; http only to this machine, if \
             `allow_private` lists it",
        );
    }
    sound
}

fn secret(entry: &mut Entry<'_, '_>) -> Option<SecretPlace> {
    match (entry.has("secret_file"), entry.has("secret_env")) {
        (true, true) => entry.refuse("secret_env", "excludes `secret_file`"),
        (false, false) => entry.missing("secret_file"),
        (true, false) => {
            return entry
                .text("secret_file")
                .map(|text| SecretPlace::File(text.into()));
        }
        (false, true) => return entry.text("secret_env").map(SecretPlace::Env),
    }
    None
}

/// Prints every entry, with `origin` behind its name.
pub(super) fn show(webhooks: &[Webhook], origin: &str) -> String {
    let mut text = String::new();
    for webhook in webhooks {
        let url = quoted(&webhook.url.to_string());
        text.push_str(&format!(
            "\n[{}] # {origin}\nurl = {url}\n",
            path("notify", &webhook.name)
        ));
        match &webhook.secret {
            SecretPlace::File(file) => {
                let file = quoted(&file.display().to_string());
                text.push_str(&format!("secret_file = {file}\n"));
            }
            SecretPlace::Env(name) => text.push_str(&format!("secret_env = {}\n", quoted(name))),
        }
        let networks: Vec<String> = webhook
            .allow_private
            .iter()
            .map(Network::to_string)
            .collect();
        let lists = [
            (
                "tenants",
                show_list(webhook.tenants.iter().map(TenantId::as_str)),
            ),
            (
                "events",
                show_list(webhook.events.iter().map(|kind| event_name(*kind))),
            ),
            (
                "allow_private",
                show_list(networks.iter().map(String::as_str)),
            ),
        ];
        for (key, list) in lists.into_iter().filter(|(_, list)| list != "[]") {
            text.push_str(&format!("{key} = {list}\n"));
        }
    }
    text
}

/// The part of the page that is about it.
pub(super) fn markdown() -> String {
    let mut text = format!("\n## `[{}]`\n\n{}\n\n", NOTIFY.example, NOTIFY.doc);
    for Key {
        name,
        form,
        default,
        doc,
        ..
    } in NOTIFY.keys
    {
        text.push_str(&format!(
            "- **`{name}`**: {doc}\n  {form}; default {default}\n"
        ));
    }
    text
}

/// Networks, for tests.
#[cfg(test)]
pub(crate) fn networks(list: &str) -> Vec<Network> {
    list.split(',').filter_map(Network::parse).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read_text(text: &str) -> (Vec<Webhook>, Vec<String>) {
        let document = DeTable::parse(text).unwrap();
        let mut findings = Vec::new();
        let webhooks = read(document.get_ref(), &mut findings);
        let told = findings
            .into_iter()
            .map(|finding| finding.message)
            .collect();
        (webhooks, told)
    }

    #[test]
    fn an_entry_is_read_and_shown_as_it_was() {
        let text = "[notify.chat]\nurl = \"https://example.com/hook\"\nsecret_file = \"/s\"\n\
                    tenants = [\"acme\"]\nevents = [\"requested\", \"resolved\"]\n\
                    allow_private = [\"10.1.0.0/16\", \"::1\"]\n";
        let (webhooks, told) = read_text(text);
        assert_eq!((webhooks.len(), told.len()), (1, 0), "{told:?}");
        assert_eq!(webhooks[0].events.len(), 2);
        let (again, _) = read_text(&show(&webhooks, "file"));
        assert_eq!(again, webhooks);
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let good = "secret_env = \"S\"\nurl = \"https://example.com\"\n";
        let cases = [
            ("notify = 1", "is a section of entries"),
            ("[notify]\nurl = \"x\"", "must be a section"),
            (
                "[notify.\"a b\"]\nsecret_env = \"S\"\nurl = \"https://e.com\"",
                "the name",
            ),
            ("[notify.a]\nsecret_env = \"S\"", "needs `url`"),
            ("[notify.a]\nurl = \"https://e.com\"", "needs `secret_file`"),
            (
                "[notify.a]\nsecret_env = \"S\"\nurl = \"http://e.com\"",
                "must be an https URL",
            ),
            (
                "[notify.a]\nsecret_env = \"S\"\nurl = \"https://u:p@e.com\"",
                "must be an https URL",
            ),
            (
                "[notify.a]\nsecret_env = \"S\"\nurl = \"/path\"",
                "must be an https URL",
            ),
            ("[notify.a]\nGOODsecret_file = \"x\"", "excludes"),
            ("[notify.a]\nGOODevents = [\"born\"]", "must be a list of"),
            ("[notify.a]\nGOODtenants = []", "at least one"),
            (
                "[notify.a]\nGOODallow_private = [\"10.0.0.0/33\"]",
                "addresses or networks",
            ),
            ("[notify.a]\nGOODsecret = \"x\"", "unknown key"),
        ];
        for (text, words) in cases {
            let (_, told) = read_text(&text.replace("GOOD", good));
            assert!(
                told.iter().any(|told| told.contains(words)),
                "{text}: {told:?}"
            );
            assert!(!told.iter().any(|told| told.contains("u:p")), "{told:?}");
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        let has = |network: &str, address: &str| {
            Network::parse(network)
                .unwrap()
                .has(address.parse().unwrap())
        };
        assert!(has("10.0.0.0/8", "10.255.1.2") && !has("10.0.0.0/8", "11.0.0.1"));
        assert!(has("0.0.0.0/0", "1.2.3.4") && !has("0.0.0.0/0", "::1"));
        assert!(has("::1", "::1") && !has("::1", "::2"));
        assert!(has("fd00::/8", "fd12::1") && !has("127.0.0.1", "127.0.0.2"));
    }
}
