use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, HandshakeKind, NamedGroup, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::testing::{Leaf, TestCa};
use super::*;
use crate::finding::Class;

type Client = TlsStream<tokio::io::DuplexStream>;

async fn handshake(ca: &str, server: Arc<ServerConfig>, name: &str) -> Result<Client, TlsProblem> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let config = client(Some(ca), false, &Clock::system()).unwrap().config();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let serve = tokio::spawn(async move { TlsAcceptor::from(server).accept(theirs).await.is_ok() });
    let result = TlsConnector::from(config).connect(name, ours).await;
    let _ = serve.await;
    result.map_err(|error| explain_io(&error).unwrap())
}

#[tokio::test]
async fn the_configured_cas_server_is_spoken_to_in_tls_1_3_with_the_hybrid_first() {
    let ca = TestCa::new();
    for name in ["kbs.example", "127.0.0.1", "::1"] {
        let stream = handshake(&ca.pem, ca.server(name, Leaf::Good), name).await.unwrap();
        let (_, connection) = stream.get_ref();
        assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    }
}

#[tokio::test]
async fn each_wrong_certificate_is_refused_by_its_own_name() {
    let ca = TestCa::new();
    for (leaf, problem) in [
        (Leaf::Expired, TlsProblem::Expired),
        (Leaf::NotYetValid, TlsProblem::NotYetValid),
        (Leaf::IsCa, TlsProblem::CaUsedAsEndEntity),
        (Leaf::ForClients, TlsProblem::WrongPurpose),
    ] {
        let refused = handshake(&ca.pem, ca.server("kbs.example", leaf), "kbs.example").await.err();
        assert_eq!(refused, Some(problem), "{leaf:?}");
    }
    let other = ca.server("other.example", Leaf::Good);
    assert_eq!(handshake(&ca.pem, other, "kbs.example").await.err(), Some(TlsProblem::WrongName));
}

#[tokio::test]
async fn only_the_configured_ca_is_trusted() {
    let (ours, theirs) = (TestCa::new(), TestCa::new());
    let refused = handshake(&ours.pem, theirs.server("kbs.example", Leaf::Good), "kbs.example").await.err();
    // Both bear the same name here, so it is the signature that tells them apart.
    assert!(matches!(refused, Some(TlsProblem::BadSignature | TlsProblem::UnknownIssuer)), "{refused:?}");
    let both = format!("{}{}", ours.pem, theirs.pem);
    assert!(handshake(&both, theirs.server("kbs.example", Leaf::Good), "kbs.example").await.is_ok());
}

#[tokio::test]
async fn nothing_is_resumed() {
    let ca = TestCa::new();
    let config = client(Some(&ca.pem), false, &Clock::system()).unwrap().config();
    let server = ca.server("kbs.example", Leaf::Good);
    for _ in 0..2 {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(Arc::clone(&server));
        let serve = tokio::spawn(async move {
            let mut stream = acceptor.accept(theirs).await.unwrap();
            stream.write_all(b"x").await.unwrap();
        });
        let name = ServerName::try_from("kbs.example").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(&config)).connect(name, ours).await.unwrap();
        // Tickets arrive with the first bytes.
        tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        serve.await.unwrap();
    }
}

#[tokio::test]
async fn plain_http_on_the_port_is_named() {
    let ca = TestCa::new();
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let config = client(Some(&ca.pem), false, &Clock::system()).unwrap().config();
    let name = ServerName::try_from("kbs.example").unwrap();
    let error = TlsConnector::from(config).connect(name, ours).await.unwrap_err();
    assert_eq!(explain_io(&error), Some(TlsProblem::NotTls));
}

#[test]
fn a_ca_that_cannot_be_read_whole_is_refused() {
    let ca = TestCa::new();
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (pem, error) in [
        (String::new(), Error::NoCertificate),
        ("kbs-ca.pem".to_owned(), Error::NoCertificate),
        (bad.to_owned(), Error::Certificate(1)),
        (format!("{}{bad}", ca.pem), Error::Certificate(2)),
        (format!("{}{key}", ca.pem), Error::PrivateKey),
        (ca.pem.replace("-----END", "-----EN"), Error::Pem),
        (format!("{}-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", ca.pem), Error::OtherBlock),
        ("x".repeat(MAX_PEM + 1), Error::TooLong),
    ] {
        assert_eq!(client(Some(&pem), false, &Clock::system()).err(), Some(error));
        assert_eq!(error.finding().class, Class::Config);
        assert!(error.finding().next.contains("[kbs].ca"));
    }
    assert_eq!(client(None, false, &Clock::system()).err(), Some(Error::NoRoots));
    assert_eq!(client(Some(&ca.pem), true, &Clock::system()).err(), Some(Error::SystemRoots));
}

#[test]
fn every_problem_has_a_finding_that_names_a_next_step() {
    use TlsProblem::*;
    for problem in [
        UnknownIssuer,
        Expired,
        NotYetValid,
        WrongName,
        CaUsedAsEndEntity,
        BadSignature,
        WrongPurpose,
        BadCertificate,
        NoCommonVersion,
        Alert(112),
        NotTls,
        Other,
    ] {
        let finding = problem.finding("https://kbs.example:8443");
        assert_eq!(finding.class, Class::KbsIdentity);
        assert!(finding.saw.contains("https://kbs.example:8443"), "{finding}");
    }
    let alert = |alert| explain(&rustls::Error::AlertReceived(alert));
    assert_eq!(alert(AlertDescription::ProtocolVersion), NoCommonVersion);
    assert_eq!(alert(AlertDescription::UnrecognisedName), Alert(112));
}

proptest! {
    #[test]
    fn any_text_is_a_ca_or_refused(text in "\\PC{0,200}", framed in any::<bool>()) {
        let pem = if framed {
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        } else {
            text
        };
        let _ = client(Some(&pem), false, &Clock::system());
    }
}
