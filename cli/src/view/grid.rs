//! Tables with a head, and lists of fields.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use super::{Paint, clean, clean_lines};

/// The meaning of a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tint {
    Plain,
    Good,
    Bad,
    Waiting,
    Active,
}

impl Tint {
    fn colour(self) -> Option<Color> {
        match self {
            Self::Plain => None,
            Self::Good => Some(Color::DarkGreen),
            Self::Bad => Some(Color::DarkRed),
            Self::Waiting => Some(Color::DarkYellow),
            Self::Active => Some(Color::DarkCyan),
        }
    }
}

/// A table.
pub(crate) struct Grid {
    table: Table,
}

impl Grid {
    pub(crate) fn new(paint: Paint, head: &[&str]) -> Self {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(head.iter().map(Cell::new));
        if paint.on {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        Self { table }
    }

    /// Adds a row of plain cells.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.tinted(cells.into_iter().map(|cell| (Tint::Plain, cell)));
    }

    /// Adds a row.
    pub(crate) fn tinted(&mut self, cells: impl IntoIterator<Item = (Tint, String)>) {
        let cells = cells.into_iter().map(|(tint, text)| {
            // An empty cell would make the columns hard to tell apart, for people and for awk.
            let cell = Cell::new(if text.is_empty() {
                "-".to_owned()
            } else {
                clean(&text)
            });
            match tint.colour() {
                Some(colour) => cell.fg(colour),
                None => cell,
            }
        });
        self.table.add_row(cells);
    }

    pub(crate) fn finish(mut self) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in self.table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values, one below the other.
pub(crate) struct Fields {
    paint: Paint,
    fields: Vec<(&'static str, Tint, String)>,
}

impl Fields {
    pub(crate) fn new(paint: Paint) -> Self {
        Self {
            paint,
            fields: Vec::new(),
        }
    }

    /// Adds a field; an empty one is left out.
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.tinted(name, Tint::Plain, value);
    }

    pub(crate) fn tinted(&mut self, name: &'static str, tint: Tint, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.fields.push((name, tint, value));
        }
    }

    pub(crate) fn finish(self) -> String {
        let width = self.fields.iter().map(|(name, ..)| name.len()).max();
        let width = width.unwrap_or_default() + 2;
        let mut text = String::new();
        for (name, tint, value) in &self.fields {
            let value = clean_lines(value);
            let mut lines = value.lines();
            let first = self.paint.tint(*tint, lines.next().unwrap_or_default());
            let name = format!("{name:width$}");
            text.push_str(&format!("{}{first}\n", self.paint.bold(&name)));
            for line in lines {
                text.push_str(&format!("{:width$}{line}\n", ""));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_empty_cells_show() {
        let mut grid = Grid::new(Paint::new(false), &["A", "LONG", "C"]);
        grid.row(["1".to_owned(), String::new(), "x\ny".to_owned()]);
        grid.row(["222".to_owned(), "longer".to_owned(), "z".to_owned()]);
        assert_eq!(
            grid.finish(),
            "A    LONG    C\n1    -       x\\ny\n222  longer  z\n"
        );
    }

    #[test]
    fn fields_align_and_long_values_are_indented() {
        let mut fields = Fields::new(Paint::new(false));
        fields.add("a", "1\n2");
        fields.add("nothing", "");
        fields.add("job", "x");
        assert_eq!(fields.finish(), "a    1\n     2\njob  x\n");
    }
}
