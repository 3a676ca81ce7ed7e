//! Whether a signed receipt is a guest's own, and of a guest that may be believed: its attestation result is
//! judged as a peer's is, and its key must have signed the receipt. Pure.

use std::time::Duration;

use super::peer::{self, evidence};
use crate::config::spiffe::PeerPattern;
use crate::formats::delivery::{NONCE, Receipt, Signed};
use crate::formats::ear::{LEEWAY, TrustAnchors};
use crate::formats::pins::Pins;

/// What a receipt must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'e> {
    /// Who may sign its attestation result.
    pub token_roots: &'e TrustAnchors,
    /// What each identity must show.
    pub pins: &'e Pins,
    /// Whose it must be.
    pub peer: &'e PeerPattern,
    /// Oldest attestation, and oldest receipt, that count.
    pub max_age: Duration,
    /// What it must answer. `None`: nobody asked for this one, and any will do.
    pub nonce: Option<&'e [u8; NONCE]>,
    /// Seconds since 1970.
    pub now: u64,
}

/// A receipt that its guest has signed. Says nothing of what became of the files.
#[derive(Clone, Debug)]
pub struct Vouched {
    receipt: Receipt,
}

/// Why a receipt is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its attestation result is not good for the identity that it names.
    #[error("the evidence beside the receipt {0}")]
    Evidence(peer::Error),
    /// Signed by another key, or altered.
    #[error("the receipt is not signed by the attested key, or was altered")]
    Signature,
    /// Good, and somebody else's.
    #[error("the receipt is of another identity than the expected one")]
    Identity,
    /// Answers somebody else, or an earlier question.
    #[error("the receipt does not answer the nonce that was sent: it may be an old one")]
    Nonce,
    /// Signed in the future.
    #[error("the receipt was signed later than now")]
    Early,
    /// Signed too long ago.
    #[error("the receipt was signed longer ago than `max_age`")]
    Late,
}

/// Judges a receipt.
pub fn judge(signed: &Signed, expected: &Expected<'_>) -> Result<Vouched, Error> {
    let receipt = &signed.receipt;
    let (token_roots, pins, max_age, now) = (expected.token_roots, expected.pins, expected.max_age, expected.now);
    let appraised = evidence(&signed.ear, &peer::Expected { token_roots, pins, peer: &receipt.id, max_age, now })
        .map_err(Error::Evidence)?;
    if !appraised.has_signed(&receipt.signing_input(), &signed.signature) {
        return Err(Error::Signature);
    }
    if !expected.peer.matches(&receipt.id) {
        return Err(Error::Identity);
    }
    if expected.nonce.is_some_and(|nonce| receipt.nonce.as_ref() != Some(nonce)) {
        return Err(Error::Nonce);
    }
    if receipt.signed > now.saturating_add(LEEWAY) {
        return Err(Error::Early);
    }
    if now >= receipt.signed.saturating_add(max_age.as_secs()) {
        return Err(Error::Late);
    }
    Ok(Vouched { receipt: receipt.clone() })
}

impl Vouched {
    /// What it says.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use serde_json::{Value, json};

    use super::*;
    use crate::formats::delivery::testing::{API, receipt};
    use crate::formats::ear::testing::{NOW, Party, World, claims, root};
    use crate::formats::ear::{self, ChainError};

    const WEB: &str = "spiffe://example.org/ns/web/sa/front";
    const AGE: u64 = 3600;

    struct Scene {
        world: World,
        guest: Party,
    }

    impl Scene {
        fn new() -> Self {
            let guest = root("guest");
            Self { world: World { guest: guest.public(), ..World::new() }, guest }
        }

        fn ear(&self, change: impl Fn(&mut Value)) -> String {
            let mut claims = claims(&self.world.guest);
            claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["init_data"] = json!("aa".repeat(32));
            change(&mut claims);
            self.world.token(&claims)
        }

        fn signed(&self, receipt: Receipt) -> Signed {
            sign(&self.guest, receipt, self.ear(|_| {}))
        }
    }

    fn sign(by: &Party, receipt: Receipt, ear: String) -> Signed {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &by.key.serialize_der()).unwrap();
        let signature = key.sign(&SystemRandom::new(), &receipt.signing_input()).unwrap();
        Signed { receipt, signature: signature.as_ref().try_into().unwrap(), ear }
    }

    fn verdict(scene: &Scene, signed: &Signed, now: u64) -> Result<(), Error> {
        judged(scene, signed, now, API, Some(&[3; 32]))
    }

    fn judged(scene: &Scene, signed: &Signed, now: u64, peer: &str, nonce: Option<&[u8; 32]>) -> Result<(), Error> {
        let pin = json!({"init_data": ["aa".repeat(48)], "hardware": "any"});
        let pins = json!({"serial": 1, "policy_ids": ["default"], "peers": {API: pin}});
        let pins = Pins::parse(pins.to_string().as_bytes()).unwrap();
        let expected = Expected {
            token_roots: &scene.world.anchors,
            pins: &pins,
            peer: &PeerPattern::parse(peer).unwrap(),
            max_age: Duration::from_secs(AGE),
            nonce,
            now,
        };
        judge(signed, &expected).map(|vouched| assert_eq!(vouched.receipt(), &signed.receipt))
    }

    #[test]
    fn a_receipt_of_the_attested_key_is_believed() {
        let scene = Scene::new();
        let good = scene.signed(receipt(NOW));
        assert_eq!(verdict(&scene, &good, NOW), Ok(()));
        assert_eq!(judged(&scene, &good, NOW, API, None), Ok(()), "whoever kept it has no nonce to hold it to");
        assert_eq!(judged(&scene, &good, NOW, "spiffe://example.org/ns/payments/sa/*", None), Ok(()));
    }

    #[test]
    fn a_receipt_signed_by_another_key_is_refused() {
        let scene = Scene::new();
        let forged = sign(&root("another"), receipt(NOW), scene.ear(|_| {}));
        assert_eq!(verdict(&scene, &forged, NOW), Err(Error::Signature));
        // A signature for another purpose is none for this one.
        let good = scene.signed(receipt(NOW));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &scene.guest.key.serialize_der()).unwrap();
        let bare = key.sign(&SystemRandom::new(), &good.receipt.canonical()).unwrap();
        let bare = Signed { signature: bare.as_ref().try_into().unwrap(), ..good };
        assert_eq!(verdict(&scene, &bare, NOW), Err(Error::Signature));
    }

    #[test]
    fn an_altered_receipt_is_refused() {
        let scene = Scene::new();
        let altered = |change: &dyn Fn(&mut Receipt)| {
            let mut signed = scene.signed(receipt(NOW));
            change(&mut signed.receipt);
            verdict(&scene, &signed, NOW)
        };
        assert_eq!(altered(&|_| {}), Ok(()));
        assert_eq!(altered(&|it| it.delivered.serial = 8), Err(Error::Signature));
        assert_eq!(altered(&|it| drop(it.delivered.files.pop())), Err(Error::Signature));
        assert_eq!(altered(&|it| it.delivered.files[0].mode = 0o400), Err(Error::Signature));
        assert_eq!(altered(&|it| it.signed += 1), Err(Error::Signature));
        assert_eq!(altered(&|it| it.nonce = None), Err(Error::Signature));
    }

    #[test]
    fn a_receipt_with_a_strangers_evidence_is_refused() {
        let scene = Scene::new();
        let stranger = World { guest: scene.guest.public(), ..World::new() };
        let mut claims = claims(&stranger.guest);
        claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["init_data"] = json!("aa".repeat(32));
        let ear = stranger.token(&claims);
        let refused = Err(Error::Evidence(peer::Error::Token(ear::Error::Chain(ChainError::NoAnchor))));
        assert_eq!(verdict(&scene, &sign(&scene.guest, receipt(NOW), ear), NOW), refused);
    }

    #[test]
    fn a_receipt_that_is_too_old_is_refused() {
        let scene = Scene::new();
        let good = scene.signed(receipt(NOW));
        assert_eq!(verdict(&scene, &good, NOW + AGE - 1), Ok(()));
        let expired = Err(Error::Evidence(peer::Error::Token(ear::Error::Expired)));
        assert_eq!(verdict(&scene, &good, NOW + AGE), expired);
        // Newer evidence makes no old receipt new.
        let renewed = sign(&scene.guest, receipt(NOW), scene.ear(|claims| claims["iat"] = json!(NOW + 10)));
        assert_eq!(verdict(&scene, &renewed, NOW + AGE), Err(Error::Late));
        let early = scene.signed(receipt(NOW + LEEWAY + 1));
        assert_eq!(verdict(&scene, &early, NOW), Err(Error::Early));
    }

    #[test]
    fn a_receipt_of_a_guest_that_is_not_pinned_is_refused() {
        let scene = Scene::new();
        let other = Receipt { id: crate::config::spiffe::PeerId::parse(WEB).unwrap(), ..receipt(NOW) };
        assert_eq!(verdict(&scene, &scene.signed(other), NOW), Err(Error::Evidence(peer::Error::NoPin)));
        let ear = scene.ear(|claims| {
            claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["init_data"] = json!("bb".repeat(32));
        });
        let refused = Err(Error::Evidence(peer::Error::InitData));
        assert_eq!(verdict(&scene, &sign(&scene.guest, receipt(NOW), ear), NOW), refused);
    }

    #[test]
    fn a_receipt_of_another_identity_is_refused() {
        let scene = Scene::new();
        let good = scene.signed(receipt(NOW));
        assert_eq!(judged(&scene, &good, NOW, WEB, None), Err(Error::Identity));
    }

    #[test]
    fn a_receipt_for_another_nonce_is_refused() {
        let scene = Scene::new();
        let good = scene.signed(receipt(NOW));
        assert_eq!(judged(&scene, &good, NOW, API, Some(&[4; 32])), Err(Error::Nonce));
        let unasked = scene.signed(Receipt { nonce: None, ..receipt(NOW) });
        assert_eq!(verdict(&scene, &unasked, NOW), Err(Error::Nonce));
        assert_eq!(judged(&scene, &unasked, NOW, API, None), Ok(()));
    }
}
