//! Gives refusals of the transport a reason.
//!
//! What cannot be decoded is refused before any handler runs, by code that knows nothing of our
//! error reasons. Every refusal that leaves the server has one.

use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::problem::Problem;

use super::refusal;

/// Completes a response.
pub(crate) fn complete(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    // Most answers have their status in the trailers, and ours have details.
    if !headers.contains_key(Status::GRPC_STATUS)
        || headers.contains_key(Status::GRPC_STATUS_DETAILS)
    {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return response;
    };
    match problem(&status) {
        Some(problem) => refusal(problem, None),
        None => response,
    }
}

/// What a status without details means. Handlers give no such status, so it is about reading the
/// request.
fn problem(status: &Status) -> Option<Problem> {
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => Some(Problem::RequestTooLarge),
        Code::Internal => Some(Problem::Undecodable {
            description: status.message().to_owned(),
        }),
        Code::Unimplemented => Some(Problem::NotAvailable {
            fields: vec![match status.message() {
                "" => "method".to_owned(),
                message => message.to_owned(),
            }],
        }),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}
