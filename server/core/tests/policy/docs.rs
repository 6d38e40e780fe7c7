//! The examples of docs/policy.md: every one is a bundle, or cases that pass under the bundle
//! before them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use coretex_core::policy::{Bundle, Snapshot, cases};

#[test]
fn every_example_holds() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let page = fs::read_to_string(page).unwrap();
    let (mut bundles, mut passed) = (0, 0);
    let mut before: Option<Arc<Bundle>> = None;
    for block in page.split("```yaml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        if !text.starts_with("cases:") {
            let bundle =
                Bundle::parse(text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
            assert!(bundle.unreachable().is_empty(), "{text}");
            before = Some(Arc::new(bundle));
            bundles += 1;
            continue;
        }
        let cases = cases::parse(text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
        let bundle = before.clone().expect("a bundle comes first");
        let snapshot = Snapshot::new("s".to_owned(), vec![("doc".to_owned(), bundle)]).unwrap();
        let report = cases::run(&snapshot, &cases);
        assert!(report.passed(), "{:#?}", report.cases);
        let uncovered: Vec<_> = report
            .coverage
            .iter()
            .filter(|rule| rule.decided == 0)
            .collect();
        assert!(uncovered.is_empty(), "{uncovered:?}");
        passed += cases.len();
    }
    assert!(
        bundles >= 6 && passed >= 9,
        "{bundles} bundles, {passed} cases"
    );
}
