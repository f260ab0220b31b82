//! Figures, as `chat-bench` writes them.

use serde::{Deserialize, Serialize};

/// What the platform's acknowledged sends should reach of a bare client's publications, per second of JetStream's CPU.
const RAW_SHARE_MARK: f64 = 0.5;
/// The bare client takes as long as it takes, so it is held against the platform's highest rate of that kind.
const PLATFORM_SECONDS: (&str, &str) = ("pairs", "CPU per million messages at the most: nats");
const RAW_SECONDS: (&str, &str) = ("raw", "CPU per million messages there: nats");

/// One figure.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Record {
    scenario: String,
    figure: String,
    value: f64,
    unit: String,
    mark: Option<f64>,
    pass: Option<bool>,
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Figures(Vec<Record>);

impl Figures {
    pub(crate) fn records(&self) -> &[Record] {
        &self.0
    }

    pub(crate) fn extend(&mut self, records: Vec<Record>) {
        self.0.extend(records);
    }

    pub(crate) fn add(&mut self, scenario: &str, figure: &str, value: f64, unit: &str) {
        self.put(scenario, figure, value, unit, None);
    }

    /// A figure that should stay under its mark.
    pub(crate) fn at_most(
        &mut self,
        scenario: &str,
        figure: &str,
        value: f64,
        unit: &str,
        most: f64,
    ) {
        self.put(scenario, figure, value, unit, Some((most, value <= most)));
    }

    fn put(
        &mut self,
        scenario: &str,
        figure: &str,
        value: f64,
        unit: &str,
        mark: Option<(f64, bool)>,
    ) {
        self.0.push(Record {
            scenario: scenario.to_owned(),
            figure: figure.to_owned(),
            value,
            unit: unit.to_owned(),
            mark: mark.map(|(mark, _)| mark),
            pass: mark.map(|(_, pass)| pass),
        });
    }

    /// The sum of what the NATS servers used for a million messages, in seconds.
    fn nats_seconds(&self, (scenario, figure): (&str, &str)) -> Option<f64> {
        let of =
            |record: &&Record| record.scenario == scenario && record.figure.starts_with(figure);
        let seconds: f64 = self.0.iter().filter(of).map(|record| record.value).sum();
        (seconds > 0.0).then_some(seconds)
    }

    /// Holds the platform against the bare client, if both were measured.
    pub(crate) fn compare_with_raw(&mut self) {
        let Some((platform, raw)) =
            self.nats_seconds(PLATFORM_SECONDS).zip(self.nats_seconds(RAW_SECONDS))
        else {
            return;
        };
        let share = raw / platform;
        let figure = "acknowledged sends per JetStream CPU second, share of raw";
        self.put("pairs", figure, share, "", Some((RAW_SHARE_MARK, share >= RAW_SHARE_MARK)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_use_twice_as_much_for_a_message_as_for_a_bare_one_are_just_on_the_mark() {
        let mut figures = Figures::default();
        figures.add("pairs", "CPU per million messages at the most: nats-1", 30.0, "s");
        figures.add("pairs", "CPU per million messages at the most: nats-2", 10.0, "s");
        figures.add("pairs", "CPU per million messages at the most: node-1", 99.0, "s");
        figures.compare_with_raw();
        assert_eq!(figures.records().len(), 3, "nothing to compare with");
        figures.add("raw", "CPU per million messages there: nats-1", 20.0, "s");
        figures.compare_with_raw();
        let last = figures.records().last().unwrap();
        assert_eq!((last.value, last.pass), (0.5, Some(true)));
    }
}
