//! Numbers of this process, read from the operating system when somebody asks.

use std::fmt::Write;
use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Appends the conventional `process_*` metrics. What a system does not tell is left out.
pub(super) fn render(text: &mut String) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    metric(
        text,
        "process_cpu_seconds_total",
        "counter",
        "User and system CPU time.",
        cpu,
    );
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let gauges = [
        (
            "process_resident_memory_bytes",
            "VmRSS:",
            1024.0,
            "Memory in use.",
        ),
        (
            "process_virtual_memory_bytes",
            "VmSize:",
            1024.0,
            "Memory that is mapped.",
        ),
        ("process_threads", "Threads:", 1.0, "Threads."),
    ];
    for (name, field, factor, help) in gauges {
        if let Some(value) = field_of(&status, field) {
            metric(text, name, "gauge", help, value * factor);
        }
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // One of them is this very directory.
        let open = files.count().saturating_sub(1) as f64;
        metric(
            text,
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            open,
        );
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        metric(
            text,
            "process_max_fds",
            "gauge",
            "Most open file descriptors.",
            most as f64,
        );
    }
}

/// The number behind `field` in `/proc/self/status`.
fn field_of(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

pub(super) fn metric(text: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    // Writing to a string cannot fail.
    let _done = write!(
        text,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "Name:\tcoretexd\nVmRSS:\t   20312 kB\nThreads:\t9\n";
        assert_eq!(field_of(status, "VmRSS:"), Some(20_312.0));
        assert_eq!(field_of(status, "Threads:"), Some(9.0));
        assert_eq!(field_of(status, "VmSize:"), None);
    }

    #[test]
    fn the_cpu_time_of_this_process_is_told() {
        let mut text = String::new();
        render(&mut text);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
        let seconds: f64 = line
            .and_then(|value| value.parse().ok())
            .unwrap_or_default();
        assert!(seconds > 0.0, "{text}");
    }
}
