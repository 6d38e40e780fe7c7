//! How busy this machine is, for heartbeats.

use std::fmt;

/// What a heartbeat says about load, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Of the processors, 0 to 100.
    pub cpu_percent: f64,
    /// Of the graphics processors, 0 to 100.
    pub gpu_percent: f64,
}

/// Measures the load; a call tells what it was since the one before.
pub(super) struct Probe(Box<dyn FnMut() -> Load + Send>);

impl Probe {
    pub(super) fn new(probe: impl FnMut() -> Load + Send + 'static) -> Self {
        Self(Box::new(probe))
    }

    /// The load now, within bounds whatever the probe says: a NaN would mislead placement.
    pub(super) fn measure(&mut self) -> Load {
        let bound = |percent: f64| {
            if percent.is_finite() {
                percent.clamp(0.0, 100.0)
            } else {
                0.0
            }
        };
        let load = (self.0)();
        Load {
            cpu_percent: bound(load.cpu_percent),
            gpu_percent: bound(load.gpu_percent),
        }
    }
}

impl Default for Probe {
    fn default() -> Self {
        let mut before = None;
        Self::new(move || {
            // A few microseconds: the kernel writes this file from memory.
            let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
            let now = Ticks::parse(&stat);
            let load = match (before, now) {
                (Some(before), Some(now)) => now.busy_percent_since(before),
                _ => 0.0,
            };
            before = now;
            Load {
                cpu_percent: load,
                gpu_percent: 0.0,
            }
        })
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

/// Processor time of all cores since boot, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    total: u64,
    idle: u64,
}

impl Ticks {
    /// Reads the first line of `/proc/stat`: `cpu user nice system idle iowait irq ...`.
    fn parse(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?;
        // The 9th and 10th (guest) are contained in the first two.
        let ticks: Vec<u64> = fields
            .split_whitespace()
            .take(8)
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        Some(Self {
            total: ticks.iter().sum(),
            idle: ticks.get(3)? + ticks.get(4)?,
        })
    }

    fn busy_percent_since(self, before: Self) -> f64 {
        let total = self.total.saturating_sub(before.total);
        let idle = self.idle.saturating_sub(before.idle);
        if total == 0 {
            return 0.0;
        }
        100.0 * total.saturating_sub(idle) as f64 / total as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_what_was_not_idle_between_two_looks() {
        let first = Ticks::parse("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3");
        let second = Ticks::parse("cpu  150 0 125 715 110 0 0 0 60 0\n");
        let load = first.zip(second).map(|(a, b)| b.busy_percent_since(a));
        assert_eq!(load, Some(75.0));
        assert_eq!(Ticks::parse(""), None);
        assert_eq!(Ticks::parse("cpu 1 2 x"), None);
        let same = first.zip(first).map(|(a, b)| b.busy_percent_since(a));
        assert_eq!(same, Some(0.0));
    }

    #[test]
    fn a_probe_gone_wrong_reports_nothing_absurd() {
        let mut probe = Probe::new(|| Load {
            cpu_percent: f64::NAN,
            gpu_percent: 250.0,
        });
        let load = probe.measure();
        assert_eq!((load.cpu_percent, load.gpu_percent), (0.0, 100.0));
        let own = Probe::default().measure();
        assert!((0.0..=100.0).contains(&own.cpu_percent));
    }
}
