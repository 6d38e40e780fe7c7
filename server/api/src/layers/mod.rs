//! What stands in front of every handler. The order is fixed and tested in [`crate::routes`].

pub(crate) mod authorize;
pub(crate) mod complete;
pub(crate) mod deadline;
pub(crate) mod intake;
pub(crate) mod observe;

use http::Response;
use tonic::body::Body;

use crate::problem::Problem;
use crate::status;

/// The answer to a call that does not reach its handler.
pub(crate) fn refusal(problem: Problem, request_id: Option<&str>) -> Response<Body> {
    status::of(problem, request_id).into_http()
}
