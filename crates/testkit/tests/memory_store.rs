//! The memory store keeps every promise of the store suite, and the suite notices stores that do not.

use landfall_core::id::TaskId;
use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{Store, StoreError, StoreTx};
use landfall_testkit::conformance::store::{StoreUnderTest, run_all};
use std::sync::{Arc, Mutex};

/// Makes memory stores whose rows can be spoiled from outside.
#[derive(Default)]
struct Memory {
    to_damage: Arc<Mutex<Vec<TaskId>>>,
}

impl StoreUnderTest for Memory {
    fn create(&self) -> Box<dyn Store> {
        Box::new(Spoilable { inner: MemoryStore::default(), to_damage: Arc::clone(&self.to_damage) })
    }

    fn reopen(&self, mut store: Box<dyn Store>) -> Box<dyn Store> {
        store.reopen().unwrap();
        store
    }

    fn damage(&self, store: Box<dyn Store>, task: TaskId) -> Option<Box<dyn Store>> {
        self.to_damage.lock().unwrap().push(task);
        Some(store)
    }
}

#[derive(Debug)]
struct Spoilable {
    inner: MemoryStore,
    to_damage: Arc<Mutex<Vec<TaskId>>>,
}

impl Store for Spoilable {
    fn begin(&mut self) -> Result<Box<dyn StoreTx + '_>, StoreError> {
        for task in self.to_damage.lock().unwrap().drain(..) {
            assert!(self.inner.damage(task));
        }
        self.inner.begin()
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.inner.reopen()
    }
}

#[test]
fn the_memory_store_keeps_every_promise() {
    run_all(&Memory::default());
}
