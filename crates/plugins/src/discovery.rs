//! Discovery: where endpoints come from.

pub mod file;
