//! What leaves the process for people and machines: log lines and the termination message.
//!
//! Everything here may be read by the host. Callers hand in findings and names, never values.

pub mod health;
pub mod log;
pub mod metrics;
pub mod plain;
pub mod termination;
