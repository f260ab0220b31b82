//! Presence as last written.

use chat_protocol::{Millis, Partition, SessionId, UserId};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Inner;
use super::column::{bits, from_bits, user_id, values};
use super::error::Failure;
use crate::row::PresenceRow;

/// Users that are written or read at once.
const CONCURRENCY: usize = 32;

impl Inner {
    pub(super) async fn put_presence(&self, rows: Vec<PresenceRow>) -> Result<(), Failure> {
        stream::iter(rows.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |row| self.put_one_presence(row))
            .await
    }

    async fn put_one_presence(&self, row: PresenceRow) -> Result<(), Failure> {
        let sessions: Vec<u8> =
            row.sessions.iter().flat_map(|session| *session.as_bytes()).collect();
        // No user was ever active in 1970.
        let last_active_at = bits(row.last_active_at.unwrap_or_default().0);
        let user = row.user_id.as_bytes();
        let own = values![user, sessions.as_slice(), last_active_at];
        let partition = Partition::of_user(row.user_id).0 as i16;
        let listed = values![partition, user, sessions.as_slice(), last_active_at];
        let own = self.executor.run(&self.statements.put_presence, own);
        let listed = self.executor.run(&self.statements.put_presence_of_partition, listed);
        futures_util::try_join!(own, listed)?;
        Ok(())
    }

    /// In the order of `users`.
    pub(super) async fn presence(&self, users: Vec<UserId>) -> Result<Vec<PresenceRow>, Failure> {
        let found: Vec<Option<PresenceRow>> = stream::iter(users)
            .map(|user| self.presence_of(user))
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn presence_of(&self, user: UserId) -> Result<Option<PresenceRow>, Failure> {
        let values = values![user.as_bytes()];
        let found = self.executor.one::<(Vec<u8>, i64)>(&self.statements.presence, values).await?;
        found.map(|(sessions, active)| presence_row(user, &sessions, active)).transpose()
    }

    pub(super) async fn online_in(
        &self,
        partition: Partition,
    ) -> Result<Vec<PresenceRow>, Failure> {
        let values = values![partition.0 as i16];
        let mut found = self
            .executor
            .each::<(Vec<u8>, Vec<u8>, i64)>(&self.statements.presence_of_partition, values)
            .await?;
        let mut online = Vec::new();
        while let Some((user, sessions, active)) = found.rows.try_next().await? {
            if !sessions.is_empty() {
                online.push(presence_row(user_id(&user)?, &sessions, active)?);
            }
        }
        Ok(online)
    }
}

pub(super) fn presence_row(
    user_id: UserId,
    sessions: &[u8],
    active: i64,
) -> Result<PresenceRow, Failure> {
    let sessions = sessions.chunks(16).map(SessionId::from_bytes).collect::<Result<_, _>>()?;
    let last_active_at = (active != 0).then(|| Millis(from_bits(active)));
    Ok(PresenceRow { user_id, sessions, last_active_at })
}
