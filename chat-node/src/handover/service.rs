//! Asks clients to leave, closes those that stay, and tells other nodes who came back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use chat_broker::{Bus, Subject};
use chat_protocol::SessionId;
use chat_protocol::admin::{
    self, ACTIVE_WITHIN_MS, AdminCode, AdminProblem, Grant, Handshakes, Jitter, NodeStatus, Order,
    OwnerRevision, Phase, RESUMED_WITHIN_MS,
};
use chat_protocol::close::Close;
use tokio_util::sync::CancellationToken;

use super::choice;
use super::ledger::Ledger;
use super::metrics::Metrics;
use super::plan::{Granted, Plan};
use crate::hub::Farewell;
use crate::limits::{DRAIN_FLUSH_MS, DRAIN_LEAVE_MS, DRAIN_LINEAGES_MAX};
use crate::membership::Membership;
use crate::session::{Client, Gateway, Observer, Transport};

/// How often it is looked who is due.
const STEP: Duration = Duration::from_millis(50);

/// Before clients are asked, every inbox is read within this time, so that their cursors are near.
const READ_BEFORE: Duration = Duration::from_secs(10);

/// First byte of a payload that tells a node which lineages have come to another one.
const KIND_RETURNED: u8 = b'R';

/// Lineages told at once: some 64 KB.
const LINEAGES_PER_PAYLOAD: usize = 4_096;

/// What a hand-over is built on.
pub struct Parts {
    /// The clients.
    pub gateway: Arc<Gateway>,
    /// The way to other nodes.
    pub bus: Arc<dyn Bus>,
    /// Among many nodes.
    pub membership: Option<Arc<Membership>>,
    /// How many partitions this node has, is opening or is closing.
    pub partitions: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Its configured name.
    pub name: String,
    /// Its revision.
    pub revision: Option<String>,
    /// Drawn when the process started.
    pub start: u64,
    /// Ends the process as a signal does.
    pub stop: CancellationToken,
}

/// See the module.
pub struct Handover {
    parts: Parts,
    state: Mutex<State>,
    accounts: Arc<Accounts>,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    plan: Plan,
    asking: Option<Asking>,
    /// Clients that were asked, and when they are to be closed.
    closing: BTreeMap<(Duration, SessionId), Closing>,
}

/// A batch whose clients are being asked.
struct Asking {
    batch: u32,
    chosen: Vec<SessionId>,
    done: usize,
    since: Duration,
    rate_per_second: u32,
    jitter: Jitter,
    token: Option<Arc<str>>,
}

#[derive(Clone, Copy)]
enum Closing {
    /// Write what waits, and close.
    Flush,
    /// It took too long: close without.
    Cut,
}

/// What comes from sessions. Locks: [`State`] before the ledger.
#[derive(Default)]
struct Accounts {
    ledger: Mutex<Ledger>,
    returned: Mutex<Vec<SessionId>>,
}

impl Accounts {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no code panics while it holds this lock")
    }

    fn returned(&self) -> MutexGuard<'_, Vec<SessionId>> {
        self.returned.lock().expect("no code panics while it holds this lock")
    }
}

impl Observer for Accounts {
    fn left(&self, connection: SessionId, lineage: SessionId, acknowledged: bool) {
        self.ledger().left(connection, lineage, acknowledged);
    }

    fn returned(&self, lineage: SessionId) {
        let mut returned = self.returned();
        // Beyond it clients count as not back: the operator then waits rather than hurries.
        if returned.len() < DRAIN_LINEAGES_MAX {
            returned.push(lineage);
        }
    }
}

/// What the end of a node did with its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Clients that were asked to come back elsewhere.
    pub told: usize,
    /// Clients that still stood at the deadline and were cut off.
    pub cut_off: usize,
}

impl Handover {
    /// Nothing is asked of anyone yet. [`Handover::run`] does what is due.
    pub fn new(parts: Parts) -> Arc<Handover> {
        let accounts = Arc::new(Accounts::default());
        parts.gateway.sessions.observe(accounts.clone());
        Arc::new(Handover { parts, state: Mutex::default(), accounts, metrics: Metrics::default() })
    }

    /// Its figures.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Does what is due until `stop` is called.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut steps = tokio::time::interval(STEP);
        steps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let work = async {
            loop {
                steps.tick().await;
                self.step();
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Why the node should get no new clients.
    pub fn not_ready(&self) -> Option<String> {
        let state = self.lock();
        let rollout = state.plan.rollout().unwrap_or_default();
        match state.plan.phase() {
            Phase::Serving => None,
            Phase::Prepared | Phase::Draining => {
                Some(format!("The node hands its clients over to others: rollout {rollout}."))
            }
            Phase::Stopping => Some("The node is ending.".to_owned()),
        }
    }

    /// No new clients from balancers and discovery.
    pub fn prepare(&self, order: &Order) -> Result<(), AdminProblem> {
        order.check()?;
        let mut state = self.fenced();
        if state.plan.prepare(order)? {
            self.begin(&state);
        }
        Ok(())
    }

    /// Asks one batch of clients to leave.
    pub fn drain(&self, grant: &Grant) -> Result<(), AdminProblem> {
        grant.check()?;
        let mut state = self.fenced();
        let was_serving = state.plan.phase() == Phase::Serving;
        let is_asking = state.asking.is_some();
        if state.plan.grant(grant, is_asking)? == Granted::Repeated {
            return Ok(());
        }
        if was_serving {
            self.begin(&state);
        }
        self.parts.gateway.sessions.set_sends_away(true);
        let candidates = self.not_asked();
        let count = choice::count(grant.sessions, candidates.len());
        let connections = candidates.iter().map(Client::connection).collect();
        let chosen = choice::choose(connections, count, &mut rand::rng());
        self.accounts.ledger().begin(grant.batch, chosen.len() as u64);
        tracing::info!(
            rollout = grant.rollout,
            batch = grant.batch,
            clients = chosen.len(),
            "a batch of clients is asked to connect elsewhere"
        );
        state.asking = Some(Asking {
            batch: grant.batch,
            chosen,
            done: 0,
            since: self.elapsed(),
            rate_per_second: grant.rate_per_second,
            jitter: grant.jitter,
            token: self.token(grant),
        });
        drop(state);
        self.step();
        Ok(())
    }

    /// The way back: whoever was not asked stays, and the node is ready again.
    pub fn cancel(&self, order: &Order) -> Result<(), AdminProblem> {
        order.check()?;
        let mut state = self.fenced();
        if !state.plan.cancel(order)? {
            return Ok(());
        }
        if let Some(asking) = state.asking.take() {
            let spared = asking.chosen.len() - asking.done;
            self.accounts.ledger().skip(asking.batch, spared as u64);
        }
        state.closing.clear();
        self.accounts.ledger().forget();
        self.parts.gateway.sessions.set_sends_away(false);
        self.set_prepared(false);
        tracing::info!(
            rollout = order.rollout,
            "the node keeps its clients: the rollout was cancelled"
        );
        Ok(())
    }

    /// Ends the node as a signal does.
    pub fn stop(&self, order: &Order) -> Result<(), AdminProblem> {
        order.check()?;
        self.fenced().plan.stop(order)?;
        tracing::info!(rollout = order.rollout, "the operator ends this node");
        self.parts.stop.cancel();
        Ok(())
    }

    /// Says whose nodes own partitions.
    pub async fn set_owner_revision(
        &self,
        wanted: &OwnerRevision,
    ) -> Result<OwnerRevision, AdminProblem> {
        wanted.check()?;
        let Some(membership) = &self.parts.membership else {
            let detail = "This node keeps its data in its own directory: no other node can own it.";
            return Err(AdminProblem::new(AdminCode::SingleNode, detail));
        };
        self.fenced().plan.fence(wanted.epoch)?;
        membership.set_owner_revision(wanted).await
    }

    /// How the node stands; `not_ready`: why it should not get traffic.
    pub fn status(&self, not_ready: Vec<String>) -> NodeStatus {
        let gateway = &self.parts.gateway;
        let clients = gateway.sessions.clients();
        let now = self.elapsed();
        let is_active = |client: &&Client| is_active(client, now);
        let by = |wanted: Transport| {
            clients.iter().filter(|client| client.transport == wanted).count() as u64
        };
        let state = self.lock();
        let ledger = self.accounts.ledger();
        let partitions = (self.parts.partitions)();
        let safe = gateway.parts.watermarks.safe();
        let lag_ms = gateway.parts.clock.now().since(safe.created_at());
        NodeStatus {
            node: self.parts.name.clone(),
            revision: self.parts.revision.clone(),
            start: format!("{:016x}", self.parts.start),
            phase: state.plan.phase(),
            rollout: state.plan.rollout().map(str::to_owned),
            epoch: state.plan.epoch(),
            not_ready,
            sessions: admin::Sessions {
                websocket: by(Transport::WebSocket),
                events: by(Transport::Events),
                polls: by(Transport::Poll),
                active: clients.iter().filter(is_active).count() as u64,
                not_asked: clients.iter().filter(|c| !ledger.was_asked(c.connection())).count()
                    as u64,
            },
            batches: ledger.batches(),
            partitions,
            owner_revision: self.owner_revision(),
            safe_watermark_known: safe.0 != 0,
            safe_watermark_lag_ms: (safe.0 != 0).then_some(lag_ms),
            handed_over: partitions == 0 && clients.is_empty(),
            handshakes: self.handshakes(),
            abrupt_closes: gateway.parts.metrics.abrupt_closes.get(),
        }
    }

    /// Takes in what another node says to this one. `false`: it is not about clients that came back.
    pub fn hear(&self, payload: &[u8]) -> bool {
        let Some(lineages) = returned_lineages(payload) else { return false };
        let now = self.elapsed();
        let mut ledger = self.accounts.ledger();
        lineages.for_each(|lineage| ledger.returned(lineage, now));
        true
    }

    /// The node ends: everyone who is here is asked to leave within `jitter_ms`, and closed after their delay. Returns when
    /// all are gone, or when `jitter_ms` and the time for the last frames are over.
    pub async fn leave(&self, jitter_ms: u64) -> Drained {
        let sessions = &self.parts.gateway.sessions;
        sessions.leave();
        let told = self.ask_all(Jitter { min_ms: 0, max_ms: jitter_ms });
        self.step();
        let gone = async {
            loop {
                let changed = sessions.changed();
                if sessions.clients().is_empty() {
                    return;
                }
                changed.await;
            }
        };
        let deadline = Duration::from_millis(jitter_ms + DRAIN_FLUSH_MS);
        _ = tokio::time::timeout(deadline, gone).await;
        let left = sessions.clients();
        left.iter().for_each(|client| client.outbox.close(Close::Restart));
        Drained { told, cut_off: left.len() }
    }

    /// Asks whoever was not asked yet, and lets nobody stay longer than the window.
    fn ask_all(&self, jitter: Jitter) -> usize {
        let mut state = self.lock();
        let now = self.elapsed();
        state.plan.end();
        state.asking = None;
        let latest = now + Duration::from_millis(jitter.max_ms);
        let closing = std::mem::take(&mut state.closing);
        state.closing = closing
            .into_iter()
            .map(|((due, connection), how)| ((due.min(latest), connection), how))
            .collect();
        let mut told = 0;
        for client in self.not_asked() {
            let delay_ms = choice::delay_ms(jitter, &mut rand::rng());
            if client.ask_to_leave(Farewell { delay_ms, token: None }) {
                told += 1;
                let due = now + Duration::from_millis(delay_ms);
                state.closing.insert((due, client.connection()), Closing::Flush);
            }
        }
        told
    }

    fn step(&self) {
        let now = self.elapsed();
        let mut state = self.lock();
        self.ask_due(&mut state, now);
        self.close_due(&mut state, now);
        drop(state);
        self.tell_returned(now);
        let mut ledger = self.accounts.ledger();
        ledger.settle(now);
        self.metrics.show(&ledger);
    }

    fn ask_due(&self, state: &mut State, now: Duration) {
        let State { asking, closing, .. } = state;
        let Some(batch) = asking else { return };
        let due =
            choice::due(now.saturating_sub(batch.since), batch.rate_per_second, batch.chosen.len());
        for connection in &batch.chosen[batch.done.min(due)..due] {
            let asked = self.parts.gateway.sessions.client(*connection);
            let asked = asked.and_then(|client| self.ask(&client, batch, now));
            match asked {
                Some(leaves) => _ = closing.insert((leaves, *connection), Closing::Flush),
                None => self.accounts.ledger().skip(batch.batch, 1),
            }
        }
        batch.done = due;
        if batch.done == batch.chosen.len() {
            *asking = None;
        }
    }

    /// Asks one client. When it is to be closed, if it has not left; none: it is ending already.
    fn ask(&self, client: &Client, batch: &Asking, now: Duration) -> Option<Duration> {
        let delay_ms = choice::delay_ms(batch.jitter, &mut rand::rng());
        let leaves = now + Duration::from_millis(delay_ms);
        let counts_until =
            is_active(client, now).then(|| leaves + Duration::from_millis(RESUMED_WITHIN_MS));
        // The account is open before the client can react.
        let mut ledger = self.accounts.ledger();
        if !client.ask_to_leave(Farewell { delay_ms, token: batch.token.clone() }) {
            return None;
        }
        ledger.ask(batch.batch, client.connection(), client.lineage, counts_until);
        Some(leaves + Duration::from_millis(DRAIN_LEAVE_MS))
    }

    fn close_due(&self, state: &mut State, now: Duration) {
        while let Some(entry) = state.closing.first_entry()
            && entry.key().0 <= now
        {
            let ((_, connection), how) = entry.remove_entry();
            let Some(client) = self.parts.gateway.sessions.client(connection) else { continue };
            match how {
                Closing::Flush => {
                    client.outbox.end_after_flush(Close::Restart);
                    let limit = now + Duration::from_millis(DRAIN_FLUSH_MS);
                    state.closing.insert((limit, connection), Closing::Cut);
                }
                Closing::Cut => client.outbox.close(Close::Restart),
            }
        }
    }

    /// Clients that came with a cursor: their old node may be this one, or any that hands its clients over.
    fn tell_returned(&self, now: Duration) {
        let returned = std::mem::take(&mut *self.accounts.returned());
        if returned.is_empty() {
            return;
        }
        let mut ledger = self.accounts.ledger();
        returned.iter().for_each(|lineage| ledger.returned(*lineage, now));
        drop(ledger);
        let Some(membership) = &self.parts.membership else { return };
        let others: Vec<Subject> =
            membership.preparing_nodes().into_iter().map(Subject::Node).collect();
        if others.is_empty() {
            return;
        }
        for lineages in returned.chunks(LINEAGES_PER_PAYLOAD) {
            self.parts.bus.publish(&others, returned_payload(lineages));
        }
    }

    fn begin(&self, state: &State) {
        self.accounts.ledger().clear();
        self.set_prepared(true);
        self.parts.gateway.read_all_within(READ_BEFORE);
        tracing::info!(
            rollout = state.plan.rollout(),
            "the node gets no new clients: it is about to hand them over"
        );
    }

    fn set_prepared(&self, is_prepared: bool) {
        if let Some(membership) = &self.parts.membership {
            membership.set_prepared(is_prepared);
        }
    }

    fn not_asked(&self) -> Vec<Client> {
        let mut clients = self.parts.gateway.sessions.clients();
        let ledger = self.accounts.ledger();
        clients.retain(|client| !ledger.was_asked(client.connection()));
        clients
    }

    fn token(&self, grant: &Grant) -> Option<Arc<str>> {
        let target = grant.target.as_ref()?;
        let parts = &self.parts.gateway.parts;
        let token = parts.directory.token_to(target, parts.clock.now())?;
        Some(token.into())
    }

    fn owner_revision(&self) -> OwnerRevision {
        self.parts.membership.as_ref().map(|known| known.owner_revision()).unwrap_or_default()
    }

    fn handshakes(&self) -> Handshakes {
        self.parts.gateway.parts.metrics.handshakes()
    }

    fn elapsed(&self) -> Duration {
        self.parts.gateway.elapsed()
    }

    /// The state, with the highest epoch that the platform has heard of.
    fn fenced(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.plan.raise_epoch(self.owner_revision().epoch);
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

/// Whether the client was heard lately.
fn is_active(client: &Client, now: Duration) -> bool {
    let silent = now.saturating_sub(client.attendance.last_beat());
    silent <= Duration::from_millis(ACTIVE_WITHIN_MS)
}

pub(super) fn returned_payload(lineages: &[SessionId]) -> Bytes {
    let mut payload = BytesMut::with_capacity(1 + lineages.len() * 16);
    payload.put_u8(KIND_RETURNED);
    lineages.iter().for_each(|lineage| payload.put_slice(lineage.as_bytes()));
    payload.freeze()
}

fn returned_lineages(payload: &[u8]) -> Option<impl Iterator<Item = SessionId>> {
    let (kind, rest) = payload.split_first()?;
    let lineages = rest.chunks_exact(16).filter_map(|bytes| SessionId::from_bytes(bytes).ok());
    (*kind == KIND_RETURNED).then_some(lineages)
}
