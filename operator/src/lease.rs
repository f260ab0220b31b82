//! One operator works at a time: a lease, and the epoch that fences those who do not know yet that they lost it.
//!
//! The epoch is `leaseTransitions`, which grows whenever the lease changes hands. Chat nodes refuse what comes with a
//! lower epoch than they have heard, so a process that hangs through the end of its lease can grant nothing afterwards.
//! Whether a lease has ended is measured on the own monotonic clock, as client-go does: clocks are not compared.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, doing};

/// How long a lease stands without a renewal.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long gives up, well before others may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_secs(2);

/// A lease that several processes want.
pub struct LeaderLease {
    api: Api<Lease>,
    name: String,
    holder: String,
    seen: Option<Seen>,
}

/// Who held it, and since when on our clock nothing has changed.
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// What one try led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Held {
    /// This process holds it, with this epoch.
    Ours(i64),
    /// Another one does.
    Others,
}

impl LeaderLease {
    /// A lease of this name. `holder` must differ between processes.
    pub fn new(client: Client, namespace: &str, name: &str, holder: &str) -> LeaderLease {
        LeaderLease {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            holder: holder.to_owned(),
            seen: None,
        }
    }

    /// Waits until the lease is ours. None if `stop` came first.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> Option<i64> {
        loop {
            match self.try_once(Instant::now()).await {
                Ok(Held::Ours(epoch)) => return Some(epoch),
                Ok(Held::Others) => {}
                Err(error) => tracing::warn!(%error, "the lease could not be taken"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return None,
            }
        }
    }

    /// Renews the lease until it is lost or `stop` comes.
    pub async fn keep(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
            match tokio::time::timeout(RENEW_DEADLINE, self.try_once(Instant::now())).await {
                Ok(Ok(Held::Ours(_))) => renewed = Instant::now(),
                Ok(Ok(Held::Others)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed"),
                Err(_) => tracing::warn!("the API server does not answer in time"),
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                return;
            }
        }
    }

    /// Gives the lease back, so that another process does not have to wait for its end.
    pub async fn release(&mut self) {
        let released = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.holder.as_str()) {
                spec.holder_identity = Some(String::new());
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, "the lease was not given back; it ends by itself");
        }
    }

    /// Takes or renews the lease if that is possible now.
    pub async fn try_once(&mut self, now: Instant) -> Result<Held, Error> {
        let present = self.api.get_opt(&self.name).await.map_err(doing("read the lease"))?;
        let Some(lease) = present else { return self.create().await };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let epoch = i64::from(spec.lease_transitions.unwrap_or(0));
        if holder == self.holder {
            return self.replace(lease, epoch, false).await;
        }
        if !holder.is_empty() && !self.has_ended(&lease, now) {
            return Ok(Held::Others);
        }
        self.replace(lease, epoch + 1, true).await
    }

    /// Whether nobody renewed it for its whole duration, as seen from here.
    fn has_ended(&mut self, lease: &Lease, now: Instant) -> bool {
        let version = lease.resource_version();
        let unchanged = self.seen.as_ref().filter(|seen| seen.version == version);
        let since = unchanged.map_or(now, |seen| seen.since);
        self.seen = Some(Seen { version, since });
        now.duration_since(since) >= DURATION
    }

    async fn create(&self) -> Result<Held, Error> {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: Some(self.spec(1, None)),
        };
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(_) => Ok(Held::Ours(1)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Held::Others),
            Err(error) => Err(doing("create the lease")(error)),
        }
    }

    async fn replace(&self, mut lease: Lease, epoch: i64, taken: bool) -> Result<Held, Error> {
        let acquired = lease.spec.as_ref().and_then(|spec| spec.acquire_time.clone());
        lease.spec = Some(self.spec(epoch, acquired.filter(|_| !taken)));
        // The resource version in it makes one of two who try fail.
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(Held::Ours(epoch)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Held::Others),
            Err(error) => Err(doing("write the lease")(error)),
        }
    }

    fn spec(&self, epoch: i64, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: i32::try_from(epoch).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}
