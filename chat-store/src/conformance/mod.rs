//! One suite that every backend of [`Store`] passes.
//!
//! A backend runs it from its tests with [`conformance_tests!`](crate::conformance_tests), which makes one test of every
//! case, or with [`run`]. Cases use ids of their own, so that a store may be shared and need not be empty.

pub mod accounts;
pub mod conversations;
pub mod inbox;
pub mod log;
pub mod messages;
pub mod sample;
pub mod tables;

use std::any::Any;
use std::sync::Arc;

use crate::store::Store;

/// A store to be tested.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What it needs while it is tested, for example its folder; dropped after the store.
    pub keep: Box<dyn Any + Send>,
}

macro_rules! cases {
    ($dollar:tt $($module:ident::$name:ident;)*) => {
        /// Runs every case, each on a store that `make` makes. Panics at the first promise that is not kept.
        pub async fn run(make: impl AsyncFn() -> Subject) {
            $({
                let subject = make().await;
                $module::$name(Arc::clone(&subject.store)).await;
            })*
        }

        /// Makes one `#[tokio::test]` of every conformance case; the argument is an async function without arguments
        /// that makes a [`Subject`](crate::conformance::Subject).
        #[macro_export]
        macro_rules! conformance_tests {
            ($dollar make:expr) => {
                $(
                    #[tokio::test]
                    async fn $name() {
                        let subject: $crate::conformance::Subject = $dollar make().await;
                        let store = ::std::sync::Arc::clone(&subject.store);
                        $crate::conformance::$module::$name(store).await;
                    }
                )*
            };
        }
    };
}

cases! { $
    log::the_epoch_stays_the_same;
    log::a_checkpoint_is_read_as_it_was_written;
    log::a_checkpoint_comes_with_all_its_rows;
    log::a_late_lower_checkpoint_changes_nothing;
    log::an_entry_can_be_quarantined_twice;
    log::the_same_writes_in_any_order_and_repeated_read_the_same;
    conversations::the_highest_version_of_a_conversation_wins;
    conversations::rooms_come_newest_first_in_pages;
    conversations::a_membership_that_ended_stays_ended;
    conversations::a_user_is_a_member_while_any_interval_is_open;
    conversations::conversations_of_a_user_come_in_pages;
    conversations::marks_only_rise;
    messages::a_message_is_read_as_it_was_sent;
    messages::history_pages_meet_without_gap_or_overlap;
    messages::messages_that_do_not_exist_are_left_out;
    messages::the_newest_edit_wins_in_any_order;
    messages::a_deletion_is_never_undone;
    messages::a_revision_without_its_message_shows_nothing;
    messages::reactions_are_grouped_by_first_appearance;
    messages::the_longest_body_survives;
    messages::a_repeated_send_finds_its_answer;
    inbox::pages_hold_what_was_written_however_it_was_packed;
    inbox::all_users_of_a_row_get_its_pointers;
    inbox::rows_expire_when_their_time_is_over;
    accounts::an_account_is_found_by_id_and_handle;
    accounts::one_of_many_concurrent_sign_ups_gets_the_handle;
    accounts::a_sign_up_that_heard_nothing_can_be_repeated;
    accounts::handles_are_searched_by_prefix;
    accounts::a_profile_changes_field_by_field;
    accounts::settings_are_replaced;
    accounts::devices_are_added_renamed_and_removed;
    accounts::what_a_device_confirmed_only_rises_and_goes_with_it;
    accounts::a_refresh_token_works_once;
    accounts::only_one_of_many_concurrent_refreshes_succeeds;
    accounts::both_sides_of_a_friendship_change_together;
    accounts::friends_come_in_pages;
    accounts::a_block_holds_for_both_sides;
    accounts::presence_is_what_was_written_last;
}
