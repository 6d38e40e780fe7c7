//! Who calls, and whether the role table lets them: the one place that decides, from the option on
//! the RPC, before any handler runs.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use coretex_core::id::TenantId;
use coretex_engine::{Caller, Engine, Error};
use futures::future::{BoxFuture, FutureExt};
use http::header::{AUTHORIZATION, ORIGIN};
use http::{HeaderMap, HeaderName, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::refusal;
use crate::call::Context;
use crate::methods::Access;
use crate::problem::{Problem, Result as Outcome};

/// Names the tenant that a system admin acts for.
pub(crate) const TENANT: HeaderName = HeaderName::from_static("coretex-tenant");

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct AuthorizeLayer {
    pub(crate) engine: Engine,
    /// Origins whose pages may call without a credential in development mode.
    pub(crate) origins: Arc<[String]>,
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize {
            inner,
            layer: self.clone(),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Authorize<S> {
    inner: S,
    layer: AuthorizeLayer,
}

impl<S> Service<Request<Body>> for Authorize<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let layer = self.layer.clone();
        // The one that is ready is taken; its clone waits for the next call.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        async move {
            match layer.admit(&mut request).await {
                Ok(()) => inner.call(request).await,
                Err(problem) => {
                    let context = request.extensions().get::<Context>();
                    let request_id = context.map(|context| &*context.request_id);
                    Ok(refusal(problem, request_id))
                }
            }
        }
        .boxed()
    }
}

impl AuthorizeLayer {
    async fn admit(&self, request: &mut Request<Body>) -> Outcome<()> {
        let path = || request.uri().path().to_owned();
        let Some(context) = request.extensions().get::<Context>() else {
            return Err(Problem::LayersMissing);
        };
        let method = Arc::clone(&context.method);
        match &method.access {
            Access::Open => return Ok(()),
            Access::Unknown => return Err(Problem::UnknownMethod { path: path() }),
            Access::Undeclared => return Err(Problem::NoPermissionDeclared { path: path() }),
            Access::Authenticated | Access::Permission(_) => {}
        }
        let caller = self.caller(request.headers()).await?;
        if let Access::Permission(permission) = &method.access
            && !caller.may(permission)
        {
            let permission = permission.clone();
            return Err(Error::PermissionMissing { permission }.into());
        }
        let caller = for_tenant(caller, request.headers())?;
        if let Some(context) = request.extensions_mut().get_mut::<Context>() {
            context.caller = Some(Arc::new(caller));
        }
        Ok(())
    }

    async fn caller(&self, headers: &HeaderMap) -> Outcome<Caller> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            let trusted = self.is_trusted(headers);
            let caller = self.engine.dev_caller().filter(|_| trusted);
            return caller.ok_or_else(|| Error::CredentialMissing.into());
        };
        let secret = header.to_str().ok().and_then(bearer);
        let secret = secret.ok_or(Error::CredentialInvalid)?;
        Ok(self.engine.authenticate(secret).await?)
    }

    /// Whether a call without a credential may be the developer's. A web page from elsewhere that
    /// a browser lets reach this machine is not.
    fn is_trusted(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else {
            return true;
        };
        let listed = |listed: &String| listed.as_bytes() == origin.as_bytes();
        self.origins.iter().any(listed)
    }
}

/// The secret of `Bearer <secret>`.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, secret) = header.split_once(' ')?;
    let secret = secret.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !secret.is_empty()).then_some(secret)
}

/// The caller, acting for the tenant that the request names.
fn for_tenant(mut caller: Caller, headers: &HeaderMap) -> Outcome<Caller> {
    let Some(header) = headers.get(TENANT) else {
        return Ok(caller);
    };
    let tenant = header.to_str().ok().and_then(|id| TenantId::parse(id).ok());
    match tenant {
        Some(tenant) if tenant == caller.tenant => Ok(caller),
        Some(tenant) if caller.system => {
            caller.tenant = tenant;
            Ok(caller)
        }
        Some(_) | None => Err(Error::TenantNotAllowed.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bearer_credentials_are_read() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for bad in ["", "Bearer", "Bearer ", "abc", "Basic abc"] {
            assert_eq!(bearer(bad), None, "{bad}");
        }
    }
}
