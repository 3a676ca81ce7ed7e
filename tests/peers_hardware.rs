//! `level = "hardware"`: two pods whose machines vouch for each connection. What one connection can be made
//! to say, word by word, is in `src/tls/exchange/hardware_tests.rs`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "peers/scene.rs"]
#[allow(dead_code)] // Shared by several test programs.
mod scene;

use std::io::Write;
use std::time::{Duration, Instant};

use countersign_testbed::eventually;
use countersign_testbed::guest::GuestApi;
use countersign_testbed::guest_signer::Signer;
use countersign_testbed::mesh::{self, echo};
use countersign_testbed::tee::{Guest, SnpGuest, hex};
use scene::{API, API_HEALTH, ASK, OUT, Scene, WEB_HEALTH};

countersign_testbed::main! {
    two_pods_whose_machines_vouch_for_them_talk [GuestPort, Namespaces, Memory],
    a_tunnel_of_many_requests_costs_one_report [GuestPort, Namespaces, Memory],
    a_machine_that_no_longer_vouches_is_refused_and_one_that_does_again_is_not [GuestPort, Namespaces, Memory],
    a_pod_whose_host_hands_it_no_certificate_does_not_start [GuestPort, Namespaces, Memory],
    a_storm_of_connections_costs_no_more_reports_than_the_hardware_gives [GuestPort, Namespaces, Memory],
    a_pod_without_the_kernels_files_gives_its_machines_word_by_the_agent [GuestPort, Namespaces, Memory],
    one_pod_may_demand_the_machines_word_and_the_other_not [GuestPort, Namespaces, Memory],
}

const HARDWARE: &str = "level = \"hardware\"\n";

fn two_pods_whose_machines_vouch_for_them_talk() {
    for (trust, tee) in [("evidence", "snp"), ("both", "snp"), ("both", "tdx")] {
        let scene = Scene::at_level(trust, tee, HARDWARE);
        let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
        let (one, other) = (scene.api(), scene.web());
        let (api, web) = (scene.start(&one), scene.start(&other));
        let before = (one.signer.requests(), other.signer.requests());
        for _ in 0..3 {
            assert_eq!(scene.through().unwrap(), 200, "{trust} {tee}: {} {}", api.said(), web.said());
        }
        assert_eq!(app.count(), 3);
        assert_eq!((scene.called("accepted"), scene.dialled("connected")), (3, 3));
        // The first of all looks for the way, too.
        let asked = (one.signer.requests() - before.0, other.signer.requests() - before.1);
        assert!((3..=4).contains(&asked.0) && (3..=4).contains(&asked.1), "one for each connection: {asked:?}");
        for said in [api.said(), web.said()] {
            for private in ["eyJ", "c1c1c1c1", &hex(&scene.api_document("").digest())] {
                assert!(!said.contains(private), "{private} in {said}");
            }
        }
    }
}

fn a_tunnel_of_many_requests_costs_one_report() {
    let scene = Scene::at_level("both", "snp", HARDWARE);
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (one, other) = scene.of_http();
    let (api, web) = (scene.start(&one), scene.start(&other));
    let before = (one.signer.requests(), other.signer.requests());
    for _ in 0..20 {
        assert_eq!(scene.through().unwrap(), 200, "{} {}", api.said(), web.said());
    }
    assert_eq!((app.count(), scene.called("accepted"), scene.dialled("connected")), (20, 1, 1));
    assert_eq!((one.signer.requests() - before.0, other.signer.requests() - before.1), (1, 1));
}

fn a_machine_that_no_longer_vouches_is_refused_and_one_that_does_again_is_not() {
    let scene = Scene::at_level("both", "snp", HARDWARE);
    let app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (one, other) = (scene.api(), scene.web());
    let (api, web) = (scene.start(&one), scene.start(&other));
    assert_eq!(scene.through().unwrap(), 200, "{} {}", api.said(), web.said());
    // Its key is good all the time: what it was attested as, it was.
    for (says, reason) in [
        ("snp+other-key", "bad-report"),
        ("snp+tampered", "bad-report"),
        ("snp+other-measurement", "bad-report"),
        ("snp+debug", "bad-report"),
        ("snp+no-certificates", "bad-report"),
        ("snp+host-data=11", "other-initdata"),
        // These it finds out itself, and says that it has nothing.
        ("snp+wrong-data", "no-evidence"),
        ("errno:5", "no-evidence"),
    ] {
        let before = scene.dialled(reason);
        one.signer.set(says).unwrap();
        scene.through().expect_err(says);
        assert_eq!(scene.dialled(reason), before + 1, "{says}: {} {}", web.said(), api.said());
    }
    assert_eq!(app.count(), 1, "no byte reached the app");
    eventually("whoever has nothing says why", || api.said().contains("a peer demands the hardware's word"));
    one.signer.set("snp").unwrap();
    assert_eq!(scene.through().unwrap(), 200, "{} {}", api.said(), web.said());
}

fn a_pod_whose_host_hands_it_no_certificate_does_not_start() {
    let scene = Scene::at_level("both", "snp", HARDWARE);
    let pod = scene.pod_on(scene.api_document(""), API_HEALTH, Signer::answering("snp+no-certificates"));
    pod.signer.set("snp+no-certificates").unwrap();
    let sim = scene.world.sim(&[]).arg("sidecar").tee(&pod.signer).initdata(pod.document.text());
    let run = sim.run().expect_code(71);
    assert!(run.stderr.contains("VCEK") && run.stderr.contains("level = \"key\""), "{}", run.stderr);
}

fn a_storm_of_connections_costs_no_more_reports_than_the_hardware_gives() {
    let scene = Scene::at_level("both", "snp", HARDWARE);
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let (one, other) = (scene.api(), scene.web());
    let (api, web) = (scene.start(&one), scene.start(&other));
    let before = one.signer.requests();
    let begun = Instant::now();
    let mut calls: Vec<_> = (0..40).map(|_| scene.world.connect(OUT).unwrap()).collect();
    for call in &mut calls {
        call.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = call.write_all(ASK);
    }
    let served = calls.iter_mut().filter_map(|call| mesh::read_reply(call).ok()).count();
    // A burst, and one for each two seconds since.
    let most = 8 + usize::try_from(begun.elapsed().as_secs()).unwrap() / 2 + 1;
    let asked = one.signer.requests() - before;
    assert!(asked <= most, "{asked} reports, {most} at most");
    assert!((1..=most).contains(&served), "{served} served: {} {}", api.said(), web.said());
    // Whoever comes when it is over is served.
    eventually("the next one is served", || scene.through().is_ok());
}

/// Says which containers there are: then the agent's answers count for a container without configfs.
const POLICY: &str =
    "package agent_policy\ndefault CreateContainerRequest := false\npolicy_data := {\"containers\": [{}]}\n";

fn a_pod_without_the_kernels_files_gives_its_machines_word_by_the_agent() {
    for via in ["via = [\"aa-evidence\"]\n", "via = [\"aa-token\"]\n"] {
        let mut scene = Scene::at_level("both", "snp", HARDWARE);
        let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
        scene.via = via;
        let document = scene.api_document("").policy(POLICY);
        scene.via = "";
        let other = scene.web_document(API);
        scene.pin_documents(&document, &other);
        let guest = Guest::Snp(SnpGuest::genoa().initdata(&document.digest()));
        let agent = GuestApi::healthy().attester(guest).kbs(&scene.kbs).initdata(&document.text());
        scene.world = scene.world.guest(agent);
        let sim = scene.world.sim(&[]).arg("sidecar").makers().initdata(document.text());
        let api = sim.time_limit(Duration::from_secs(90)).start();
        eventually("the sidecar is ready", || {
            assert!(api.is_running(), "it ended: {}", api.said());
            mesh::status(&scene.world, API_HEALTH, "/readyz") == 200
        });
        let web = scene.pod(other, WEB_HEALTH);
        let web = scene.start(&web);
        assert_eq!(scene.through().unwrap(), 200, "{via}: {} {}", api.said(), web.said());
    }
}

fn one_pod_may_demand_the_machines_word_and_the_other_not() {
    let mut scene = Scene::at_level("both", "snp", HARDWARE);
    let _app = mesh::app(&scene.world, "127.0.0.1:8080", echo);
    let demanding = scene.api_document("");
    scene.level = "";
    let plain = scene.web_document(API);
    scene.pin_documents(&demanding, &plain);
    let (one, other) = (scene.pod(demanding, API_HEALTH), scene.pod(plain, WEB_HEALTH));
    let (api, web) = (scene.start(&one), scene.start(&other));
    let before = (one.signer.requests(), other.signer.requests());
    assert_eq!(scene.through().unwrap(), 200, "{} {}", api.said(), web.said());
    // Asked of `web` alone; its first looks for the way, too.
    assert_eq!((one.signer.requests() - before.0, other.signer.requests() - before.1), (0, 2));
}
