//! Cases of the bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{DEADLINE, PATIENCE, Recorder, eventually, subject};
use crate::Subject;
use crate::broker::{Broker, Bus, RequestError, Responder};

/// Tells that everything published before has arrived.
const END: u16 = 1000;

struct Node {
    bus: Arc<dyn Bus>,
    recorder: Arc<Recorder>,
}

async fn node(broker: &dyn Broker, subjects: &[u16]) -> Node {
    let recorder = Arc::new(Recorder::default());
    let bus = broker.connect(recorder.clone()).await.expect("a connection");
    for number in subjects {
        bus.subscribe(subject(*number)).await.expect("a subscription");
    }
    Node { bus, recorder }
}

impl Node {
    fn publish(&self, subjects: &[u16], payload: &str) {
        let subjects: Vec<Subject> = subjects.iter().map(|number| subject(*number)).collect();
        self.bus.publish(&subjects, text(payload));
    }

    /// What arrived, by the time that the end did. Subscribe to the end first.
    async fn received(&self) -> Vec<(Subject, Bytes)> {
        let at_end = async || !self.recorder.received_for(subject(END)).is_empty();
        eventually("the end of the publications", at_end).await;
        let mut received = self.recorder.received();
        received.retain(|(of, _)| *of != subject(END));
        received
    }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// And nobody else; the publisher too if it subscribed.
pub async fn a_publication_reaches_those_who_subscribed(broker: Arc<dyn Broker>) {
    let one = node(&*broker, &[1, 2, END]).await;
    let other = node(&*broker, &[END]).await;
    one.publish(&[1], "own");
    other.publish(&[2], "from elsewhere");
    other.publish(&[3], "nobody");
    one.publish(&[3], "nobody");
    other.publish(&[END], "end");
    let mut received = one.received().await;
    received.sort();
    assert_eq!(received, [(subject(1), text("own")), (subject(2), text("from elsewhere"))]);
    assert_eq!(other.received().await, []);
}

/// Each of them.
pub async fn a_publication_reaches_several_nodes(broker: Arc<dyn Broker>) {
    let mut nodes = Vec::new();
    for _ in 0..5 {
        nodes.push(node(&*broker, &[1, END]).await);
    }
    nodes[0].publish(&[1], "to all");
    nodes[0].publish(&[END], "end");
    for node in &nodes {
        assert_eq!(node.received().await, [(subject(1), text("to all"))]);
    }
}

/// Each node gets those of the subjects that it subscribed to.
pub async fn a_publication_to_many_subjects_arrives_once_for_each(broker: Arc<dyn Broker>) {
    let all: Vec<u16> = (0..100).collect();
    let everything = node(&*broker, &[&all[..], &[END]].concat()).await;
    let even: Vec<u16> = all.iter().copied().filter(|number| number % 2 == 0).collect();
    let half = node(&*broker, &[&even[..], &[END]].concat()).await;
    let tail = node(&*broker, &[99, END]).await;
    let publisher = node(&*broker, &[]).await;
    publisher.publish(&all, "hello");
    publisher.publish(&[], "to no subject");
    publisher.publish(&[END], "end");
    for (node, wanted) in [(everything, all), (half, even), (tail, vec![99])] {
        let mut received = node.received().await;
        received.sort();
        let wanted: Vec<_> =
            wanted.iter().map(|number| (subject(*number), text("hello"))).collect();
        assert_eq!(received, wanted);
    }
}

/// Per subject.
pub async fn publications_of_one_publisher_arrive_in_order(broker: Arc<dyn Broker>) {
    let receiver = node(&*broker, &[1, 2, END]).await;
    let publisher = node(&*broker, &[]).await;
    for number in 0..2000 {
        let subjects: &[u16] = if number % 3 == 0 { &[1, 2] } else { &[1] };
        publisher.publish(subjects, &number.to_string());
    }
    publisher.publish(&[END], "end");
    receiver.received().await;
    let numbers = |of: u16| -> Vec<u32> {
        let payloads = receiver.recorder.received_for(subject(of));
        payloads.iter().map(|p| std::str::from_utf8(p).expect("text").parse().expect("n")).collect()
    };
    assert_eq!(numbers(1), (0..2000).collect::<Vec<_>>());
    assert_eq!(numbers(2), (0..2000).filter(|number| number % 3 == 0).collect::<Vec<_>>());
}

/// Each in its own order, while subscriptions come and go.
pub async fn publications_of_several_publishers_arrive_complete(broker: Arc<dyn Broker>) {
    let receiver = node(&*broker, &[1]).await;
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let broker = broker.clone();
            tokio::spawn(async move {
                let node = node(&*broker, &[]).await;
                for number in 0..500 {
                    node.publish(&[1], &format!("{publisher} {number}"));
                    if number % 50 == 0 {
                        node.bus.subscribe(subject(100 + number)).await.expect("subscribe");
                        tokio::task::yield_now().await;
                    }
                }
                node
            })
        })
        .collect();
    let mut nodes = Vec::new();
    for publisher in publishers {
        nodes.push(publisher.await.expect("no panic"));
    }
    eventually("all publications", async || {
        receiver.recorder.received_for(subject(1)).len() >= 2000
    })
    .await;
    let received = receiver.recorder.received_for(subject(1));
    for publisher in 0..4 {
        let prefix = format!("{publisher} ");
        let own: Vec<&str> = received
            .iter()
            .filter_map(|payload| std::str::from_utf8(payload).ok()?.strip_prefix(&prefix))
            .collect();
        let all: Vec<String> = (0..500).map(|number| number.to_string()).collect();
        assert_eq!(own, all, "publisher {publisher}");
    }
}

/// At most once.
pub async fn a_second_subscription_changes_nothing(broker: Arc<dyn Broker>) {
    let node = node(&*broker, &[1, 1, 1, END]).await;
    node.publish(&[1], "once");
    node.publish(&[END], "end");
    assert_eq!(node.received().await, [(subject(1), text("once"))]);
    // One unsubscription ends it, too.
    node.bus.unsubscribe(subject(1)).await.expect("unsubscribe");
    let later = self::node(&*broker, &[1, END]).await;
    node.publish(&[1], "after");
    node.publish(&[END], "end");
    assert_eq!(later.received().await, [(subject(1), text("after"))]);
    assert_eq!(node.received().await, [(subject(1), text("once"))]);
}

/// For that subject alone; it may begin again.
pub async fn unsubscribing_ends_it(broker: Arc<dyn Broker>) {
    let node = node(&*broker, &[1, 2, END]).await;
    node.bus.unsubscribe(subject(1)).await.expect("unsubscribe");
    node.bus.unsubscribe(subject(77)).await.expect("what was not subscribed");
    node.publish(&[1, 2], "first");
    node.bus.subscribe(subject(1)).await.expect("subscribe");
    node.publish(&[1], "second");
    node.publish(&[END], "end");
    let received = node.received().await;
    assert_eq!(received, [(subject(2), text("first")), (subject(1), text("second"))]);
}

/// No memory.
pub async fn what_was_published_before_is_not_remembered(broker: Arc<dyn Broker>) {
    let publisher = node(&*broker, &[2]).await;
    publisher.publish(&[1, 2], "before");
    eventually("it went out", async || !publisher.recorder.received_for(subject(2)).is_empty())
        .await;
    let late = node(&*broker, &[1, END]).await;
    publisher.publish(&[1], "after");
    publisher.publish(&[END], "end");
    assert_eq!(late.received().await, [(subject(1), text("after"))]);
}

/// Others go on.
pub async fn a_dropped_connection_receives_nothing(broker: Arc<dyn Broker>) {
    let gone = node(&*broker, &[1]).await;
    let stays = node(&*broker, &[1, END]).await;
    let publisher = node(&*broker, &[]).await;
    let recorder = gone.recorder.clone();
    drop(gone.bus);
    // A backend with a network may need a moment.
    eventually("the receiver is let go", async || {
        publisher.publish(&[1], "probe");
        let before = recorder.received().len();
        tokio::time::sleep(Duration::from_millis(20)).await;
        before == recorder.received().len()
    })
    .await;
    let before = recorder.received().len();
    publisher.publish(&[1], "last");
    publisher.publish(&[END], "end");
    let received = stays.received().await;
    assert_eq!(received.last(), Some(&(subject(1), text("last"))));
    assert_eq!(recorder.received().len(), before);
}

struct Echo;

#[async_trait]
impl Responder for Echo {
    async fn respond(&self, subject: Subject, payload: Bytes) -> Bytes {
        Bytes::from([subject.to_string().as_bytes(), b" ", &payload].concat())
    }
}

struct Answer(&'static str);

#[async_trait]
impl Responder for Answer {
    async fn respond(&self, _: Subject, _: Bytes) -> Bytes {
        Bytes::from_static(self.0.as_bytes())
    }
}

/// Answers when it is let.
struct Gate {
    arrived: AtomicUsize,
    answered: AtomicUsize,
    open: Semaphore,
}

impl Gate {
    fn new() -> Arc<Gate> {
        let open = Semaphore::new(0);
        Arc::new(Gate { arrived: AtomicUsize::new(0), answered: AtomicUsize::new(0), open })
    }
}

#[async_trait]
impl Responder for Gate {
    async fn respond(&self, _: Subject, payload: Bytes) -> Bytes {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.open.acquire().await.expect("never closed").forget();
        self.answered.fetch_add(1, Ordering::SeqCst);
        payload
    }
}

/// While a request is being answered, publications go on.
pub async fn a_publisher_is_not_held_up_by_a_slow_responder(broker: Arc<dyn Broker>) {
    let server = node(&*broker, &[2, END]).await;
    let gate = Gate::new();
    server.bus.serve(subject(1), 1, gate.clone()).await.expect("serve");
    let client = node(&*broker, &[]).await;
    let request = client.bus.request(subject(1), text("slow"), DEADLINE);
    let meanwhile = async {
        eventually("it arrived", async || gate.arrived.load(Ordering::SeqCst) == 1).await;
        client.publish(&[2], "meanwhile");
        client.publish(&[END], "end");
        assert_eq!(server.received().await, [(subject(2), text("meanwhile"))]);
        gate.open.add_permits(1);
    };
    let (answer, ()) = tokio::join!(request, meanwhile);
    assert_eq!(answer, Ok(text("slow")));
}

/// By whoever serves the subject, at this node or another.
pub async fn a_request_is_answered(broker: Arc<dyn Broker>) {
    let server = node(&*broker, &[]).await;
    let client = node(&*broker, &[]).await;
    server.bus.serve(subject(1), 1, Arc::new(Echo)).await.expect("serve");
    server.bus.serve(subject(2), 1, Arc::new(Echo)).await.expect("serve");
    for bus in [&client.bus, &server.bus] {
        for number in [1, 2] {
            let answer = bus.request(subject(number), text("hello"), DEADLINE).await;
            assert_eq!(answer, Ok(text(&format!("partition.{number} hello"))));
        }
    }
}

/// Not the same as none.
pub async fn an_empty_answer_is_an_answer(broker: Arc<dyn Broker>) {
    let node = node(&*broker, &[]).await;
    node.bus.serve(subject(1), 1, Arc::new(Answer(""))).await.expect("serve");
    let answer = node.bus.request(subject(1), Bytes::new(), DEADLINE).await;
    assert_eq!(answer, Ok(Bytes::new()));
}

/// At once, not at the deadline. A subscription is not a server.
pub async fn a_request_to_nobody_says_so(broker: Arc<dyn Broker>) {
    let node = node(&*broker, &[1]).await;
    let started = Instant::now();
    let answer = node.bus.request(subject(1), text("hello"), PATIENCE * 10).await;
    assert_eq!(answer, Err(RequestError::NoResponder));
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(node.recorder.received(), []);
}

/// The requester goes away, the work does not.
pub async fn a_request_that_takes_too_long_ends_and_its_work_goes_on(broker: Arc<dyn Broker>) {
    let node = node(&*broker, &[]).await;
    let gate = Gate::new();
    node.bus.serve(subject(1), 1, gate.clone()).await.expect("serve");
    let short = Duration::from_millis(50);
    let answer = node.bus.request(subject(1), text("late"), short).await;
    assert_eq!(answer, Err(RequestError::Deadline));
    // Given up by dropping it.
    let dropped = node.bus.request(subject(1), text("dropped"), DEADLINE);
    assert!(tokio::time::timeout(short, dropped).await.is_err());
    gate.open.add_permits(2);
    eventually("the work is done", async || gate.answered.load(Ordering::SeqCst) == 2).await;
    gate.open.add_permits(1);
    let answer = node.bus.request(subject(1), text("in time"), DEADLINE).await;
    assert_eq!(answer, Ok(text("in time")));
}

/// Requests to one subject are answered side by side.
pub async fn a_slow_request_does_not_hold_up_others(broker: Arc<dyn Broker>) {
    let node = node(&*broker, &[]).await;
    let gate = Gate::new();
    node.bus.serve(subject(1), 1, gate.clone()).await.expect("serve");
    let requests: Vec<_> = (0..20)
        .map(|number| {
            let bus = node.bus.clone();
            let payload = text(&number.to_string());
            tokio::spawn(async move {
                assert_eq!(bus.request(subject(1), payload.clone(), DEADLINE).await, Ok(payload));
            })
        })
        .collect();
    eventually("all are being answered", async || gate.arrived.load(Ordering::SeqCst) == 20).await;
    gate.open.add_permits(20);
    for request in requests {
        request.await.expect("answered");
    }
}

/// The earlier one cannot stop it.
pub async fn a_later_server_takes_over(broker: Arc<dyn Broker>) {
    let earlier = node(&*broker, &[]).await;
    let later = node(&*broker, &[]).await;
    earlier.bus.serve(subject(1), 1, Arc::new(Answer("first"))).await.expect("serve");
    earlier.bus.serve(subject(1), 1, Arc::new(Answer("earlier"))).await.expect("serve");
    let ask = async || earlier.bus.request(subject(1), text("who"), DEADLINE).await;
    assert_eq!(ask().await, Ok(text("earlier")), "the same node may replace itself");
    later.bus.serve(subject(1), 1, Arc::new(Answer("later"))).await.expect("serve");
    assert_eq!(ask().await, Ok(text("later")));
    earlier.bus.stop_serving(subject(1), Duration::ZERO).await.expect("stop");
    assert_eq!(ask().await, Ok(text("later")));
    let client = node(&*broker, &[]).await;
    drop(earlier);
    let answer = client.bus.request(subject(1), text("who"), DEADLINE).await;
    assert_eq!(answer, Ok(text("later")));
}

/// Until the higher one ends.
pub async fn a_server_of_a_lower_rank_ends_nobody(broker: Arc<dyn Broker>) {
    let earlier = node(&*broker, &[]).await;
    let later = node(&*broker, &[]).await;
    let ask = async || earlier.bus.request(subject(1), text("who"), DEADLINE).await;
    later.bus.serve(subject(1), 7, Arc::new(Answer("later"))).await.expect("serve");
    for _ in 0..3 {
        let late = earlier.bus.serve(subject(1), 6, Arc::new(Answer("earlier"))).await;
        assert!(late.is_err(), "it is told that it is too late");
        assert_eq!(ask().await, Ok(text("later")));
    }
    let client = node(&*broker, &[]).await;
    client.bus.serve(subject(1), 8, Arc::new(Answer("next"))).await.expect("serve");
    assert_eq!(ask().await, Ok(text("next")));
    drop(client);
    drop(later);
    eventually("nobody serves it any more", async || ask().await == Err(RequestError::NoResponder))
        .await;
    earlier.bus.serve(subject(1), 6, Arc::new(Answer("earlier"))).await.expect("serve");
    assert_eq!(ask().await, Ok(text("earlier")));
}

/// Until it serves again.
pub async fn a_server_that_stopped_answers_nothing(broker: Arc<dyn Broker>) {
    let node = node(&*broker, &[]).await;
    let ask = async || node.bus.request(subject(1), text("who"), DEADLINE).await;
    node.bus.serve(subject(1), 1, Arc::new(Answer("here"))).await.expect("serve");
    assert_eq!(ask().await, Ok(text("here")));
    node.bus.stop_serving(subject(1), Duration::ZERO).await.expect("stop");
    assert_eq!(ask().await, Err(RequestError::NoResponder));
    node.bus.serve(subject(1), 1, Arc::new(Answer("again"))).await.expect("serve");
    assert_eq!(ask().await, Ok(text("again")));
}

/// Each is answered by one of the two, at once.
pub async fn no_request_is_lost_between_two_servers(broker: Arc<dyn Broker>) {
    let client = node(&*broker, &[]).await;
    let nodes = [node(&*broker, &[]).await, node(&*broker, &[]).await];
    nodes[0].bus.serve(subject(1), 1, Arc::new(Echo)).await.expect("serve");
    let ended = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let (bus, ended) = (client.bus.clone(), ended.clone());
            tokio::spawn(async move {
                let mut answered = 0;
                while !ended.load(Ordering::SeqCst) {
                    let answer = bus.request(subject(1), text("who"), DEADLINE).await;
                    assert_eq!(answer, Ok(text("partition.1 who")), "after {answered} answers");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for round in 0..20 {
        let (earlier, later) = (&nodes[round % 2].bus, &nodes[(round + 1) % 2].bus);
        let later = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            later.serve(subject(1), 1, Arc::new(Echo)).await.expect("serve");
        };
        let (stopped, ()) = tokio::join!(earlier.stop_serving(subject(1), PATIENCE), later);
        stopped.expect("stop");
    }
    ended.store(true, Ordering::SeqCst);
    for asker in askers {
        assert!(asker.await.expect("every request is answered") > 0);
    }
}

/// Nobody takes its place: it goes on as long as it was told to, and no longer.
pub async fn a_server_waits_for_the_next_only_so_long(broker: Arc<dyn Broker>) {
    let node = node(&*broker, &[]).await;
    let ask = async || node.bus.request(subject(1), text("who"), DEADLINE).await;
    node.bus.serve(subject(1), 1, Arc::new(Answer("here"))).await.expect("serve");
    let patience = Duration::from_millis(300);
    let started = Instant::now();
    let stopping = async {
        node.bus.stop_serving(subject(1), patience).await.expect("stop");
        started.elapsed()
    };
    let (stopped, answer) = tokio::join!(stopping, ask());
    assert_eq!(answer, Ok(text("here")));
    assert!(stopped >= patience, "{stopped:?}");
    assert_eq!(ask().await, Err(RequestError::NoResponder));
}

/// The same node may serve again while its last server still waits for the next.
pub async fn a_node_may_take_its_own_place(broker: Arc<dyn Broker>) {
    let node = node(&*broker, &[]).await;
    let ask = async || node.bus.request(subject(1), text("who"), DEADLINE).await;
    node.bus.serve(subject(1), 1, Arc::new(Answer("earlier"))).await.expect("serve");
    let again = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        node.bus.serve(subject(1), 1, Arc::new(Answer("again"))).await.expect("serve");
        Instant::now()
    };
    let (stopped, served) = tokio::join!(node.bus.stop_serving(subject(1), PATIENCE), again);
    stopped.expect("stop");
    assert!(served.elapsed() < PATIENCE / 2, "it ends as soon as its place is taken");
    assert_eq!(ask().await, Ok(text("again")));
}

/// Also those in the middle of a request.
pub async fn a_dropped_server_leaves_no_requester_hanging(broker: Arc<dyn Broker>) {
    let server = node(&*broker, &[]).await;
    let client = node(&*broker, &[]).await;
    let gate = Gate::new();
    server.bus.serve(subject(1), 1, gate.clone()).await.expect("serve");
    let bus = client.bus.clone();
    let request = tokio::spawn(async move {
        bus.request(subject(1), text("cut off"), Duration::from_secs(2)).await
    });
    eventually("it arrived", async || gate.arrived.load(Ordering::SeqCst) == 1).await;
    drop(server);
    let answer = tokio::time::timeout(PATIENCE, request).await.expect("no hang").expect("no panic");
    assert!(
        matches!(answer, Err(RequestError::NoResponder | RequestError::Deadline)),
        "{answer:?}"
    );
    let answer = client.bus.request(subject(1), text("gone"), DEADLINE).await;
    assert_eq!(answer, Err(RequestError::NoResponder));
    gate.open.add_permits(1);
}
