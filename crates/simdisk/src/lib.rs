//! A disk that loses, tears and refuses writes, under the real SQLite.
//!
//! [`Disk`] serves the files of one temporary folder; every other path goes to the VFS that was SQLite's default before.
//! What a program reads now is in real files, so ordinary looks at them work; what a power cut would leave is kept in
//! memory beside them. [`memory`] makes allocations inside SQLite fail. It knows nothing of Landfall. Tests: `tests/`.
//!
//! The model: a file's writes are durable when the file was synced, in sectors of 512 bytes until then. A directory
//! operation is durable when a new journal or log is first synced or a delete asks for it; with
//! [`Directory::Ordered`] also with any later sync. A failed sync drops what was dirty and says so once. What programs
//! do to files without SQLite is noticed when they appear, disappear or change their names, and is never durable before
//! [`Disk::settle`].

mod disk;
pub mod memory;
mod model;
mod vfs;

pub use disk::{Disk, Entered, Fault, Kind, Process};
pub use model::{Directory, Files, Image, Recording};
pub use vfs::fix_time;
