//! The mesh's issuer as admission makes it of its plain manifest, and a pod that it certifies.

use countersign::formats::initdata::Initdata;
use countersign_testbed::World;
use countersign_testbed::guest::GuestApi;
use countersign_testbed::kbs::{Kbs, Policy};
use countersign_testbed::pki::Ca;
use countersign_testbed::tee::{Guest, SnpGuest, hex};
use serde_json::json;

use super::{APP, CONFIG, example, initdata_of, made, made_of, second_health};

const ISSUER: &str = "spiffe://example.org/ns/payments/sa/issuer";
const API: &str = "spiffe://example.org/ns/payments/sa/api";

/// A guest whose agent attests, and a KBS that delivers the configuration of both workloads and holds the CA.
fn certified() -> (World, String) {
    let world = World::private().unwrap();
    let (ca, mesh) = (Ca::new("the KBS's"), Ca::new("mesh"));
    let initdata = initdata_of(&ca);
    let digest = Initdata::parse(initdata.as_bytes()).unwrap().digest();
    let guest = Guest::Snp(SnpGuest::genoa().initdata(&digest));
    let config = |head: &str, rest: &str| {
        format!(
            "{head}{rest}[peers]\ntrust = \"both\"\nroots = \"kbs:///payments/mesh/roots\"\n[peers.evidence]\n\
             token_roots = \"kbs:///payments/trustee/token-ca\"\npins = \"kbs:///payments/mesh/pins\"\nmax_age = \"1h\"\n"
        )
    };
    let head = "version = 1\nserial = 1\nfor = { namespace = \"payments\", workload = \"issuer\" }\n";
    let issuer = format!(
        "[issuer]\nlisten = \"[::]:8444\"\nspiffe = \"{ISSUER}\"\ncertificate = \"kbs:///payments/ca/certificate\"\n\
         key = \"kbs:///payments/ca/key\"\n"
    );
    // The two share one network here, and there is one port for kubelet.
    let api = format!(
        "[health]\nlisten = \"[::]:15831\"\n[identity]\nsource = \"issuer\"\nspiffe = \"{API}\"\n[identity.issuer]\n\
         address = \"127.0.0.1:8444\"\nspiffe = \"{ISSUER}\"\n[[inbound]]\nlisten = \"[::]:9443\"\napp = \
         \"127.0.0.1:8080\"\nprobes = [\"/healthz\"]\nallow = [\"{API}\"]\n"
    );
    let pin = json!({ "init_data": [hex(&digest)], "hardware": "any" });
    let pins = json!({ "serial": 1, "policy_ids": ["default"], "peers": { ISSUER: pin, API: pin } });
    let kbs = Kbs::healthy()
        .tls(ca.leaf(&["127.0.0.1"]))
        .policy(Policy::Affirming)
        .reference(&guest)
        .resource("payments/db/password", "alpha")
        .resource("payments/mesh/roots", mesh.pem())
        .resource("payments/mesh/pins", pins.to_string())
        .resource("payments/ca/certificate", mesh.pem())
        .resource("payments/ca/key", mesh.key_pem())
        .resource("default/countersign/payments.issuer", config(head, &issuer))
        .resource("default/countersign/payments.api", config(&CONFIG.replace("NAME", "api"), &api));
    let kbs = world.kbs("127.0.0.1:8443", kbs);
    kbs.set_resource("payments/trustee/token-ca", kbs.token_root());
    let world = world.guest(GuestApi::healthy().attester(guest).kbs(&kbs).initdata(&initdata));
    (world, initdata)
}

pub(crate) fn an_issuer_of_a_plain_manifest_certifies_another_pod() {
    let (world, initdata) = certified();
    // The runner has one namespace.
    let plain = std::fs::read_to_string(example("issuer")).unwrap().replace("namespace: mesh", "namespace: payments");
    let mut issuer = made_of(&world, &plain, "issuer", &initdata).start(&world);
    issuer.ready().unwrap();
    let api = made(&world, "http-api", "api", &initdata).change(|pod| {
        pod["spec"]["containers"][0]["command"] = json!(["/usr/bin/perl", "-e", APP]);
        second_health(pod);
        pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = json!(15831);
    });
    let mut api = api.start(&world);
    api.ready().unwrap();
    api.delete();
    issuer.delete();
    let ended = issuer.end_of("countersign-issuer");
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    let line = ended.output.lines().find(|line| line.contains("certificate issued")).expect(&ended.output);
    assert!(line.contains(API), "{line}");
    let order: Vec<&str> = issuer.ended.iter().map(|ended| ended.name.as_str()).collect();
    assert_eq!(order, ["countersign-issuer"], "no gate before it, nothing beside it");
}
