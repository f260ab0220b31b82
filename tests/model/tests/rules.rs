//! All rules on: the invariants hold on the whole bounded space. Any rule off: a trace breaks one.

use model::check::{Outcome, check};
use model::log::{LogModel, Rule};
use model::{ahead, device, replay, runs};

const STATE_LIMIT: usize = 30_000_000;

fn assert_holds(name: &str, outcome: Outcome) {
    assert_eq!(outcome.broken, None, "{name}");
    assert!(outcome.complete, "{name}: the state limit is too low");
    assert!(outcome.unreached.is_empty(), "{name}: {:?}", outcome.unreached);
}

fn assert_breaks(name: &str, outcome: Outcome) {
    assert!(outcome.broken.is_some(), "{name}: no trace in {} states", outcome.states);
}

#[test]
fn all_rules_hold() {
    for (name, model) in runs::all_on() {
        assert_holds(name, check(model, 1, STATE_LIMIT));
    }
}

#[test]
fn each_rule_of_the_log_is_needed() {
    for model in runs::one_off() {
        let name = format!("{:?} off", model.off);
        let on = LogModel { off: None, ..model.clone() };
        assert_breaks(&name, check(model, 1, STATE_LIMIT));
        assert_eq!(check(on, 1, STATE_LIMIT).broken, None, "{name}: breaks with the rule on, too");
    }
}

#[test]
fn every_rule_of_the_log_has_a_run() {
    let last = Rule::FullPageEndsCursor as usize;
    let mut seen: Vec<usize> =
        runs::one_off().iter().filter_map(|m| m.off).map(|rule| rule as usize).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..=last).collect::<Vec<_>>());
}

#[test]
fn a_refused_owner_may_simply_step_down() {
    assert_holds(
        "any other record deposes",
        check(runs::any_other_record_deposes(), 1, STATE_LIMIT),
    );
}

#[test]
fn the_last_branch_of_a_refusal_is_never_taken() {
    for (name, model) in runs::all_on() {
        let simpler = LogModel { any_other_record_deposes: true, ..model.clone() };
        assert_eq!(
            check(model, 1, STATE_LIMIT).states,
            check(simpler, 1, STATE_LIMIT).states,
            "{name}"
        );
    }
}

#[test]
fn a_live_device_misses_nothing() {
    assert_holds("live device", check(runs::device(None), 1, STATE_LIMIT));
    for rule in device::RULES {
        assert_breaks(&format!("{rule:?} off"), check(runs::device(Some(rule)), 1, STATE_LIMIT));
    }
}

#[test]
fn ids_ahead_of_every_clock_hold_nobody_up() {
    assert_holds("ids ahead", check(runs::ahead(None), 1, STATE_LIMIT));
    for rule in ahead::RULES {
        assert_breaks(&format!("{rule:?} off"), check(runs::ahead(Some(rule)), 1, STATE_LIMIT));
    }
}

#[test]
fn a_replay_gives_the_same_store() {
    for model in runs::replays(None) {
        assert_holds(&format!("{:?}", model.log), check(model, 1, STATE_LIMIT));
    }
    for rule in replay::RULES {
        let mut outcomes =
            runs::replays(Some(rule)).into_iter().map(|model| check(model, 1, STATE_LIMIT));
        assert!(outcomes.any(|outcome| outcome.broken.is_some()), "{rule:?} off: no trace");
    }
}
