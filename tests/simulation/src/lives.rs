//! Lives (to come).
/// a
#[derive(Clone, Copy, Debug)]
pub struct Case;
/// b
#[derive(Clone, Copy, Debug)]
pub struct Life;
/// c
pub fn cases() {}
/// d
pub fn live() {}
