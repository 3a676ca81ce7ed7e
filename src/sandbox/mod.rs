//! What this process may still ask of the kernel, once it knows what it needs.
//!
//! Whoever takes over a process of ours through the bytes of a peer is to find nothing in his hands:
//! no program to start, no file but the few of the role, no port but those of configuration. Two
//! layers, both of them only ever tightened, both on without being asked for:
//!
//! | layer | when | what |
//! |---|---|---|
//! | [`calls`] (seccomp) | before the first thread, for all of them | which system calls there are |
//! | [`places`] (Landlock) | when configuration is known and the ports are held | which files, which TCP ports |
//!
//! No key, variable or argument switches either off. Where the kernel, or the runtime's own profile,
//! has one of them not, the role says so and goes on: what may run in the pod at all is the agent
//! policy's to say, and this is the second wall, not the first.

pub mod calls;
pub mod places;

use std::fmt;

/// What came of one layer. `Display` is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It holds.
    On(T),
    /// It does not, and why, in fixed words.
    Off(&'static str),
}

impl<T: fmt::Display> fmt::Display for Outcome<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On(what) => what.fmt(f),
            Self::Off(why) => write!(f, "off: {why}"),
        }
    }
}
