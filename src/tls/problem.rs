//! What a failed handshake means, in words that name the next step.

use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::finding::{Class, Finding, Who};

/// Why a TLS handshake with a server failed. Holds no text of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsProblem {
    /// The certificate is not by the configured CA.
    UnknownIssuer,
    /// The certificate's time is over.
    Expired,
    /// The certificate's time has not begun, or our clock is behind.
    NotYetValid,
    /// The certificate is for other names.
    WrongName,
    /// The certificate says CA:TRUE; as `openssl req -x509` writes by default.
    CaUsedAsEndEntity,
    /// A signature in the chain or in the handshake does not verify.
    BadSignature,
    /// The certificate may not be used by a server.
    WrongPurpose,
    /// The certificate, or one of its chain, cannot be used for another reason.
    BadCertificate,
    /// The server does not speak TLS 1.3, or none of our algorithms.
    NoCommonVersion,
    /// The server ended the handshake with this alert (RFC 8446 §6).
    Alert(u8),
    /// What answers does not speak TLS.
    NotTls,
    /// Anything else.
    Other,
}

/// Says what an error of rustls means.
pub fn explain(error: &rustls::Error) -> TlsProblem {
    match error {
        rustls::Error::InvalidCertificate(error) => explain_certificate(error),
        rustls::Error::PeerIncompatible(_) => TlsProblem::NoCommonVersion,
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity => TlsProblem::NoCommonVersion,
            other => TlsProblem::Alert(u8::from(*other)),
        },
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls,
        _ => TlsProblem::Other,
    }
}

/// The same for what tokio-rustls gives. `None` where the transport failed and TLS did not.
pub fn explain_io(error: &io::Error) -> Option<TlsProblem> {
    error.get_ref()?.downcast_ref::<rustls::Error>().map(explain)
}

fn explain_certificate(error: &CertificateError) -> TlsProblem {
    match error {
        CertificateError::UnknownIssuer => TlsProblem::UnknownIssuer,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsProblem::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsProblem::NotYetValid,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsProblem::WrongName,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => TlsProblem::WrongPurpose,
        CertificateError::BadSignature => TlsProblem::BadSignature,
        // The only way to see it without a direct dependency on webpki; a test holds it true.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            TlsProblem::CaUsedAsEndEntity
        }
        _ => TlsProblem::BadCertificate,
    }
}

impl TlsProblem {
    /// In a few fixed words. Continues "the server …".
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownIssuer => "shows a certificate that is not by the configured CA",
            Self::Expired => "shows a certificate that has expired",
            Self::NotYetValid => "shows a certificate that is not valid yet by this guest's clock",
            Self::WrongName => "shows a certificate for another name",
            Self::CaUsedAsEndEntity => "shows a CA certificate (CA:TRUE) as its own",
            Self::BadSignature => "shows a certificate with a signature that does not verify",
            Self::WrongPurpose => "shows a certificate that may not be used by a server",
            Self::BadCertificate => "shows a certificate that cannot be used",
            Self::NoCommonVersion => "does not speak TLS 1.3 with an algorithm of ours",
            Self::Alert(_) => "ended the handshake with an alert",
            Self::NotTls => "does not answer in TLS",
            Self::Other => "failed the handshake",
        }
    }

    /// The finding, for the server of `url` (from configuration).
    pub fn finding(self, url: &str) -> Finding {
        let saw = match self {
            Self::Alert(code) => format!("the server at {url} ended the TLS handshake with alert {code}"),
            _ => format!("the server at {url} {}", self.label()),
        };
        let finding = Finding::new(Class::KbsIdentity, saw);
        match self {
            Self::UnknownIssuer | Self::BadSignature => finding
                .why("only the configured CA is trusted: another server answers there, or the KBS has a new certificate")
                .next("compare the issuer of the KBS's certificate with `[kbs].ca`, and correct the one that is wrong"),
            Self::Expired => finding
                .why("an expired certificate proves nothing any more (or this guest's clock is ahead)")
                .next("renew the KBS's certificate and restart it with the new one in `[http_server].certificate`")
                .who(Who::KbsOperator),
            Self::NotYetValid => finding
                .why("the certificate is from the future: a guest's clock is set by its host, and may be behind")
                .next("compare the host's clock with the certificate's notBefore, and set the host's clock with NTP")
                .who(Who::Platform),
            Self::WrongName => finding
                .why("the name in the URL must stand in the certificate's subjectAltName; its common name does not count")
                .next("correct the host in `[kbs].url`, or issue the KBS a certificate with that name as a SAN"),
            Self::CaUsedAsEndEntity => finding
                .why("a CA's certificate must not be a server's: `openssl req -x509` makes one with CA:TRUE unless told otherwise")
                .next("issue the KBS a certificate of its own with `-addext basicConstraints=critical,CA:FALSE` and a SAN")
                .who(Who::KbsOperator),
            Self::WrongPurpose | Self::BadCertificate => finding
                .why("the certificate is malformed, or made for something else than a server")
                .next("issue the KBS a certificate with extendedKeyUsage serverAuth and a SAN, by the CA of `[kbs].ca`")
                .who(Who::KbsOperator),
            Self::NoCommonVersion => finding
                .why("only TLS 1.3 is spoken: what stands at that address is older, or configured to be")
                .next("set `tls_profile = \"intermediate\"` or later in the KBS's `[http_server]`, or enable TLS 1.3 at its gateway")
                .who(Who::KbsOperator),
            Self::NotTls => finding
                .why("plain http answers there, or another protocol")
                .next("correct the scheme and port in `[kbs].url`"),
            Self::Alert(_) | Self::Other => finding
                .why("the server gave up; it may want a client certificate or another server name, as gateways do")
                .next("read the log of the KBS or of the gateway in front of it, and check the host in `[kbs].url`")
                .who(Who::KbsOperator),
        }
    }
}
