//! Bundles of the public exporter.

mod bad;
mod common;
mod golden;
mod qat;
mod skeleton;
