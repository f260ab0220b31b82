//! Runs a model breadth first, so that a trace found is a shortest one.

use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

pub struct Outcome {
    pub states: usize,
    pub took: Duration,
    /// The whole bounded space was seen.
    pub complete: bool,
    /// The first invariant that broke, and how.
    pub broken: Option<(&'static str, Vec<String>)>,
    /// Situations that ought to be reachable and were not met.
    pub unreached: Vec<&'static str>,
}

pub fn check<M>(model: M, threads: usize, state_limit: usize) -> Outcome
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: std::hash::Hash + Send + Sync + Clone + PartialEq + std::fmt::Debug,
    M::Action: Send + Sync + Clone + PartialEq + std::fmt::Debug,
{
    let started = Instant::now();
    let properties = model.properties();
    let checker = model
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(state_limit)
        .spawn_bfs()
        .join();
    let mut found = checker.discoveries();
    let broken = properties
        .iter()
        .filter(|p| p.expectation == Expectation::Always)
        .find_map(|p| found.remove(p.name).map(|path| (p, path.into_vec())))
        .map(|(property, path)| {
            let holds =
                path.iter().take_while(|(state, _)| (property.condition)(checker.model(), state));
            let steps = holds.filter_map(|(_, step)| step.as_ref()).map(|step| format!("{step:?}"));
            (property.name, steps.collect())
        });
    let unreached = properties
        .iter()
        .filter(|p| p.expectation == Expectation::Sometimes && !found.contains_key(p.name))
        .map(|p| p.name)
        .collect();
    Outcome {
        states: checker.unique_state_count(),
        took: started.elapsed(),
        complete: broken.is_none() && checker.state_count() < state_limit,
        broken,
        unreached,
    }
}
