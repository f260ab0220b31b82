//! Figures, the marks they are held against, and how both are written.

use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Record {
    pub(crate) scenario: String,
    pub(crate) figure: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What it is held against, if anything.
    pub(crate) mark: Option<f64>,
    pub(crate) pass: Option<bool>,
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mark {
    AtLeast(f64),
    AtMost(f64),
}

/// The figures of one scenario.
pub(crate) struct Report {
    scenario: String,
    pub(crate) records: Vec<Record>,
}

impl Report {
    pub(crate) fn new(scenario: impl Into<String>) -> Report {
        Report { scenario: scenario.into(), records: Vec::new() }
    }

    pub(crate) fn figure(&mut self, figure: &str, value: f64, unit: &'static str) {
        self.add(figure, value, unit, None);
    }

    pub(crate) fn add(
        &mut self,
        figure: &str,
        value: f64,
        unit: &'static str,
        mark: impl Into<Option<Mark>>,
    ) {
        let mark = mark.into();
        let pass = mark.map(|mark| match mark {
            Mark::AtLeast(least) => value >= least,
            Mark::AtMost(most) => value <= most,
        });
        let mark = mark.map(|mark| match mark {
            Mark::AtLeast(value) | Mark::AtMost(value) => value,
        });
        let (scenario, figure) = (self.scenario.clone(), figure.to_owned());
        self.records.push(Record { scenario, figure, value, unit, mark, pass });
    }

    /// What one node reaches says nothing about several processes that share a machine.
    pub(crate) fn drop_marks(&mut self) {
        for record in &mut self.records {
            (record.mark, record.pass) = (None, None);
        }
    }

    /// The figures for a person.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        for record in &self.records {
            let mark = match (record.mark, record.pass) {
                (Some(mark), Some(pass)) => {
                    format!("mark {} {}", number(mark), if pass { "reached" } else { "MISSED" })
                }
                _ => String::new(),
            };
            let value = number(record.value);
            table.push_str(&format!(
                "{:<16} {:<46} {:>14} {:<18} {mark}\n",
                record.scenario, record.figure, value, record.unit
            ));
        }
        table
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        large if large >= 1_000.0 => format!("{value:.0}"),
        small if small < 0.1 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_passes_on_the_right_side_of_its_mark_and_is_undecided_without_one() {
        let mut report = Report::new("room");
        report.add("rate", 100.0, "1/s", Mark::AtLeast(90.0));
        report.add("rate", 80.0, "1/s", Mark::AtLeast(90.0));
        report.add("time", 80.0, "ms", Mark::AtMost(90.0));
        report.figure("other", 1.0, "s");
        let passes: Vec<_> = report.records.iter().map(|record| record.pass).collect();
        assert_eq!(passes, [Some(true), Some(false), Some(true), None]);
        assert!(report.table().contains("MISSED"));
    }
}
