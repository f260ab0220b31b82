//! What waits for one socket, bounded in bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use chat_protocol::close::Close;
use chat_protocol::{ConversationId, DeviceId, MessageId, SessionId};

use super::remembered::Remembered;
use super::room::RoomFrame;
use crate::delivery::{Class, Frame};
use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_EPHEMERAL_BYTES_MAX};

/// Batches of live rooms that wait for one socket. The oldest go first: a viewer wants what is said now.
pub const OUTBOX_ROOM_BYTES_MAX: usize = 256 * 1024;

/// Bytes handed to a writer at once: its write buffer grows to about this, and stays.
pub const WRITE_BYTES_MAX: usize = 16 * 1024;

/// Room that an outbox makes at once for what may come.
const TAKEN_RESERVED_MAX: usize = 128;

/// Something that waits.
#[derive(Debug)]
pub enum Item {
    /// A frame that came over the bus, or an answer.
    Live(Arc<Frame>),
    /// A frame made from an inbox entry.
    Read(Arc<Frame>),
    /// A batch of a live room, and how many messages before it were skipped.
    Room {
        /// The batch.
        batch: Arc<RoomFrame>,
        /// Messages left out before it.
        skipped: u64,
    },
    /// Everything of the inbox up to here stands before this item, or was sent earlier.
    Cursor {
        /// The safe id.
        safe: MessageId,
        /// Something from before the connection may still come.
        catching_up: bool,
    },
    /// The node is leaving.
    Reconnect(Box<Farewell>),
}

/// What a client is told that should go elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// How long the client should wait.
    pub delay_ms: u64,
    /// The token to come with, shared by all who get the same.
    pub token: Option<Arc<str>>,
}

/// What a writer gets.
#[derive(Debug)]
pub enum Taken {
    /// Write these, in this order, and come again.
    Items(VecDeque<Item>),
    /// Nothing comes any more: close.
    End(Close),
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits.
    Waiting,
    /// It may be lost, and was, because much waits already.
    Dropped,
    /// This frame was too much: the connection is closed as slow.
    Overflowed,
    /// The connection is being closed.
    Closed,
}

/// The queue of one connection: many push, its own task takes.
///
/// A push is one short lock and, if the task sleeps, one wake. An empty outbox holds no buffer.
#[derive(Debug)]
pub struct Outbox {
    /// The connection; frames that it caused itself are not pushed to it.
    pub connection: SessionId,
    /// The device behind it.
    pub device: DeviceId,
    // A std mutex: held for nanoseconds and never across an await.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    live_bytes: usize,
    read_bytes: usize,
    room_bytes: usize,
    /// Items of the last take.
    taken_last: usize,
    /// Messages skipped in rooms none of whose batches wait.
    owed: Vec<(ConversationId, u64)>,
    /// Messages pushed since the last inbox read.
    remembered: Remembered,
    end: Option<Close>,
    waker: Option<Waker>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(connection: SessionId, device: DeviceId) -> Outbox {
        Outbox { connection, device, waiting: Mutex::default() }
    }

    /// A frame that came over the bus, or an answer to a request.
    pub fn push(&self, frame: Arc<Frame>) -> Pushed {
        let mut pushed = Pushed::Closed;
        self.push_all(std::iter::once(frame), |one| pushed = one);
        pushed
    }

    /// Frames that came together: one lock and one wake for all of them. Tells `pushed` what became of each.
    pub fn push_all(
        &self,
        frames: impl IntoIterator<Item = Arc<Frame>>,
        mut pushed: impl FnMut(Pushed),
    ) {
        let mut waiting = self.lock();
        for frame in frames {
            pushed(waiting.push(frame));
        }
        wake(waiting);
    }

    /// A batch of a live room.
    pub fn push_room(&self, batch: Arc<RoomFrame>) -> Pushed {
        let mut waiting = self.lock();
        if waiting.end.is_some() {
            return Pushed::Closed;
        }
        let bytes = batch.frame.len_bytes();
        let mut dropped = false;
        while waiting.room_bytes + bytes > OUTBOX_ROOM_BYTES_MAX && waiting.drop_oldest_batch() {
            dropped = true;
        }
        let owed = waiting.owed.iter().position(|(room, _)| *room == batch.room);
        let skipped = owed.map_or(0, |index| waiting.owed.swap_remove(index).1);
        waiting.room_bytes += bytes;
        waiting.items.push_back(Item::Room { batch, skipped });
        wake(waiting);
        if dropped { Pushed::Dropped } else { Pushed::Waiting }
    }

    /// Frames made from inbox entries, and the cursor behind them. Not bounded here: the reader looks at
    /// [`Outbox::read_bytes`] first and comes back later.
    pub fn push_read(&self, frames: Vec<Arc<Frame>>, cursor: Option<Item>) {
        let mut waiting = self.lock();
        if waiting.end.is_some() || (frames.is_empty() && cursor.is_none()) {
            return;
        }
        for frame in frames {
            waiting.read_bytes += frame.len_bytes();
            waiting.remember(&frame);
            waiting.items.push_back(Item::Read(frame));
        }
        waiting.items.extend(cursor);
        wake(waiting);
    }

    /// Bytes from inbox reads that wait.
    pub fn read_bytes(&self) -> usize {
        self.lock().read_bytes
    }

    /// Keeps what was not pushed as a live frame or by a read, as far as is remembered. `message` names the message that
    /// an entry tells of; what tells of none is kept.
    pub fn retain_unsent<T>(
        &self,
        entries: &mut Vec<T>,
        message: impl Fn(&T) -> Option<MessageId>,
    ) {
        let mut waiting = self.lock();
        entries.retain(|entry| message(entry).is_none_or(|id| !waiting.remembered.contains(id)));
    }

    /// Notes that the client knows this message by what was pushed before.
    pub fn remember(&self, id: MessageId) {
        self.lock().remembered.insert(id);
    }

    /// Forgets messages that no later read asks for.
    pub fn forget_up_to(&self, safe: MessageId) {
        let mut waiting = self.lock();
        waiting.remembered.forget_up_to(safe);
    }

    /// Ends the connection without what waits.
    pub fn close(&self, close: Close) {
        let mut waiting = self.lock();
        if waiting.end.is_none() {
            waiting.end_now(close);
        } else {
            waiting.clear();
        }
        wake(waiting);
    }

    /// Tells the client to connect elsewhere, and goes on. `false`: the connection is being closed.
    pub fn ask_to_leave(&self, farewell: Farewell) -> bool {
        let mut waiting = self.lock();
        let is_open = waiting.end.is_none();
        if is_open {
            waiting.items.push_back(Item::Reconnect(Box::new(farewell)));
            wake(waiting);
        }
        is_open
    }

    /// Tells the client to connect elsewhere, writes what waits, and ends. `false`: the connection is being closed.
    pub fn finish(&self, farewell: Farewell) -> bool {
        let mut waiting = self.lock();
        let is_open = waiting.end.is_none();
        if is_open {
            waiting.items.push_back(Item::Reconnect(Box::new(farewell)));
            waiting.end = Some(Close::Restart);
            wake(waiting);
        }
        is_open
    }

    /// Writes what waits, and ends.
    pub fn end_after_flush(&self, close: Close) {
        let mut waiting = self.lock();
        if waiting.end.is_none() {
            waiting.end = Some(close);
            wake(waiting);
        }
    }

    /// Whether the connection is to end.
    pub fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// What waits, about [`WRITE_BYTES_MAX`] at most; then the end. Only one task may poll.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<Taken> {
        let mut waiting = self.lock();
        if !waiting.items.is_empty() {
            return Poll::Ready(Taken::Items(waiting.take()));
        }
        if let Some(close) = waiting.end {
            return Poll::Ready(Taken::End(close));
        }
        match &mut waiting.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// See [`Outbox::poll_take`].
    pub async fn take(&self) -> Taken {
        std::future::poll_fn(|context| self.poll_take(context)).await
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code panics while it holds this lock")
    }
}

/// Wakes the writer with the lock released, so that it does not run into it.
fn wake(mut waiting: MutexGuard<'_, Waiting>) {
    let waker = waiting.waker.take();
    drop(waiting);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.live_bytes + self.read_bytes + self.room_bytes
    }

    fn push(&mut self, frame: Arc<Frame>) -> Pushed {
        if self.end.is_some() {
            return Pushed::Closed;
        }
        let bytes = frame.len_bytes();
        if frame.class == Class::Ephemeral && self.bytes() + bytes > OUTBOX_EPHEMERAL_BYTES_MAX {
            return Pushed::Dropped;
        }
        // One frame always fits: the largest is below the bound, and an empty outbox is no slow reader.
        if self.live_bytes > 0 && self.live_bytes + bytes > OUTBOX_BYTES_MAX {
            self.end_now(Close::Slow);
            return Pushed::Overflowed;
        }
        if self.items.is_empty() {
            // As many as last time: a busy socket's queue need not grow step by step each time.
            self.items.reserve(self.taken_last);
        }
        self.live_bytes += bytes;
        self.remember(&frame);
        self.items.push_back(Item::Live(frame));
        Pushed::Waiting
    }

    fn end_now(&mut self, close: Close) {
        self.end = Some(close);
        self.clear();
    }

    fn clear(&mut self) {
        self.items = VecDeque::new();
        self.remembered = Remembered::default();
        (self.live_bytes, self.read_bytes, self.room_bytes) = (0, 0, 0);
    }

    fn remember(&mut self, frame: &Frame) {
        // Other kinds are rare, and one of them says less surely that the client has what the entry leads to.
        if frame.tells_message && frame.id != MessageId::ZERO {
            self.remembered.insert(frame.id);
        }
    }

    /// Skips the oldest batch of any room, and counts it. `false`: none waits.
    fn drop_oldest_batch(&mut self) -> bool {
        let Some(index) = self.items.iter().position(|item| matches!(item, Item::Room { .. }))
        else {
            return false;
        };
        let Some(Item::Room { batch, skipped }) = self.items.remove(index) else { return false };
        self.room_bytes -= batch.frame.len_bytes();
        let lost = batch.messages() + skipped;
        let room = batch.room;
        let next = self.items.iter_mut().skip(index).find_map(|item| match item {
            Item::Room { batch, skipped } if batch.room == room => Some(skipped),
            _ => None,
        });
        match next {
            Some(skipped) => *skipped += lost,
            None => self.owed.push((room, lost)),
        }
        true
    }

    fn take(&mut self) -> VecDeque<Item> {
        self.taken_last = self.items.len().min(TAKEN_RESERVED_MAX);
        if self.bytes() <= WRITE_BYTES_MAX {
            (self.live_bytes, self.read_bytes, self.room_bytes) = (0, 0, 0);
            return std::mem::take(&mut self.items);
        }
        let mut taken = VecDeque::new();
        let mut bytes = 0;
        while bytes < WRITE_BYTES_MAX {
            let Some(item) = self.items.pop_front() else { break };
            match &item {
                Item::Live(frame) => {
                    self.live_bytes -= frame.len_bytes();
                    bytes += frame.len_bytes();
                }
                Item::Read(frame) => {
                    self.read_bytes -= frame.len_bytes();
                    bytes += frame.len_bytes();
                }
                Item::Room { batch, .. } => {
                    self.room_bytes -= batch.frame.len_bytes();
                    bytes += batch.frame.len_bytes();
                }
                Item::Cursor { .. } | Item::Reconnect(_) => {}
            }
            taken.push_back(item);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use chat_protocol::Millis;
    use chat_protocol::encoding::Encoding;
    use chat_protocol::frame::{RoomBatch, ServerFrame, ServerTime};
    use chat_protocol::message::Message;
    use chat_protocol::{Body, ClientMessageId, UserId};
    use futures_util::FutureExt;
    use uuid::Uuid;

    use super::*;
    use crate::hub::remembered::REMEMBERED_MAX;

    impl Outbox {
        fn has_sent(&self, id: MessageId) -> bool {
            let mut entries = vec![id];
            self.retain_unsent(&mut entries, |id| Some(*id));
            entries.is_empty()
        }
    }

    fn outbox() -> Outbox {
        Outbox::new(SessionId::random(), DeviceId::random())
    }

    fn message(conversation_id: ConversationId, id: u64, text: &str) -> Message {
        Message {
            conversation_id,
            message_id: MessageId(id),
            version: MessageId(id),
            seq: id,
            sender_id: UserId::random(),
            client_message_id: ClientMessageId::random(),
            kind: "text".into(),
            body: Some(Body::text(text)),
            created_at: Millis(0),
            edited_at: None,
            deleted: false,
            reply_to: None,
            mentions: vec![],
            reactions: Default::default(),
        }
    }

    fn room(n: u128) -> ConversationId {
        ConversationId::room(UserId(Uuid::nil()), Uuid::from_u128(n))
    }

    fn batch(room: ConversationId, ids: &[u64], bytes: usize) -> Arc<RoomFrame> {
        let text = "x".repeat(bytes / ids.len());
        let messages = ids.iter().map(|&id| message(room, id, &text)).collect();
        let frame = ServerFrame::Room(RoomBatch { room_id: room, messages, skipped: 0 });
        let frame = Frame::new(Class::Room, MessageId(*ids.last().unwrap()), &frame);
        Arc::new(RoomFrame::new(room, Arc::new(frame)))
    }

    fn chat(id: u64, bytes: usize) -> Arc<Frame> {
        let frame = ServerFrame::Message(message(room(0), id, &"x".repeat(bytes)));
        Arc::new(Frame::new(Class::Chat, MessageId(id), &frame))
    }

    fn ephemeral() -> Arc<Frame> {
        let frame = ServerFrame::Heartbeat(ServerTime { server_time: Millis(7) });
        Arc::new(Frame::new(Class::Ephemeral, MessageId::ZERO, &frame))
    }

    fn drain(outbox: &Outbox) -> (Vec<Item>, Option<Close>) {
        let mut items = vec![];
        loop {
            match outbox.take().now_or_never() {
                Some(Taken::Items(more)) => items.extend(more),
                Some(Taken::End(close)) => return (items, Some(close)),
                None => return (items, None),
            }
        }
    }

    #[test]
    fn frames_come_out_in_the_order_in_which_they_went_in_and_leave_no_buffer() {
        let outbox = outbox();
        for id in 1..100 {
            assert_eq!(outbox.push(chat(id, 1000)), Pushed::Waiting);
        }
        let (items, end) = drain(&outbox);
        let ids: Vec<u64> = items
            .iter()
            .map(|item| match item {
                Item::Live(frame) => frame.id.0,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ids, (1..100).collect::<Vec<_>>());
        assert_eq!(end, None);
        let waiting = outbox.lock();
        assert_eq!((waiting.bytes(), waiting.items.len()), (0, 0));
    }

    #[test]
    fn one_take_is_about_one_write_buffer() {
        let outbox = outbox();
        (1..100).for_each(|id| _ = outbox.push(chat(id, 1000)));
        let Some(Taken::Items(items)) = outbox.take().now_or_never() else { panic!() };
        assert!(items.len() < 20, "{}", items.len());
    }

    #[test]
    fn chat_that_overflows_closes_the_connection_as_slow() {
        let outbox = outbox();
        let pushed: Vec<_> = (1..2000).map(|id| outbox.push(chat(id, 1000))).collect();
        let first_refused = pushed.iter().position(|p| *p == Pushed::Overflowed).unwrap();
        assert!((600..1100).contains(&first_refused), "{first_refused}");
        assert!(pushed[first_refused + 1..].iter().all(|p| *p == Pushed::Closed));
        assert!(matches!(drain(&outbox), (items, Some(Close::Slow)) if items.is_empty()));
    }

    #[test]
    fn what_may_be_lost_is_dropped_once_much_waits_and_chat_is_not() {
        let outbox = outbox();
        assert_eq!(outbox.push(ephemeral()), Pushed::Waiting);
        (1..70).for_each(|id| _ = outbox.push(chat(id, 1000)));
        assert_eq!(outbox.push(ephemeral()), Pushed::Dropped);
        assert_eq!(outbox.push(chat(71, 10)), Pushed::Waiting);
        assert_eq!(drain(&outbox).0.len(), 71);
        assert_eq!(outbox.push(ephemeral()), Pushed::Waiting);
    }

    #[test]
    fn a_room_skips_ahead_and_the_next_batch_says_how_many_were_left_out() {
        let outbox = outbox();
        let (a, b) = (room(1), room(2));
        let mut pushed = 0;
        for n in 0..100 {
            let ids = [n * 3 + 1, n * 3 + 2, n * 3 + 3];
            outbox.push_room(batch(if n % 4 == 0 { b } else { a }, &ids, 9000));
            pushed += 3;
        }
        let (items, end) = drain(&outbox);
        let mut accounted = 0;
        for item in &items {
            let Item::Room { batch, skipped } = item else { panic!() };
            let json = batch.with_skipped(*skipped).encoded(Encoding::Json);
            let Ok(ServerFrame::Room(frame)) = Encoding::Json.read(&json) else { panic!() };
            accounted += frame.messages.len() as u64 + frame.skipped;
        }
        assert_eq!(accounted, pushed, "every message was sent or counted");
        assert!(items.len() < 35, "{}", items.len());
        assert_eq!(end, None, "a room never closes a connection");
        let last = items.last().map(|item| match item {
            Item::Room { batch, .. } => batch.frame.id,
            _ => MessageId::ZERO,
        });
        assert_eq!(last, Some(MessageId(300)), "the newest batch is kept");
    }

    #[test]
    fn skipped_messages_of_a_room_with_nothing_waiting_are_told_by_its_next_batch() {
        let outbox = outbox();
        outbox.push_room(batch(room(1), &[1, 2], 200_000));
        outbox.push_room(batch(room(2), &[3], 200_000));
        let (items, _) = drain(&outbox);
        assert!(matches!(&items[..], [Item::Room { skipped: 0, .. }]));
        outbox.push_room(batch(room(1), &[4], 10));
        let (items, _) = drain(&outbox);
        assert!(matches!(&items[..], [Item::Room { skipped: 2, .. }]), "{items:?}");
    }

    #[test]
    fn finish_writes_what_waits_before_the_end_and_takes_nothing_more() {
        let outbox = outbox();
        outbox.push(chat(1, 10));
        outbox.finish(Farewell { delay_ms: 500, token: None });
        assert_eq!(outbox.push(chat(2, 10)), Pushed::Closed);
        let (items, end) = drain(&outbox);
        let is_told = |item: &Item| matches!(item, Item::Reconnect(told) if told.delay_ms == 500);
        assert!(matches!(&items[..], [Item::Live(_), last] if is_told(last)), "{items:?}");
        assert_eq!(end, Some(Close::Restart));
    }

    #[test]
    fn a_client_that_is_asked_to_leave_is_served_until_it_does() {
        let outbox = outbox();
        assert!(outbox.ask_to_leave(Farewell { delay_ms: 500, token: Some("there".into()) }));
        assert_eq!(outbox.push(chat(2, 10)), Pushed::Waiting);
        let (items, end) = drain(&outbox);
        assert!(matches!(&items[..], [Item::Reconnect(_), Item::Live(_)]), "{items:?}");
        assert_eq!(end, None);
        outbox.end_after_flush(Close::Restart);
        assert!(!outbox.ask_to_leave(Farewell::default()), "it leaves already");
    }

    #[test]
    fn messages_are_remembered_until_a_read_has_passed_them_and_within_a_bound() {
        let outbox = outbox();
        (1..=600).for_each(|id| _ = outbox.push(chat(id, 1)));
        assert!(outbox.has_sent(MessageId(1)));
        let many = REMEMBERED_MAX as u64;
        (10_001..=10_000 + many).for_each(|id| outbox.remember(MessageId(id)));
        assert!(!outbox.has_sent(MessageId(10_000 + many)), "not remembered: too much is already");
        assert!(outbox.has_sent(MessageId(600)));
        outbox.forget_up_to(MessageId(599));
        assert!(!outbox.has_sent(MessageId(599)));
        assert!(outbox.has_sent(MessageId(600)));
        let other = ServerFrame::Heartbeat(ServerTime { server_time: Millis(7) });
        outbox.push(Arc::new(Frame::new(Class::Chat, MessageId(700), &other)));
        assert!(!outbox.has_sent(MessageId(700)), "only message frames stand for their entry");
    }

    #[tokio::test]
    async fn a_push_wakes_the_writer() {
        let outbox = Arc::new(outbox());
        let writer = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.take().await }
        });
        tokio::task::yield_now().await;
        outbox.push(chat(1, 10));
        assert!(matches!(writer.await.unwrap(), Taken::Items(items) if items.len() == 1));
    }
}
