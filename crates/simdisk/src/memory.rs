//! Allocations inside SQLite that fail: the n-th, once or for ever, on one thread. Knows nothing of disks.
//! Tests: `tests/memory.rs`, a program of its own, because it must come before anything else that SQLite does.

use rusqlite::ffi;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// 0: none fails.
    static AT: Cell<u64> = const { Cell::new(0) };
    static FOREVER: Cell<bool> = const { Cell::new(false) };
    static HIT: Cell<bool> = const { Cell::new(false) };
}

struct Base(ffi::sqlite3_mem_methods);

// SAFETY: a table of functions that may be called from any thread.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

static BASE: OnceLock<Base> = OnceLock::new();

/// Puts itself before SQLite's allocator and turns the one off that hands out memory without asking. Call it before
/// anything else that uses SQLite.
///
/// # Panics
/// When SQLite was used before.
pub fn install() {
    BASE.get_or_init(|| {
        let mut base = MaybeUninit::<ffi::sqlite3_mem_methods>::zeroed();
        // SAFETY: the option takes a place for a table, and SQLite was not used yet or refuses.
        let base = unsafe {
            let code = ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, base.as_mut_ptr());
            assert_eq!(code, ffi::SQLITE_OK, "SQLite was used before its allocator was replaced");
            base.assume_init()
        };
        let mut own = base;
        own.xMalloc = Some(allocate);
        own.xRealloc = Some(reallocate);
        // SAFETY: as above; the table is copied.
        unsafe {
            assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut own), ffi::SQLITE_OK);
            assert_eq!(
                ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, 0 as c_int, 0 as c_int),
                ffi::SQLITE_OK
            );
        }
        Base(base)
    });
}

/// On this thread the `at`-th allocation from now fails, and `forever` all after it.
pub fn fail(at: u64, forever: bool) {
    COUNT.set(0);
    AT.set(at);
    FOREVER.set(forever);
    HIT.set(false);
}

/// No allocation fails any more on this thread.
pub fn clear() {
    AT.set(0);
}

/// Allocations on this thread since the last [`fail`].
pub fn count() -> u64 {
    COUNT.get()
}

/// Whether one failed since the last [`fail`].
pub fn was_hit() -> bool {
    HIT.get()
}

fn fails() -> bool {
    let count = COUNT.get() + 1;
    COUNT.set(count);
    let at = AT.get();
    let fails = at != 0 && (count == at || FOREVER.get() && count > at);
    if fails {
        HIT.set(true);
    }
    fails
}

unsafe extern "C" fn allocate(bytes: c_int) -> *mut c_void {
    match BASE.get().and_then(|base| base.0.xMalloc) {
        // SAFETY: the same argument.
        Some(malloc) if !fails() => unsafe { malloc(bytes) },
        _ => ptr::null_mut(),
    }
}

unsafe extern "C" fn reallocate(old: *mut c_void, bytes: c_int) -> *mut c_void {
    match BASE.get().and_then(|base| base.0.xRealloc) {
        // SAFETY: the same arguments.
        Some(realloc) if !fails() => unsafe { realloc(old, bytes) },
        _ => ptr::null_mut(),
    }
}
