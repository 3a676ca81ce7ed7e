//! The pages of `[metrics]`: numbers; and, for readers that are known by their certificates, what was
//! delivered to this pod, signed.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::finding::Finding;
use crate::formats::delivery::{NONCE, Receipt, nonce};
use crate::observe::metrics::Metrics;
use crate::observe::plain::{Answer, Page};
use crate::ramdir::RamDir;
use crate::secrets;
use crate::tls::server::Served;

/// Where the numbers are.
const NUMBERS: &str = "/metrics";

/// Where the signed receipt is.
const RECEIPT: &str = "/receipt";

/// Of what a receipt is made.
pub(super) struct Delivered {
    /// The secrets' directory, where the configuration has files.
    pub(super) directory: Option<Arc<RamDir>>,
    /// The attested key of now, and its attestation result.
    pub(super) epochs: watch::Receiver<Option<Arc<Served>>>,
    /// By which receipts are dated.
    pub(super) clock: Clock,
}

/// Why there is no receipt.
#[derive(Debug)]
enum Why {
    Plain,
    BadNonce,
    NothingDelivered,
    NoAttestedKey,
    NoCertificate,
    NotSigned,
    Unsafe(Finding),
}

/// The numbers alone.
pub(super) fn numbers(metrics: &Arc<Metrics>) -> Page {
    let metrics = Arc::clone(metrics);
    Arc::new(move |path: &str| ready(numbers_at(&metrics, path)))
}

/// In plain, for whoever is on loopback: the numbers, and why not the receipt.
pub(super) fn in_plain(metrics: &Arc<Metrics>) -> Page {
    let metrics = Arc::clone(metrics);
    Arc::new(move |path: &str| {
        let receipt = asked(path).map(|_| Why::Plain.told());
        ready(receipt.or_else(|| numbers_at(&metrics, path)))
    })
}

/// For readers over mTLS.
pub(super) fn for_readers(metrics: &Arc<Metrics>, delivered: Delivered) -> Page {
    let metrics = Arc::clone(metrics);
    Arc::new(move |path: &str| {
        let receipt = asked(path).map(|query| delivered.answer(query).unwrap_or_else(|why| why.told()));
        ready(receipt.or_else(|| numbers_at(&metrics, path)))
    })
}

fn ready(answer: Option<Answer>) -> std::pin::Pin<Box<dyn Future<Output = Option<Answer>> + Send>> {
    Box::pin(std::future::ready(answer))
}

fn numbers_at(metrics: &Metrics, path: &str) -> Option<Answer> {
    (path == NUMBERS).then(|| Answer::text(200, metrics.text()))
}

/// What stands behind the receipt's path: nothing, or a query. `None` where something else is asked for.
fn asked(path: &str) -> Option<&str> {
    path.strip_prefix(RECEIPT).filter(|query| query.is_empty() || query.starts_with('?'))
}

impl Delivered {
    fn answer(&self, query: &str) -> Result<Answer, Why> {
        let nonce = if query.is_empty() { None } else { Some(challenge(query).ok_or(Why::BadNonce)?) };
        let now = self.clock.now();
        let served = self.epochs.borrow().clone().filter(|served| now < served.until).ok_or(Why::NoCertificate)?;
        let prover = served.prover.as_ref().ok_or(Why::NoAttestedKey)?;
        // All of them show the same leaf.
        let id = served.entrances.first().and_then(|entrance| entrance.leaf.id()).ok_or(Why::NoAttestedKey)?;
        let directory = self.directory.as_ref().ok_or(Why::NothingDelivered)?;
        let delivered = secrets::standing(directory).map_err(Why::Unsafe)?.ok_or(Why::NothingDelivered)?;
        let signed = prover.receipt(Receipt { delivered, id: id.clone(), nonce, signed: now }).ok_or(Why::NotSigned)?;
        Ok(Answer::json(200, signed.text()))
    }
}

/// Exactly `?nonce=` and one: what is not understood is not passed over.
fn challenge(query: &str) -> Option<[u8; NONCE]> {
    nonce(query.strip_prefix("?nonce=")?)
}

impl Why {
    /// Status, stable word, and what to do.
    fn row(&self) -> (u16, &'static str, String) {
        let (status, word, message) = match self {
            Self::Plain => (
                403,
                "not-in-plain",
                "the receipt comes with this guest's attestation result, which is for listed readers over mTLS alone: \
                 write `allow` or `allow_from` into `[metrics]`",
            ),
            Self::BadNonce => (400, "bad-nonce", "write ?nonce= and 32 bytes in base64url without padding"),
            Self::NothingDelivered => (404, "nothing-delivered", "no set of files stands in `[secrets].directory`"),
            Self::NoAttestedKey => (
                404,
                "no-attested-key",
                "this guest has no attestation result that it may show: put another way than `cdh` first in \
                 `[kbs].via`, and the configuration where it can be believed",
            ),
            Self::NoCertificate => {
                (503, "no-certificate", "there is no valid certificate now: read /readyz for the class")
            }
            Self::NotSigned => (503, "not-signed", "the kernel gives no randomness to sign with"),
            Self::Unsafe(finding) => return (503, finding.class.label(), format!("{}: {}", finding.saw, finding.next)),
        };
        (status, word, message.to_owned())
    }

    fn told(&self) -> Answer {
        let (status, word, message) = self.row();
        let body = json!({"error": word, "status": status, "message": message, "by": "countersign"});
        Answer::json(status, format!("{body}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_nonce_and_nothing_else_is_understood() {
        let good = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM";
        assert_eq!(challenge(&format!("?nonce={good}")), Some([3; NONCE]));
        let bad = ["?", "?nonce", "?nonce=", "?nonce=AwMD", "?x=1"].map(ToOwned::to_owned);
        let more = [format!("?nonce={good}="), format!("?nonce={good}&x=1"), format!("?nonce={good}&nonce={good}")];
        let other = [
            format!("nonce={good}"),
            format!("?Nonce={good}"),
            format!("?nonce={}", good.replace('A', "+")),
            format!("?nonce={}", good.replacen('A', "%41", 1)),
        ];
        for query in bad.iter().chain(&more).chain(&other) {
            assert_eq!(challenge(query), None, "{query}");
        }
    }

    #[test]
    fn without_a_certificate_there_is_no_receipt() {
        let (_epochs, none) = watch::channel(None);
        let delivered = Delivered { directory: None, epochs: none, clock: Clock::system() };
        let why = delivered.answer("").map(drop).expect_err("nothing to sign with");
        let (status, word, message) = why.row();
        assert_eq!((status, word, message.contains("/readyz")), (503, "no-certificate", true));
        assert!(matches!(delivered.answer("?nonce=x"), Err(Why::BadNonce)), "what is malformed is told first");
    }

    #[test]
    fn other_paths_are_not_the_receipt() {
        assert_eq!(asked("/receipt"), Some(""));
        assert_eq!(asked("/receipt?nonce=x"), Some("?nonce=x"));
        for path in ["/", "/metrics", "/receipts", "/receipt/", "//receipt", "/Receipt"] {
            assert_eq!(asked(path), None, "{path}");
        }
    }
}
