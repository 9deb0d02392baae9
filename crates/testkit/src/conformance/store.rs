//! What a [`Store`] promises, one case per promise, and a comparison with a naive model under random work.
//!
//! This suite is the definition of the trait: a store that passes may be used by the engine. It does not know how a
//! store keeps its rows; what only one kind of store can do (a full disk, a locked file) is tested beside that store.
//! That the cases notice broken stores is tested in `tests/memory_store.rs`.
//!
//! ```
//! use landfall_core::store::{Store, memory::MemoryStore};
//! use landfall_testkit::conformance::store::{StoreUnderTest, run_all};
//!
//! struct Memory;
//! impl StoreUnderTest for Memory {
//!     fn create(&self) -> Box<dyn Store> {
//!         Box::new(MemoryStore::default())
//!     }
//!     fn reopen(&self, mut store: Box<dyn Store>) -> Box<dyn Store> {
//!         store.reopen().expect("memory opens again");
//!         store
//!     }
//! }
//! run_all(&Memory);
//! ```
#![allow(clippy::unwrap_used, reason = "a case fails by panicking")]

mod damage;
mod identities;
mod life;
mod model;
mod names;
mod queries;
mod rows;
pub mod samples;
mod transactions;

use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::store::{Store, StoreTx};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use model::{SEEDS, compare_with_the_model};

/// Makes stores for the suite.
pub trait StoreUnderTest {
    /// A new, empty store that shares nothing with those made before.
    fn create(&self) -> Box<dyn Store>;

    /// Ends `store` and opens again what it made durable.
    fn reopen(&self, store: Box<dyn Store>) -> Box<dyn Store>;

    /// Spoils the stored row of `task` behind the store's back and opens the store again; `None` when the harness
    /// cannot, and then the promises about damaged rows are not checked.
    fn damage(&self, _store: Box<dyn Store>, _task: TaskId) -> Option<Box<dyn Store>> {
        None
    }

    /// Likewise the row of what is known of a record.
    fn damage_entity(&self, _store: Box<dyn Store>, _key: &EntityKey) -> Option<Box<dyn Store>> {
        None
    }

    /// Likewise the row of a conflict.
    fn damage_conflict(&self, _store: Box<dyn Store>, _id: ConflictId) -> Option<Box<dyn Store>> {
        None
    }
}

/// One promise.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What must hold.
    pub name: &'static str,
    /// Panics when it does not.
    pub run: fn(&dyn StoreUnderTest),
}

macro_rules! cases {
    ($($module:ident :: { $($name:ident),* $(,)? })*) => {
        /// Every promise but the comparison with the model.
        pub const CASES: &[Case] = &[$($(Case { name: stringify!($name), run: $module::$name }),*),*];
    };
}

cases! {
    transactions::{
        an_empty_store_knows_nothing,
        a_dropped_transaction_leaves_nothing,
        a_transaction_sees_its_own_writes,
        what_was_committed_is_there_after_reopening,
        what_was_not_committed_is_gone_after_reopening,
        rolling_back_to_a_point_keeps_what_came_before,
        rolling_back_to_a_point_undoes_what_was_done_to_conflicts_and_feed,
        points_nest,
        a_point_can_be_returned_to_twice,
        released_work_stays_and_falls_with_the_outer_point,
        a_point_that_is_gone_is_refused,
        a_refused_call_leaves_the_transaction_usable,
        a_reader_sees_whole_transactions_and_one_state,
    }
    rows::{
        every_part_of_a_task_reads_back,
        every_part_of_an_entity_reads_back,
        every_end_of_a_task_reads_back,
        every_part_of_a_conflict_reads_back,
        a_conflict_that_is_put_again_replaces_itself_in_its_place,
        a_conflict_stays_with_its_record,
        only_settled_conflicts_that_are_older_are_pruned,
        the_pull_state_reads_back_the_newest,
        only_the_newest_quarantined_records_are_remembered,
        replica_and_lease_read_back_the_newest,
        a_large_task_reads_back,
        a_task_that_is_put_again_replaces_itself,
        a_position_belongs_to_one_task,
        settling_takes_a_task_out_of_everything,
        only_a_task_of_the_queue_can_be_settled,
        the_journal_loses_only_what_is_older,
    }
    queries::{
        a_new_position_is_greater_than_all,
        counts_are_true_after_every_step,
        pages_come_in_order_of_position,
        tasks_of_a_state_come_in_order_of_position,
        tasks_of_an_entity_are_found_by_position,
        names_are_never_joined,
        tasks_of_a_lane_are_found_by_position,
        lower_ranks_are_claimed_first_then_older,
        a_task_is_claimed_when_its_moment_has_come,
        waiting_tasks_do_not_keep_ready_ones_back,
        the_next_claim_is_the_least_still_to_come,
        waiting_tasks_are_found_by_their_moment,
        the_oldest_is_the_one_in_front,
        records_come_in_order_of_type_then_id_byte_by_byte,
        records_of_a_type_are_found_apart,
        a_page_of_records_may_begin_anywhere,
        conflicts_come_newest_first,
        open_conflicts_are_found_apart,
        conflicts_are_read_page_by_page,
        a_limit_of_nothing_gives_nothing,
    }
    life::{
        a_step_of_priority_is_worth_so_many_places_and_no_more,
        a_task_of_low_priority_does_not_starve,
        what_is_passed_over_is_not_in_line,
        tasks_of_a_group_are_found_by_position,
        those_that_wait_for_a_task_are_found_by_position,
        held_tasks_are_found_by_position,
        tasks_lapse_while_they_wait_unsent,
    }
    names::{
        a_key_of_the_apps_leads_to_one_task,
        a_key_is_forgotten_when_it_is_older_and_its_task_is_gone,
        the_backends_ids_are_found_both_ways,
        what_is_paused_reads_back_the_newest,
        ended_tasks_come_last_first_and_page_by_page,
        records_are_forgotten_and_tasks_are_not,
        a_record_that_is_forgotten_is_not_known,
    }
    identities::{
        every_question_is_about_the_open_queue,
        every_write_is_about_the_open_queue,
        the_bound_on_notes_is_that_of_each_identity,
        every_identity_is_listed_with_what_waits,
        the_name_of_an_identity_is_neither_empty_nor_endless,
        opening_again_opens_the_same_queue,
    }
    damage::{
        a_damaged_row_is_never_handed_out,
        a_damaged_row_does_not_hide_its_neighbours,
        a_quarantined_row_counts_as_dead_and_is_never_claimed,
        a_quarantined_row_does_not_lapse_and_is_not_held,
        only_a_damaged_row_is_quarantined,
        a_damaged_row_that_is_put_again_is_whole,
        a_damaged_record_is_named_apart_and_passed,
        a_damaged_conflict_is_named_apart_and_passed,
        a_damaged_conflict_is_never_pruned_and_whole_when_put_again,
    }
}

/// A promise that was not kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The case.
    pub name: String,
    /// What it said.
    pub message: String,
}

/// Runs every case and the comparison with the model.
///
/// # Panics
/// When a promise is broken; the message names each.
pub fn run_all(harness: &dyn StoreUnderTest) {
    let broken = broken_promises(harness);
    let lines: Vec<String> = broken.iter().map(|b| format!("{}: {}", b.name, b.message)).collect();
    assert!(broken.is_empty(), "{} promises of Store are broken:\n{}", broken.len(), lines.join("\n"));
}

/// Runs every case and the comparison with the model, and says which promises are broken.
pub fn broken_promises(harness: &dyn StoreUnderTest) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut check = |name: String, run: &dyn Fn()| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let message = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked");
            broken.push(Broken { name, message: message.to_owned() });
        }
    };
    for case in CASES {
        check(case.name.to_owned(), &|| (case.run)(harness));
    }
    for seed in SEEDS {
        let name = format!("random work agrees with the model (seed {seed})");
        check(name, &|| compare_with_the_model(harness, seed));
    }
    broken
}

/// Runs `work` in a transaction of its own and commits it.
fn commit<T>(store: &mut dyn Store, work: impl FnOnce(&mut dyn StoreTx) -> T) -> T {
    let mut tx = store.begin().expect("a transaction begins");
    let result = work(tx.as_mut());
    tx.commit().expect("the transaction commits");
    result
}

/// Runs `work` in a transaction of its own and drops it.
fn look<T>(store: &mut dyn Store, work: impl FnOnce(&mut dyn StoreTx) -> T) -> T {
    let mut tx = store.begin().expect("a transaction begins");
    work(tx.as_mut())
}
