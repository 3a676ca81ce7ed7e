//! countersign: what happens inside a confidential pod before the app may trust anything.
//!
//! The layers, top to bottom; a room may import the layers below it, never above, and sideways
//! only inside itself (`tests/layers.rs` holds the code to that):
//!
//! | layer | rooms |
//! |---|---|
//! | roles | [`role`], [`tool`] |
//! | flows | [`access`], [`secrets`], [`identity`], [`proxy`] |
//! | ports | [`guest_api`], [`kbs`], [`ramdir`], [`tsm`], [`tls`], [`issuance`], [`observe`], [`sandbox`], [`clock`], [`ports`], [`cli`] |
//! | judges | [`appraise`] |
//! | facts | [`formats`], [`evidence`], [`config`], [`finding`], [`check`], [`secret`] |

pub mod access;
pub mod appraise;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod evidence;
pub mod finding;
pub mod formats;
pub mod guest_api;
pub mod identity;
pub mod issuance;
pub mod kbs;
pub mod observe;
pub mod ports;
pub mod proxy;
pub mod ramdir;
pub mod role;
pub mod sandbox;
pub mod secret;
pub mod secrets;
pub mod tls;
pub mod tool;
pub mod tsm;

use std::process::ExitCode;

/// Runs the binary of the image in the given world.
pub fn run(ports: &ports::Ports) -> ExitCode {
    role::run(ports, role::Tools { config: tool::run_config, verify: tool::verify::run, connect: tool::connect::run })
}
