//! Where live frames wait for a message that is too large for the bus and is being fetched.
//!
//! A value without I/O. Each user has a line; a frame stands in it only behind a pointer into its own conversation, so that
//! the frames of a conversation keep their order and others pass.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chat_protocol::{ConversationId, MessageId, UserId};

use crate::delivery::{Frame, Part, Pointer};
use crate::limits::{FETCH_WAITING_BYTES_MAX, FETCHED_BYTES_MAX, FETCHES_MAX};

/// How long a fetched message is kept: the pointers of one message come within moments.
const KEPT: Duration = Duration::from_secs(2);

/// Counted for what stands in a line, besides the bytes of a frame.
const PLACE_BYTES: usize = 128;

/// A message that is to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) pointer: Pointer,
    /// The first of those who wait for it.
    pub(super) reader: UserId,
    /// When the pointer came.
    pub(super) since: Duration,
}

/// What becomes of a part of a payload.
#[derive(Debug)]
pub(super) enum Arrival {
    /// It goes on now.
    Ready(Arc<Frame>),
    /// It waits.
    Waits,
    /// It is left out: too much waits.
    Refused,
}

#[derive(Debug)]
struct Waiting {
    /// The conversation of a message; those whose messages a frame waits for.
    conversations: Vec<ConversationId>,
    what: What,
}

#[derive(Debug)]
enum What {
    Frame(Arc<Frame>),
    /// The message that this entry tells of.
    Pointer(MessageId),
}

impl Waiting {
    fn bytes(&self) -> usize {
        PLACE_BYTES
            + match &self.what {
                What::Frame(frame) => frame.len_bytes(),
                What::Pointer(_) => 0,
            }
    }
}

/// What follows from the end of a fetch.
#[derive(Debug, Default)]
pub(super) struct Released {
    /// Frames that may go on, in order, by user.
    pub(super) ready: Vec<(UserId, Vec<Arc<Frame>>)>,
    /// Frames that would have to wait on, for which there is no room.
    pub(super) refused: u64,
}

#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    lines: HashMap<UserId, VecDeque<Waiting>>,
    /// Who waits for each message, by entry.
    wanted: HashMap<MessageId, Vec<UserId>>,
    /// Of these, what nobody fetches yet.
    jobs: VecDeque<Job>,
    kept: VecDeque<(Duration, Arc<Frame>)>,
    waiting_bytes: usize,
    kept_bytes: usize,
}

impl WaitingRoom {
    /// How many users have something that waits.
    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Takes in what came for a user. `now` is of the monotonic clock.
    pub(super) fn arrive(&mut self, user: UserId, part: &Part, now: Duration) -> Arrival {
        match part {
            Part::Frame(frame) => self.frame(user, frame.clone()),
            Part::Pointer(pointer) => {
                self.forget(now);
                let kept = self.kept.iter().find(|(_, frame)| frame.id == pointer.id);
                match kept.map(|(_, frame)| frame.clone()) {
                    Some(frame) => self.frame(user, frame),
                    None => self.pointer(user, pointer, now),
                }
            }
        }
    }

    fn frame(&mut self, user: UserId, frame: Arc<Frame>) -> Arrival {
        let line = self.lines.get(&user).into_iter().flatten();
        let pointers = line.filter(|waiting| matches!(waiting.what, What::Pointer(_)));
        let mut conversations: Vec<_> =
            pointers.flat_map(|waiting| waiting.conversations.iter().copied()).collect();
        conversations.sort_unstable();
        conversations.dedup();
        // A text that names another conversation makes its message wait, too.
        conversations.retain(|id| frame.names(id));
        match conversations.is_empty() {
            true => Arrival::Ready(frame),
            false => self.stand(user, Waiting { conversations, what: What::Frame(frame) }),
        }
    }

    fn pointer(&mut self, user: UserId, pointer: &Pointer, now: Duration) -> Arrival {
        let is_wanted = self.wanted.contains_key(&pointer.id);
        if !is_wanted && self.wanted.len() >= FETCHES_MAX {
            return Arrival::Refused;
        }
        let conversations = vec![pointer.place.conversation_id];
        let arrival = self.stand(user, Waiting { conversations, what: What::Pointer(pointer.id) });
        if matches!(arrival, Arrival::Waits) {
            self.wanted.entry(pointer.id).or_default().push(user);
            if !is_wanted {
                self.jobs.push_back(Job { pointer: *pointer, reader: user, since: now });
            }
        }
        arrival
    }

    fn stand(&mut self, user: UserId, waiting: Waiting) -> Arrival {
        let bytes = waiting.bytes();
        if self.waiting_bytes + bytes > FETCH_WAITING_BYTES_MAX {
            return Arrival::Refused;
        }
        self.waiting_bytes += bytes;
        self.lines.entry(user).or_default().push_back(waiting);
        Arrival::Waits
    }

    /// Whether a message is to be fetched that nobody fetches yet.
    pub(super) fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// The next message to fetch; whoever takes it tells [`WaitingRoom::fetched`] in the end.
    pub(super) fn take_job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    /// A fetch has ended, without a frame if it failed: what waited for nothing else goes on.
    pub(super) fn fetched(
        &mut self,
        entry: MessageId,
        frame: Option<Arc<Frame>>,
        now: Duration,
    ) -> Released {
        let users = self.wanted.remove(&entry).unwrap_or_default();
        self.forget(now);
        if let Some(frame) = &frame {
            self.keep(frame.clone(), now);
        }
        let mut released = Released::default();
        for user in users {
            self.advance(user, entry, frame.as_ref(), &mut released);
        }
        released
    }

    fn advance(
        &mut self,
        user: UserId,
        entry: MessageId,
        fetched: Option<&Arc<Frame>>,
        released: &mut Released,
    ) {
        let line = self.lines.remove(&user).unwrap_or_default();
        let mut ready = vec![];
        let mut rest = VecDeque::new();
        let mut pending: Vec<ConversationId> = vec![];
        for mut waiting in line {
            self.waiting_bytes -= waiting.bytes();
            let is_it = matches!(waiting.what, What::Pointer(id) if id == entry);
            if is_it {
                let Some(frame) = fetched else { continue };
                waiting.what = What::Frame(frame.clone());
            }
            let is_behind = waiting.conversations.iter().any(|id| pending.contains(id));
            match waiting.what {
                What::Frame(frame) if !is_behind => {
                    ready.push(frame);
                    continue;
                }
                What::Frame(_) => {}
                What::Pointer(_) => pending.extend(&waiting.conversations),
            }
            // Only what was a pointer is larger than before.
            if is_it && self.waiting_bytes + waiting.bytes() > FETCH_WAITING_BYTES_MAX {
                released.refused += 1;
                continue;
            }
            self.waiting_bytes += waiting.bytes();
            rest.push_back(waiting);
        }
        if !rest.is_empty() {
            self.lines.insert(user, rest);
        }
        if !ready.is_empty() {
            released.ready.push((user, ready));
        }
    }

    fn keep(&mut self, frame: Arc<Frame>, now: Duration) {
        self.kept_bytes += frame.len_bytes();
        self.kept.push_back((now + KEPT, frame));
        while self.kept_bytes > FETCHED_BYTES_MAX {
            self.forget_oldest();
        }
    }

    /// Lets go of what has been kept long enough.
    fn forget(&mut self, now: Duration) {
        while self.kept.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.kept.pop_front();
        self.kept_bytes -= oldest.map_or(self.kept_bytes, |(_, frame)| frame.len_bytes());
    }
}

#[cfg(test)]
mod tests {
    use chat_protocol::SessionId;
    use chat_protocol::encoding::Encoding;
    use chat_protocol::frame::{Receipt, ServerFrame};
    use uuid::Uuid;

    use super::*;
    use crate::delivery::{Class, Place};
    use crate::session::tests::world::message;

    const ALICE: UserId = UserId(Uuid::from_u128(1));
    const BOB: UserId = UserId(Uuid::from_u128(2));
    const NOW: Duration = Duration::from_secs(100);

    fn group(number: u128) -> ConversationId {
        ConversationId::group(ALICE, Uuid::from_u128(number))
    }

    fn pointer(conversation_id: ConversationId, id: u64) -> Pointer {
        let place = Place { conversation_id, message_id: MessageId(id) };
        Pointer { id: MessageId(id), origin: SessionId(Uuid::nil()), place }
    }

    fn pointing(conversation: ConversationId, id: u64) -> Part {
        Part::Pointer(pointer(conversation, id))
    }

    fn frame(conversation_id: ConversationId, id: u64) -> Part {
        let receipt = Receipt { conversation_id, user_id: BOB, seq: id };
        Part::Frame(Arc::new(Frame::new(Class::Chat, MessageId(id), &ServerFrame::Read(receipt))))
    }

    fn large(conversation: ConversationId, id: u64, bytes: usize) -> Option<Arc<Frame>> {
        let text = "x".repeat(bytes);
        pointer(conversation, id).frame(message(conversation, MessageId(id), &text))
    }

    /// Ids that are ready, by user.
    fn ready(released: &Released) -> Vec<(UserId, Vec<u64>)> {
        let ids = |frames: &Vec<Arc<Frame>>| frames.iter().map(|frame| frame.id.0).collect();
        released.ready.iter().map(|(user, frames)| (*user, ids(frames))).collect()
    }

    fn waits(arrival: &Arrival) -> bool {
        matches!(arrival, Arrival::Waits)
    }

    #[test]
    fn frames_of_a_conversation_wait_behind_its_message_and_others_pass() {
        let mut room = WaitingRoom::default();
        assert!(matches!(room.arrive(ALICE, &frame(group(1), 1), NOW), Arrival::Ready(_)));
        for part in [pointing(group(1), 2), frame(group(1), 3), pointing(group(1), 4)] {
            assert!(waits(&room.arrive(ALICE, &part, NOW)));
        }
        assert!(waits(&room.arrive(ALICE, &frame(group(1), 5), NOW)));
        assert!(matches!(room.arrive(ALICE, &frame(group(2), 6), NOW), Arrival::Ready(_)));
        assert!(matches!(room.arrive(BOB, &frame(group(1), 5), NOW), Arrival::Ready(_)));

        let second = room.fetched(MessageId(4), large(group(1), 4, 10), NOW);
        assert_eq!(ready(&second), [], "it came early");
        let first = room.fetched(MessageId(2), large(group(1), 2, 10), NOW);
        assert_eq!(ready(&first), [(ALICE, vec![2, 3, 4, 5])]);
        assert_eq!((room.lines(), room.waiting_bytes), (0, 0));
        assert!(matches!(room.arrive(ALICE, &frame(group(1), 7), NOW), Arrival::Ready(_)));
    }

    #[test]
    fn what_waits_for_a_message_that_does_not_come_goes_on_without_it() {
        let mut room = WaitingRoom::default();
        for part in [pointing(group(1), 2), frame(group(1), 3), pointing(group(2), 4)] {
            assert!(waits(&room.arrive(ALICE, &part, NOW)));
        }
        let failed = room.fetched(MessageId(2), None, NOW);
        assert_eq!(ready(&failed), [(ALICE, vec![3])]);
        assert_eq!(room.lines(), 1, "the other conversation's still waits");
    }

    #[test]
    fn everyone_who_wants_a_message_shares_one_fetch_also_a_moment_later() {
        let mut room = WaitingRoom::default();
        for user in [ALICE, BOB] {
            assert!(waits(&room.arrive(user, &pointing(group(1), 2), NOW)));
        }
        let job = room.take_job().unwrap();
        assert_eq!((job.pointer, job.reader, job.since), (pointer(group(1), 2), ALICE, NOW));
        assert!(room.take_job().is_none());
        let released = room.fetched(MessageId(2), large(group(1), 2, 10), NOW);
        assert_eq!(ready(&released), [(ALICE, vec![2]), (BOB, vec![2])]);

        let carol = UserId(Uuid::from_u128(3));
        let soon = NOW + KEPT - Duration::from_millis(1);
        let Arrival::Ready(kept) = room.arrive(carol, &pointing(group(1), 2), soon) else {
            panic!("it is not kept");
        };
        assert!(kept.encoded(Encoding::Json).starts_with(b"{\"message\":"));
        assert!(waits(&room.arrive(carol, &pointing(group(1), 2), NOW + KEPT)));
        assert_eq!(room.kept_bytes, 0);
        assert!(room.has_jobs());
    }

    #[test]
    fn fetches_frames_and_kept_messages_are_bounded() {
        let mut room = WaitingRoom::default();
        let first = 1_000;
        for id in (first..).take(FETCHES_MAX) {
            assert!(waits(&room.arrive(ALICE, &pointing(group(1), id), NOW)));
        }
        let refused = room.arrive(ALICE, &pointing(group(1), 1), NOW);
        assert!(matches!(refused, Arrival::Refused));
        assert!(waits(&room.arrive(BOB, &pointing(group(1), first), NOW)), "it is fetched anyway");

        let half = FETCH_WAITING_BYTES_MAX / 2;
        let wide = large(group(1), 2, half).unwrap();
        assert!(waits(&room.arrive(ALICE, &Part::Frame(wide.clone()), NOW)));
        let refused = room.arrive(ALICE, &Part::Frame(wide.clone()), NOW);
        assert!(matches!(refused, Arrival::Refused));
        // Behind the first one, so it would have to wait on.
        let released = room.fetched(MessageId(first + 1), large(group(1), first + 1, half), NOW);
        assert_eq!((ready(&released), released.refused), (vec![], 1));
        assert!(room.waiting_bytes <= FETCH_WAITING_BYTES_MAX);

        let released = room.fetched(MessageId(first), large(group(1), first, half), NOW);
        assert_eq!(ready(&released), [(ALICE, vec![first]), (BOB, vec![first])]);
        assert!(room.kept_bytes <= FETCHED_BYTES_MAX);
        for id in (first..).take(FETCHES_MAX) {
            room.fetched(MessageId(id), None, NOW);
        }
        assert_eq!((room.lines(), room.waiting_bytes), (0, 0));
    }
}
