//! `coretexctl bundle ...`.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use coretex::proto::{
    Bundle, DeleteBundleRequest, GetBundleRequest, ListBundlesRequest, ListBundlesResponse,
    PutBundleRequest,
};
use coretex_core::policy::signature::sign;

use super::Cx;
use super::confirm::confirm;
use crate::args::bundle::{Put, Verb};
use crate::failure::{Exit, Failure};
use crate::output::Ui;

/// Does what needs no server; `None` for everything else.
pub(super) fn offline(verb: &Verb, ui: &Ui) -> Option<Result<Exit, Failure>> {
    let Verb::Sign { file, id, key } = verb else {
        return None;
    };
    let signed = id_of(file, id.as_deref()).and_then(|id| {
        let signature = signature(key, &id, &text(file)?)?;
        ui.data(format!("{signature}\n").as_bytes())
    });
    Some(signed.map(|()| Exit::Done))
}

pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Put(args) => put(cx, args).await,
        Verb::Get {
            bundle_id,
            published,
            content_only,
        } => {
            let answer = cx.client.get_bundle(GetBundleRequest {
                bundle_id: bundle_id.clone(),
                published: *published,
            });
            let bundle = answer.await?.bundle;
            let bundle = bundle.ok_or_else(|| Failure::incomplete("bundle"))?;
            if *content_only {
                return cx.ui.data(bundle.content.as_bytes());
            }
            cx.ui.show(&bundle)
        }
        Verb::List => {
            let mut all = ListBundlesResponse::default();
            loop {
                let request = ListBundlesRequest {
                    page_token: std::mem::take(&mut all.next_page_token),
                    ..ListBundlesRequest::default()
                };
                let page = cx.client.list_bundles(request).await?;
                all.bundles.extend(page.bundles);
                all.next_page_token = page.next_page_token;
                if all.next_page_token.is_empty() {
                    return cx.ui.show(&all);
                }
            }
        }
        Verb::Delete {
            bundle_id,
            etag,
            yes,
        } => {
            if !yes {
                confirm(&format!("delete bundle {bundle_id}?"))?;
            }
            let request = DeleteBundleRequest {
                bundle_id: bundle_id.clone(),
                etag: etag.clone().unwrap_or_default(),
            };
            cx.ui.show(&cx.client.delete_bundle(request).await?)
        }
        // Done before there was a connection.
        Verb::Sign { .. } => Ok(()),
    }
}

async fn put(cx: &Cx<'_>, args: &Put) -> Result<(), Failure> {
    let bundle_id = id_of(&args.file, args.id.as_deref())?;
    let content = text(&args.file)?;
    let signature = match (&args.sign_with, &args.signature) {
        (Some(key), _) => signature(key, &bundle_id, &content)?,
        (None, given) => given.clone().unwrap_or_default(),
    };
    let etag = match &args.etag {
        Some(etag) => etag.clone(),
        None if args.create => String::new(),
        None => "*".to_owned(),
    };
    let request = PutBundleRequest {
        bundle: Some(Bundle {
            bundle_id,
            content,
            enabled: Some(!args.disabled),
            description: args.description.clone().unwrap_or_default(),
            signature,
            ..Bundle::default()
        }),
        etag,
        validate_only: args.validate_only,
    };
    let written = cx.client.put_bundle(request).await?.bundle;
    let mut written = written.ok_or_else(|| Failure::incomplete("bundle"))?;
    if args.validate_only {
        cx.ui.note("nothing is wrong with it; nothing was written");
    } else if written.state() == coretex::proto::BundleState::Draft {
        cx.ui
            .note("it is a draft; `coretexctl policy publish` puts it in force");
    }
    if cx.ui.for_people() {
        // Whoever has just written it knows what it says.
        written.content.clear();
    }
    cx.ui.show(&written)
}

/// The bundle that a file holds.
pub(super) fn candidate(file: &Path) -> Result<Bundle, Failure> {
    Ok(Bundle {
        bundle_id: id_of(file, None)?,
        content: text(file)?,
        ..Bundle::default()
    })
}

fn id_of(file: &Path, id: Option<&str>) -> Result<String, Failure> {
    if let Some(id) = id {
        return Ok(id.to_owned());
    }
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    match stem {
        Some(stem) if file != Path::new("-") => Ok(stem.to_owned()),
        _ => Err(Failure::usage("the bundle has no name").hint("say --id")),
    }
}

fn text(file: &Path) -> Result<String, Failure> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    read.map_err(|error| Failure::usage(format!("cannot read {}", file.display())).cause(error))
}

fn signature(key: &Path, bundle_id: &str, content: &str) -> Result<String, Failure> {
    let pem = text(key)?;
    sign(&pem, bundle_id, content)
        .map_err(|error| Failure::usage(format!("{} {error}", key.display())))
}
