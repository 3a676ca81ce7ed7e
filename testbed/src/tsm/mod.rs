//! configfs-tsm without a kernel: [`FakeTsm`], and the list that holds it to the real one.
//!
//! | module | what it is |
//! |---|---|
//! | [`fake`] | the kernel's directory of reports, in process, with a provider that is a script |
//! | [`setup`] | the providers that the list asks for, by name |
//! | [`conformance`] | the list: the same checks against the double and a real kernel |
//! | [`kernel`] | the rig of the real kernel, for the program `tsm-conformance` |

pub mod conformance;
pub mod fake;
pub mod kernel;
pub mod setup;

pub use fake::{FakeTsm, Reply, Request};
pub use setup::Setup;
