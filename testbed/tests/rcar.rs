//! The KBS double verifies what it gets, and goes wrong exactly as it is told to.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA384, digest};
use countersign_testbed::World;
use countersign_testbed::kbs::{Fault, Kbs, Policy, Rule, RunningKbs, Step};
use countersign_testbed::tee::snp::{POLICY, POLICY_DEBUG};
use countersign_testbed::tee::{Guest, Lie, Refusal, SnpGuest, TdxGuest, Vendor, hex};
use serde_json::{Value, json};
use wire::{Answer, Client, KBS, claims};

countersign_testbed::main! {
    whole_handshake_of_each_tee_ends_in_the_plain_secret [Namespaces],
    token_says_what_was_verified [Namespaces],
    each_lie_is_refused_with_one_text_and_its_cause_recorded [Namespaces],
    initdata_of_another_guest_is_refused [Namespaces],
    initdata_becomes_claims [Namespaces],
    attested_session_gives_the_old_token_for_anything [Namespaces],
    members_that_the_server_drops_are_not_hashed [Namespaces],
    selected_hash_is_demanded [Namespaces],
    policies_decide [Namespaces],
    reference_values_make_a_guest_affirming [Namespaces],
    cookie_comes_first_then_the_bearer [Namespaces],
    session_and_token_run_out [Namespaces],
    forged_claims_are_noticed [Namespaces],
    restart_loses_sessions_and_connections [Namespaces],
    rules_count_their_requests [Namespaces],
    each_fault_is_wrong_as_its_name_says [Namespaces],
    each_broken_jwe_does_not_open [Namespaces],
    token_faults_change_the_token_alone [Namespaces],
    body_above_two_mebibytes_is_too_large [Namespaces],
    round_trips_are_waited_for [Namespaces],
}

const PATH: &str = "payments/db/password";
const SECRET: &[u8] = b"correct horse";
const INITDATA: &str = "algorithm = \"sha384\"\nversion = \"0.1.0\"\n[data]\n\"aa.toml\" = '''\n[token_configs.kbs]\nurl = \"https://k\"\n'''\n\"policy.rego\" = '''\npackage agent_policy\npolicy_data := {\"containers\": [1]}\n'''\n\"my.key\" = \"hello\"\n";

fn started(kbs: Kbs) -> (World, RunningKbs) {
    let world = World::private().unwrap();
    let running = world.kbs(KBS, kbs.resource(PATH, SECRET));
    (world, running)
}

fn genoa() -> Guest {
    Guest::Snp(SnpGuest::genoa())
}

fn whole_handshake_of_each_tee_ends_in_the_plain_secret() {
    let (world, kbs) = started(Kbs::healthy().policy(Policy::AllowAll));
    let guests = [
        genoa(),
        Guest::Snp(SnpGuest::turin()),
        Guest::Tdx(TdxGuest::v4()),
        Guest::Tdx(TdxGuest::v5()),
        Guest::Sample,
        Guest::Other("az-snp-vtpm"),
    ];
    for (done, guest) in guests.iter().enumerate() {
        let mut client = Client::new(&world);
        assert_eq!(client.attest(guest, None).status, 200, "{}", guest.tee());
        assert_eq!(client.open(&client.get(PATH).json()).unwrap(), SECRET);
        assert_eq!(kbs.attestations(), done + 1);
    }
    assert!(kbs.refusals().is_empty());
}

fn token_says_what_was_verified() {
    let (world, kbs) = started(Kbs::healthy());
    let mut client = Client::new(&world);
    client.attest(&genoa(), None);
    let claims = claims(client.token.as_ref().unwrap());
    let cpu = &claims["submods"]["cpu0"];
    assert_eq!(cpu["ear.status"], "contraindicated");
    let evidence = &cpu["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["runtime_data_claims"]["tee-pubkey"], client.public());
    assert_eq!(evidence["snp"]["measurement"], "ab".repeat(48));
    assert_eq!(evidence["init_data"], "00".repeat(32));
    assert!(evidence.get("init_data_claims").is_none());
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
    assert!(kbs.token_root().starts_with("-----BEGIN CERTIFICATE-----"));
}

fn each_lie_is_refused_with_one_text_and_its_cause_recorded() {
    let lying = |lie| Guest::Snp(SnpGuest::genoa().lying(lie));
    let earlier = SnpGuest::genoa().report(&[1; 64]);
    let stranger = Guest::Snp(SnpGuest { vendor: Vendor::new(), ..SnpGuest::genoa() });
    for (guest, cause) in [
        (lying(Lie::OtherKey), Refusal::Signature),
        (lying(Lie::Replayed(earlier)), Refusal::ReportData),
        (lying(Lie::WrongReportData), Refusal::ReportData),
        (lying(Lie::Tampered), Refusal::Signature),
        (Guest::Snp(SnpGuest { vmpl: 1, ..SnpGuest::genoa() }), Refusal::Vmpl),
        (Guest::Snp(SnpGuest::milan_v2()), Refusal::Version),
        (stranger, Refusal::Chain),
        (Guest::Tdx(TdxGuest::v4().lying(Lie::OtherKey)), Refusal::Signature),
    ] {
        let (world, kbs) = started(Kbs::healthy());
        let mut client = Client::new(&world);
        let answer = client.attest(&guest, None);
        assert!(answer.is_problem("AttestationError"), "{answer:?}");
        assert_eq!(answer.json()["detail"], "Attestation error: RCAR handshake Attest failed");
        assert_eq!((kbs.refusals(), kbs.attestations()), (vec![cause], 0));
        assert!(client.get(PATH).is_problem("TokenNotFound"));
    }
}

fn initdata_of_another_guest_is_refused() {
    let over = digest(&SHA384, INITDATA.as_bytes());
    let edited = format!("{INITDATA} ");
    for guest in
        [Guest::Snp(SnpGuest::genoa().initdata(over.as_ref())), Guest::Tdx(TdxGuest::v4().initdata(over.as_ref()))]
    {
        let (world, kbs) = started(Kbs::healthy());
        assert_eq!(Client::new(&world).attest(&guest, Some(INITDATA)).status, 200);
        assert!(Client::new(&world).attest(&guest, Some(&edited)).is_problem("AttestationError"));
        assert_eq!(kbs.refusals(), [Refusal::InitData]);
    }
}

fn initdata_becomes_claims() {
    let over = digest(&SHA384, INITDATA.as_bytes());
    let (world, _kbs) = started(Kbs::healthy());
    let mut client = Client::new(&world);
    client.attest(&Guest::Snp(SnpGuest::genoa().initdata(over.as_ref())), Some(INITDATA));
    let claims = claims(client.token.as_ref().unwrap());
    let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["init_data"], hex(&over.as_ref()[..32]));
    let expected = json!({
        "aa.toml": {"token_configs": {"kbs": {"url": "https://k"}}},
        "agent_policy_claims": {"containers": [1]},
        "my.key": "hello",
    });
    assert_eq!(evidence["init_data_claims"], expected);
}

fn attested_session_gives_the_old_token_for_anything() {
    let (world, kbs) = started(Kbs::healthy());
    let mut client = Client::new(&world);
    let first = client.attest(&genoa(), None);
    let again = client.ask("POST", "/kbs/v0/attest", &client.body("zzz", &json!({}), None));
    assert_eq!((again.status, again.json()), (200, first.json()));
    assert_eq!(again.header("set-cookie"), first.header("set-cookie"));
    assert!(client.ask("POST", "/kbs/v0/attest", &json!({})).is_problem("AttestationError"));
    assert_eq!((kbs.attestations(), kbs.refusals()), (1, vec![Refusal::Body]));
}

fn members_that_the_server_drops_are_not_hashed() {
    let (world, _kbs) = started(Kbs::healthy());
    let mut client = Client::new(&world);
    let nonce = client.auth("snp").json()["nonce"].as_str().unwrap().to_owned();
    let mut body = client.body(&nonce, &genoa().evidence(&client.digest(&nonce)), None);
    body["runtime-data"]["tee-pubkey"]["use"] = json!("enc");
    // Our digest is over the key without it: the double has to drop it to agree.
    assert_eq!(client.ask("POST", "/kbs/v0/attest", &body).status, 200);
}

fn selected_hash_is_demanded() {
    for (hash, length) in [("sha256", 32), ("sha512", 64)] {
        let (world, kbs) = started(Kbs::healthy().fault(Step::Auth, Fault::SelectsHash(hash)));
        let mut client = Client::new(&world);
        assert_eq!(client.attest(&genoa(), None).status, 200);
        assert_eq!(client.digest("x").len(), length);
        let mut client = Client::new(&world);
        let nonce = client.auth("snp").json()["nonce"].as_str().unwrap().to_owned();
        let body = client.body(&nonce, &genoa().evidence(&client.digest(&nonce)), None);
        assert!(client.ask("POST", "/kbs/v0/attest", &body).is_problem("AttestationError"));
        assert_eq!(kbs.refusals(), [Refusal::ReportData], "sha384 was not what it chose");
    }
}

fn policies_decide() {
    let (world, kbs) = started(Kbs::healthy().resource("web/tls/key", "k"));
    let mut client = Client::new(&world);
    client.attest(&genoa(), None);
    let mut sample = Client::new(&world);
    sample.attest(&Guest::Sample, None);
    assert_eq!(client.get(PATH).status, 200, "the default policy gives to everybody but the sample");
    assert!(sample.get(PATH).is_problem("PolicyDeny"));
    kbs.set_policy(Policy::AllowAll);
    assert_eq!(sample.get(PATH).status, 200);
    for policy in [Policy::Affirming, Policy::DenyAll] {
        kbs.set_policy(policy);
        assert!(client.get(PATH).is_problem("PolicyDeny"));
    }
    kbs.set_policy(Policy::Custom(Arc::new(|path: &str, claims: &Value| {
        path.starts_with("web/") && claims["iss"] == "CoCo-Attestation-Service"
    })));
    assert!(client.get(PATH).is_problem("PolicyDeny"));
    assert_eq!(client.open(&client.get("web/tls/key").json()).unwrap(), b"k");
    assert_eq!(kbs.attestations(), 2);
}

fn reference_values_make_a_guest_affirming() {
    let (world, _kbs) = started(Kbs::healthy().policy(Policy::Affirming).reference(&genoa()));
    let other = Guest::Snp(SnpGuest { measurement: [1; 48], ..SnpGuest::genoa() });
    let debug = Guest::Snp(SnpGuest { policy: POLICY | POLICY_DEBUG, ..SnpGuest::genoa() });
    for (guest, status, code) in [(genoa(), "affirming", 200), (other, "contraindicated", 401), (debug, "warning", 401)]
    {
        let mut client = Client::new(&world);
        client.attest(&guest, None);
        assert_eq!(claims(client.token.as_ref().unwrap())["submods"]["cpu0"]["ear.status"], status);
        assert_eq!(client.get(PATH).status, code);
    }
}

fn cookie_comes_first_then_the_bearer() {
    let (world, kbs) = started(Kbs::healthy());
    let mut client = Client::new(&world);
    client.attest(&genoa(), None);
    kbs.expire_sessions();
    assert!(client.get(PATH).is_problem("TokenNotFound"));
    assert_eq!(client.open(&client.get_by_bearer("Bearer", PATH).json()).unwrap(), SECRET);
    assert!(client.get_by_bearer("bearer", PATH).is_problem("TokenNotFound"));
    client.token = Some("abc.def.ghi".to_owned());
    assert!(client.get_by_bearer("Bearer", PATH).is_problem("TokenVerifierError"));
    assert!(client.get("no/such/thing").is_problem("TokenNotFound"));
}

fn session_and_token_run_out() {
    let (world, kbs) = started(Kbs::healthy().session_lifetime(Duration::ZERO));
    let mut client = Client::new(&world);
    assert!(client.attest(&genoa(), None).is_problem("AttestationError"));
    assert_eq!(kbs.refusals(), [Refusal::NoSession]);
    // Trustee counts 60 seconds more.
    for (seconds, expected) in [(-40, 200), (-70, 401)] {
        let (world, _kbs) = started(Kbs::healthy().token_seconds(seconds));
        let mut client = Client::new(&world);
        client.attest(&genoa(), None);
        // On the way of the cookie, too.
        for answer in [client.get(PATH), client.get_by_bearer("Bearer", PATH)] {
            assert_eq!(answer.status, expected);
            assert!(expected == 200 || answer.is_problem("TokenVerifierError"));
        }
    }
}

fn forged_claims_are_noticed() {
    let (world, _kbs) = started(Kbs::healthy());
    let mut client = Client::new(&world);
    client.attest(&genoa(), None);
    let mut forged: Vec<&str> = client.token.as_deref().unwrap().split('.').collect();
    forged[1] = "eyJleHAiOjk5OTk5OTk5OTl9";
    client.token = Some(forged.join("."));
    assert!(client.get_by_bearer("Bearer", PATH).is_problem("TokenVerifierError"));
}

fn restart_loses_sessions_and_connections() {
    let (world, kbs) = started(Kbs::healthy());
    let mut client = Client::new(&world);
    client.attest(&genoa(), None);
    let begun = Instant::now();
    kbs.restart(Duration::from_secs(3));
    assert!(client.send("GET", "/healthz", &[], b"").is_empty(), "it is down");
    countersign_testbed::eventually("it is up again", || !client.send("GET", "/healthz", &[], b"").is_empty());
    assert!(begun.elapsed() >= Duration::from_secs(3));
    assert!(client.get(PATH).is_problem("TokenNotFound"));
    client.attest(&genoa(), None);
    assert_eq!(client.get(PATH).status, 200);
}

fn rules_count_their_requests() {
    let rule = Rule::on(Step::Resource, Fault::SessionsLost).after(2).times(1);
    let (world, kbs) = started(Kbs::healthy().rule(rule));
    let mut client = Client::new(&world);
    client.attest(&genoa(), None);
    let statuses: Vec<u16> = (0..4).map(|_| client.get(PATH).status).collect();
    assert_eq!(statuses, [200, 200, 401, 401]);
    client.attest(&genoa(), None);
    assert_eq!((client.get(PATH).status, kbs.attestations()), (200, 2));
    kbs.set_resource("a/b/c", "x");
    kbs.set_rule(Rule::on(Step::Resource, Fault::Empty404).at("a/b/c"));
    assert_eq!((client.get(PATH).status, client.get("a/b/c").status), (200, 404));
    kbs.heal();
    assert_eq!(client.get("a/b/c").status, 200);
}

fn each_fault_is_wrong_as_its_name_says() {
    let (world, kbs) = started(Kbs::healthy());
    let mut client = Client::new(&world);
    client.attest(&genoa(), None);
    let cookie = client.cookie.clone().unwrap();
    let raw = |fault| {
        kbs.set_rule(Rule::on(Step::Resource, fault));
        client.send("GET", &format!("/kbs/v0/resource/{PATH}"), &[("cookie", &cookie)], b"")
    };
    let got = |fault| Answer::parse(&raw(fault)).unwrap();
    let html = |answer: &Answer| answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html"));
    let page = got(Fault::Html401);
    assert!(page.status == 401 && html(&page));
    let page = got(Fault::GatewayPage);
    assert!(page.status == 200 && html(&page));
    let page = got(Fault::Status("502 Bad Gateway".to_owned(), "<h1>no upstream</h1>".to_owned()));
    assert!(page.status == 502 && html(&page));
    let large = got(Fault::TooLarge);
    assert_eq!((large.status, large.body), (413, b"payload reached size limit".to_vec()));
    assert_eq!(large.headers["content-type"], "text/plain; charset=utf-8");
    let empty = got(Fault::Empty404);
    assert!(empty.status == 404 && empty.body.is_empty());
    let elsewhere = got(Fault::Redirect("http://127.0.0.1:9/x".to_owned()));
    assert_eq!((elsewhere.status, elsewhere.header("location")), (302, Some("http://127.0.0.1:9/x")));
    assert!(got(Fault::Problem("PluginInternalError", "Plugin internal error")).is_problem("PluginInternalError"));
    let cut = got(Fault::TruncatedJson);
    assert_eq!(cut.body.len().to_string(), cut.headers["content-length"]);
    assert!(cut.json().is_null());
    for fault in [Fault::CloseMidBody, Fault::ResetMidBody] {
        let half = got(fault);
        let promised: usize = half.headers["content-length"].parse().unwrap();
        assert_eq!(half.body.len(), promised / 2);
    }
    assert!(raw(Fault::Reset).is_empty());
    let begun = Instant::now();
    assert_eq!(got(Fault::Late(Duration::from_millis(200))).status, 200);
    assert!(begun.elapsed() > Duration::from_millis(200));
    assert_eq!(got(Fault::Drip(Duration::from_micros(100))).status, 200);
    kbs.set_rule(Rule::on(Step::Auth, Fault::UnknownExtraParams));
    assert!(Client::new(&world).auth("snp").json()["extra-params"].is_object());
    kbs.set_rule(Rule::on(Step::Auth, Fault::NoCookie));
    assert!(Client::new(&world).auth("snp").header("set-cookie").is_none());
}

fn each_broken_jwe_does_not_open() {
    let (world, kbs) = started(Kbs::healthy());
    let mut client = Client::new(&world);
    client.attest(&genoa(), None);
    for fault in
        [Fault::WrongEpk, Fault::EpkOffCurve, Fault::WrongAlgorithm, Fault::ForKeyOfAnother, Fault::TamperedCiphertext]
    {
        kbs.set_rule(Rule::on(Step::Resource, fault.clone()));
        let answer = client.get(PATH);
        assert_eq!(answer.status, 200, "{fault:?}");
        assert_eq!(client.open(&answer.json()), None, "{fault:?}");
    }
    kbs.heal();
    kbs.set_resource(PATH, "");
    let empty = client.get(PATH).json();
    assert_eq!((empty["ciphertext"].as_str(), client.open(&empty)), (Some(""), Some(Vec::new())));
}

fn token_faults_change_the_token_alone() {
    let over = digest(&SHA384, INITDATA.as_bytes());
    let guest = Guest::Snp(SnpGuest::genoa().initdata(over.as_ref()));
    let (world, kbs) = started(Kbs::healthy().fault(Step::Attest, Fault::NoInitDataClaims));
    let mut client = Client::new(&world);
    assert_eq!(client.attest(&guest, Some(INITDATA)).status, 200);
    let claims = claims(client.token.as_ref().unwrap());
    let evidence = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    assert!(evidence.get("init_data").is_some() && evidence.get("init_data_claims").is_none());
    kbs.set_rule(Rule::on(Step::Attest, Fault::ForeignToken));
    assert_eq!(client.attest(&guest, Some(INITDATA)).status, 200);
    assert!(client.get_by_bearer("Bearer", PATH).is_problem("TokenVerifierError"));
}

fn body_above_two_mebibytes_is_too_large() {
    let (world, _kbs) = started(Kbs::healthy());
    let client = Client::new(&world);
    let answer = client.ask("POST", "/kbs/v0/attest", &json!("x".repeat(2 * 1024 * 1024)));
    assert_eq!((answer.status, answer.body), (413, b"payload reached size limit".to_vec()));
}

fn round_trips_are_waited_for() {
    let delay = Duration::from_millis(50);
    let (world, _kbs) = started(Kbs::healthy().round_trip(delay));
    let begun = Instant::now();
    Client::new(&world).attest(&genoa(), None);
    // Two requests on connections of their own.
    assert!(begun.elapsed() >= delay * 4, "{:?}", begun.elapsed());
}
