//! The client of the hub against a fake hub with every fault of a real network.

mod access;
mod faults;
mod layout;
mod python;
mod ranges;
mod resume;
mod support;
mod tls;
