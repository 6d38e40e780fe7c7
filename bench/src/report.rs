//! What is printed and written.

use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What was to be reached, with the sign of the comparison: `>= 4000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<Goal>,
}

/// What was to be reached.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) const fn new(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self {
            name,
            value,
            unit,
            goal: None,
        }
    }

    pub(crate) const fn at_least(mut self, goal: f64) -> Self {
        self.goal = Some(Goal::AtLeast(goal));
        self
    }

    pub(crate) const fn at_most(mut self, goal: f64) -> Self {
        self.goal = Some(Goal::AtMost(goal));
        self
    }

    fn verdict(&self) -> String {
        let (met, text) = match self.goal {
            None => return String::new(),
            Some(Goal::AtLeast(goal)) => (self.value >= goal, format!(">= {}", number(goal))),
            Some(Goal::AtMost(goal)) => (self.value <= goal, format!("<= {}", number(goal))),
        };
        format!("{text} {}", if met { "met" } else { "MISSED" })
    }
}

/// One row of the benchmark.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) letter: &'static str,
    pub(crate) title: String,
    pub(crate) durability: &'static str,
    pub(crate) figures: Vec<Figure>,
}

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) version: &'static str,
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    pub(crate) rows: Vec<Row>,
}

/// What was measured on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) fsync_p50_ms: f64,
    pub(crate) fsync_p99_ms: f64,
}

fn number(value: f64) -> String {
    if value >= 1_000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// The table for people.
pub(crate) fn table(results: &Results) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["row", "durability", "figure", "value", "unit", "goal"]);
    for row in &results.rows {
        for (position, figure) in row.figures.iter().enumerate() {
            let first = position == 0;
            table.add_row([
                if first {
                    format!("{} {}", row.letter, row.title)
                } else {
                    String::new()
                },
                if first {
                    row.durability.to_owned()
                } else {
                    String::new()
                },
                figure.name.to_owned(),
                number(figure.value),
                figure.unit.to_owned(),
                figure.verdict(),
            ]);
        }
    }
    table.to_string()
}

/// A line of data on stdout.
#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// A line about what goes on, on stderr.
#[expect(
    clippy::print_stderr,
    reason = "who waits for a benchmark wants to see it move"
)]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
