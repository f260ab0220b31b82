//! Friends and blocks.
//!
//! How two people stand is one row of the pair, changed by lightweight transactions: that alone is the truth. Each
//! side's list is derived from it. Before a change both lists get a note that one is pending, after it the outcome; a
//! reader of a list that finds a note looks at the pair, and writes down what it finds. So whoever dies in between leaves
//! no list that says something else than the pair.

use chat_protocol::frame::Friendship;
use chat_protocol::{Millis, UserId};
use uuid::Uuid;

use super::Inner;
use super::column::{bits, from_bits, rows, user_id, values};
use super::error::Failure;
use crate::friendship::{mirror, number};
use crate::row::FriendRow;

pub(super) fn from_number(number: i64) -> Result<Friendship, Failure> {
    match number {
        0 => Ok(Friendship::None),
        1 => Ok(Friendship::Requested),
        2 => Ok(Friendship::Received),
        3 => Ok(Friendship::Friends),
        _ => Err(Failure::Damaged(format!("a friendship of kind {number}"))),
    }
}

/// The row of a pair, from the side of the lower id.
#[derive(Clone, Copy)]
struct Pair {
    low: UserId,
    high: UserId,
    friendship: Friendship,
    since: Millis,
    /// How often it has changed.
    turn: i64,
}

impl Pair {
    /// Two people who have never had to do with each other.
    fn strangers(one: UserId, other: UserId) -> Pair {
        let (low, high) = if one < other { (one, other) } else { (other, one) };
        Pair { low, high, friendship: Friendship::None, since: Millis(0), turn: 0 }
    }

    fn side_of(&self, user: UserId) -> Friendship {
        if user == self.low { self.friendship } else { mirror(self.friendship) }
    }

    fn sides(&self) -> [(UserId, UserId); 2] {
        [(self.low, self.high), (self.high, self.low)]
    }
}

impl Inner {
    pub(super) async fn set_friendship(
        &self,
        user: UserId,
        other: UserId,
        expected: Friendship,
        friendship: Friendship,
        now: Millis,
    ) -> Result<Friendship, Failure> {
        if user == other {
            return Err(Failure::Refused("nobody is their own friend".into()));
        }
        loop {
            let present = self.pair(user, other).await?;
            if present.side_of(user) != expected {
                return Ok(present.side_of(user));
            }
            let from_low = if user == present.low { friendship } else { mirror(friendship) };
            let turn = present.turn + 1;
            let next = Pair { friendship: from_low, since: now, turn, ..present };
            self.announce(&next).await?;
            // Somebody else's change came first: what does it mean for this one?
            if self.change_pair(&next).await? {
                self.settle(&next).await?;
                return Ok(friendship);
            }
        }
    }

    async fn pair(&self, one: UserId, other: UserId) -> Result<Pair, Failure> {
        type Columns = (i16, i64, i64, Vec<u8>);
        let strangers = Pair::strangers(one, other);
        let key = values![strangers.low.as_bytes(), strangers.high.as_bytes()];
        let found = self.executor.one::<Columns>(&self.statements.friend_pair, key).await?;
        let Some((friendship, since, turn, _)) = found else { return Ok(strangers) };
        let friendship = from_number(i64::from(friendship))?;
        Ok(Pair { friendship, since: Millis(from_bits(since)), turn, ..strangers })
    }

    /// `false`: it has changed since it was read.
    async fn change_pair(&self, next: &Pair) -> Result<bool, Failure> {
        let change = Uuid::from_u128(rand::random());
        let (low, high) = (next.low.as_bytes(), next.high.as_bytes());
        let (friendship, since) = (number::<i16>(next.friendship), bits(next.since.0));
        let change = change.as_bytes();
        let changed = if next.turn == 1 {
            let values = values![low, high, friendship, since, next.turn, change];
            self.executor.compare(&self.statements.make_friend_pair, values).await?
        } else {
            let values = values![friendship, since, next.turn, change, low, high, next.turn - 1];
            self.executor.compare(&self.statements.change_friend_pair, values).await?
        };
        if changed.applied {
            return Ok(true);
        }
        // It may have been done by an attempt that nobody heard of: then this change's name stands there.
        let key = values![low, high];
        let found = self
            .executor
            .one::<(i16, i64, i64, Vec<u8>)>(&self.statements.friend_pair, key)
            .await?;
        Ok(found.is_some_and(|(_, _, _, present)| present == change))
    }

    async fn announce(&self, next: &Pair) -> Result<(), Failure> {
        let [one, other] = next.sides().map(|(user, other)| {
            let values = values![next.turn * 2, user.as_bytes(), other.as_bytes()];
            self.executor.run(&self.statements.announce_friend, values)
        });
        futures_util::try_join!(one, other)?;
        Ok(())
    }

    async fn settle(&self, pair: &Pair) -> Result<(), Failure> {
        let [one, other] = pair.sides().map(|(user, other)| {
            let values = values![
                pair.turn * 2 + 1,
                number::<i16>(pair.side_of(user)),
                bits(pair.since.0),
                user.as_bytes(),
                other.as_bytes(),
            ];
            self.executor.run(&self.statements.put_friend, values)
        });
        futures_util::try_join!(one, other)?;
        Ok(())
    }

    pub(super) async fn friendship(
        &self,
        user: UserId,
        other: UserId,
    ) -> Result<Friendship, Failure> {
        Ok(self.pair(user, other).await?.side_of(user))
    }

    pub(super) async fn friends(
        &self,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<FriendRow>, Failure> {
        type Columns = (Vec<u8>, Option<i16>, Option<i64>, Option<bool>);
        let mut after: Vec<u8> = after.map_or_else(Vec::new, |user| user.as_bytes().to_vec());
        let mut friends = Vec::new();
        while friends.len() < limit {
            let missing = rows(limit - friends.len());
            let values = values![user.as_bytes(), after.as_slice(), missing];
            let found: Vec<Columns> = self.executor.all(&self.statements.friends, values).await?;
            let Some((last, ..)) = found.last() else { break };
            after.clone_from(last);
            for (other, friendship, since, pending) in found {
                let other = user_id(&other)?;
                let (friendship, since) = match pending {
                    Some(false) => {
                        let friendship = from_number(i64::from(friendship.unwrap_or_default()))?;
                        (friendship, Millis(from_bits(since.unwrap_or_default())))
                    }
                    _ => self.look_at_pair(user, other).await?,
                };
                if friendship != Friendship::None {
                    friends.push(FriendRow { user_id: other, friendship, since });
                }
            }
        }
        Ok(friends)
    }

    /// What a list that has a note says in truth. The note stays if its change has not been made: it still may be.
    async fn look_at_pair(
        &self,
        user: UserId,
        other: UserId,
    ) -> Result<(Friendship, Millis), Failure> {
        let pair = self.pair(user, other).await?;
        if pair.turn > 0 {
            self.settle(&pair).await?;
        }
        Ok((pair.side_of(user), pair.since))
    }

    pub(super) async fn set_block(
        &self,
        user: UserId,
        other: UserId,
        blocked: bool,
    ) -> Result<(), Failure> {
        let statement = match blocked {
            true => &self.statements.put_block,
            false => &self.statements.remove_block,
        };
        self.executor.run(statement, values![user.as_bytes(), other.as_bytes()]).await
    }

    pub(super) async fn blocks(&self, user: UserId) -> Result<Vec<UserId>, Failure> {
        let found: Vec<(Vec<u8>,)> =
            self.executor.all(&self.statements.blocks, values![user.as_bytes()]).await?;
        found.iter().map(|(other,)| user_id(other)).collect()
    }

    pub(super) async fn is_blocked(&self, one: UserId, other: UserId) -> Result<bool, Failure> {
        let block = |user: UserId, other: UserId| {
            let values = values![user.as_bytes(), other.as_bytes()];
            self.executor.one::<(Vec<u8>,)>(&self.statements.block, values)
        };
        let (one, other) = futures_util::try_join!(block(one, other), block(other, one))?;
        Ok(one.is_some() || other.is_some())
    }
}
