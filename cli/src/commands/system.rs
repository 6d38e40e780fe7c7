//! `coretexctl whoami` and `coretexctl status`.

use coretex::proto::{GetStatusRequest, WhoAmIRequest};

use super::Cx;
use crate::failure::Failure;

pub(super) async fn whoami(cx: &Cx<'_>) -> Result<(), Failure> {
    let answer = cx.client.who_am_i(WhoAmIRequest {}).await?;
    cx.ui.show(&answer)
}

pub(super) async fn status(cx: &Cx<'_>) -> Result<(), Failure> {
    let answer = cx.client.get_status(GetStatusRequest {}).await?;
    cx.ui.show(&answer)
}
