//! How long the log takes to accept a record, from the histograms of all nodes.

use cluster::Platform;

const NAME: &str = "chat_log_commit_seconds_bucket{le=\"";
const ENTRIES: &str = "chat_log_entries_total ";

/// Commits, and the entries in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Commits {
    /// Counts by their upper bounds in seconds, each including those below it.
    counts: Vec<(f64, f64)>,
    pub(crate) entries: f64,
}

/// The sum over all nodes.
pub(crate) fn read(platform: &Platform) -> anyhow::Result<Commits> {
    let mut sum = Commits::default();
    for node in &platform.nodes {
        let metrics = node.metrics();
        anyhow::ensure!(metrics.contains(NAME), "a node does not tell {NAME}");
        sum.add(&parse(&metrics));
    }
    Ok(sum)
}

fn parse(metrics: &str) -> Commits {
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix(NAME)?.split_once("\"} ")?;
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
        Some((bound, count.trim().parse().ok()?))
    };
    let entries = metrics.lines().find_map(|line| line.strip_prefix(ENTRIES)?.trim().parse().ok());
    Commits {
        counts: metrics.lines().filter_map(bucket).collect(),
        entries: entries.unwrap_or_default(),
    }
}

impl Commits {
    fn add(&mut self, other: &Commits) {
        if self.counts.is_empty() {
            self.counts = vec![(0.0, 0.0); other.counts.len()];
        }
        for (sum, (bound, count)) in self.counts.iter_mut().zip(&other.counts) {
            *sum = (*bound, sum.1 + count);
        }
        self.entries += other.entries;
    }

    /// What came since an earlier reading.
    pub(crate) fn since(&self, before: &Commits) -> Commits {
        let pairs = self.counts.iter().zip(&before.counts);
        Commits {
            counts: pairs.map(|((bound, now), (_, then))| (*bound, now - then)).collect(),
            entries: self.entries - before.entries,
        }
    }

    /// The upper bound of the bucket that holds this share, in seconds. `None` if there were no commits.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let (_, all) = self.counts.last().filter(|(_, all)| *all > 0.0)?;
        self.counts.iter().find(|(_, count)| *count >= all * share).map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(fast: u32, slow: u32, all: u32) -> String {
        let bucket = |bound: &str, count: u32| format!("{NAME}{bound}\"}} {count}\n");
        let buckets = [bucket("0.001", fast), bucket("0.01", slow), bucket("+Inf", all)].concat();
        format!("other 1\n{buckets}{ENTRIES}{}\n", 4 * all)
    }

    #[test]
    fn quantiles_are_of_what_came_between_two_readings() {
        let (before, after) = (parse(&metrics(5, 5, 5)), parse(&metrics(65, 104, 105)));
        let between = after.since(&before);
        assert_eq!(between.entries, 400.0);
        assert_eq!(between.quantile(0.5), Some(0.001));
        assert_eq!(between.quantile(0.99), Some(0.01));
        assert_eq!(between.quantile(1.0), Some(f64::INFINITY));
        assert_eq!(before.since(&before).quantile(0.5), None);
    }
}
