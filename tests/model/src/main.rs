//! `model`: every rule on at the test's bounds, then each rule off. `model wide`: every rule on, wider bounds.

// Printing is what this program is for.
#![allow(clippy::print_stdout)]

use model::check::{Outcome, check};
use model::{ahead, device, replay, runs};

const STATE_LIMIT: usize = 40_000_000;

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => {
            for (name, model) in runs::all_on() {
                print(name, check(model, 2, STATE_LIMIT));
            }
            for model in runs::one_off() {
                print(
                    &format!("off: {:?}", model.off.expect("a rule")),
                    check(model, 1, STATE_LIMIT),
                );
            }
            let simpler = runs::any_other_record_deposes();
            print(
                "any other record deposes; checkpoint without epoch",
                check(simpler, 2, STATE_LIMIT),
            );
            print("live device", check(runs::device(None), 2, STATE_LIMIT));
            for rule in device::RULES {
                print(&format!("off: {rule:?}"), check(runs::device(Some(rule)), 1, STATE_LIMIT));
            }
            print("ids ahead of every clock", check(runs::ahead(None), 2, STATE_LIMIT));
            for rule in ahead::RULES {
                print(&format!("off: {rule:?}"), check(runs::ahead(Some(rule)), 1, STATE_LIMIT));
            }
            for model in runs::replays(None) {
                print(&format!("replay of {:?}", model.log), check(model, 1, STATE_LIMIT));
            }
            for rule in replay::RULES {
                for model in runs::replays(Some(rule)) {
                    print(
                        &format!("off: {rule:?}, replay of {:?}", model.log),
                        check(model, 1, STATE_LIMIT),
                    );
                }
            }
        }
        Some("wide") => {
            for (name, model) in runs::all_on_wide() {
                print(name, check(model, 2, STATE_LIMIT));
            }
        }
        Some(other) => {
            eprintln!("unknown argument {other:?}; use no argument or `wide`");
            std::process::exit(2);
        }
    }
}

fn print(name: &str, outcome: Outcome) {
    let extent = if outcome.complete { "whole space" } else { "stopped" };
    println!("\n{name}: {} states, {:.1} s, {extent}", outcome.states, outcome.took.as_secs_f32());
    if let Some((invariant, steps)) = outcome.broken {
        println!("  BROKEN: {invariant}");
        for step in steps {
            println!("    {step}");
        }
    } else if !outcome.complete {
        println!("  state limit reached, no failure found");
    }
    for name in outcome.unreached {
        println!("  not reached: {name}");
    }
}
