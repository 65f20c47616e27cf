//! Bundles of the public exporter.

mod bad;
mod common;
mod equal_values;
mod golden;
mod qat;
mod skeleton;
