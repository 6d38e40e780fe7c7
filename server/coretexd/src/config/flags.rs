//! The command line. Values stay texts here; they are read with all others by the loader.

use std::path::PathBuf;

use clap::Parser;

/// The Coretex server. Without arguments: a working single node on localhost that keeps its data
/// in $XDG_DATA_HOME/coretex.
///
/// Every flag is also a variable (--data-dir is CORETEX_DATA_DIR), every value a key of a TOML file, which
/// knows more of them: see docs/config.md or --dump-config.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "coretexd",
    version,
    after_help = "Exit codes: 0 clean stop, 2 usage or configuration, 3 cannot start."
)]
pub struct Flags {
    /// Need no credentials and allow every job unless another bundle says no; loopback only.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub dev: Option<String>,
    /// Serve gRPC here [default: 127.0.0.1:50051].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Serve metrics and probes here [default: 127.0.0.1:9464].
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// Keep data here [default: $XDG_DATA_HOME/coretex].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Keep everything in memory.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ephemeral: Option<String>,
    /// Where jobs are kept: embedded, redis://..., rediss://... (TLS) or redis+unix://...
    /// [default: embedded].
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// How replicas ring each other: inproc, nats://... or tls://... (TLS) [default: inproc].
    #[arg(long, value_name = "BUS")]
    pub bus: Option<String>,
    /// Read this TOML file first; its routing tables again when it changes, and on SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Judge jobs by the policy bundles in this directory, besides the published ones.
    #[arg(long, value_name = "DIR")]
    pub policy_dir: Option<String>,
    /// How log lines look: pretty or json [default: pretty].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Print one line of JSON with the addresses to stdout when ready.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ready_json: Option<String>,
    /// Print the configuration as it would be used, with the origin of every value, and exit.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub dump_config: Option<String>,
}

impl Flags {
    /// The value given for a flag of the settings table.
    #[must_use]
    pub fn value(&self, flag: &str) -> Option<&str> {
        let value = match flag {
            "dev" => &self.dev,
            "listen" => &self.listen,
            "admin-listen" => &self.admin_listen,
            "data-dir" => &self.data_dir,
            "ephemeral" => &self.ephemeral,
            "store" => &self.store,
            "bus" => &self.bus,
            "policy-dir" => &self.policy_dir,
            "log-format" => &self.log_format,
            "ready-json" => &self.ready_json,
            _ => return None,
        };
        value.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::settings::SETTINGS;

    #[test]
    fn every_flag_is_a_setting_or_about_the_configuration_itself() {
        let command = Flags::command();
        command.clone().debug_assert();
        let mut flags: Vec<_> = command
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .filter(|flag| !["help", "version", "config", "dump-config"].contains(flag))
            .collect();
        let mut settings: Vec<_> = SETTINGS.iter().filter_map(|setting| setting.flag).collect();
        flags.sort_unstable();
        settings.sort_unstable();
        assert_eq!(flags, settings);
        let all = Flags::parse_from(["coretexd", "--dev", "--ephemeral=false", "--ready-json"]);
        assert_eq!(all.value("dev"), Some("true"));
        assert_eq!(all.value("ephemeral"), Some("false"));
        assert_eq!(all.value("ready-json"), Some("true"));
    }

    #[test]
    fn every_value_of_the_table_is_read_from_its_flag() {
        for flag in SETTINGS.iter().filter_map(|setting| setting.flag) {
            let flags = Flags::parse_from(["coretexd".to_owned(), format!("--{flag}=x")]);
            assert_eq!(flags.value(flag), Some("x"), "{flag}");
        }
    }
}
