use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

const PLAIN: &str = r#"algorithm = "sha384"
version = "0.1.0"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = "https://kbs.example:8443"
cert = """
-----BEGIN CERTIFICATE-----
"""
'''
"cdh.toml" = '''
[kbc]
name = "cc_kbc"
url = "https://cdh.example"
'''
"policy.rego" = "package agent_policy"
"countersign.toml" = "version = 1"
"#;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn refused(text: &str) -> Error {
    Initdata::parse(text.as_bytes()).unwrap_err()
}

fn document(algorithm: &str, version: &str, data: &str) -> String {
    format!("algorithm = \"{algorithm}\"\nversion = \"{version}\"\n[data]\n{data}\n")
}

#[test]
fn the_three_forms_are_one_document() {
    let packed = gzip(PLAIN.as_bytes());
    let annotation = STANDARD.encode(&packed);
    let digest = Initdata::parse(PLAIN.as_bytes()).unwrap().digest();
    assert_eq!(digest.len(), 48);
    for form in [
        PLAIN.as_bytes().to_vec(),
        packed,
        annotation.clone().into_bytes(),
        format!("{annotation}\n").into_bytes(),
        format!("{annotation}\r\n").into_bytes(),
    ] {
        let initdata = Initdata::parse(&form).unwrap();
        assert_eq!(initdata.toml(), PLAIN);
        assert_eq!(initdata.digest(), digest);
    }
}

#[test]
fn its_parts_are_found() {
    let initdata = Initdata::parse(PLAIN.as_bytes()).unwrap();
    assert_eq!(initdata.algorithm(), Algorithm::Sha384);
    assert_eq!(initdata.countersign(), Some("version = 1"));
    assert_eq!(initdata.policy(), Some("package agent_policy"));
    assert_eq!(initdata.names().count(), 4);
    let aa = initdata.aa_kbs().unwrap().unwrap();
    assert_eq!(aa.url, "https://kbs.example:8443");
    assert!(aa.cert.unwrap().contains("BEGIN CERTIFICATE"));
    // CDH's is the one that a resource comes from.
    assert_eq!(initdata.kbs(), Some(KbsEndpoint { url: "https://cdh.example".to_owned(), cert: None }));
}

#[test]
fn the_kind_of_its_agent_policy_is_told() {
    let with = |data: &str| Initdata::parse(document("sha256", "0.1.0", data).as_bytes()).unwrap().agent_policy();
    assert_eq!(with("\"aa.toml\" = ''"), AgentPolicy::Absent);
    assert_eq!(with("\"policy.rego\" = 'package agent_policy'"), AgentPolicy::Permissive);
    assert_eq!(
        with("\"policy.rego\" = '''package agent_policy\npolicy_data := {\"containers\": [{}]}'''"),
        AgentPolicy::Generated
    );
}

#[test]
fn a_kbs_that_is_not_named_or_not_readable_is_not_guessed() {
    let with = |data: &str| Initdata::parse(document("sha256", "0.1.0", data).as_bytes()).unwrap();
    assert_eq!(with("").kbs(), None);
    assert_eq!(with("\"cdh.toml\" = 'socket = \"x\"'").cdh_kbs(), Ok(None));
    assert_eq!(with("\"cdh.toml\" = '''[kbc]\nurl = \"\"'''").cdh_kbs(), Ok(None));
    assert_eq!(with("\"cdh.toml\" = 'kbc ='").cdh_kbs(), Err(Error::Inner("cdh.toml")));
    assert_eq!(with("\"cdh.toml\" = 'kbc = 7'").cdh_kbs(), Err(Error::Inner("cdh.toml")));
    assert_eq!(with("\"aa.toml\" = '''[token_configs.kbs]\nurl = 7'''").aa_kbs(), Err(Error::Inner("aa.toml")));
    // One unreadable document does not hide the other.
    let both = with("\"cdh.toml\" = 'kbc ='\n\"aa.toml\" = '''[token_configs.kbs]\nurl = \"http://a\"'''");
    assert_eq!(both.kbs().unwrap().url, "http://a");
}

#[test]
fn algorithms_are_spelled_as_kata_and_trustee_spell_them() {
    for (name, len) in [("sha256", 32), ("sha384", 48), ("sha512", 64)] {
        assert_eq!(Initdata::parse(document(name, "0.1.0", "").as_bytes()).unwrap().digest().len(), len);
    }
    for name in ["sha-256", "sha-384", "SHA-512"] {
        assert_eq!(refused(&document(name, "0.1.0", "")), Error::HyphenatedAlgorithm);
    }
    for name in ["SHA256", "sha1", "md5", ""] {
        assert_eq!(refused(&document(name, "0.1.0", "")), Error::Algorithm);
    }
    assert!(Error::HyphenatedAlgorithm.to_string().contains("write sha256"));
}

#[test]
fn documents_of_another_shape_are_refused() {
    assert_eq!(refused(&document("sha256", "0.2.0", "")), Error::Version);
    assert_eq!(refused(""), Error::Empty);
    assert_eq!(refused(" \n"), Error::Empty);
    assert_eq!(Initdata::parse(b"\xff\xfe").unwrap_err(), Error::NotText);
    for text in [
        "algorithm = \"sha256\"\nversion = \"0.1.0\"\n",
        "version = \"0.1.0\"\n[data]\n",
        &document("sha256", "0.1.0", "\"a\" = 7"),
        &document("sha256", "0.1.0", "[data.nested]\na = \"b\""),
        "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[datta]\n",
        &document("sha256", "0.1.0", "a = \"1\"\na = \"2\""),
        "not toml",
    ] {
        assert!(matches!(refused(text), Error::Toml { .. }), "{text}");
    }
}

#[test]
fn a_key_beside_the_frame_is_let_be_and_measured() {
    // As Kata and Trustee do: some name the pod there, for the policy of the KBS.
    let plain = Initdata::parse(document("sha256", "0.1.0", "").as_bytes()).unwrap();
    let named = Initdata::parse(format!("pod_name = \"pod1\"\n{}", plain.toml()).as_bytes()).unwrap();
    assert_ne!(plain.digest(), named.digest());
    assert_eq!(named.names().count(), 0);
}

#[test]
fn a_message_names_the_line_and_quotes_nothing() {
    let error = refused(&document("sha256", "0.1.0", "canary = 7"));
    assert_eq!(error, Error::Toml { line: Some(4) });
    assert!(error.to_string().ends_with("(line 4)"));
    assert!(!format!("{error} {error:?}").contains("canary"));
}

#[test]
fn damaged_and_doubled_compression_is_refused() {
    let packed = gzip(PLAIN.as_bytes());
    let cut = packed.get(..packed.len() - 4).unwrap();
    assert_eq!(Initdata::parse(cut).unwrap_err(), Error::Gzip);
    let doubled = [packed.clone(), gzip(b"[data2]\n")].concat();
    assert_eq!(Initdata::parse(&doubled).unwrap_err(), Error::Gzip);
    assert_eq!(Initdata::parse(&[packed.clone(), vec![0]].concat()).unwrap_err(), Error::Gzip);
    let mut wrong_sum = packed.clone();
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    assert_eq!(Initdata::parse(&wrong_sum).unwrap_err(), Error::Gzip);
    let annotation = STANDARD.encode(&packed);
    for bad in [format!("{annotation}\n\n"), annotation.replacen('A', "A\n", 1), format!("{annotation}=")] {
        assert_eq!(refused(&bad), Error::Base64, "{bad}");
    }
}

#[test]
fn a_bomb_is_refused_before_it_has_unfolded() {
    let bomb = gzip(&vec![b'\n'; 16 * 1024 * 1024]);
    assert!(bomb.len() < 32 * 1024);
    assert_eq!(Initdata::parse(&bomb).unwrap_err(), Error::TooLong);
    assert_eq!(Initdata::parse(STANDARD.encode(&bomb).as_bytes()).unwrap_err(), Error::TooLong);
}

#[test]
fn every_form_has_its_cap() {
    assert_eq!(Initdata::parse(&vec![b'#'; MAX_TOML + 1]).unwrap_err(), Error::TooLong);
    let long = [GZIP, &vec![0; MAX_COMPRESSED]].concat();
    assert_eq!(Initdata::parse(&long).unwrap_err(), Error::CompressedTooLong);
    let long = [BASE64_OF_GZIP, &vec![b'A'; MAX_COMPRESSED * 2]].concat();
    assert_eq!(Initdata::parse(&long).unwrap_err(), Error::CompressedTooLong);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        start in prop_oneof![Just(&b""[..]), Just(GZIP), Just(BASE64_OF_GZIP)],
    ) {
        let _ = Initdata::parse(&[start, &bytes].concat()).map(|initdata| initdata.kbs());
    }

    #[test]
    fn any_text_inside_comes_back_as_it_was(value in "[^'\\pC]{0,200}", name in "[a-z.]{1,20}") {
        let text = document("sha512", "0.1.0", &format!("\"{name}\" = '{value}'"));
        let initdata = Initdata::parse(&gzip(text.as_bytes())).unwrap();
        prop_assert_eq!(initdata.toml(), &text);
        prop_assert_eq!(initdata.get(&name), Some(value.as_str()));
    }

    #[test]
    fn one_changed_byte_of_gzip_never_changes_the_text_unseen(at in 10_usize..200, byte in any::<u8>()) {
        let mut packed = gzip(PLAIN.as_bytes());
        if let Some(slot) = packed.get_mut(at) {
            *slot = byte;
        }
        if let Ok(initdata) = Initdata::parse(&packed) {
            prop_assert_eq!(initdata.toml(), PLAIN);
        }
    }
}
