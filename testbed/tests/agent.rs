//! The guest's own roads to the KBS: evidence and tokens of its agent, resources through its CDH.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod wire;

use aws_lc_rs::digest::{SHA384, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_testbed::guest::{CDH_FAILED, Feature};
use countersign_testbed::kbs::{Kbs, Policy, RunningKbs};
use countersign_testbed::tee::snp::signed_by;
use countersign_testbed::tee::{Guest, Lie, Refusal, SnpGuest, TdxGuest, Vendor, snp};
use countersign_testbed::{GuestApi, World};
use serde_json::Value;
use wire::{Client, KBS, ask_guest, claims};

countersign_testbed::main! {
    evidence_carries_the_bytes_that_were_asked_for [GuestPort],
    evidence_of_the_guest_attests_to_the_kbs [Namespaces],
    token_and_key_of_the_agent_open_resources [Namespaces],
    initdata_of_the_guest_is_in_its_token [Namespaces],
    cdh_fetches_from_the_kbs_and_tells_no_cause [Namespaces],
    refused_guest_gets_no_token [Namespaces],
    bad_requests_are_told_so [GuestPort],
    features_are_off_with_their_own_texts [GuestPort],
    info_names_the_tee_where_attestation_is_on [GuestPort],
}

const INITDATA: &str = "algorithm = \"sha384\"\nversion = \"0.1.0\"\n[data]\n\"my.key\" = \"hello\"\n";

fn genoa() -> Guest {
    Guest::Snp(SnpGuest::genoa())
}

fn guest(api: GuestApi) -> World {
    World::new().unwrap().guest(api)
}

fn with_kbs(kbs: Kbs, api: impl FnOnce(GuestApi, &RunningKbs) -> GuestApi) -> (World, RunningKbs) {
    let world = World::private().unwrap();
    let running = world.kbs(KBS, kbs.resource("a/b/c", "plain"));
    let world = world.guest(api(GuestApi::healthy().kbs(&running), &running));
    (world, running)
}

fn evidence_carries_the_bytes_that_were_asked_for() {
    let world = guest(GuestApi::healthy().attester(genoa()));
    let path = format!("/aa/evidence?runtime_data={}&encoding=base64", URL_SAFE_NO_PAD.encode([7; 48]));
    let answer = ask_guest(&world, "GET", &path);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/octet-stream")));
    let report = snp::from_json(&answer.json()["attestation_report"]).unwrap();
    assert_eq!(report[0x50..0x90], [[7; 48].as_slice(), &[0; 16]].concat());
    let known = SnpGuest::genoa();
    assert!(signed_by(&report, &Vendor::ours().vcek(&known.chip_id, known.tcb)));
    let raw = ask_guest(&world, "GET", "/aa/evidence?runtime_data=x%20y+z").json();
    assert_eq!(snp::from_json(&raw["attestation_report"]).unwrap()[0x50..0x55], *b"x y z");
    let world = guest(GuestApi::healthy().attester(Guest::Tdx(TdxGuest::v4())));
    assert!(ask_guest(&world, "GET", "/aa/evidence?runtime_data=x").json()["quote"].is_string());
}

fn evidence_of_the_guest_attests_to_the_kbs() {
    for kind in [genoa(), Guest::Tdx(TdxGuest::v5()), Guest::Other("az-snp-vtpm")] {
        let (world, kbs) = with_kbs(Kbs::healthy(), |api, _| api.attester(kind.clone()));
        let mut client = Client::new(&world);
        let tee = ask_guest(&world, "GET", "/info").json()["tee"].as_str().unwrap().to_owned();
        let nonce = client.auth(&tee).json()["nonce"].as_str().unwrap().to_owned();
        let data = URL_SAFE_NO_PAD.encode(client.digest(&nonce));
        let path = format!("/aa/evidence?runtime_data={data}&encoding=base64");
        let evidence = ask_guest(&world, "GET", &path).json();
        assert_eq!(client.ask("POST", "/kbs/v0/attest", &client.body(&nonce, &evidence, None)).status, 200);
        assert_eq!(client.open(&client.get("a/b/c").json()).unwrap(), b"plain");
        assert_eq!(kbs.attestations(), 1);
    }
}

fn token_and_key_of_the_agent_open_resources() {
    let (world, kbs) = with_kbs(Kbs::healthy(), |api, _| api.attester(genoa()));
    let answer = ask_guest(&world, "GET", "/aa/token?token_type=kbs");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/octet-stream")));
    let client = Client::from_agent(&world, &answer.json());
    assert_eq!(client.open(&client.get_by_bearer("Bearer", "a/b/c").json()).unwrap(), b"plain");
    let again = ask_guest(&world, "GET", "/aa/token?token_type=kbs").json();
    assert_ne!(again["tee_keypair"], answer.json()["tee_keypair"], "a new key each time");
    assert_eq!(kbs.attestations(), 2);
}

fn initdata_of_the_guest_is_in_its_token() {
    let over = digest(&SHA384, INITDATA.as_bytes());
    let with = Guest::Snp(SnpGuest::genoa().initdata(over.as_ref()));
    let (world, _kbs) = with_kbs(Kbs::healthy(), |api, _| api.attester(with).initdata(INITDATA));
    let answer = ask_guest(&world, "GET", "/aa/token?token_type=kbs").json();
    let claims = claims(answer["token"].as_str().unwrap());
    let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["init_data_claims"]["my.key"], "hello");
}

fn cdh_fetches_from_the_kbs_and_tells_no_cause() {
    let (world, kbs) = with_kbs(Kbs::healthy(), |api, _| api.attester(genoa()).secret("x/y/z", "scripted"));
    assert_eq!(ask_guest(&world, "GET", "/cdh/resource/a/b/c").body, b"plain");
    assert_eq!(ask_guest(&world, "GET", "/cdh/resource/x/y/z").body, b"scripted");
    kbs.set_policy(Policy::DenyAll);
    for path in ["/cdh/resource/a/b/c", "/cdh/resource/no/such/thing"] {
        let answer = ask_guest(&world, "GET", path);
        assert_eq!((answer.status, answer.body), (500, CDH_FAILED.as_bytes().to_vec()));
    }
}

fn refused_guest_gets_no_token() {
    let liar = Guest::Snp(SnpGuest::genoa().lying(Lie::OtherKey));
    let (world, kbs) = with_kbs(Kbs::healthy(), |api, _| api.attester(liar));
    let answer = ask_guest(&world, "GET", "/aa/token?token_type=kbs");
    assert_eq!((answer.status, answer.header("content-type")), (500, None));
    assert!(answer.json() == Value::Null && String::from_utf8_lossy(&answer.body).contains("get token failed"));
    assert_eq!(kbs.refusals(), [Refusal::Signature]);
    // No KBS at all looks the same.
    let world = guest(GuestApi::healthy().attester(genoa()));
    assert_eq!(ask_guest(&world, "GET", "/aa/token?token_type=kbs").body, answer.body);
}

fn bad_requests_are_told_so() {
    let world = guest(GuestApi::healthy().attester(genoa()));
    for path in [
        "/aa/token",
        "/aa/token?type=kbs",
        "/aa/evidence",
        "/aa/evidence?runtime_data=!!&encoding=base64",
        "/aa/evidence?runtime_data=eA==&encoding=base64",
        "/aa/evidence?runtime_data=eA&encoding=hex",
    ] {
        let answer = ask_guest(&world, "GET", path);
        assert_eq!((answer.status, answer.body), (400, b"BAD REQUEST".to_vec()), "{path}");
    }
    let wide = URL_SAFE_NO_PAD.encode([0; 65]);
    let path = format!("/aa/evidence?runtime_data={wide}&encoding=base64");
    assert_eq!(ask_guest(&world, "GET", &path).status, 500);
    for (method, path) in [("POST", "/aa/token?token_type=kbs"), ("GET", "/aa/additional-evidence?runtime_data=x")] {
        let answer = ask_guest(&world, method, path);
        assert_eq!((answer.status, answer.body), (404, b"URL NOT FOUND".to_vec()), "{path}");
    }
    assert_eq!(ask_guest(&world, "POST", "/info").status, 405);
}

fn features_are_off_with_their_own_texts() {
    let api = || GuestApi::healthy().attester(genoa()).secret("a/b/c", "x");
    for (feature, aa, cdh) in
        [(Feature::All, 200, 200), (Feature::Resource, 404, 200), (Feature::Attestation, 200, 404)]
    {
        let world = guest(api().feature(feature));
        let evidence = ask_guest(&world, "GET", "/aa/evidence?runtime_data=x");
        let resource = ask_guest(&world, "GET", "/cdh/resource/a/b/c");
        assert_eq!((evidence.status, resource.status), (aa, cdh), "{feature:?}");
        assert!(aa == 200 || evidence.body == b"Attestation Feature Not Enabled");
        assert!(cdh == 200 || resource.body == b"Resource Feature Not Enabled");
    }
}

fn info_names_the_tee_where_attestation_is_on() {
    let api = || GuestApi::healthy().attester(Guest::Tdx(TdxGuest::v4()));
    let info = |api: GuestApi| ask_guest(&guest(api), "GET", "/info").json();
    let all = info(api().additional_tees(&["nvidia"]));
    assert_eq!((&all["tee"], &all["feature"]), (&"tdx".into(), &"all".into()));
    assert_eq!(all["additional_tees"], serde_json::json!(["nvidia"]));
    let resource = info(api().feature(Feature::Resource));
    assert!(resource["feature"] == "resource" && resource.get("tee").is_none());
    assert!(info(api()).get("additional_tees").is_none(), "v0.21.0 has no such member");
}
