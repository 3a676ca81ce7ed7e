//! The KBS double against a real one: recorded requests are sent again, in sessions with the
//! recorded ids and nonces, and the answers compared with the recorded ones.
//!
//! What differs from call to call is compared by its shape: tokens, JWEs, dates. Left out, by
//! number and with the reason, is what the double does not do.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use countersign_testbed::kbs::{Kbs, Policy};
use countersign_testbed::{World, runner};
use serde_json::Value;
use wire::{Answer, KBS, claims, exchange};

countersign_testbed::main! {
    every_recorded_exchange_is_answered_alike [Namespaces, Vectors],
    recorded_policies_and_expiry_are_answered_alike [Namespaces, Vectors],
    recorded_errors_of_the_handshake_are_answered_alike [Namespaces, Vectors],
    token_has_the_members_of_the_recorded_ones [Namespaces, Vectors],
}

/// The double seals to no RSA key: no client of ours has one.
const LEFT_OUT: [&str; 2] = ["39-resource-RSA-OAEP-256", "42-resource-RSA1_5"];

fn every_recorded_exchange_is_answered_alike() {
    let recorded = exchanges(&runner::vectors().unwrap().join("generated/wire"));
    assert_eq!(recorded.len(), 72, "the recordings are not those we know");
    let sessions: Vec<_> = recorded.iter().filter_map(Exchange::session).collect();
    let world = World::private().unwrap();
    let kbs = world.kbs(KBS, trustee().sessions(sessions));
    let (mut compared, mut token) = (0, String::new());
    for one in recorded.iter().filter(|one| !LEFT_OUT.contains(&one.name.as_str())) {
        let got = one.send(&world, &token);
        if let Some(fresh) = got.json()["token"].as_str()
            && one.name == "17-ok-P-256-attest"
        {
            fresh.clone_into(&mut token);
        }
        // Trustee's own numbers; the names of ours are fewer.
        if one.name == "15-metrics" {
            assert_eq!((got.status, got.header("content-type")), (200, None));
        } else {
            assert_eq!(shape(&got), shape(&one.answer), "{}", one.name);
        }
        compared += 1;
    }
    assert_eq!(compared, 70);
    assert!(kbs.attestations() >= 9, "{}", kbs.attestations());
}

fn recorded_policies_and_expiry_are_answered_alike() {
    let recorded = exchanges(&runner::vectors().unwrap().join("generated/wire/policy-and-expiry"));
    let sessions: Vec<_> = recorded.iter().filter_map(Exchange::session).collect();
    let world = World::private().unwrap();
    let kbs = world.kbs(KBS, trustee().resource("default/test/key", "abc").sessions(sessions));
    let (mut compared, mut token) = (0, String::new());
    for one in &recorded {
        // What an administrator did to the real one is done to the double by its switches.
        match one.name.as_str() {
            "14-set-policy-deny" => kbs.set_policy(Policy::DenyAll),
            "18-set-policy-default" => kbs.set_policy(Policy::Default),
            "20-set-policy-affirming" => kbs.set_policy(Policy::Affirming),
            "22-set-policy-allow" => kbs.set_policy(Policy::AllowAll),
            "25-set-empty" => kbs.set_resource("default/test/empty", ""),
            "30-expired-session" => kbs.expire_sessions(),
            _ => {}
        }
        let ours = one.name.contains("p384")
            || one.name.starts_with("15-")
            || ["05", "16", "17", "19", "21", "26", "27", "30", "31", "32", "33"]
                .iter()
                .any(|number| one.name.starts_with(number));
        if ours {
            let got = one.send(&world, &token);
            if one.name == "16-deny-attest" {
                got.json()["token"].as_str().expect("a token").clone_into(&mut token);
            }
            assert_eq!(shape(&got), shape(&one.answer), "{}", one.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 15);
}

fn recorded_errors_of_the_handshake_are_answered_alike() {
    let text = std::fs::read_to_string(runner::vectors().unwrap().join("transcripts/rcar-errors.txt")).unwrap();
    // Each block ends in the answer's one line of JSON. The session's own are in the other tests.
    let mut problems: BTreeMap<&str, &str> = BTreeMap::new();
    for block in text.split("## ").skip(1) {
        let name = block.lines().next().unwrap();
        if let Some(json) = block.lines().find(|line| line.starts_with("{\"type\":")) {
            problems.insert(name, json);
        }
    }
    let world = World::private().unwrap();
    let _kbs = world.kbs(KBS, trustee());
    let client = wire::Client::new(&world);
    let stranger = ("cookie", "kbs-session-id=00000000000000000000000000000000");
    for (name, method, path, headers, body) in [
        (
            "wrong protocol version 0.1.1",
            "POST",
            "auth",
            None,
            r#"{"version":"0.1.1","tee":"sample","extra-params":""}"#,
        ),
        ("0.2.0", "POST", "auth", None, r#"{"version":"0.2.0","tee":"sample","extra-params":""}"#),
        ("0.4.1", "POST", "auth", None, r#"{"version":"0.4.1","tee":"sample","extra-params":""}"#),
        ("no extra-params field", "POST", "auth", None, r#"{"version":"0.4.0","tee":"sample"}"#),
        ("unknown tee", "POST", "auth", None, r#"{"version":"0.4.0","tee":"bogus","extra-params":""}"#),
        ("attest without cookie", "POST", "attest", None, "{}"),
        ("attest with unknown session", "POST", "attest", Some(stranger), "{}"),
        ("bad bearer", "GET", "resource/default/test/one", Some(("authorization", "Bearer abc")), ""),
        ("unknown plugin", "GET", "nosuchplugin/a/b/c", None, ""),
    ] {
        let bytes = client.send(method, &format!("/kbs/v0/{path}"), headers.as_slice(), body.as_bytes());
        let got = Answer::parse(&bytes).unwrap();
        let expected: Value = serde_json::from_str(problems[name]).unwrap();
        assert_eq!(got.json()["type"], expected["type"], "{name}");
        if name != "unknown plugin" {
            assert_eq!(got.json()["detail"], expected["detail"], "{name}");
        }
    }
}

fn token_has_the_members_of_the_recorded_ones() {
    let vectors = runner::vectors().unwrap().join("generated");
    let recorded = std::fs::read_to_string(vectors.join("tokens/token-initdata.jwt")).unwrap();
    let all = exchanges(&vectors.join("wire"));
    let session = all.iter().find(|one| one.name == "67-initdata-ok-auth").unwrap();
    let attest = all.iter().find(|one| one.name == "68-initdata-ok-attest").unwrap();
    let world = World::private().unwrap();
    let _kbs = world.kbs(KBS, trustee().sessions(session.session()));
    session.send(&world, "");
    let token = attest.send(&world, "").json()["token"].as_str().unwrap().to_owned();
    let (mut ours, mut theirs) = (claims(&token), claims(recorded.trim()));
    for claims in [&mut ours, &mut theirs] {
        for time in ["iat", "exp"] {
            assert!(claims.as_object_mut().unwrap().remove(time).unwrap().is_u64());
        }
    }
    assert_eq!(ours, theirs);
    let header = |token: &str| {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        members(&serde_json::from_slice(&bytes).unwrap())
    };
    assert_eq!(header(&token), header(recorded.trim()));
}

/// As the recording's: everybody who attested gets the one resource.
fn trustee() -> Kbs {
    Kbs::healthy().policy(Policy::AllowAll).resource("default/test/key", "anchor secret bytes")
}

struct Exchange {
    name: String,
    request: Vec<u8>,
    answer: Answer,
}

impl Exchange {
    /// The session that an answer of `/auth` began.
    fn session(&self) -> Option<(String, String)> {
        let nonce = self.answer.json()["nonce"].as_str()?.to_owned();
        let cookie = self.answer.header("set-cookie")?.strip_prefix("kbs-session-id=")?;
        Some((cookie.split(';').next()?.to_owned(), nonce))
    }

    /// Sends the request again. A token of the recording is of another signer: ours takes its
    /// place.
    fn send(&self, world: &World, token: &str) -> Answer {
        let text = String::from_utf8_lossy(&self.request).into_owned();
        let recorded = text.lines().find_map(|line| line.split_once("earer eyJ")).map(|(_, rest)| format!("eyJ{rest}"));
        let request = match recorded {
            Some(recorded) => text.replace(&recorded, token).into_bytes(),
            None => self.request.clone(),
        };
        Answer::parse(&exchange(world.connect(KBS).unwrap(), &request)).expect("an answer")
    }
}

/// Recorded exchanges of a directory, by number. Those without a request are left out.
fn exchanges(directory: &Path) -> Vec<Exchange> {
    let mut requests: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".request.http"))
        .collect();
    requests.sort();
    requests
        .iter()
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().trim_end_matches(".request.http").to_owned();
            let answer = std::fs::read(path.to_string_lossy().replace(".request.", ".response.")).unwrap();
            let answer = Answer::parse(&answer).unwrap_or_else(|| panic!("{name}: no answer"));
            Exchange { name, request: std::fs::read(path).unwrap(), answer }
        })
        .collect()
}

/// An answer without what differs from call to call.
fn shape(answer: &Answer) -> (u16, BTreeMap<String, String>, String) {
    let mut headers = answer.headers.clone();
    for name in ["date", "connection", "content-length"] {
        headers.remove(name);
    }
    if let Some(cookie) = headers.get_mut("set-cookie") {
        let (id, attributes) = cookie.split_once("; ").expect("attributes");
        let names: Vec<&str> = attributes.split("; ").filter_map(|one| one.split('=').next()).collect();
        *cookie = format!("{id}; {}", names.join("; "));
    }
    let json = answer.json();
    let body = match &json {
        Value::Object(_) if json.get("token").is_some() || json.get("protected").is_some() => members(&json).join(","),
        _ => String::from_utf8_lossy(&answer.body).into_owned(),
    };
    (answer.status, headers, body)
}

/// Names of all members, with those above them; with what JWEs say that is always the same.
fn members(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => object
            .iter()
            .flat_map(|(name, value)| {
                let below = members(value);
                if below.is_empty() {
                    vec![name.clone()]
                } else {
                    below.iter().map(|inner| format!("{name}/{inner}")).collect()
                }
            })
            .collect(),
        _ => Vec::new(),
    }
}
