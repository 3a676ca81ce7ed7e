//! `level = "hardware"`: two members whose machines must speak too, and each way in which they do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_testbed::tee::SnpGuest;
use countersign_testbed::tee::pki::Vendor;
use rcgen::KeyPair;
use serde_json::json;

use super::testing::*;
use super::*;
use crate::appraise::peer::{Error as Unproven, FreshError};
use crate::appraise::{Makers, snp, tdx};
use crate::finding::{Class, Finding};
use crate::formats::frames::MAX_REPORT;
use crate::tls::demand::Level;
use crate::tls::reports::{Answer, Ask};
use crate::tls::trust::Calls;

fn hardware() -> Level {
    let vendor = Vendor::ours();
    let amd = snp::Roots::replaced(vendor.amd_roots().as_bytes()).unwrap();
    Level::Hardware(Makers { amd, intel: tdx::Root::replaced(vendor.intel_root().as_bytes()).unwrap() })
}

/// The machine that a member's attestation result is about.
fn machine(id: &str) -> SnpGuest {
    SnpGuest { host_data: if id == API { [0xaa; 32] } else { [0xbb; 32] }, ..SnpGuest::genoa() }
}

fn ask(guest: SnpGuest) -> Ask {
    Box::new(move |data| -> Answer {
        let report = guest.evidence(&data).to_string().into_bytes();
        Box::pin(async move { Ok(report) })
    })
}

struct Pair {
    mesh: Mesh,
    keys: [KeyPair; 2],
    api: Member,
    web: Member,
    by: By,
}

impl Pair {
    /// `web` calls `api`, and both demand the hardware's word.
    fn new(by: By) -> Self {
        let mut mesh = Mesh::new();
        mesh.level = hardware();
        let keys = [KeyPair::generate().unwrap(), KeyPair::generate().unwrap()];
        let make = |id: &str, key: &KeyPair| {
            let leaf = if by == By::Evidence {
                mesh.own_leaf(id, key, |_| {})
            } else {
                mesh.leaf(id, &KeyPair::generate().unwrap())
            };
            shows_reports(leaf, key, &token(&mesh, id, key), Some(ask(machine(id))))
        };
        let (api, web) = (make(API, &keys[0]), make(WEB, &keys[1]));
        Self { mesh, keys, api, web, by }
    }

    /// `api` on this machine, or on none.
    fn api_on(&mut self, ask: Option<Ask>) {
        let token = token(&self.mesh, API, &self.keys[0]);
        self.api = shows_reports(Arc::clone(&self.api.leaf), &self.keys[0], &token, ask);
    }

    fn doors(&self) -> (Arc<Door>, Arc<Door>) {
        (self.mesh.door(self.by, Calls::Us, API), self.mesh.door(self.by, Calls::Them, WEB))
    }

    /// What `web` finds of `api`, and `api` of `web`.
    async fn meet(&self) -> (Result<VerifiedPeer, Failure>, Result<VerifiedPeer, Failure>) {
        let (towards_api, towards_web) = self.doors();
        exchange((&self.web, &towards_api), (&self.api, &towards_web), (|it| it, |it| it)).await
    }

    /// What `api` finds of a `web` that says all of its proof but the report, and then this.
    async fn after_the_signature(&self, last: &[u8]) -> Failure {
        let (towards_api, towards_web) = self.doors();
        let say = async |connected: &mut Connected| {
            let ours = Hello { nonce: [7; LENGTH], demands: false, prove_first: false, report: false };
            write(connected, Kind::Hello, &ours.payload()).await.unwrap();
            connected.flush().await.unwrap();
            let theirs = read_hello(connected, &ours).await.unwrap();
            assert!(theirs.demands && theirs.report);
            let exporter = connected.exporter(&theirs.nonce).unwrap();
            let prover = self.web.prover.as_deref().unwrap();
            let proof = word(prover, Purpose::ChannelClient, (theirs.nonce, exporter));
            write_proof(connected, prover.ear(), &proof).await.unwrap();
            connected.write_all(last).await.unwrap();
        };
        answered((&self.web, &towards_api), (&self.api, &towards_web), say).await.unwrap_err()
    }
}

fn token(mesh: &Mesh, id: &str, key: &KeyPair) -> String {
    mesh.token(id, key, |claims| {
        let evidence = &mut claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
        evidence["snp"]["measurement"] = json!("ab".repeat(48));
    })
}

#[tokio::test]
async fn two_members_prove_themselves_with_their_machines() {
    for by in [By::Both, By::Evidence] {
        let (api, web) = Pair::new(by).meet().await;
        let (api, web) = (api.unwrap(), web.unwrap());
        assert_eq!((api.id().to_string(), web.id().to_string()), (API.to_owned(), WEB.to_owned()), "{by:?}");
    }
}

#[tokio::test]
async fn a_stolen_key_is_nobody_without_its_machine() {
    // All that the attested guest has, and a genuine machine of the thief's with the very same guest on it.
    let mut pair = Pair::new(By::Both);
    pair.api_on(Some(ask(SnpGuest { chip_id: [0xc2; 64], ..machine(API) })));
    assert_eq!(pair.meet().await.0.unwrap_err().reason(), Reason::OtherHardware);
    // The key alone would have been enough.
    pair.mesh.level = Level::Key;
    pair.meet().await.0.unwrap();
}

#[tokio::test]
async fn a_report_by_a_self_made_vendor_is_refused() {
    let mut pair = Pair::new(By::Both);
    pair.api_on(Some(ask(SnpGuest { vendor: Vendor::new(), ..machine(API) })));
    assert_eq!(pair.meet().await.0.unwrap_err().reason(), Reason::BadReport);
}

#[tokio::test]
async fn a_report_of_another_connection_is_refused() {
    let mut pair = Pair::new(By::Both);
    let old = machine(API).evidence(&[7; 64]).to_string().into_bytes();
    pair.api_on(Some(Box::new(move |_| {
        let old = old.clone();
        Box::pin(async move { Ok(old) })
    })));
    let Err(Failure::Unproven(why)) = pair.meet().await.0 else { panic!("it is let in") };
    assert_eq!(why, Unproven::Fresh(FreshError::ReportData));
    assert_eq!(Reason::from(why), Reason::OtherSession);
}

#[tokio::test]
async fn a_member_without_a_report_declines_and_is_refused() {
    let failing: Ask = Box::new(|_| Box::pin(async { Err(Finding::new(Class::NoEvidence, "no device")) }));
    let endless: Ask = Box::new(|_| Box::pin(async { Ok(vec![b' '; MAX_REPORT + 1]) }));
    for ask in [None, Some(failing), Some(endless)] {
        let mut pair = Pair::new(By::Both);
        pair.api_on(ask);
        let (api, web) = pair.meet().await;
        assert!(matches!(api, Err(Failure::Declined)), "{api:?}");
        assert!(web.is_err());
    }
    // Whoever calls is told that it is itself who has nothing.
    let mut pair = Pair::new(By::Both);
    let token = token(&pair.mesh, WEB, &pair.keys[1]);
    pair.web = shows_reports(Arc::clone(&pair.web.leaf), &pair.keys[1], &token, None);
    let (api, web) = pair.meet().await;
    assert!(matches!(api, Err(Failure::Demanded(Some(_)))), "{api:?}");
    assert!(matches!(web, Err(Failure::Declined)), "{web:?}");
}

#[tokio::test]
async fn a_report_that_is_missing_cut_or_too_long_is_refused() {
    let pair = Pair::new(By::Both);
    assert_eq!(pair.after_the_signature(&[]).await.reason(), Reason::Gone);
    let head = |length: u32| [&[10][..], &length.to_be_bytes()].concat();
    assert_eq!(pair.after_the_signature(&head(64 * 1024 + 1)).await.reason(), Reason::BadExchange);
    assert_eq!(pair.after_the_signature(&head(10 * 1024 * 1024)).await.reason(), Reason::BadExchange);
    assert_eq!(pair.after_the_signature(&head(0)).await.reason(), Reason::BadExchange);
    assert_eq!(pair.after_the_signature(&[&head(100)[..], b"cut"].concat()).await.reason(), Reason::Gone);
    // A frame of another kind in its place: the app's bytes would follow.
    let decline = frames::write(Kind::Decline, &[]).unwrap();
    assert_eq!(pair.after_the_signature(&decline).await.reason(), Reason::BadExchange);
    let rubbish = frames::write(Kind::Report, b"{}").unwrap();
    assert_eq!(pair.after_the_signature(&rubbish).await.reason(), Reason::BadReport);
}

#[tokio::test]
async fn whoever_wants_the_keys_word_costs_no_report() {
    let mut pair = Pair::new(By::Both);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let inner = ask(machine(API));
    pair.api_on(Some(Box::new(move |data| {
        count.fetch_add(1, Ordering::Relaxed);
        inner(data)
    })));
    pair.meet().await.0.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one for each connection");
    pair.mesh.level = Level::Key;
    pair.meet().await.0.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}
