//! The bundles that are in force together, ready to decide. A snapshot never changes.

use std::sync::Arc;

use super::bundle::Bundle;
use super::index::Index;
use super::rule::Rule;

/// The most bundles of a snapshot.
pub const MAX_BUNDLES: usize = 100;
/// The most rules of a snapshot.
pub const MAX_SNAPSHOT_RULES: usize = 50_000;

/// The most regular expressions that its rules keep compiled.
pub const MAX_SNAPSHOT_PATTERNS: usize = 2_000;

/// Why bundles cannot be in force together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// More than [`MAX_BUNDLES`].
    #[error("{0} bundles are more than {MAX_BUNDLES}")]
    TooManyBundles(usize),
    /// More than [`MAX_SNAPSHOT_RULES`].
    #[error("{0} rules are more than {MAX_SNAPSHOT_RULES}")]
    TooManyRules(usize),
    /// More than [`MAX_SNAPSHOT_PATTERNS`].
    #[error("{0} regular expressions are more than {MAX_SNAPSHOT_PATTERNS}")]
    TooManyPatterns(usize),
    /// Two have one name.
    #[error("two bundles are called `{0}`")]
    SameName(String),
}

/// Bundles that are in force together.
#[derive(Debug)]
pub struct Snapshot {
    id: String,
    /// In the order of their names, so that the order they came in makes no difference.
    pub(super) bundles: Vec<Compiled>,
}

/// A bundle in the order in which its rules are tried.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) name: String,
    pub(super) bundle: Arc<Bundle>,
    /// Places in `bundle.rules`, in the order of trying.
    order: Vec<u32>,
    pub(super) index: Index,
}

impl Snapshot {
    /// Puts bundles in force together. `id` is whatever their owner calls the snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn new(id: String, mut bundles: Vec<(String, Arc<Bundle>)>) -> Result<Self, SnapshotError> {
        if bundles.len() > MAX_BUNDLES {
            return Err(SnapshotError::TooManyBundles(bundles.len()));
        }
        let rules = bundles.iter().map(|(_, bundle)| bundle.rules.len()).sum();
        if rules > MAX_SNAPSHOT_RULES {
            return Err(SnapshotError::TooManyRules(rules));
        }
        let patterns = bundles.iter().map(|(_, bundle)| bundle.patterns()).sum();
        if patterns > MAX_SNAPSHOT_PATTERNS {
            return Err(SnapshotError::TooManyPatterns(patterns));
        }
        bundles.sort_by(|left, right| left.0.cmp(&right.0));
        let twice = bundles.windows(2).find_map(|pair| match pair {
            [(left, _), (right, _)] if left == right => Some(left.clone()),
            _ => None,
        });
        if let Some(name) = twice {
            return Err(SnapshotError::SameName(name));
        }
        let bundles = bundles
            .into_iter()
            .map(|(name, bundle)| Compiled::new(name, bundle))
            .collect();
        Ok(Self { id, bundles })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its bundles, in the order of their names.
    pub fn bundles(&self) -> impl Iterator<Item = (&str, &Arc<Bundle>)> {
        self.bundles
            .iter()
            .map(|compiled| (compiled.name.as_str(), &compiled.bundle))
    }
}

impl Compiled {
    fn new(name: String, bundle: Arc<Bundle>) -> Self {
        let order = bundle.order();
        let index = Index::new(bundle.in_order().into_iter());
        Self {
            name,
            order,
            index,
            bundle,
        }
    }

    /// The rule at a place in the order of trying.
    pub(super) fn rule(&self, rank: u32) -> Option<&Rule> {
        let place = *self.order.get(rank as usize)?;
        self.bundle.rules.get(place as usize)
    }

    /// How many rules there are.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.order.len()).unwrap_or(u32::MAX)
    }
}
