//! Random histories: edits, members that go, volumes that are lost, an operator that dies in each step, answers that do not
//! come. The small world fails by itself when rows lose a copy, a second ring comes to be, or somebody goes too early.

use proptest::prelude::*;

use super::sim::Sim;

#[derive(Clone, Debug)]
enum Happening {
    /// A pass that is cut off after so many steps.
    Pass(usize),
    /// Time passes; members may be slow.
    Time(bool),
    /// Another number of members.
    Size(usize, i32),
    /// Another template; odd ones never start.
    Template(u32),
    /// A pod is evicted.
    Evict(usize),
    /// A machine dies with its volume, and somebody may say so.
    Lose(usize, bool),
    /// Somebody says of a member that it is lost.
    Annotate(usize),
    /// Some members do not answer.
    Noise(u32),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        12 => (0..=4_usize).prop_map(Happening::Pass),
        12 => any::<bool>().prop_map(Happening::Time),
        3 => (0..3_usize, 1..4_i32).prop_map(|(rack, wanted)| Happening::Size(rack, wanted)),
        1 => (0..5_u32).prop_map(Happening::Template),
        2 => (0..9_usize).prop_map(Happening::Evict),
        1 => (0..9_usize, any::<bool>()).prop_map(|(pod, told)| Happening::Lose(pod, told)),
        1 => (0..9_usize).prop_map(Happening::Annotate),
        1 => (0..4_u32).prop_map(Happening::Noise),
    ]
}

fn name(sim: &Sim, index: usize) -> Option<String> {
    let names: Vec<&String> = sim.pods.keys().collect();
    (!names.is_empty()).then(|| names[index % names.len()].clone())
}

fn happens(sim: &mut Sim, what: &Happening) {
    match what {
        Happening::Pass(steps) => sim.operate(*steps),
        Happening::Time(is_slow) => sim.go_on(*is_slow),
        Happening::Size(rack, wanted) => {
            let rack = rack % sim.racks.len();
            sim.racks[rack].wanted = *wanted;
        }
        Happening::Template(number) => sim.template = *number,
        Happening::Evict(index) => {
            if let Some(name) = name(sim, *index) {
                sim.evict(&name);
            }
        }
        Happening::Lose(index, told) => {
            // Of two lost members nobody could say which is which, and rows need another copy.
            let lost = sim.pods.values().any(|pod| pod.dead);
            let may = !lost
                && sim.copies > 1
                && sim.ring.len() > 1
                && sim.lost() == 0
                && sim.all_are_well();
            if let (Some(name), true) = (name(sim, *index), may) {
                sim.lose(&name);
                sim.pods.get_mut(&name).unwrap().is_lost = *told;
            }
        }
        Happening::Annotate(index) => {
            if let Some(name) = name(sim, *index).filter(|_| sim.copies > 1) {
                sim.pods.get_mut(&name).unwrap().is_lost = true;
            }
        }
        Happening::Noise(noise) => sim.noise = *noise,
    }
}

proptest! {
    #[test]
    fn no_history_loses_rows_and_every_one_comes_to_rest(
        sizes in proptest::collection::vec(1..4_i32, 1..4),
        copies in 1..4_i32,
        history in proptest::collection::vec(happening(), 0..120),
    ) {
        let copies = copies.min(sizes.iter().sum());
        let mut sim = Sim::new(&sizes, copies);
        for what in &history {
            happens(&mut sim, what);
        }
        // Everything that stands in the way is mended.
        sim.noise = 0;
        sim.template = sim.template.div_ceil(2) * 2;
        let missing = copies - sim.racks.iter().map(|rack| rack.wanted).sum::<i32>();
        sim.racks[0].wanted += missing.max(0);
        for pod in sim.pods.values_mut() {
            pod.is_lost = pod.dead;
        }
        sim.run(300);
        prop_assert!(sim.is_settled(), "waits: {:?}, ring {:?}, pods {:?}", sim.waits, sim.ring, sim.names());
    }
}
