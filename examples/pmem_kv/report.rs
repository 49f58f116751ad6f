//! Words and tables for people.

use std::error::Error;
use std::fmt::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::store::format::PAGE;
use crate::store::{Stat, Store};

/// Bytes in the largest unit that keeps a digit before the point.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (n as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// A duration with three digits or so.
pub(crate) fn duration(d: Duration) -> String {
    let us = d.as_secs_f64() * 1e6;
    match us {
        _ if us < 1e3 => format!("{us:.1} us"),
        _ if us < 1e6 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// A byte count as it is given on the command line: `4096`, `64M`, `1G`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        other => return Err(format!("{other} is no unit: expected K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|e| format!("{e}"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too many bytes".to_owned())
}

/// A key as text, whatever its bytes are.
pub(crate) fn key(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => key.escape_ascii().to_string(),
    }
}

/// An error and everything that caused it, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let _ = write!(text, ": {e}");
        cause = e.source();
    }
    text
}

/// Rows of a name and one or more columns, aligned. A row without columns is a heading.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    pub(crate) fn head(&mut self, name: &str) {
        self.rows.push((name.to_owned(), Vec::new()));
    }

    pub(crate) fn row<const N: usize>(&mut self, name: &str, columns: [&dyn fmt::Display; N]) {
        let columns = columns.iter().map(ToString::to_string).collect();
        self.rows.push((name.to_owned(), columns));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only rows with several columns are columns of a table; a single one is a value by itself.
        let many = || self.rows.iter().filter(|(_, columns)| columns.len() > 1);
        let width = |i: usize| {
            many()
                .filter_map(|(_, columns)| Some(columns.get(i)?.len()))
                .max()
        };
        let names = self.rows.iter().filter(|row| !row.1.is_empty());
        let names = names.map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, columns) in &self.rows {
            match columns.as_slice() {
                [] => write!(f, "{name}")?,
                [value] => write!(f, "  {name:names$}  {value}")?,
                columns => {
                    write!(f, "  {name:names$}")?;
                    for (i, column) in columns.iter().enumerate() {
                        write!(f, "  {column:>width$}", width = width(i).unwrap_or(0))?;
                    }
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The table of the `stat` command.
pub(crate) fn stat(stat: &Stat) -> Table {
    let pages = |n: u64| format!("{n} pages, {}", bytes(n * PAGE));
    let mut table = Table::default();
    table.row("pool", [&format!("{:016x}", stat.id)]);
    table.row("media", [&stat.media]);
    table.row("records", [&stat.records]);
    table.row("problems", [&stat.problems]);
    table.row("keys and values", [&bytes(stat.logical)]);
    table.row("used", [&pages(stat.usage.used)]);
    table.row("free", [&pages(stat.usage.free)]);
    table.row("largest free piece", [&pages(stat.usage.largest)]);
    table.row("file length", [&pages(stat.usage.file)]);
    table.row("may grow to", [&pages(stat.capacity)]);
    table.row("allocated (du)", [&bytes(stat.allocated)]);
    table.row("holes refused", [&pages(stat.unpunched)]);
    table
}

/// What was odd or wrong when the pool was opened, one line each.
pub(crate) fn findings(store: &Store) -> Vec<String> {
    let notes = store.notes().iter().cloned();
    notes
        .chain(store.problems().iter().map(ToString::to_string))
        .collect()
}

/// A progress bar; hidden where standard error is no terminal.
pub(crate) fn bar(len: u64, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style)
}
