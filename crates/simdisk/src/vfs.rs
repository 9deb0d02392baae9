//! What SQLite calls: a table of C functions in front of the VFS that was its default. Rules of the disk are in
//! `disk.rs` and `model.rs`. Tests: `tests/disk.rs`.

use crate::disk::{Kind, Operation, Process, Shared, SharedMemory, find};
use crate::model::{Change, Random, Step};
use rusqlite::ffi;
use std::cell::Cell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Once, PoisonError};

thread_local! {
    static PROCESS: Cell<Process> = const { Cell::new(0) };
    /// Whether this thread ever had a disk: then nothing on it sleeps.
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
    static LOTS: Cell<u64> = const { Cell::new(0) };
    static TIME: Cell<Option<i64>> = const { Cell::new(None) };
}

pub(crate) fn set_process(process: Process) -> Process {
    SIMULATED.set(true);
    PROCESS.replace(process)
}

/// On this thread SQLite's clock stands at so many milliseconds since 1970; `None`: it goes.
pub fn fix_time(unix_ms: Option<i64>) {
    TIME.set(unix_ms);
}

/// A piece of shared memory, which stays where it is.
#[derive(Debug)]
pub(crate) struct Piece {
    words: *mut [u64],
}

// SAFETY: it owns its memory; whoever uses it goes by SQLite's rules for shared memory.
unsafe impl Send for Piece {}

impl Piece {
    fn new(bytes: usize) -> Self {
        Self { words: Box::into_raw(vec![0_u64; bytes.div_ceil(8)].into_boxed_slice()) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: came from a box, and is dropped once.
        drop(unsafe { Box::from_raw(self.words) });
    }
}

/// An open file.
struct Handle {
    disk: Arc<Shared>,
    name: String,
    number: u64,
    node: u64,
    process: Process,
    file: Arc<File>,
    /// A journal or log that may be new: its first sync through this handle makes names durable. As SQLite's own VFS for
    /// Unix does it, whether or not the file was there: whoever made it may have died before he synced it.
    syncs_directory: Cell<bool>,
    delete_on_close: bool,
    memory: Cell<Option<Arc<SharedMemory>>>,
}

#[repr(C)]
struct Opened {
    base: ffi::sqlite3_file,
    handle: *mut Handle,
}

/// # Safety
/// `file` was opened by [`x_open`] for a simulated path and is not closed.
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a Handle {
    // SAFETY: then it is an `Opened` with a handle in it.
    unsafe { &*(*file.cast::<Opened>()).handle }
}

impl Handle {
    /// Runs one operation of this file, unless its process is dead; `error` is what it fails with otherwise.
    fn run(
        &self,
        operation: Operation,
        error: c_int,
        act: impl FnOnce(&mut crate::disk::Inside, Option<Kind>) -> c_int,
    ) -> c_int {
        let mut inside = self.disk.lock();
        if !inside.handles.contains_key(&self.number) {
            return error;
        }
        match inside.operation(self.process, operation) {
            Ok(fault) => act(&mut inside, fault),
            Err(()) => error,
        }
    }

    fn is_alive(&self) -> bool {
        let inside = self.disk.lock();
        inside.handles.contains_key(&self.number) && !inside.is_crashed(self.process)
    }

    fn write(&self, inside: &mut crate::disk::Inside, at: i64, data: &[u8]) -> bool {
        if self.file.write_all_at(data, at as u64).is_err() {
            return false;
        }
        inside.step(Step::Change(self.node, Change::Write(at as usize, data.into())));
        true
    }
}

unsafe extern "C" fn x_close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once; its handle came from a box.
    let handle = unsafe { Box::from_raw((*file.cast::<Opened>()).handle) };
    handle.memory.take();
    let mut inside = handle.disk.lock();
    let was_alive = inside.handles.contains_key(&handle.number) && !inside.is_crashed(handle.process);
    inside.release(handle.number);
    if handle.delete_on_close && was_alive {
        drop(std::fs::remove_file(inside.folder.join(&handle.name)));
        inside.step(Step::Remove(handle.name.clone()));
    }
    drop(inside);
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_read(file: *mut ffi::sqlite3_file, out: *mut c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: SQLite gives a file of ours and room for `len` bytes.
    let (handle, out) =
        unsafe { (handle(file), std::slice::from_raw_parts_mut(out.cast::<u8>(), len as usize)) };
    handle.run(Operation::Read, ffi::SQLITE_IOERR_READ, |_, fault| {
        if fault.is_some() {
            return ffi::SQLITE_IOERR_READ;
        }
        let mut done = 0;
        while done < out.len() {
            match handle.file.read_at(&mut out[done..], at as u64 + done as u64) {
                Ok(0) => {
                    out[done..].fill(0);
                    return ffi::SQLITE_IOERR_SHORT_READ;
                }
                Ok(more) => done += more,
                Err(_) => return ffi::SQLITE_IOERR_READ,
            }
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn x_write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    len: c_int,
    at: i64,
) -> c_int {
    // SAFETY: SQLite gives a file of ours and `len` bytes.
    let (handle, data) =
        unsafe { (handle(file), std::slice::from_raw_parts(data.cast::<u8>(), len as usize)) };
    handle.run(Operation::Write, ffi::SQLITE_IOERR_WRITE, |inside, fault| {
        let (part, outcome) = match fault {
            Some(Kind::CrashMiddle) => (data.len() / 3, ffi::SQLITE_IOERR_WRITE),
            Some(Kind::ShortWrite) => (data.len() / 3, ffi::SQLITE_FULL),
            Some(Kind::Full) => (0, ffi::SQLITE_FULL),
            Some(_) => (0, ffi::SQLITE_IOERR_WRITE),
            None => (data.len(), ffi::SQLITE_OK),
        };
        if part > 0 && !handle.write(inside, at, &data[..part]) {
            return ffi::SQLITE_IOERR_WRITE;
        }
        outcome
    })
}

unsafe extern "C" fn x_truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    // SAFETY: SQLite gives a file of ours.
    let handle = unsafe { handle(file) };
    handle.run(Operation::Truncate, ffi::SQLITE_IOERR_TRUNCATE, |inside, fault| {
        if fault.is_some() || handle.file.set_len(len as u64).is_err() {
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        inside.step(Step::Change(handle.node, Change::Truncate(len as usize)));
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn x_sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite gives a file of ours.
    let handle = unsafe { handle(file) };
    handle.run(Operation::Sync, ffi::SQLITE_IOERR_FSYNC, |inside, fault| match fault {
        None => {
            let directory = handle.syncs_directory.take();
            inside.step(Step::Sync { node: handle.node, directory });
            if directory {
                inside.tidy();
            }
            ffi::SQLITE_OK
        }
        Some(Kind::LyingSync) => {
            inside.step(Step::Nothing);
            ffi::SQLITE_OK
        }
        Some(Kind::EioSync) => {
            inside.step(Step::Forget(handle.node));
            ffi::SQLITE_IOERR_FSYNC
        }
        Some(_) => ffi::SQLITE_IOERR_FSYNC,
    })
}

unsafe extern "C" fn x_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: SQLite gives a file of ours and a place for the answer.
    let handle = unsafe { handle(file) };
    let Some(len) = handle.is_alive().then(|| handle.file.metadata().ok()).flatten().map(|found| found.len())
    else {
        return ffi::SQLITE_IOERR_FSTAT;
    };
    // SAFETY: as above.
    unsafe { *out = len as i64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite gives a file of ours.
    let handle = unsafe { handle(file) };
    let mut inside = handle.disk.lock();
    if !inside.handles.contains_key(&handle.number) || inside.is_crashed(handle.process) {
        return ffi::SQLITE_IOERR_LOCK;
    }
    let levels = &mut inside.locks.entry(handle.node).or_default().levels;
    let mine = levels.get(&handle.number).copied().unwrap_or(ffi::SQLITE_LOCK_NONE);
    if mine >= level {
        return ffi::SQLITE_OK;
    }
    let others =
        levels.iter().filter(|(of, _)| **of != handle.number).map(|(_, level)| *level).max().unwrap_or(0);
    let (reached, outcome) = match level {
        ffi::SQLITE_LOCK_SHARED if others >= ffi::SQLITE_LOCK_PENDING => (mine, ffi::SQLITE_BUSY),
        ffi::SQLITE_LOCK_RESERVED.. if others >= ffi::SQLITE_LOCK_RESERVED => (mine, ffi::SQLITE_BUSY),
        ffi::SQLITE_LOCK_EXCLUSIVE if others >= ffi::SQLITE_LOCK_SHARED => {
            (ffi::SQLITE_LOCK_PENDING, ffi::SQLITE_BUSY)
        }
        _ => (level, ffi::SQLITE_OK),
    };
    if reached > ffi::SQLITE_LOCK_NONE {
        levels.insert(handle.number, reached);
    }
    outcome
}

unsafe extern "C" fn x_unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite gives a file of ours.
    let handle = unsafe { handle(file) };
    let mut inside = handle.disk.lock();
    if let Some(locks) = inside.locks.get_mut(&handle.node) {
        if level == ffi::SQLITE_LOCK_NONE {
            locks.levels.remove(&handle.number);
        } else if let Some(mine) = locks.levels.get_mut(&handle.number) {
            *mine = level.min(*mine);
        }
    }
    drop(inside);
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_check_reserved(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite gives a file of ours and a place for the answer.
    let handle = unsafe { handle(file) };
    let inside = handle.disk.lock();
    let reserved = inside
        .locks
        .get(&handle.node)
        .is_some_and(|locks| locks.levels.values().any(|level| *level >= ffi::SQLITE_LOCK_RESERVED));
    drop(inside);
    // SAFETY: as above.
    unsafe { *out = c_int::from(reserved) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn x_sector(_: *mut ffi::sqlite3_file) -> c_int {
    4_096
}

unsafe extern "C" fn x_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn x_map(
    file: *mut ffi::sqlite3_file,
    number: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite gives a file of ours and a place for the answer.
    let handle = unsafe { handle(file) };
    // SAFETY: as above.
    unsafe { *out = ptr::null_mut() };
    let memory = match handle.memory.take() {
        Some(memory) => memory,
        None => {
            let mut inside = handle.disk.lock();
            if !inside.handles.contains_key(&handle.number) || inside.is_crashed(handle.process) {
                return ffi::SQLITE_IOERR_SHMMAP;
            }
            Arc::clone(inside.locks.entry(handle.node).or_default().memory.get_or_insert_default())
        }
    };
    let mut pieces = memory.pieces.lock().unwrap_or_else(PoisonError::into_inner);
    let number = number as usize;
    while extend != 0 && pieces.len() <= number {
        pieces.push(Piece::new(bytes as usize));
    }
    if let Some(piece) = pieces.get(number) {
        // SAFETY: as above; the piece lives as long as the handle has the memory.
        unsafe { *out = piece.words.cast::<c_void>() };
    }
    drop(pieces);
    handle.memory.set(Some(memory));
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_shared_lock(
    file: *mut ffi::sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: SQLite gives a file of ours.
    let handle = unsafe { handle(file) };
    let mut inside = handle.disk.lock();
    if !inside.handles.contains_key(&handle.number) || inside.is_crashed(handle.process) {
        return ffi::SQLITE_IOERR_SHMLOCK;
    }
    let locks = inside.locks.entry(handle.node).or_default();
    let slots = &mut locks.shared_memory[first as usize..(first + count) as usize];
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        slots.iter_mut().for_each(|slot| {
            let _ = slot.remove(&handle.number);
        });
        return ffi::SQLITE_OK;
    }
    let exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
    let in_the_way = |slot: &std::collections::BTreeMap<u64, bool>| {
        slot.iter().any(|(of, theirs)| *of != handle.number && (exclusive || *theirs))
    };
    if slots.iter().any(in_the_way) {
        return ffi::SQLITE_BUSY;
    }
    slots.iter_mut().for_each(|slot| {
        let _ = slot.insert(handle.number, exclusive);
    });
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: SQLite gives a file of ours.
    let handle = unsafe { handle(file) };
    // The mutex is the barrier.
    drop(handle.disk.lock());
}

unsafe extern "C" fn x_unmap(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite gives a file of ours.
    let handle = unsafe { handle(file) };
    let mine = handle.memory.take();
    let mut inside = handle.disk.lock();
    if let (Some(mine), Some(locks)) = (mine, inside.locks.get_mut(&handle.node)) {
        locks.shared_memory.iter_mut().for_each(|slot| {
            let _ = slot.remove(&handle.number);
        });
        // This handle, the list, and nobody else: the next one finds it empty and recovers from the log.
        if Arc::strong_count(&mine) <= 2
            && locks.memory.as_ref().is_some_and(|memory| Arc::ptr_eq(memory, &mine))
        {
            locks.memory = None;
        }
    }
    drop(inside);
    ffi::SQLITE_OK
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved),
    xFileControl: Some(x_control),
    xSectorSize: Some(x_sector),
    xDeviceCharacteristics: Some(x_characteristics),
    xShmMap: Some(x_map),
    xShmLock: Some(x_shared_lock),
    xShmBarrier: Some(x_barrier),
    xShmUnmap: Some(x_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// # Safety
/// `vfs` is ours, and `name` is a C string or null.
unsafe fn simulated(name: *const c_char) -> Option<(Arc<Shared>, String)> {
    if name.is_null() {
        return None;
    }
    // SAFETY: as promised.
    let name = unsafe { CStr::from_ptr(name) };
    find(Path::new(OsStr::from_bytes(name.to_bytes())))
}

/// The VFS that was the default before ours.
unsafe fn base(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: ours has it as its data; see `register`.
    unsafe { (*vfs).pAppData.cast() }
}

unsafe extern "C" fn v_open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives our VFS, a name or null, and room for the larger of the two kinds of file.
    unsafe {
        (*file).pMethods = ptr::null();
        let Some((disk, name)) = simulated(name) else {
            let base = base(vfs);
            return (*base).xOpen.map_or(ffi::SQLITE_CANTOPEN, |open| open(base, name, file, flags, out));
        };
        match open(disk, name, flags) {
            Ok(handle) => {
                (*file.cast::<Opened>()).handle = Box::into_raw(Box::new(handle));
                (*file).pMethods = &raw const METHODS;
                if !out.is_null() {
                    *out = flags;
                }
                ffi::SQLITE_OK
            }
            Err(code) => code,
        }
    }
}

fn open(disk: Arc<Shared>, name: String, flags: c_int) -> Result<Handle, c_int> {
    let process = PROCESS.get();
    let mut inside = disk.lock();
    if inside.is_crashed(process) {
        return Err(ffi::SQLITE_CANTOPEN);
    }
    inside.look_around().map_err(|_| ffi::SQLITE_IOERR)?;
    let known = inside.state.directory.get(&name).copied();
    if known.is_none() && flags & ffi::SQLITE_OPEN_CREATE == 0 {
        return Err(ffi::SQLITE_CANTOPEN);
    }
    let operation = if known.is_some() { Operation::Open } else { Operation::Create };
    match inside.operation(process, operation) {
        Err(()) => return Err(ffi::SQLITE_CANTOPEN),
        Ok(Some(Kind::Full)) => return Err(ffi::SQLITE_FULL),
        Ok(Some(_)) => return Err(ffi::SQLITE_CANTOPEN),
        Ok(None) => {}
    }
    let node = match known {
        Some(node) => node,
        None => {
            let node = inside.open_real(&name, true).map_err(|_| ffi::SQLITE_CANTOPEN)?;
            inside.step(Step::Add(name.clone(), node));
            node
        }
    };
    let number = inside.next;
    inside.next += 1;
    inside.handles.insert(number, process);
    let file = inside.real.get(&node).map(|real| Arc::clone(&real.file)).ok_or(ffi::SQLITE_CANTOPEN)?;
    drop(inside);
    let journals = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
    Ok(Handle {
        disk,
        name,
        number,
        node,
        process,
        file,
        syncs_directory: Cell::new(flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & journals != 0),
        delete_on_close: flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0,
        memory: Cell::new(None),
    })
}

unsafe extern "C" fn v_delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: SQLite gives our VFS and a name.
    let Some((disk, name)) = (unsafe { simulated(name) }) else {
        // SAFETY: the same arguments, for the VFS behind ours.
        return unsafe {
            let base = base(vfs);
            (*base).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |delete| delete(base, name, sync))
        };
    };
    let mut inside = disk.lock();
    if inside.operation(PROCESS.get(), Operation::Delete) != Ok(None) {
        return ffi::SQLITE_IOERR_DELETE;
    }
    let path = inside.folder.join(&name);
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return ffi::SQLITE_IOERR_DELETE_NOENT,
        Err(_) => return ffi::SQLITE_IOERR_DELETE,
    }
    inside.step(Step::Remove(name));
    if sync != 0 {
        inside.step(Step::SyncDirectory);
        inside.tidy();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn v_access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives our VFS, a name and a place for the answer. The real files answer for ours too.
    unsafe {
        let base = base(vfs);
        (*base).xAccess.map_or(ffi::SQLITE_IOERR_ACCESS, |access| access(base, name, flags, out))
    }
}

unsafe extern "C" fn v_full(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the same arguments, for the VFS behind ours.
    unsafe {
        let base = base(vfs);
        (*base).xFullPathname.map_or(ffi::SQLITE_CANTOPEN, |full| full(base, name, len, out))
    }
}

unsafe extern "C" fn v_randomness(vfs: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    if !SIMULATED.get() {
        // SAFETY: the same arguments, for the VFS behind ours.
        return unsafe {
            let base = base(vfs);
            (*base).xRandomness.map_or(0, |randomness| randomness(base, len, out))
        };
    }
    let mut lots = Random(LOTS.get());
    // SAFETY: SQLite gives room for `len` bytes.
    let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), len as usize) };
    out.iter_mut().for_each(|byte| *byte = lots.next() as u8);
    LOTS.set(lots.0);
    len
}

unsafe extern "C" fn v_sleep(vfs: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    if SIMULATED.get() {
        // Whoever is in the way is on this thread, and will not go while it sleeps.
        return micros;
    }
    // SAFETY: the same arguments, for the VFS behind ours.
    unsafe {
        let base = base(vfs);
        (*base).xSleep.map_or(0, |sleep| sleep(base, micros))
    }
}

/// The Julian day of 1970-01-01T00:00 in milliseconds.
const UNIX_EPOCH_MS: i64 = 210_866_760_000_000;

unsafe extern "C" fn v_time_ms(vfs: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: SQLite gives our VFS and a place for the answer.
    unsafe {
        if let Some(unix_ms) = TIME.get() {
            *out = UNIX_EPOCH_MS + unix_ms;
            return ffi::SQLITE_OK;
        }
        let base = base(vfs);
        (*base).xCurrentTimeInt64.map_or(ffi::SQLITE_ERROR, |time| time(base, out))
    }
}

unsafe extern "C" fn v_time(vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    let mut ms = 0;
    // SAFETY: SQLite gives our VFS and a place for the answer.
    unsafe {
        let outcome = v_time_ms(vfs, &raw mut ms);
        *out = ms as f64 / 86_400_000.0;
        outcome
    }
}

unsafe extern "C" fn v_error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}

/// Makes ours the default, once in a process, and begins the thread's lots anew.
pub(crate) fn register(seed: u64) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: finding comes first and initialises SQLite; the table lives for ever.
        unsafe {
            let base = ffi::sqlite3_vfs_find(ptr::null());
            assert!(!base.is_null(), "SQLite has no VFS to stand behind");
            let own = c_int::try_from(size_of::<Opened>()).unwrap_or(c_int::MAX);
            let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
                iVersion: 2,
                szOsFile: own.max((*base).szOsFile),
                mxPathname: (*base).mxPathname,
                pNext: ptr::null_mut(),
                zName: c"landfall-simdisk".as_ptr(),
                pAppData: base.cast(),
                xOpen: Some(v_open),
                xDelete: Some(v_delete),
                xAccess: Some(v_access),
                xFullPathname: Some(v_full),
                xDlOpen: None,
                xDlError: None,
                xDlSym: None,
                xDlClose: None,
                xRandomness: Some(v_randomness),
                xSleep: Some(v_sleep),
                xCurrentTime: Some(v_time),
                xGetLastError: Some(v_error),
                xCurrentTimeInt64: Some(v_time_ms),
                xSetSystemCall: None,
                xGetSystemCall: None,
                xNextSystemCall: None,
            }));
            assert_eq!(ffi::sqlite3_vfs_register(vfs, 1), ffi::SQLITE_OK, "the simulated disk is refused");
        }
    });
    SIMULATED.set(true);
    LOTS.set(seed);
    // SAFETY: with no room for an answer it only makes SQLite draw its seed anew.
    unsafe { ffi::sqlite3_randomness(0, ptr::null_mut()) };
}
