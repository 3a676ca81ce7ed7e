//! What `diagnose` asks about the guest's REST service.

use super::{Asked, Error, Info};
use crate::check::{Check, Outcome};

/// Whether it is there, and what it offers.
pub const API: Check = Check::new(
    "guest.api",
    "what does 127.0.0.1:8006 offer",
    "it is all that stock Kata shows a container: resources by CDH, and with `all` evidence and tokens",
)
.cheap();

/// The questions of this room.
pub fn checks() -> Vec<&'static Check> {
    vec![&API]
}

/// What it said of itself. `needless` says that this guest has another way, or that nobody expects the
/// service here: then its absence is no broken link.
pub fn api(info: Result<&Info, Error>, needless: bool) -> Outcome {
    match info {
        Ok(info) => {
            let on: Vec<&str> = [(info.resource, "resource"), (info.attestation, "attestation")]
                .into_iter()
                .filter_map(|(on, name)| on.then_some(name))
                .collect();
            Outcome::Pass(format!("api-server-rest answers; features on: {}", on.join(", ")))
        }
        // What is older than v0.12 has no `/info`, and serves resources all the same.
        Err(Error::UrlNotFound) => {
            Outcome::Pass("a service answers that does not know `/info`, as those before v0.12 do".to_owned())
        }
        Err(error) if error.is_refused() && needless => Outcome::Skip("nothing listens on 127.0.0.1:8006".to_owned()),
        Err(error) => Outcome::Fail(error.finding(Asked::Info)),
    }
}
