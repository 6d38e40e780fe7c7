//! The configuration in force at one place: the documents of its scopes, merged and read.

use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

use super::sections::{Ceilings, Sections};
use super::{ConfigName, Problem, document, merge, visibility};

/// A document that is part of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which.
    pub name: ConfigName,
    /// How often it had been changed when it was read.
    pub revision: u32,
    /// Its etag then.
    pub etag: String,
}

/// What a document contributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// The document.
    pub source: Source,
    /// JSON pointers of the values that stand as it says.
    pub pointers: Vec<String>,
}

/// The configuration in force at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// All of it, the safety section included.
    pub data: Json,
    /// SHA-256 of `data` in its one form, in hex: equal data has equal hashes.
    pub hash: String,
    /// Grows with every change of one of its documents.
    pub version: u32,
    /// What each document contributes, widest first.
    pub origins: Vec<Contribution>,
    /// The same as `data`, read.
    pub typed: Sections,
    /// What of it workers see.
    pub visible: Map<String, Json>,
    /// About how many bytes it takes.
    pub size: usize,
}

impl Effective {
    /// That of a place that nobody has said anything about.
    #[must_use]
    pub fn empty() -> Self {
        let data = Json::Object(Map::new());
        Self {
            hash: hash(&data),
            size: data.to_string().len() * 4,
            data,
            version: 0,
            origins: Vec::new(),
            typed: Sections::default(),
            visible: Map::new(),
        }
    }

    /// Merges documents, widest first. `version` counts the changes of all documents that there have
    /// been at this place.
    ///
    /// # Errors
    /// What cannot be read. Each document was checked when it was written; one of a later build may
    /// have what this one does not know, and what is not understood is not ignored.
    pub fn new(documents: Vec<(Source, Json)>, version: u32) -> Result<Self, Vec<Problem>> {
        let scoped: Vec<_> = documents
            .iter()
            .map(|(source, data)| (source.name.scope, data))
            .collect();
        let merged = merge(&scoped)?;
        let mut others = merged.data.clone();
        if let Json::Object(sections) = &mut others {
            // It was read when it was merged, and the lists of several scopes are longer than those
            // of one may be.
            sections.remove("safety");
        }
        let mut typed = document::read(&others, &Ceilings::MERGED)?;
        typed.safety = merged.safety;
        let visible = visibility::visible(&merged.data, &typed.worker_paths());
        let origins: Vec<_> = documents
            .into_iter()
            .zip(merged.origins)
            .map(|((source, _), pointers)| Contribution { source, pointers })
            .collect();
        let text = merged.data.to_string();
        let pointers = origins.iter().flat_map(|one| &one.pointers);
        // Trees take several times what their text does; this is for a bound on memory.
        let size = text.len() * 4 + pointers.map(|pointer| pointer.len() + 32).sum::<usize>();
        Ok(Self {
            hash: hash(&merged.data),
            data: merged.data,
            version,
            origins,
            typed,
            visible,
            size,
        })
    }

    /// The narrowest document that has made the value at a pointer what it is.
    #[must_use]
    pub fn origin(&self, pointer: &str) -> Option<&ConfigName> {
        let made = self.origins.iter().rev().find(|one| {
            let found = one
                .pointers
                .binary_search_by(|own| own.as_str().cmp(pointer));
            found.is_ok()
        });
        made.map(|one| &one.source.name)
    }
}

/// The hash of data in its one form.
fn hash(data: &Json) -> String {
    let digest = Sha256::digest(data.to_string().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
