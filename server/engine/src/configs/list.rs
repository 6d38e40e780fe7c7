//! Reading documents: one, all of a tenant, the revisions of one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use coretex_core::config::{ConfigName, ConfigScope};
use coretex_core::time::Timestamp;
use coretex_store::{Key, Member, Order, Range, Shard, codec};

use super::record::{self, Found, PastRecord};
use super::{ConfigDocument, ConfigRevision, check_scope};
use crate::access::Caller;
use crate::engine::Engine;
use crate::jobs::list::PAGE_BYTES;
use crate::types::PageRequest;
use crate::{Error, Result, keyspace};

/// Names read at once, and records read at once: of these each may be large.
const NAMES: usize = 1_000;
const RECORDS: usize = 10;

impl Engine {
    /// Reads a document.
    ///
    /// # Errors
    /// `NotFound`, `TenantNotAllowed` for the document of the installation, `Unavailable`.
    pub async fn get_config(&self, caller: &Caller, name: &ConfigName) -> Result<ConfigDocument> {
        check_scope(caller, name)?;
        let found = self.found_config(caller, name).await?;
        let document = found.map(|found| found.document(name)).transpose()?;
        document
            .flatten()
            .ok_or_else(|| Error::no_config(name.to_string()))
    }

    /// Lists the documents of the caller's tenant, newest first by creation; those with system
    /// rights see that of the installation, too. No scopes = all.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `Unavailable`.
    pub async fn list_configs(
        &self,
        caller: &Caller,
        scopes: &[ConfigScope],
        page: PageRequest,
    ) -> Result<(Vec<ConfigDocument>, String)> {
        let mut before = match page.token.as_str() {
            "" => None,
            token => Some(place_of(token)?),
        };
        let (mut listed, mut bytes) = (Vec::new(), 0);
        loop {
            let (names, floor) = self.config_names(caller, scopes, before.as_ref()).await?;
            for chunk in names.chunks(RECORDS) {
                let keys: Vec<Key> = chunk
                    .iter()
                    .map(|(_, name)| record::key(&caller.tenant, name))
                    .collect();
                let records = self.store().get(Shard::Sys, &keys).await?.value;
                for ((time, name), record) in chunk.iter().zip(records) {
                    if listed.len() == page.size {
                        return Ok((listed, token_of(before.as_ref())));
                    }
                    let found = record.as_ref().map(Found::read).transpose()?;
                    let document = found.map(|found| found.document(name)).transpose()?;
                    if let Some(document) = document.flatten() {
                        // In the wire form whatever is small takes several times its text.
                        bytes += document.data.to_string().len() * 2 + 1_024;
                        if bytes > PAGE_BYTES && !listed.is_empty() {
                            return Ok((listed, token_of(before.as_ref())));
                        }
                        listed.push(document);
                    }
                    before = Some(keyspace::config_place(*time, name));
                }
            }
            if floor.is_none() {
                return Ok((listed, String::new()));
            }
            before = floor;
        }
    }

    /// The next names of a list, newest first, and where it goes on if there may be more.
    async fn config_names(
        &self,
        caller: &Caller,
        scopes: &[ConfigScope],
        before: Option<&Member>,
    ) -> Result<(Vec<(Timestamp, ConfigName)>, Option<Member>)> {
        let wanted = |scope: ConfigScope| scopes.is_empty() || scopes.contains(&scope);
        let mut indexes = vec![keyspace::configs(caller.tenant.as_bytes())];
        if caller.system && wanted(ConfigScope::System) {
            indexes.push(keyspace::configs(b""));
        }
        let ranges: Vec<Range> = indexes
            .into_iter()
            .map(|index| Range {
                end: before.cloned(),
                ..Range::all(index)
            })
            .collect();
        let read = self
            .store()
            .range(Shard::Sys, &ranges, NAMES, Order::Descending)
            .await?
            .value;
        // Where one index has more, the others go on below it only with the next read.
        let full = read.iter().filter(|members| members.len() == NAMES);
        let floor = full.filter_map(|members| members.last()).max().cloned();
        let mut members: Vec<Member> = read.into_iter().flatten().collect();
        members.sort_unstable_by(|left, right| right.cmp(left));
        members.retain(|member| floor.as_ref().is_none_or(|floor| member >= floor));
        let names = members
            .iter()
            .filter_map(|member| keyspace::parse_config_place(member))
            .filter(|(_, name)| wanted(name.scope));
        Ok((names.collect(), floor))
    }

    /// Lists the revisions of a document, newest first, also of one that is deleted.
    ///
    /// # Errors
    /// `NotFound` where there has never been one, or it is long gone; `TenantNotAllowed`,
    /// `PageTokenInvalid`, `Unavailable`.
    pub async fn list_config_revisions(
        &self,
        caller: &Caller,
        name: &ConfigName,
        page: PageRequest,
    ) -> Result<(Vec<ConfigRevision>, String)> {
        check_scope(caller, name)?;
        let found = self.found_config(caller, name).await?;
        let found = found.ok_or_else(|| Error::no_config(name.to_string()))?;
        let newest = found.record.revision;
        let mut next = match page.token.as_str() {
            "" => newest,
            token => token.parse().map_err(|_| Error::PageTokenInvalid)?,
        };
        let first = found.record.first();
        let (mut listed, mut bytes) = (Vec::new(), 0);
        while next >= first && next > 0 {
            let numbers: Vec<u32> = (first..=next).rev().take(RECORDS).collect();
            for revision in self.revisions(caller, name, &found, &numbers).await? {
                if listed.len() == page.size {
                    return Ok((listed, next.to_string()));
                }
                let size = revision
                    .data
                    .as_ref()
                    .map_or(0, |data| data.to_string().len());
                bytes += size * 2 + 1_024;
                if bytes > PAGE_BYTES && !listed.is_empty() {
                    return Ok((listed, next.to_string()));
                }
                next = revision.revision.saturating_sub(1);
                listed.push(revision);
            }
            next = next.min(numbers.last().map_or(0, |last| last.saturating_sub(1)));
        }
        Ok((listed, String::new()))
    }

    /// Revisions by their numbers; those that have been dropped since are left out.
    async fn revisions(
        &self,
        caller: &Caller,
        name: &ConfigName,
        found: &Found,
        numbers: &[u32],
    ) -> Result<Vec<ConfigRevision>> {
        let owner = record::owner(&caller.tenant, name);
        let past: Vec<u32> = numbers
            .iter()
            .copied()
            .filter(|number| *number < found.record.revision)
            .collect();
        let keys: Vec<Key> = past
            .iter()
            .map(|number| keyspace::config_revision(owner, name, *number))
            .collect();
        let mut revisions = Vec::with_capacity(numbers.len());
        if past.len() < numbers.len() {
            revisions.push(found.current()?);
        }
        if !keys.is_empty() {
            let records = self.store().get(Shard::Sys, &keys).await?.value;
            for (number, record) in past.into_iter().zip(records) {
                if let Some(record) = record {
                    let (_, past) = codec::decode::<PastRecord>(&record.value)?;
                    revisions.push(past.revision(number)?);
                }
            }
        }
        Ok(revisions)
    }

    async fn found_config(&self, caller: &Caller, name: &ConfigName) -> Result<Option<Found>> {
        let key = record::key(&caller.tenant, name);
        let read = self.store().get(Shard::Sys, &[key]).await?;
        let record = read.value.into_iter().next().flatten();
        record.as_ref().map(Found::read).transpose()
    }
}

fn token_of(last: Option<&Member>) -> String {
    last.map(|member| BASE64.encode(member)).unwrap_or_default()
}

fn place_of(token: &str) -> Result<Member> {
    let bytes = BASE64.decode(token).map_err(|_| Error::PageTokenInvalid)?;
    let known = keyspace::parse_config_place(&bytes).is_some();
    known.then(|| bytes.into()).ok_or(Error::PageTokenInvalid)
}
