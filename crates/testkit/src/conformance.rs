//! Public suites that define a contract by what must hold, so that a third party can run them on its own code.
//!
//! A suite is a table of named cases, each a plain function; it knows the contract and no implementation. They are run
//! from the `tests/` folders of this crate and of the crates that implement a contract; [`server`] also by
//! `landfall conformance`.

pub mod server;
pub mod store;
