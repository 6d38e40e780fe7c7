//! How an operation on many jobs came out.

use coretex::proto::BulkProgress;

use super::{Fields, Paint, Tint, documents};

documents! {
    BulkProgress => outcome;
}

fn outcome(progress: &BulkProgress, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    let count = |count: i32| match count {
        0 => String::new(),
        count => count.to_string(),
    };
    fields.add("matched", progress.matched_count.to_string());
    fields.tinted("done", Tint::Good, count(progress.done_count));
    fields.add("nothing to do", count(progress.skipped_count));
    fields.tinted("refused", Tint::Bad, count(progress.failed_count));
    fields.finish()
}
