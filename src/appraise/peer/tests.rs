//! One good peer, and each way in which one can be wrong.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use super::*;
use crate::config::spiffe::SpiffeId;
use crate::formats::ear::ChainError;
use crate::formats::ear::testing::{NOW, Party, World, claims, root};
use crate::formats::statement::Purpose;

pub(super) const API: &str = "spiffe://example.org/ns/payments/sa/api";
const WEB: &str = "spiffe://example.org/ns/web/sa/front";
const AGE: Duration = Duration::from_secs(3600);

/// A verifier with pins, and a guest that they are about.
pub(super) struct Scene {
    pub(super) world: World,
    guest: Party,
    pub(super) pins: Value,
    max_age: Duration,
    pub(super) now: u64,
}

impl Scene {
    pub(super) fn new() -> Self {
        let guest = root("guest");
        let world = World { guest: guest.public(), ..World::new() };
        let pins = json!({"serial": 1, "policy_ids": ["default"], "peers": {
            API: {"init_data": ["aa".repeat(48)], "hardware_ids": ["c1".repeat(64)], "min_serial": 7},
            WEB: {"init_data": ["bb".repeat(48)], "hardware": "any"},
        }});
        Self { world, guest, pins, max_age: AGE, now: NOW }
    }

    /// The claims of `API`'s guest on SEV-SNP.
    pub(super) fn claims(&self) -> Value {
        let mut claims = claims(&self.world.guest);
        let evidence = &mut claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
        evidence["init_data"] = json!("aa".repeat(32));
        evidence["init_data_claims"]["countersign.toml"] = json!("version = 1\nserial = 7\n");
        evidence["snp"]["chip_id"] = json!("c1".repeat(64));
        claims
    }

    pub(super) fn judge(&self, token: &str, peer: &str) -> Result<Appraised, Error> {
        let pins = Pins::parse(self.pins.to_string().as_bytes()).unwrap();
        let peer = PeerId::Spiffe(SpiffeId::parse(peer).unwrap());
        let expected = Expected {
            token_roots: &self.world.anchors,
            pins: &pins,
            peer: &peer,
            max_age: self.max_age,
            now: self.now,
        };
        evidence(token, &expected)
    }

    /// The verdict where the claims were changed before they were signed.
    fn with(&self, change: impl Fn(&mut Value)) -> Result<Appraised, Error> {
        let mut claims = self.claims();
        change(&mut claims);
        self.judge(&self.world.token(&claims), API)
    }

    /// The same where the CPU's annotated evidence was.
    fn with_evidence(&self, change: impl Fn(&mut Value)) -> Error {
        self.with(|claims| change(&mut claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"])).unwrap_err()
    }

    fn sign(&self, statement: &Statement) -> [u8; 64] {
        sign(&self.guest, &statement.signing_input())
    }
}

fn sign(by: &Party, message: &[u8]) -> [u8; 64] {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &by.key.serialize_der()).unwrap();
    key.sign(&SystemRandom::new(), message).unwrap().as_ref().try_into().unwrap()
}

fn statement() -> Statement {
    let leaf = LeafBinding { spki: [1; 32], names: [2; 32] };
    Statement { purpose: Purpose::ChannelClient, leaf, nonce: [3; 32], exporter: [4; 32] }
}

#[test]
fn a_peer_with_everything_that_is_demanded_is_proven_until_its_evidence_is_old() {
    let scene = Scene::new();
    let appraised = Arc::new(scene.with(|_| {}).unwrap());
    assert_eq!(appraised.until(), NOW + 3600);
    let stated = statement();
    let proven = channel(&appraised, &stated.canonical(), &scene.sign(&stated), &stated).unwrap();
    assert_eq!((proven.leaf(), proven.appraised().peer().to_string()), (stated.leaf, API.to_owned()));
}

#[test]
fn an_identity_that_is_pinned_nowhere_is_refused() {
    let scene = Scene::new();
    let token = scene.world.token(&scene.claims());
    assert_eq!(scene.judge(&token, "spiffe://example.org/ns/payments/sa/other").unwrap_err(), Error::NoPin);
}

#[test]
fn a_guest_with_the_initdata_of_one_and_the_name_of_another_is_refused() {
    let scene = Scene::new();
    let token = scene.world.token(&scene.claims());
    assert_eq!(scene.judge(&token, WEB).unwrap_err(), Error::InitData);
}

#[test]
fn a_token_of_another_signer_is_refused() {
    let (scene, stranger) = (Scene::new(), World::new());
    let token = stranger.token(&scene.claims());
    let refused = Error::Token(ear::Error::Chain(ChainError::NoAnchor));
    assert_eq!(scene.judge(&token, API).unwrap_err(), refused);
}

#[test]
fn a_token_whose_key_no_certificate_vouches_for_is_refused() {
    let (scene, other) = (Scene::new(), root("other"));
    // Without x5c.
    let bare = scene.world.signer.token(&[], &scene.claims());
    assert_eq!(scene.judge(&bare, API).unwrap_err(), Error::Token(ear::Error::Chain(ChainError::Missing)));
    // With the x5c of another key.
    let borrowed = other.token(&[&scene.world.signer, &scene.world.root], &scene.claims());
    assert_eq!(scene.judge(&borrowed, API).unwrap_err(), Error::Token(ear::Error::KeyMismatch));
}

#[test]
fn times_of_another_type_are_refused_and_never_taken_as_absent() {
    let scene = Scene::new();
    for name in ["iat", "exp"] {
        for value in [json!("1780272000"), json!(1_780_272_000.5), json!(null), json!([NOW]), json!(-1)] {
            let refused = scene.with(|claims| claims[name] = value.clone()).unwrap_err();
            assert_eq!(refused, Error::Token(ear::Error::Claims), "{name} {value}");
        }
        let refused = scene.with(|claims| drop(claims.as_object_mut().unwrap().remove(name))).unwrap_err();
        assert_eq!(refused, Error::Token(ear::Error::Claims), "{name}");
    }
}

#[test]
fn evidence_is_too_old_by_the_time_it_was_issued_and_not_by_its_exp() {
    let mut scene = Scene::new();
    // Trustee's five minutes are long over.
    scene.now = NOW + 3599;
    assert_eq!(scene.with(|_| {}).unwrap().until(), NOW + 3600);
    scene.now = NOW + 3600;
    assert_eq!(scene.with(|_| {}).unwrap_err(), Error::Token(ear::Error::Expired));
    scene.now = NOW + 36_000;
    let refused = scene.with(|claims| claims["exp"] = json!(NOW + 360_000)).unwrap_err();
    assert_eq!(refused, Error::Token(ear::Error::Expired));
    // The verifier's clock may be ahead of ours, by so much.
    scene.now = NOW - 60;
    scene.with(|_| {}).unwrap();
    scene.now = NOW - 61;
    assert_eq!(scene.with(|_| {}).unwrap_err(), Error::Token(ear::Error::NotYet));
}

#[test]
fn a_submod_that_was_attested_for_another_key_is_refused() {
    let scene = Scene::new();
    let with = |runtime: &dyn Fn(&Value) -> Value| {
        scene.with(|claims| {
            let cpu = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["runtime_data_claims"];
            let evidence = json!({"runtime_data_claims": runtime(cpu)});
            claims["submods"]["gpu0"] = json!({
                "ear.status": "affirming", "ear.appraisal-policy-id": "default", "ear.veraison.annotated-evidence": evidence,
            });
        })
    };
    with(&Value::clone).unwrap();
    let other = claims(&root("other").public())["submods"]["cpu0"]["ear.veraison.annotated-evidence"].clone();
    let refused = with(&|_| other["runtime_data_claims"].clone()).unwrap_err();
    assert_eq!(refused, Error::Token(ear::Error::OtherKey));
    let none = scene.with_evidence(|evidence| drop(evidence.as_object_mut().unwrap().remove("runtime_data_claims")));
    assert_eq!(none, Error::Token(ear::Error::NoRuntimeData));
}

#[test]
fn every_submod_must_be_there_and_affirming() {
    let mut scene = Scene::new();
    for status in ["none", "warning", "contraindicated"] {
        let refused = scene.with(|claims| claims["submods"]["cpu0"]["ear.status"] = json!(status)).unwrap_err();
        assert_eq!(refused, Error::Verdict(status));
        let refused = scene.with(|claims| claims["submods"]["gpu0"] = json!({"ear.status": status})).unwrap_err();
        assert_eq!(refused, Error::Verdict(status), "a device's");
    }
    let unknown = scene.with(|claims| claims["submods"]["cpu0"]["ear.status"] = json!("Affirming")).unwrap_err();
    assert_eq!(unknown, Error::Token(ear::Error::Claims));
    scene.pins["peers"][API]["submods"] = json!(["gpu0"]);
    assert_eq!(scene.with(|_| {}).unwrap_err(), Error::MissingSubmod);
    let gpu = json!({"ear.status": "affirming", "ear.appraisal-policy-id": "default"});
    scene.with(|claims| claims["submods"]["gpu0"] = gpu.clone()).unwrap();
}

#[test]
fn a_sample_is_refused_whatever_the_verdict() {
    let scene = Scene::new();
    assert_eq!(scene.with_evidence(|evidence| evidence["sample"] = json!({"svn": "1"})), Error::Sample);
}

#[test]
fn a_verdict_of_another_policy_is_refused() {
    let scene = Scene::new();
    let id = "ear.appraisal-policy-id";
    let refused = scene.with(|claims| claims["submods"]["cpu0"][id] = json!("lax")).unwrap_err();
    assert_eq!(refused, Error::Policy);
    let cpu = |claims: &mut Value| drop(claims["submods"]["cpu0"].as_object_mut().unwrap().remove(id));
    assert_eq!(scene.with(cpu).unwrap_err(), Error::Policy);
}

#[test]
fn an_initdata_that_is_absent_or_unset_or_another_is_refused() {
    let scene = Scene::new();
    let set = |value: Value| scene.with_evidence(|evidence| evidence["init_data"] = value.clone());
    assert_eq!(set(json!("00".repeat(32))), Error::NoInitData);
    assert_eq!(set(json!("aa")), Error::NoInitData);
    assert_eq!(set(json!("")), Error::NoInitData);
    assert_eq!(set(json!("not hex")), Error::NoInitData);
    assert_eq!(set(json!(null)), Error::Token(ear::Error::Claims));
    assert_eq!(set(json!("ab".repeat(32))), Error::InitData);
    let absent = |evidence: &mut Value| drop(evidence.as_object_mut().unwrap().remove("init_data"));
    assert_eq!(scene.with_evidence(absent), Error::NoInitData);
}

#[test]
fn a_machine_that_is_not_listed_or_hides_itself_is_refused() {
    let mut scene = Scene::new();
    let set = |scene: &Scene, value: Value| scene.with_evidence(|evidence| evidence["snp"]["chip_id"] = value.clone());
    assert_eq!(set(&scene, json!("c2".repeat(64))), Error::Hardware);
    assert_eq!(set(&scene, json!("00".repeat(64))), Error::NoHardware);
    assert_eq!(set(&scene, json!(7)), Error::NoHardware);
    let second = scene.claims()["submods"]["cpu0"].clone();
    let refused = scene.with(|claims| {
        claims["submods"]["cpu1"] = second.clone();
        claims["submods"]["cpu1"]["ear.veraison.annotated-evidence"]["snp"]["chip_id"] = json!("c2".repeat(64));
    });
    assert_eq!(refused.unwrap_err(), Error::Hardware, "any CPU's");
    // Written out, it is not asked.
    scene.pins["peers"][API] = json!({"init_data": ["aa".repeat(48)], "hardware": "any"});
    scene.with(|claims| claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["snp"] = json!({})).unwrap();
}

#[test]
fn a_td_is_pinned_by_its_platform() {
    let (provider, instance) = ("platform_provider_id", "platform_instance_id");
    let mut scene = Scene::new();
    scene.pins["peers"][API]["hardware_ids"] = json!(["d1".repeat(16)]);
    let tdx = |said: Value| {
        let judged = scene.with(|claims| {
            let evidence = &mut claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
            evidence.as_object_mut().unwrap().remove("snp");
            evidence["tdx"] = said.clone();
            evidence["init_data"] = json!("aa".repeat(48));
        });
        judged.map(|appraised| appraised.hardware().map(<[u8]>::to_vec))
    };
    let id = |byte: &str| byte.repeat(16);
    for (member, other) in [(provider, instance), (instance, provider)] {
        tdx(json!({member: id("d1")})).unwrap();
        assert_eq!(tdx(json!({member: id("d2")})).unwrap_err(), Error::Hardware);
        // Its other name hides none that is listed, whether it is there, empty, or no id.
        for beside in ["d3".repeat(16), String::new(), id("00"), "no id".to_owned()] {
            tdx(json!({member: id("d1"), other: beside})).unwrap();
            assert_eq!(tdx(json!({member: id("d2"), other: beside})).unwrap_err(), Error::Hardware);
        }
        for nothing in [json!({}), json!({member: "", other: ""}), json!({member: id("00"), other: id("00")})] {
            assert_eq!(tdx(nothing).unwrap_err(), Error::NoHardware);
        }
    }
    let named = tdx(json!({provider: "", instance: id("d1")})).unwrap();
    assert_eq!(named, Some(vec![0xd1; 16]), "for audits too");
}

#[test]
fn a_configuration_that_is_too_old_or_unseen_is_refused() {
    let scene = Scene::new();
    let set =
        |text: &str| scene.with_evidence(|evidence| evidence["init_data_claims"]["countersign.toml"] = json!(text));
    for text in ["serial = 6\n", "version = 1\n", "serial = \"7\"\n", "serial = -7\n", "serial = 7\nserial = 8\n", "\0"]
    {
        assert_eq!(set(text), Error::Serial, "{text}");
    }
    assert_eq!(scene.with_evidence(|evidence| evidence["init_data_claims"] = json!({})), Error::Serial);
}

#[test]
fn a_token_that_a_stranger_stole_proves_nothing() {
    let (scene, thief) = (Scene::new(), root("thief"));
    let appraised = Arc::new(scene.with(|_| {}).unwrap());
    let stated = statement();
    let signature = sign(&thief, &stated.signing_input());
    assert_eq!(channel(&appraised, &stated.canonical(), &signature, &stated).unwrap_err(), Error::Signature);
    // Nor does a signature over the bare statement, without the domain before it.
    let bare = sign(&scene.guest, &stated.canonical());
    assert_eq!(channel(&appraised, &stated.canonical(), &bare, &stated).unwrap_err(), Error::Signature);
}

#[test]
fn a_statement_of_another_session_side_challenge_or_certificate_is_refused() {
    let scene = Scene::new();
    let appraised = Arc::new(scene.with(|_| {}).unwrap());
    let other = |change: &dyn Fn(&mut Statement)| {
        let mut stated = statement();
        change(&mut stated);
        // Properly signed: by the peer itself, for something else.
        channel(&appraised, &stated.canonical(), &scene.sign(&stated), &statement()).unwrap_err()
    };
    let refused = |name| Error::Statement(statement::Error::Other(name));
    assert_eq!(other(&|it| it.purpose = Purpose::ChannelServer), refused("purpose"));
    assert_eq!(other(&|it| it.nonce = [9; 32]), refused("nonce"));
    assert_eq!(other(&|it| it.exporter = [9; 32]), refused("exporter"));
    assert_eq!(other(&|it| it.leaf.spki = [9; 32]), refused("spki"));
    assert_eq!(other(&|it| it.leaf.names = [9; 32]), refused("names"));
    // The expected words under a signature over others.
    let signature = scene.sign(&Statement { nonce: [9; 32], ..statement() });
    let refused = channel(&appraised, &statement().canonical(), &signature, &statement()).unwrap_err();
    assert_eq!(refused, Error::Signature);
}

#[test]
fn what_is_no_token_is_refused() {
    let scene = Scene::new();
    for text in ["", "a.b.c", "..", &"x".repeat(300_000)] {
        assert!(matches!(scene.judge(text, API), Err(Error::Token(_))));
    }
}

#[test]
fn debug_shows_no_machine_and_no_initdata() {
    let scene = Scene::new();
    let appraised = Arc::new(scene.with(|_| {}).unwrap());
    let proven = channel(&appraised, &statement().canonical(), &scene.sign(&statement()), &statement()).unwrap();
    let shown = format!("{appraised:?} {proven:?}");
    assert!(shown.contains(API) && !shown.contains("c1c1") && !shown.contains("eyJ"), "{shown}");
}
