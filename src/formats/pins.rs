//! Pins: which evidence each identity must have. A resource of the KBS, written by app security;
//! JSON (`docs/sidecar.md` shows one).
//!
//! Digests are pinned per identity: a guest with the initdata of A and the name of B is nobody. Nothing
//! has a default that lets somebody in: no pin, no digest, no hardware is a refusal or a mistake.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::initdata::launch::fit;
use super::{hex, json};
use crate::config::spiffe::{PeerId, PeerPattern};

/// Most bytes of the resource, 1 MiB: some five thousand machines of SEV-SNP, at 131 bytes each.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Most patterns: each is compared with each other.
const MAX_PEERS: usize = 1024;

/// Most digests of one pattern: a release has two at once while it is rolled out.
const MAX_DIGESTS: usize = 64;

/// Most machines of one pattern.
const MAX_HARDWARE: usize = 8192;

/// Most policies, and most submods of one pattern: the verifier's own limit on submods.
const MAX_NAMES: usize = 32;

/// Most bytes of a policy's or a submod's name.
const MAX_NAME: usize = 128;

/// Bytes of the widest hardware id, SEV-SNP's `CHIP_ID`. TDX has 16, a Turin 8.
const WIDEST_ID: usize = 64;

/// Fewest bytes of one.
const SHORTEST_ID: usize = 8;

/// A machine, as wide as the widest id. A shorter one is filled with zeros, as SEV-SNP does it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HardwareId([u8; WIDEST_ID]);

/// The pins.
#[derive(Clone, PartialEq, Eq)]
pub struct Pins {
    serial: u64,
    policies: Vec<String>,
    peers: Vec<(PeerPattern, Pin)>,
}

/// What evidence of the identities of one pattern must show.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin {
    /// Digests of initdata, 32, 48 or 64 bytes each. Never empty.
    pub init_data: Vec<Vec<u8>>,
    /// On whose machines.
    pub hardware: Hardware,
    /// Least `serial` of its configuration. `None`: not asked.
    pub min_serial: Option<u64>,
    /// What must have been appraised, each of it well. Holds `cpu0` always.
    pub submods: BTreeSet<String>,
}

/// On whose machines a peer may run.
#[derive(Clone, PartialEq, Eq)]
pub enum Hardware {
    /// On anybody's: written out as `"hardware": "any"`.
    Any,
    /// On these. Never empty.
    Listed(BTreeSet<HardwareId>),
}

/// Why a text gives no pins. Each message continues "the pins …" and quotes none of them; entries are
/// counted from 1, in the order of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_BYTES`].
    #[error("are longer than 1 MiB")]
    TooLong,
    /// Not the JSON that they should be.
    #[error("are not one JSON object of `serial`, `policy_ids` and `peers`, with no other member and none twice")]
    Form,
    /// No policy, too many, or one without a name.
    #[error("have `policy_ids` that are not 1 to 32 names of at most 128 bytes")]
    Policies,
    /// Nobody, or too many.
    #[error("have `peers` that are none, or more than 1024")]
    Peers,
    /// A pattern that does not parse.
    #[error("have an entry (number {0}) whose name is no `spiffe://…` and no `dns:…`")]
    Pattern(usize),
    /// Two patterns mean one identity: which of them counts?
    #[error("have two entries (numbers {0} and {1}) that mean the same identity")]
    Overlap(usize, usize),
    /// No digest, too many, or one that is none.
    #[error(
        "have an entry (number {0}) whose `init_data` is not 1 to 64 digests of 32, 48 or 64 bytes in hex, none of them zero"
    )]
    InitData(usize),
    /// Neither of both, or both.
    #[error("have an entry (number {0}) without exactly one of `hardware_ids` and `hardware = \"any\"`")]
    Hardware(usize),
    /// No machine, too many, or one that is none.
    #[error("have an entry (number {0}) whose `hardware_ids` are not 1 to 8192 ids of 8 to 64 bytes in hex")]
    HardwareIds(usize),
    /// All zeros: what SEV-SNP shows where the host hides which machine it is.
    #[error(
        "have an entry (number {0}) with an all-zero hardware id, which every machine that hides its own would have"
    )]
    ZeroId(usize),
    /// Names of submods that are none.
    #[error("have an entry (number {0}) whose `submods` are not 1 to 32 names of at most 128 bytes")]
    Submods(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    serial: u64,
    policy_ids: Vec<String>,
    peers: Once<RawPin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPin {
    init_data: Vec<String>,
    hardware: Option<String>,
    hardware_ids: Option<Vec<String>>,
    min_serial: Option<u64>,
    submods: Option<Vec<String>>,
}

/// The members of an object in their order. A map would let the second of two take the first one's place.
struct Once<T>(Vec<(String, T)>);

impl HardwareId {
    /// Of 8 to 64 bytes that are not all zero.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let long = (SHORTEST_ID..=WIDEST_ID).contains(&bytes.len()) && bytes.iter().any(|byte| *byte != 0);
        long.then(|| fit(bytes, WIDEST_ID)).and_then(|bytes| bytes.try_into().ok()).map(Self)
    }
}

impl Pins {
    /// Parses the resource.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::TooLong);
        }
        let raw: Raw = json::object(bytes).ok_or(Error::Form)?;
        if !are_names(&raw.policy_ids) {
            return Err(Error::Policies);
        }
        let Once(entries) = raw.peers;
        if entries.is_empty() || entries.len() > MAX_PEERS {
            return Err(Error::Peers);
        }
        let mut peers: Vec<(PeerPattern, Pin)> = Vec::with_capacity(entries.len());
        for (number, (name, pin)) in (1..).zip(&entries) {
            let pattern = PeerPattern::parse(name).map_err(|_| Error::Pattern(number))?;
            if let Some(before) = peers.iter().position(|(other, _)| other.overlaps(&pattern)) {
                return Err(Error::Overlap(before.saturating_add(1), number));
            }
            peers.push((pattern, Pin::read(pin, number)?));
        }
        Ok(Self { serial: raw.serial, policies: raw.policy_ids, peers })
    }

    /// Its number: it never goes down.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether a verdict of this policy of the verifier counts.
    pub fn accepts_policy(&self, id: &str) -> bool {
        self.policies.iter().any(|policy| policy == id)
    }

    /// What evidence of `peer` must show. `None`: it is pinned nowhere, so nothing would do.
    pub fn of(&self, peer: &PeerId) -> Option<&Pin> {
        self.peers.iter().find(|(pattern, _)| pattern.matches(peer)).map(|(_, pin)| pin)
    }
}

impl Pin {
    fn read(raw: &RawPin, number: usize) -> Result<Self, Error> {
        let digest = |text: &String| {
            let bytes = hex::decode(text).filter(|bytes| matches!(bytes.len(), 32 | 48 | 64))?;
            bytes.iter().any(|byte| *byte != 0).then_some(bytes)
        };
        let init_data: Option<Vec<_>> = raw.init_data.iter().map(digest).collect();
        let fits = |list: &Vec<Vec<u8>>| (1..=MAX_DIGESTS).contains(&list.len());
        let init_data = init_data.filter(fits).ok_or(Error::InitData(number))?;
        let hardware = match (raw.hardware.as_deref(), &raw.hardware_ids) {
            (Some("any"), None) => Hardware::Any,
            (None, Some(ids)) => Hardware::Listed(hardware_ids(ids, number)?),
            _ => return Err(Error::Hardware(number)),
        };
        let mut submods = BTreeSet::from(["cpu0".to_owned()]);
        if let Some(names) = &raw.submods {
            if !are_names(names) {
                return Err(Error::Submods(number));
            }
            submods.extend(names.iter().cloned());
        }
        Ok(Self { init_data, hardware, min_serial: raw.min_serial, submods })
    }
}

fn hardware_ids(ids: &[String], number: usize) -> Result<BTreeSet<HardwareId>, Error> {
    if !(1..=MAX_HARDWARE).contains(&ids.len()) {
        return Err(Error::HardwareIds(number));
    }
    let read = |text: &String| {
        let bytes = hex::decode(text).ok_or(Error::HardwareIds(number))?;
        if !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0) {
            return Err(Error::ZeroId(number));
        }
        HardwareId::new(&bytes).ok_or(Error::HardwareIds(number))
    };
    ids.iter().map(read).collect()
}

fn are_names(names: &[String]) -> bool {
    (1..=MAX_NAMES).contains(&names.len()) && names.iter().all(|name| (1..=MAX_NAME).contains(&name.len()))
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Once<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Once<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object whose members stand once")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Once<T>, A::Error> {
                let (mut all, mut names) = (Vec::new(), BTreeSet::new());
                while let Some((name, value)) = members.next_entry::<String, T>()? {
                    if all.len() > MAX_PEERS || !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom("a member twice"));
                    }
                    all.push((name, value));
                }
                Ok(Once(all))
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// How many there are: digests and machines are nobody's business.
impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").field("serial", &self.serial).field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spiffe::SpiffeId;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const API: &str = "spiffe://example.org/ns/payments/sa/api";

    fn text() -> Value {
        json!({"serial": 3, "policy_ids": ["default"], "peers": {
            API: {"init_data": ["aa".repeat(48)], "hardware_ids": ["c1".repeat(64), "0123456789ABCDEF"], "min_serial": 7},
            "spiffe://example.org/ns/web/sa/*": {
                "init_data": ["bb".repeat(32), "cc".repeat(64)], "hardware": "any", "submods": ["gpu0"],
            },
        }})
    }

    fn parse(text: &Value) -> Result<Pins, Error> {
        Pins::parse(text.to_string().as_bytes())
    }

    fn id(text: &str) -> PeerId {
        PeerId::Spiffe(SpiffeId::parse(text).unwrap())
    }

    #[test]
    fn each_identity_has_the_pin_of_its_pattern() {
        let pins = parse(&text()).unwrap();
        assert_eq!(pins.serial(), 3);
        assert!(pins.accepts_policy("default") && !pins.accepts_policy("other") && !pins.accepts_policy(""));
        let api = pins.of(&id(API)).unwrap();
        assert_eq!((api.init_data.len(), api.min_serial), (1, Some(7)));
        let Hardware::Listed(ids) = &api.hardware else { panic!("a list") };
        // A Turin's id is 8 bytes, with zeros behind them in the report.
        let turin = [&[0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef][..], &[0; 56]].concat();
        assert!(ids.contains(&HardwareId::new(&turin).unwrap()));
        let web = pins.of(&id("spiffe://example.org/ns/web/sa/front")).unwrap();
        assert!(web.hardware == Hardware::Any && web.min_serial.is_none());
        assert_eq!(web.submods.iter().collect::<Vec<_>>(), ["cpu0", "gpu0"]);
        assert!(pins.of(&id("spiffe://example.org/ns/web/sa/front/x")).is_none());
        assert!(pins.of(&PeerId::Dns("front".to_owned())).is_none());
    }

    #[test]
    fn what_would_let_anybody_in_is_a_mistake() {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut text = text();
            change(&mut text);
            parse(&text).unwrap_err()
        };
        let set = |member: &'static str, value: Value| with(&move |text| text["peers"][API][member] = value.clone());
        assert_eq!(with(&|text| text["peers"] = json!({})), Error::Peers);
        assert_eq!(with(&|text| text["policy_ids"] = json!([])), Error::Policies);
        assert_eq!(with(&|text| text["policy_ids"] = json!([""])), Error::Policies);
        assert_eq!(with(&|text| text["x"] = json!(1)), Error::Form);
        assert_eq!(with(&|text| text["serial"] = json!("3")), Error::Form);
        assert_eq!(with(&|text| text["serial"] = json!(-3)), Error::Form);
        assert_eq!(with(&|text| drop(text.as_object_mut().unwrap().remove("serial"))), Error::Form);
        assert_eq!(with(&|text| text["peers"][API] = Value::Null), Error::Form);
        assert_eq!(set("allow", json!(true)), Error::Form);
        assert_eq!(set("init_data", json!([])), Error::InitData(1));
        assert_eq!(set("init_data", json!(["00".repeat(48)])), Error::InitData(1));
        assert_eq!(set("init_data", json!(["aa".repeat(47)])), Error::InitData(1));
        assert_eq!(set("init_data", json!(["*"])), Error::InitData(1));
        assert_eq!(set("init_data", json!(vec!["aa".repeat(48); 65])), Error::InitData(1));
        assert_eq!(set("hardware_ids", json!([])), Error::HardwareIds(1));
        assert_eq!(set("hardware_ids", json!(["c1"])), Error::HardwareIds(1));
        assert_eq!(set("hardware_ids", json!([""])), Error::HardwareIds(1));
        assert_eq!(set("hardware_ids", json!(["c1".repeat(65)])), Error::HardwareIds(1));
        assert_eq!(set("hardware_ids", json!(["any"])), Error::HardwareIds(1));
        assert_eq!(set("hardware_ids", json!(["00".repeat(64)])), Error::ZeroId(1));
        assert_eq!(set("hardware_ids", Value::Null), Error::Hardware(1), "neither");
        assert_eq!(set("hardware", json!("any")), Error::Hardware(1), "both");
        assert_eq!(set("submods", json!([])), Error::Submods(1));
        assert_eq!(
            with(&|text| {
                text["peers"][API]["hardware_ids"] = Value::Null;
                text["peers"][API]["hardware"] = json!("all");
            }),
            Error::Hardware(1)
        );
    }

    #[test]
    fn refused_patterns_that_mean_one_identity() {
        for (other, number) in [("spiffe://example.org/ns/*/sa/front", 2), ("spiffe://example.org/*/web/*/*", 1)] {
            let mut text = text();
            text["peers"][other] = text["peers"][API].clone();
            // serde_json sorts members.
            assert!(matches!(parse(&text), Err(Error::Overlap(..))), "{other} {number}");
        }
        let mut text = text();
        text["peers"]["nobody"] = text["peers"][API].clone();
        assert_eq!(parse(&text), Err(Error::Pattern(1)));
    }

    #[test]
    fn refused_members_that_stand_twice() {
        let text = text().to_string();
        let pin = format!("{{\"init_data\":[\"{}\"],\"hardware\":\"any\"}}", "dd".repeat(32));
        let twice = text.replacen("\"peers\":{", &format!("\"peers\":{{\"{API}\":{pin},"), 1);
        assert_eq!(Pins::parse(twice.as_bytes()), Err(Error::Form));
        let twice = text.replacen("\"serial\":3", "\"serial\":3,\"serial\":4", 1);
        assert_eq!(Pins::parse(twice.as_bytes()), Err(Error::Form));
    }

    #[test]
    fn refused_texts_that_are_no_pins() {
        for text in ["", "[]", "null", "{}", "[3,[\"default\"],{}]"] {
            assert_eq!(Pins::parse(text.as_bytes()), Err(Error::Form), "{text}");
        }
        assert_eq!(Pins::parse(&vec![b' '; MAX_BYTES + 1]), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Pins::parse(&bytes);
        }

        #[test]
        fn pins_with_one_changed_byte_never_panic(at in 0_usize..400, byte in any::<u8>()) {
            let mut bytes = text().to_string().into_bytes();
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
            let _ = Pins::parse(&bytes);
        }
    }
}
