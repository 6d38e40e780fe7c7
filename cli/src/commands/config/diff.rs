//! `coretexctl config diff`: how two states of a document differ, value by value.

use std::path::Path;

use coretex::proto::ConfigRevision;

use super::{Cx, data, revisions_of, said};
use crate::args::config::Name;
use crate::failure::Failure;
use crate::view::config::Difference;

pub(super) async fn run(
    cx: &Cx<'_>,
    name: &Name,
    from: Option<i32>,
    to: Option<i32>,
    file: Option<&Path>,
) -> Result<(), Failure> {
    if let Some(file) = file {
        let typed = data::read(file)?;
        let (before, _) = said(cx, name).await?;
        return cx.ui.show(&Difference::between(&before, &typed));
    }
    let revisions = cx.client.all_config_revisions(revisions_of(name));
    let revisions = revisions.take(usize::MAX).await?;
    let current = revisions.first().map_or(0, |newest| newest.revision);
    let to = to.unwrap_or(current);
    let from = from.unwrap_or(to - 1);
    let said = |number: i32| {
        // Before the first there was nothing.
        if number == 0 {
            return Ok(ConfigRevision::default());
        }
        let found = revisions.iter().find(|one| one.revision == number);
        found.cloned().ok_or_else(|| {
            Failure::usage(format!("revision {number} is not kept"))
                .hint("coretexctl config history shows those that are")
        })
    };
    let (before, after) = (said(from)?, said(to)?);
    let (before, after) = (
        data::of(before.data.as_ref()),
        data::of(after.data.as_ref()),
    );
    cx.ui.show(&Difference::between(&before, &after))
}
