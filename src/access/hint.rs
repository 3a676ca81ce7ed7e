//! Which KBS to ask when CDH gives no reason: the one of trusted configuration, else the one in the
//! initdata that is mounted for us. Advice only: nothing is sent there but a request for a challenge.

use std::path::Path;

use super::cdh::KbsHint;
use super::vouch::mounted;
use super::ways::Endpoint;
use crate::config::KbsUrl;

/// The hint for this run.
pub fn find(endpoint: Option<&Endpoint>, mount: &Path) -> KbsHint {
    match endpoint {
        Some(Endpoint { url, ca, named_in, .. }) => KbsHint { url: url.clone(), ca: ca.clone(), named_in },
        None => from_initdata(mount).unwrap_or_default(),
    }
}

fn from_initdata(mount: &Path) -> Option<KbsHint> {
    let initdata = mounted(mount).ok()??;
    let kbs = initdata.kbs()?;
    let url = KbsUrl::parse(&kbs.url).ok()?;
    Some(KbsHint { url: vec![url], ca: kbs.cert, named_in: "the mounted initdata" })
}
