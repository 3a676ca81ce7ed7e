//! Whom roots let in, what of that outlives a certificate, and what is remembered.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rcgen::{KeyUsagePurpose, date_time_ymd};

use super::*;

const API: &str = "spiffe://example.org/ns/payments/sa/api";

/// A CA.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// What a CA says of itself, until the first of January of `until`.
fn ca_params(until: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "mesh");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

impl Ca {
    fn root() -> Self {
        let (params, key) = (ca_params(2090), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn intermediate(&self, until: i32) -> Self {
        let (mut params, key) = (ca_params(until), KeyPair::generate().unwrap());
        params.distinguished_name.push(rcgen::DnType::CommonName, "between");
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// For a client, from the first of January of one year to that of another.
    fn leaf(&self, years: (i32, i32)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(API.try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    /// A door for whom this one vouches for, on the first of January of `year`.
    fn door(&self, year: i32) -> Door {
        let now = Duration::from_secs(date_time_ymd(year, 1, 1).unix_timestamp().try_into().unwrap());
        let wall = Arc::new(move || std::time::SystemTime::UNIX_EPOCH + now);
        let clock = Clock::new(wall, Arc::new(|| Duration::ZERO));
        let trust = Trust::by_roots(&self.pem, Calls::Them, None, &clock).unwrap();
        Door::new(Arc::new(trust), vec![PeerPattern::parse(API).unwrap()]).unwrap()
    }
}

fn enters(door: &Door, chain: &[CertificateDer<'_>]) -> VerifiedPeer {
    door.admit(door.known(chain).unwrap(), None).unwrap()
}

#[test]
fn a_connection_outlives_its_leaf_and_not_the_roots_it_came_in_by() {
    let (root, other) = (Ca::root(), Ca::root());
    let chain = [root.leaf((2029, 2031))];
    let peer = enters(&root.door(2030), &chain);
    for later in [2030, 2040] {
        assert_eq!(root.door(later).still(&peer), Ok(()), "{later}");
        assert_eq!(other.door(later).still(&peer), Err(Reason::UnknownIssuer), "{later}");
    }
    assert_eq!(root.door(2040).known(&chain).err(), Some(Reason::Expired), "to come in it must be valid");
}

#[test]
fn the_same_holds_where_what_stands_between_leaf_and_root_has_ended() {
    let (root, other) = (Ca::root(), Ca::root());
    let between = root.intermediate(2031);
    let chain = [between.leaf((2029, 2050)), between.der.clone()];
    let peer = enters(&root.door(2030), &chain);
    assert_eq!(root.door(2040).still(&peer), Ok(()));
    assert_eq!(other.door(2040).still(&peer), Err(Reason::UnknownIssuer));
    assert_eq!(root.door(2040).known(&chain).err(), Some(Reason::Expired));
}

#[test]
fn what_had_ended_before_the_connection_began_and_was_not_needed_ends_nothing() {
    let (root, old) = (Ca::root(), Ca::root());
    // Of a root that nobody has any more: it ended before the leaf began.
    let chain = [root.leaf((2030, 2032)), old.intermediate(2028).der];
    let peer = enters(&root.door(2031), &chain);
    assert_eq!(root.door(2031).still(&peer), Ok(()));
    assert_eq!(root.door(2040).still(&peer), Ok(()));
    assert_eq!(old.door(2040).still(&peer), Err(Reason::UnknownIssuer));
}

#[test]
fn chains_without_end_take_bounded_memory_and_the_newest_is_remembered() {
    let id = PeerId::Dns("web.example".to_owned());
    let seen = Arc::new(Seen { id, leaf: None, chain: Vec::new(), hash: String::new(), until: 0 });
    let mut remembered = HashMap::new();
    for n in 0..3 * u64::try_from(MAX_REMEMBERED).unwrap() {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        remember(&mut remembered, key, &seen);
        assert!(remembered.contains_key(&key) && remembered.len() <= MAX_REMEMBERED);
    }
}
#[test]
fn a_padded_chain_is_good_and_takes_no_memory() {
    let made = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        change(&mut params);
        (KeyPair::generate().unwrap(), params)
    };
    let (key, params) = made(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let pem = params.self_signed(&key).unwrap().pem();
    let mesh = Issuer::new(params, key);
    let (key, params) = made(|params| {
        params.subject_alt_names = vec![SanType::DnsName("web.example".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let leaf = params.signed_by(&key, &mesh).unwrap().der().clone();
    // Anybody's, and of no use.
    let (key, params) = made(|params| {
        let name = |n: usize| SanType::DnsName(format!("{n}.padding.example").try_into().unwrap());
        params.subject_alt_names = (0..500).map(name).collect();
    });
    let padding = params.self_signed(&key).unwrap().der().clone();
    assert!(padding.len() > MAX_REMEMBERED_CHAIN);
    let trust = Trust::by_roots(&pem, Calls::Them, None, &Clock::system()).unwrap();
    for (chain, kept) in [(vec![leaf.clone(), padding], 0), (vec![leaf], 1)] {
        for _ in 0..2 {
            let seen = trust.verify(&chain, trust.clock.now()).unwrap();
            assert_eq!(seen.id, PeerId::Dns("web.example".to_owned()));
            assert_eq!(trust.lock().len(), kept);
        }
    }
}
