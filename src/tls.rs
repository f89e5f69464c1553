//! The server side of TLS: certificates by server name, client certificates, and a configuration that is swapped while sockets live.
//! Knows rustls; must not know who listens, nor what is served.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What a listener speaks TLS with.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// At least one. The first is shown to clients that name no server, or one that no certificate is for.
    pub certificates: Vec<CertificateSettings>,
    /// PEM bundle of authorities that client certificates must come from; none asks for no certificate.
    pub client_ca_pem: Option<Arc<str>>,
    pub client_auth: ClientAuth,
    pub version_min: TlsVersion,
}

/// A certificate with its chain and its key, as PEM.
#[derive(Debug, Clone)]
pub struct CertificateSettings {
    pub chain_pem: Arc<str>,
    pub key_pem: SecretString,
}

/// Whether a client must show a certificate, where authorities for them are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Required,
    Optional,
}

/// The oldest version spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Why TLS settings cannot be used. `certificate` is the position of the one at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("{reason}")]
    Certificate { certificate: usize, reason: String },
    #[error("{0}")]
    ClientCa(String),
}

/// The TLS side of a listener, whose settings may be swapped.
pub struct Tls {
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Checks the settings and makes the side. The error never shows a key.
    pub fn new(settings: &TlsSettings) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { config: ArcSwap::from(server_config(settings)?) }))
    }

    /// Handshakes from now on use these settings; open connections go on with theirs.
    pub fn swap(&self, settings: &TlsSettings) -> Result<(), TlsError> {
        self.config.store(server_config(settings)?);
        Ok(())
    }

    /// The handshake on an accepted connection.
    pub async fn accept(&self, stream: TcpStream, within: Duration) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        timeout(within, acceptor.accept(stream)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl PartialEq for TlsSettings {
    fn eq(&self, other: &Self) -> bool {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self { certificates, client_ca_pem, client_auth, version_min } = self;
        let same = |(one, two): (&CertificateSettings, &CertificateSettings)| {
            one.chain_pem == two.chain_pem && one.key_pem.expose_secret() == two.key_pem.expose_secret()
        };
        certificates.len() == other.certificates.len()
            && certificates.iter().zip(&other.certificates).all(same)
            && (client_ca_pem, client_auth, version_min)
                == (&other.client_ca_pem, &other.client_auth, &other.version_min)
    }
}

/// The name that a client's certificate gives it: the subject's common name, or else the first alternative name.
pub fn subject(stream: &TlsStream<TcpStream>) -> Option<String> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    common.map(str::to_owned).or_else(|| names_of(&certificate).into_iter().next())
}

fn server_config(settings: &TlsSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut known = Vec::new();
    for (certificate, pem) in settings.certificates.iter().enumerate() {
        let key = Certificate::read(pem, &provider).map_err(|reason| TlsError::Certificate { certificate, reason })?;
        known.push(key);
    }
    let versions: &[&SupportedProtocolVersion] = match settings.version_min {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| TlsError::ClientCa(error.to_string()))?;
    let config = match &settings.client_ca_pem {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(pem)?.into(), provider);
            let verifier = match settings.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            config.with_client_cert_verifier(verifier.build().map_err(|e| TlsError::ClientCa(e.to_string()))?)
        }
    };
    let mut config = config.with_cert_resolver(Arc::new(Certificates(known)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let wrong = |reason: String| TlsError::ClientCa(reason);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(format!("not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| wrong(format!("a certificate cannot be used: {error}")))?;
    }
    if roots.is_empty() { Err(wrong("expected at least one certificate, found none".into())) } else { Ok(roots) }
}

/// A certificate that is ready to be shown, and the names that it is for, in lower case.
#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
}

impl Certificate {
    fn read(pem: &CertificateSettings, provider: &rustls::crypto::CryptoProvider) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(pem.chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("the certificate is not PEM: {error}"))?;
        let first = chain.first().ok_or("expected a certificate, found none")?;
        let (_, parsed) =
            X509Certificate::from_der(first).map_err(|error| format!("not an X.509 certificate: {error}"))?;
        let names = names_of(&parsed).iter().map(|name| name.to_ascii_lowercase()).collect();
        let key = PrivateKeyDer::from_pem_slice(pem.key_pem.expose_secret().as_bytes());
        // The library's words might show a part of the key.
        let key = key.map_err(|_| "the key is not PEM")?;
        let key = provider.key_provider.load_private_key(key).map_err(|_| "the key cannot be used")?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| "the key does not belong to the certificate")?;
        Ok(Self { key: Arc::new(key), names })
    }

    fn is_for(&self, server: &str) -> bool {
        let parent = server.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| name == server || name.strip_prefix("*.").is_some_and(|n| Some(n) == parent))
    }
}

/// All certificates of a listener, found by server name.
#[derive(Debug)]
struct Certificates(Vec<Certificate>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let server = hello.server_name().map(str::to_ascii_lowercase);
        let named = server.and_then(|server| self.0.iter().find(|certificate| certificate.is_for(&server)));
        named.or(self.0.first()).map(|certificate| certificate.key.clone())
    }
}

/// The alternative names of a certificate, as texts.
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => Some((*text).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> CertificateSettings {
        let made = rcgen::generate_simple_self_signed(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        let made = made.expect("a certificate");
        CertificateSettings { chain_pem: made.cert.pem().into(), key_pem: made.signing_key.serialize_pem().into() }
    }

    fn settings(certificates: Vec<CertificateSettings>) -> TlsSettings {
        TlsSettings {
            certificates,
            client_ca_pem: None,
            client_auth: ClientAuth::Required,
            version_min: TlsVersion::Tls12,
        }
    }

    #[test]
    fn names_and_wildcards_choose_a_certificate() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let read = Certificate::read(&certificate(&["a.example", "*.b.example"]), &provider).expect("readable");
        for (server, fits) in
            [("a.example", true), ("x.b.example", true), ("b.example", false), ("x.y.b.example", false), ("", false)]
        {
            assert_eq!(read.is_for(server), fits, "{server}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_without_the_key() {
        let (one, two) = (certificate(&["a"]), certificate(&["b"]));
        let error = |settings: &TlsSettings| Tls::new(settings).err().expect("refused").to_string();
        let mixed = CertificateSettings { key_pem: two.key_pem.clone(), ..one.clone() };
        assert_eq!(error(&settings(vec![two, mixed])), "the key does not belong to the certificate");
        let empty = CertificateSettings { chain_pem: "".into(), ..one.clone() };
        assert_eq!(error(&settings(vec![empty])), "expected a certificate, found none");
        let secret = CertificateSettings { key_pem: "hunter2".to_owned().into(), ..one.clone() };
        assert_eq!(error(&settings(vec![secret])), "the key is not PEM");
        let ca = TlsSettings { client_ca_pem: Some("nothing".into()), ..settings(vec![one.clone()]) };
        assert_eq!(error(&ca), "expected at least one certificate, found none");
        assert!(settings(vec![one.clone()]) == settings(vec![one]));
    }
}
