//! How a friendship is stored, and how it looks from the other side: the same in every backend.

use chat_protocol::frame::Friendship;

/// The number in a row.
pub(crate) fn number<N: From<u8>>(friendship: Friendship) -> N {
    N::from(match friendship {
        Friendship::None => 0,
        Friendship::Requested => 1,
        Friendship::Received => 2,
        Friendship::Friends => 3,
    })
}

/// The same from the other side.
pub(crate) fn mirror(friendship: Friendship) -> Friendship {
    match friendship {
        Friendship::Requested => Friendship::Received,
        Friendship::Received => Friendship::Requested,
        same => same,
    }
}
