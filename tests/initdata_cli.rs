//! `kubectl countersign initdata …`, as people type it.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "initdata_cli/tool.rs"]
mod tool;

use countersign::formats::initdata::Initdata;
use serde_json::Value;
use tool::Desk;

countersign_testbed::main! {
    the_three_forms_unpack_to_the_same_exact_bytes,
    packing_is_the_same_everywhere,
    refused_toml_that_the_guests_reader_does_not_know,
    unpacking_into_a_directory_writes_each_section_and_overwrites_nothing,
    a_section_cannot_leave_the_directory,
    the_digest_is_what_the_hardware_holds,
    the_digests_of_a_real_kbs_are_ours [Vectors],
    a_difference_is_shown_line_by_line_and_ends_with_1,
    a_lower_serial_is_warned_of,
    a_release_is_an_immutable_configmap_and_a_pointer,
    a_release_that_a_plain_apply_cannot_carry_says_so,
    the_starter_parses_and_its_configuration_is_good,
    a_delivered_configuration_stays_out_of_the_initdata_and_says_how_it_is_uploaded,
    what_cannot_be_read_is_refused_with_a_next_step,
}

const PLAIN: &str = "algorithm = \"sha384\"\nversion = \"0.1.0\"\n\n[data]\n\"aa.toml\" = '''\na = 1\nb = 2\n'''\n\
                     \"countersign.toml\" = '''\nversion = 1\nserial = 7\n'''\n";

fn the_three_forms_unpack_to_the_same_exact_bytes() {
    let desk = Desk::new();
    // No line end behind it: `unpack` adds none.
    let text = PLAIN.trim_end();
    desk.write("i.toml", text);
    let annotation = desk.run(&["pack", "i.toml"]).ok();
    desk.write("annotation", &annotation);
    assert_eq!(desk.run(&["unpack", "annotation"]).ok(), text);
    assert_eq!(desk.run(&["unpack", "i.toml"]).ok(), text);
    assert_eq!(desk.run_with(&["unpack", "-"], annotation.trim_end()).ok(), text);
}

fn packing_is_the_same_everywhere() {
    let desk = Desk::new();
    desk.write("i.toml", PLAIN);
    let first = desk.run(&["pack", "i.toml"]).ok();
    desk.write("elsewhere", &first);
    assert_eq!(desk.run(&["pack", "elsewhere"]).ok(), first, "packing what is packed changes nothing");
    assert_eq!(first.lines().count(), 1);
}

fn refused_toml_that_the_guests_reader_does_not_know() {
    let desk = Desk::new();
    for (name, from, to) in [
        ("the frame", "0.1.0", "0.1\\x2e0"),
        ("the frame", "[data]", "x = { y = 1, }\n[data]"),
        ("aa.toml", "b = 2", "b = {\n}"),
    ] {
        desk.write("i.toml", &PLAIN.replacen(from, to, 1));
        for arguments in [&["pack"][..], &["configmap", "--workload", "api", "--namespace", "payments"]] {
            let refused = desk.run(&[arguments, &["i.toml"]].concat()).refused(78);
            assert!(refused.contains(&format!("{name} has ")) && refused.contains("TOML 1.1"), "{refused}");
        }
    }
    // Our own part is read by us.
    desk.write("i.toml", &PLAIN.replace("serial = 7", "serial = 7\nfor = {\n}"));
    desk.run(&["pack", "i.toml"]).ok();
}

fn unpacking_into_a_directory_writes_each_section_and_overwrites_nothing() {
    let desk = Desk::new();
    desk.write("i.toml", PLAIN);
    desk.run(&["unpack", "i.toml", "--to", "parts"]).ok();
    assert_eq!(desk.read("parts/initdata.toml"), PLAIN);
    assert_eq!(desk.read("parts/aa.toml"), "a = 1\nb = 2\n");
    desk.write("parts/aa.toml", "mine");
    let refused = desk.run(&["unpack", "i.toml", "--to", "parts"]).refused(64);
    assert!(refused.contains("cannot be written: entity already exists"), "{refused}");
    assert_eq!(desk.read("parts/aa.toml"), "mine");
}

fn a_section_cannot_leave_the_directory() {
    let desk = Desk::new();
    for name in ["../evil", "/tmp/evil", ".hidden", "a/b", "initdata.toml", ""] {
        desk.write("i.toml", &format!("algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n\"{name}\" = \"x\"\n"));
        desk.run(&["unpack", "i.toml", "--to", "parts"]).refused(64);
        assert!(!desk.path("parts").exists() && !desk.path("evil").exists(), "{name}");
    }
}

fn the_digest_is_what_the_hardware_holds() {
    let desk = Desk::new();
    desk.write("i.toml", PLAIN);
    let digest: Value = serde_json::from_str(&desk.run(&["digest", "--format", "json", "i.toml"]).ok()).unwrap();
    let of = |field: &str| digest[field]["hex"].as_str().unwrap().to_owned();
    assert_eq!(of("digest"), of("mrconfigid"));
    assert!(of("digest").starts_with(&of("host_data")) && of("host_data").len() == 64);
    assert_eq!(of("cca_rpv"), of("digest") + &"0".repeat(32));
    assert_eq!(digest["azure_pcr8"], Value::Null);
    assert_eq!(digest["pins"]["init_data"][0], of("host_data"));
    let text = desk.run(&["digest", "i.toml"]).ok();
    for part in ["HOST_DATA", "MRCONFIGID", "CCA RPV", "Azure PCR8", "needs algorithm", &of("host_data")] {
        assert!(text.contains(part), "{part}: {text}");
    }
    desk.write("i.toml", &PLAIN.replace("sha384", "sha256"));
    let digest: Value = serde_json::from_str(&desk.run(&["digest", "--format", "json", "i.toml"]).ok()).unwrap();
    assert_eq!(digest["azure_pcr8"]["hex"].as_str().unwrap().len(), 64);
}

fn the_digests_of_a_real_kbs_are_ours() {
    let directory = countersign_testbed::runner::vectors().unwrap().join("generated/initdata");
    let expected: Value = serde_json::from_slice(&std::fs::read(directory.join("expected.json")).unwrap()).unwrap();
    for form in ["initdata.toml", "initdata.toml.gz", "cc_init_data.annotation.txt"] {
        let desk = Desk::new();
        let file = directory.join(form);
        let run = desk.run(&["digest", "--format", "json", file.to_str().unwrap()]);
        let digest: Value = serde_json::from_str(&run.ok()).unwrap();
        for (ours, theirs) in
            [("host_data", "snp_host_data_hex"), ("mrconfigid", "tdx_mrconfigid_hex"), ("cca_rpv", "cca_rpv_hex")]
        {
            assert_eq!(digest[ours]["hex"], expected[theirs], "{form}: {ours}");
        }
        assert_eq!(digest["digest"]["base64"], expected["declared_digest_b64"]);
    }
}

fn a_difference_is_shown_line_by_line_and_ends_with_1() {
    let desk = Desk::new();
    desk.write("old", PLAIN);
    desk.write("new", &PLAIN.replace("b = 2", "b = 3\nc = 4").replace("\"countersign.toml\"", "\"other.toml\""));
    let same = desk.run(&["diff", "old", "old"]);
    assert_eq!((same.code, same.out.as_str()), (0, "the same, byte for byte\n"));
    let run = desk.run(&["diff", "old", "new"]);
    assert_eq!(run.code, 1, "{run:?}");
    for part in [
        "\naa.toml: changed\n- b = 2\n+ b = 3\n+ c = 4\n",
        "\ncountersign.toml: removed\n- version = 1\n",
        "\nother.toml: added\n+ version = 1\n",
    ] {
        assert!(run.out.contains(part), "{part:?} in {}", run.out);
    }
    desk.write("space", &format!("{PLAIN}\n"));
    let run = desk.run(&["diff", "old", "space"]);
    assert!(run.code == 1 && run.out.contains("no section differs"), "{run:?}");
    desk.run(&["diff", "old", "absent"]).refused(64);
}

fn a_lower_serial_is_warned_of() {
    let desk = Desk::new();
    desk.write("old", PLAIN);
    desk.write("new", &PLAIN.replace("serial = 7", "serial = 6"));
    let run = desk.run(&["diff", "old", "new"]);
    assert!(run.err.contains("goes down from 7 to 6") && run.err.contains("write `serial = 8` or more"), "{run:?}");
    assert!(desk.run(&["diff", "new", "old"]).err.is_empty());
}

fn a_release_is_an_immutable_configmap_and_a_pointer() {
    let desk = Desk::new();
    desk.write("i.toml", PLAIN);
    let run = desk.run(&["configmap", "--workload", "api", "--namespace", "payments", "i.toml"]);
    let text = run.ok();
    let digest = Initdata::parse(PLAIN.as_bytes()).unwrap().digest();
    let digest = format!("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
    let annotation = desk.run(&["pack", "i.toml"]).ok();
    for part in [
        format!("  name: \"api-{digest}\"\n  namespace: \"payments\"\n"),
        "\nimmutable: true\n".to_owned(),
        format!("  INITDATA: {annotation}"),
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: \"api\"\n".to_owned(),
        format!("  initdata-configmap: \"api-{digest}\"\n"),
    ] {
        assert!(text.contains(&part), "{part} in {text}");
    }
    for (workload, namespace) in [("API", "payments"), ("api", "pay.ments"), ("api\nkind: Secret", "payments")] {
        desk.run(&["configmap", "--workload", workload, "--namespace", namespace, "i.toml"]).refused(64);
    }
}

fn a_release_that_a_plain_apply_cannot_carry_says_so() {
    let desk = Desk::new();
    let configmap = |bytes: usize| {
        desk.write("i.toml", &format!("{PLAIN}# {}\n", "x".repeat(bytes)));
        let run = desk.run(&["configmap", "--workload", "api", "--namespace", "payments", "i.toml"]);
        assert_eq!(run.code, 0, "{}", run.err);
        run.err
    };
    assert_eq!(configmap(200 * 1024), "");
    let said = configmap(260 * 1024);
    assert!(said.starts_with("note: ") && said.contains("kubectl apply --server-side -f -"), "{said}");
}

fn the_starter_parses_and_its_configuration_is_good() {
    let desk = Desk::new();
    desk.ca("ca.pem");
    let starter = ["new", "--kbs-url", "https://kbs.example:8443", "--kbs-ca", "ca.pem"];
    let full = ["--workload", "api", "--namespace", "payments", "--image", "registry.example/payments/api"];
    for arguments in [starter.to_vec(), [starter.to_vec(), full.to_vec()].concat()] {
        let text = desk.run(&arguments).ok();
        desk.write("i.toml", &text);
        desk.run(&["unpack", "i.toml", "--to", "parts"]).ok();
        desk.tool(&["config", "check", "parts/countersign.toml"]).ok();
        std::fs::remove_dir_all(desk.path("parts")).unwrap();
    }
    desk.run(&["new", "--kbs-url", "https://kbs.example"]).refused(64);
    desk.run(&["new", "--kbs-url", "kbs.example"]).refused(64);
}

fn a_delivered_configuration_stays_out_of_the_initdata_and_says_how_it_is_uploaded() {
    let desk = Desk::new();
    desk.ca("ca.pem");
    let starter = ["new", "--kbs-url", "https://kbs.example:8443", "--kbs-ca", "ca.pem", "--delivered", "own.toml"];
    let full = [&starter[..], &["--workload", "api", "--namespace", "payments"]].concat();
    let said = desk.run(&full);
    assert_eq!(said.code, 0, "{}", said.err);
    let initdata = Initdata::parse(said.out.as_bytes()).unwrap();
    assert_eq!(initdata.countersign(), None);
    assert!(initdata.aa_kbs().unwrap().is_some() && initdata.cdh_kbs().unwrap().is_some());
    for part in [
        "kbs-client --url https://kbs.example:8443 --cert-file ca.pem config --auth-private-key admin.key set-resource \
         --path default/countersign/payments.api --resource-file own.toml",
        "`delivered-unproven`",
        "as `delivered`",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    // It is what a KBS may deliver, and both together are what `check` accepts.
    let checked = desk.tool(&["config", "check", "own.toml"]).ok();
    assert!(checked.contains("delivered-unproven, delivered,"), "{checked}");
    desk.write("i.toml", &said.out);
    let checked = desk.run(&["check", "--delivered", "own.toml", "i.toml"]);
    assert_eq!(checked.code, 0, "{}", checked.err);
    assert!(!checked.err.contains("[configuration-absent]") && !checked.err.contains("delivered"), "{}", checked.err);
    // Nobody's edits are lost, and an initdata without its configuration is not printed either.
    desk.write("own.toml", "mine");
    let refused = desk.run(&full).refused(64);
    assert!(refused.contains("own.toml cannot be written: entity already exists"), "{refused}");
    assert_eq!(desk.read("own.toml"), "mine");
    // Whom it is for has to be said: the KBS has one for each workload.
    assert_eq!(desk.run(&starter).code, 64);
}

fn what_cannot_be_read_is_refused_with_a_next_step() {
    let desk = Desk::new();
    desk.write("bad.toml", "algorithm = \"sha-384\"\nversion = \"0.1.0\"\n[data]\n");
    for (arguments, code) in [
        (vec!["pack", "absent.toml"], 64),
        (vec!["pack", "/dev/zero"], 64),
        (vec!["pack", "bad.toml"], 78),
        (vec!["digest", "bad.toml"], 78),
        (vec!["diff", "bad.toml", "bad.toml"], 78),
        (vec!["configmap", "--workload", "a", "--namespace", "b", "bad.toml"], 78),
    ] {
        desk.run(&arguments).refused(code);
    }
}
