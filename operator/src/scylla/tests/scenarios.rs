//! What is to happen, told one by one.

use super::sim::Sim;

fn three() -> Sim {
    let mut sim = Sim::new(&[3], 3);
    sim.run(20);
    assert!(sim.is_settled(), "{:?}", sim.waits);
    sim
}

fn reasons(sim: &Sim) -> Vec<&'static str> {
    sim.events.iter().map(|event| event.reason).collect()
}

#[test]
fn members_join_one_at_a_time_and_rack_by_rack() {
    let mut sim = Sim::new(&[2, 1], 3);
    let mut seen = vec![0];
    for _ in 0..30 {
        sim.run(1);
        if seen.last() != Some(&sim.ring.len()) {
            seen.push(sim.ring.len());
            assert_eq!(sim.pods.len(), sim.ring.len(), "a pod is there before it may join");
        }
    }
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(sim.names(), ["a-0", "a-1", "b-0"]);
    assert!(sim.is_settled(), "{:?}", sim.waits);
}

#[test]
fn the_last_member_leaves_the_ring_before_its_pod_and_its_volume_go() {
    let mut sim = Sim::new(&[4], 3);
    sim.run(30);
    sim.racks[0].wanted = 3;
    sim.operate(4);
    assert_eq!(sim.leaving.as_ref().unwrap().pod, "chat-scylla-a-3");
    assert_eq!((sim.ring.len(), sim.pods.len()), (4, 4));
    sim.go_on(false);
    assert_eq!((sim.ring.len(), sim.pods.len()), (3, 4), "the pod waits to be told that it may go");
    sim.run(10);
    assert!(sim.is_settled(), "{:?}", sim.waits);
    assert_eq!(reasons(&sim), ["MemberLeaves", "MemberLeft"]);
}

#[test]
fn what_has_begun_to_leave_leaves_and_comes_back_as_a_new_member() {
    let mut sim = Sim::new(&[4], 3);
    sim.run(30);
    let before = sim.host("chat-scylla-a-3");
    sim.racks[0].wanted = 3;
    sim.operate(4);
    sim.racks[0].wanted = 4;
    sim.run(20);
    assert!(sim.is_settled(), "{:?}", sim.waits);
    assert_eq!(sim.ring.len(), 4);
    assert_ne!(sim.host("chat-scylla-a-3"), before);
}

#[test]
fn nobody_leaves_when_rows_would_have_no_place() {
    let mut sim = three();
    sim.racks[0].wanted = 2;
    sim.run(10);
    assert_eq!((sim.ring.len(), &sim.leaving), (3, &None));
    let text = "No member leaves, because each row has 3 copies: ask for at least 3 members.";
    assert_eq!(sim.waits.as_deref(), Some(text));
}

#[test]
fn members_move_to_another_rack_by_joining_there_first() {
    let mut sim = Sim::new(&[2, 1], 3);
    sim.run(30);
    (sim.racks[0].wanted, sim.racks[1].wanted) = (1, 2);
    sim.run(40);
    assert!(sim.is_settled(), "{:?}", sim.waits);
    assert_eq!(sim.names(), ["a-0", "b-0", "b-1"]);
}

#[test]
fn another_image_restarts_one_at_a_time_rack_by_rack() {
    let mut sim = Sim::new(&[2, 2], 3);
    sim.run(40);
    sim.template = 2;
    sim.run(40);
    assert!(sim.is_settled(), "{:?}", sim.waits);
    let names: Vec<&str> =
        sim.events.iter().map(|event| event.message.split(' ').nth(1).unwrap()).collect();
    let expected = ["a-1", "a-0", "b-1", "b-0"].map(|name| format!("chat-scylla-{name}"));
    assert_eq!(names, expected);
}

#[test]
fn a_bad_image_takes_one_member_and_its_correction_mends_it() {
    let mut sim = three();
    sim.template = 1;
    sim.run(20);
    assert_eq!(reasons(&sim), ["MemberRestarted"], "the others stay");
    assert_eq!(sim.waits.as_deref(), Some("chat-scylla-a-2 is not ready yet."));
    sim.template = 2;
    sim.run(40);
    assert!(sim.is_settled(), "{:?}", sim.waits);
}

#[test]
fn a_lost_member_gets_an_empty_volume_and_takes_its_place_even_the_first() {
    for name in ["chat-scylla-a-0", "chat-scylla-a-2"] {
        let mut sim = three();
        let before = sim.host(name).unwrap();
        sim.lose(name);
        sim.run(10);
        assert_eq!(reasons(&sim), Vec::<&str>::new(), "nobody gives a volume up unasked");
        sim.pods.get_mut(name).unwrap().is_lost = true;
        sim.run(20);
        assert!(sim.is_settled(), "{:?}", sim.waits);
        assert!(!sim.ring.contains(&before));
        assert_eq!(reasons(&sim), ["MemberReplaced"]);
    }
}

#[test]
fn two_that_are_called_lost_are_replaced_one_after_the_other() {
    let mut sim = three();
    sim.pods.get_mut("chat-scylla-a-1").unwrap().is_lost = true;
    // The operator dies when the claim is deleted, and the pod still serves.
    sim.operate(3);
    sim.pods.get_mut("chat-scylla-a-0").unwrap().is_lost = true;
    sim.run(40);
    assert!(sim.is_settled(), "{:?}", sim.waits);
    assert_eq!(reasons(&sim), ["MemberReplaced", "MemberReplaced"]);
}

#[test]
fn the_only_copy_of_rows_is_not_given_up() {
    let mut sim = Sim::new(&[1], 1);
    sim.run(10);
    sim.pods.get_mut("chat-scylla-a-0").unwrap().is_lost = true;
    sim.run(10);
    assert_eq!(sim.ring.len(), 1);
    assert!(sim.waits.as_ref().unwrap().contains("no other copy"), "{:?}", sim.waits);
}

#[test]
fn a_member_that_never_joined_goes_at_once() {
    let mut sim = three();
    sim.racks[0].wanted = 4;
    sim.operate(4);
    sim.sets();
    // No machine has room for it.
    sim.lose("chat-scylla-a-3");
    sim.run(5);
    assert_eq!((sim.pods.len(), sim.ring.len()), (4, 3));
    sim.racks[0].wanted = 3;
    sim.run(10);
    assert!(sim.is_settled(), "{:?}", sim.waits);
}

#[test]
fn nobody_joins_while_another_one_is_away() {
    let mut sim = three();
    sim.lose("chat-scylla-a-1");
    sim.racks[0].wanted = 4;
    sim.run(10);
    assert_eq!(sim.pods.len(), 3);
    assert!(
        sim.waits.as_ref().unwrap().contains("chat-scylla-a-1 is not ready"),
        "{:?}",
        sim.waits
    );
}
