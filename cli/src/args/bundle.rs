//! `coretexctl bundle ...`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a bundle as a draft; `policy publish` puts it in force
    ///
    /// For example: coretexctl bundle put spend.yaml
    Put(Put),
    /// Print a bundle as it was last written
    Get {
        /// The bundle
        #[arg(value_name = "BUNDLE_ID")]
        bundle_id: String,
        /// As it is in force, not as it was last written
        #[arg(long)]
        published: bool,
        /// Print nothing but its YAML
        #[arg(long)]
        content_only: bool,
    },
    /// List bundles, by id
    List,
    /// Delete a bundle that is not in force
    Delete {
        /// The bundle
        #[arg(value_name = "BUNDLE_ID")]
        bundle_id: String,
        /// Only if the bundle has this etag
        #[arg(long, value_name = "ETAG")]
        etag: Option<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Print the signature of a bundle, without a server
    ///
    /// Keys are those of `openssl genpkey -algorithm ed25519`. A file beside the server is signed as
    /// base-NAME, and its signature belongs into NAME.yaml.sig.
    Sign {
        /// The bundle in YAML
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Its id [default: the name of the file without the ending]
        #[arg(long, value_name = "BUNDLE_ID")]
        id: Option<String>,
        /// File with the private key in PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The bundle in YAML (`-`: stdin, which needs --id)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Its id [default: the name of the file without the ending]
    #[arg(long, value_name = "BUNDLE_ID")]
    pub(crate) id: Option<String>,
    /// Its rules do not count once it is published
    #[arg(long)]
    pub(crate) disabled: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Sign it with the private key in this PEM file
    #[arg(long, value_name = "FILE", conflicts_with = "signature")]
    pub(crate) sign_with: Option<PathBuf>,
    /// Its signature in base64
    #[arg(long, value_name = "SIGNATURE")]
    pub(crate) signature: Option<String>,
    /// Only if the bundle has this etag
    #[arg(long, value_name = "ETAG", conflicts_with = "create")]
    pub(crate) etag: Option<String>,
    /// Only if there is no such bundle yet
    #[arg(long)]
    pub(crate) create: bool,
    /// Check everything and change nothing
    #[arg(long)]
    pub(crate) validate_only: bool,
}
