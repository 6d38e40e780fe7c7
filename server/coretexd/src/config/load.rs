//! The one loader: defaults < file < environment < flags.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem};
use super::flags::Flags;
use super::nearest::nearest;
use super::settings::SETTINGS;
use super::value::{Durability, Field, Input, Size};
use super::{Config, file, validate};

/// The largest file: room for every table with all its entries.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Variables about the configuration itself, not values of it.
const META: [&str; 2] = ["CORETEX_CONFIG", "CORETEX_DUMP_CONFIG"];

/// Variables of clients, of workers' children and of the repository's scripts, which often run
/// beside a server. All others that start with `CORETEX_` are ours or a mistake.
const FOREIGN: [&str; 8] = [
    "CORETEX_SERVER",
    "CORETEX_API_KEY",
    "CORETEX_PROFILE",
    "CORETEX_OUTPUT",
    "CORETEX_JOB_ID",
    "CORETEX_ATTEMPT",
    "CORETEX_DEADLINE",
    "CORETEX_TOOLS",
];
/// The same, by their beginning.
const FOREIGN_PREFIXES: [&str; 4] = [
    "CORETEX_CLI_",
    "CORETEX_TEST_",
    "CORETEX_BENCH_",
    "CORETEX_DEMO_",
];

/// The environment, as an argument.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The variables of this process. Names that are no UTF-8 cannot be ours.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect()
    }

    /// A variable; an empty one counts as not set, as shells have no other way to say so.
    fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(name).filter(|value| !value.is_empty())
    }
}

impl<K: Into<String>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let pair = |(name, value): (K, V)| (name.into(), value.into());
        Self(variables.into_iter().map(pair).collect())
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The file, as `file:line:column`.
    File(String),
    /// A variable.
    Env(&'static str),
    /// A flag, without dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => f.write_str(place),
            Self::Env(name) => write!(f, "${name}"),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// Origins by key; a missing one is [`Origin::Default`].
pub type Origins = BTreeMap<&'static str, Origin>;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What it held.
    pub text: String,
    /// It can be read again, unlike a pipe.
    pub regular: bool,
}

/// A configuration with the origins of its values.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where they come from.
    pub origins: Origins,
    /// The file, if there is one.
    pub file: Option<File>,
    /// Whether the caller wants to see it instead of a server.
    pub dump: bool,
}

/// Loads the configuration.
///
/// # Errors
/// Everything that is wrong in any source: unknown keys and variables, values that cannot be read,
/// values that contradict each other.
pub fn load(flags: &Flags, env: &Environment) -> Result<Loaded, ConfigError> {
    let path = flags
        .config
        .clone()
        .or_else(|| env.get("CORETEX_CONFIG").map(PathBuf::from));
    // Without the file everything else would be judged wrongly.
    let file = path.map(|path| read_file(&path)).transpose()?;
    load_with(flags, env, file)
}

/// The same, with a file that has been read.
pub(super) fn load_with(
    flags: &Flags,
    env: &Environment,
    file: Option<File>,
) -> Result<Loaded, ConfigError> {
    let mut config = Config::default();
    let mut origins = Origins::new();
    let mut problems = Vec::new();
    if let Some(home) = default_data_dir(env) {
        config.data_dir = home;
    }

    if let Some(File { path, text, .. }) = &file {
        file::read(path, text, &mut config, &mut origins, &mut problems);
    }
    read_env(env, &mut config, &mut origins, &mut problems);
    read_flags(flags, &mut config, &mut origins, &mut problems);
    if config.store.url.engine() == "redis" && !origins.contains_key("store.durability") {
        // What a Redis with an append-only file gives; more has to be set up there first.
        config.store.durability = Durability::Async;
    }
    let dump = wants_dump(flags, env).unwrap_or_else(|problem| {
        problems.push(problem);
        false
    });

    // A value that was not read stands at its default, and judging that would only confuse.
    if problems.is_empty() {
        problems = validate::check(&config, &origins);
    }
    if problems.is_empty() {
        Ok(Loaded {
            config,
            origins,
            file,
            dump,
        })
    } else {
        Err(ConfigError { problems })
    }
}

/// `$XDG_DATA_HOME/coretex`, else `~/.local/share/coretex`. Relative paths are to be ignored, says
/// the XDG specification.
#[must_use]
pub fn default_data_dir(env: &Environment) -> Option<PathBuf> {
    let absolute = |name: &str| {
        env.get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("coretex"))
}

/// Reads a file that may be a pipe, too.
pub(super) fn read_file(path: &Path) -> Result<File, Problem> {
    let whole = path.display().to_string();
    let failed = |error| Problem::new(&whole, format!("cannot read the file: {error}"));
    let file = fs::File::open(path).map_err(failed)?;
    let regular = file.metadata().map_err(failed)?.is_file();
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let most = Size::bytes(MAX_FILE_BYTES);
        return Err(Problem::new(
            whole,
            format!("the file is larger than {most}"),
        ));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(File {
            path: path.to_owned(),
            text,
            regular,
        }),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let place = file::Places::new(path, &text).of(good);
            Err(Problem::new(place, "the file is not UTF-8"))
        }
    }
}

fn read_env(
    env: &Environment,
    config: &mut Config,
    origins: &mut Origins,
    problems: &mut Vec<Problem>,
) {
    for setting in SETTINGS {
        let Some(value) = env.get(setting.env) else {
            continue;
        };
        let read = match value.to_str() {
            Some(text) => setting.set(config, Input::Text(text)),
            None => Err("must be UTF-8".to_owned()),
        };
        match read {
            Ok(()) => {
                origins.insert(setting.key, Origin::Env(setting.env));
            }
            Err(message) => problems.push(Problem::new(setting.env, message)),
        }
    }
    for name in env.0.keys().filter(|name| name.starts_with("CORETEX_")) {
        let ours = || SETTINGS.iter().map(|setting| setting.env).chain(META);
        let known = ours().any(|known| known == name)
            || FOREIGN.contains(&name.as_str())
            || FOREIGN_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix));
        if known {
            continue;
        }
        problems.push(match nearest(name, ours()) {
            Some(near) => Problem::new(
                "environment",
                format!("unknown variable `{name}`; did you mean `{near}`?"),
            ),
            None => Problem::new("environment", format!("unknown variable `{name}`"))
                .hint("docs/config.md lists the variables"),
        });
    }
}

fn read_flags(
    flags: &Flags,
    config: &mut Config,
    origins: &mut Origins,
    problems: &mut Vec<Problem>,
) {
    for setting in SETTINGS {
        let Some(flag) = setting.flag else { continue };
        let Some(text) = flags.value(flag) else {
            continue;
        };
        match setting.set(config, Input::Text(text)) {
            Ok(()) => {
                origins.insert(setting.key, Origin::Flag(flag));
            }
            Err(message) => problems.push(Problem::new(format!("--{flag}"), message)),
        }
    }
}

fn wants_dump(flags: &Flags, env: &Environment) -> Result<bool, Problem> {
    let from_env = env
        .get("CORETEX_DUMP_CONFIG")
        .map(|value| ("CORETEX_DUMP_CONFIG", value.to_string_lossy().into_owned()));
    let from_flag = flags
        .dump_config
        .clone()
        .map(|value| ("--dump-config", value));
    match from_flag.or(from_env) {
        Some((place, text)) => {
            bool::read(Input::Text(&text)).map_err(|message| Problem::new(place, message))
        }
        None => Ok(false),
    }
}
