//! What `https:` upstreams are trusted by, and which protocol they are offered. Knows rustls; must not know URLs.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::Version;

/// The client side of TLS, with the protocols that an upstream is offered.
pub fn client_config(version: Version, ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let mut config = client_tls(ca_pem)?;
    config.alpn_protocols = match version {
        Version::Http1 => vec![b"http/1.1".to_vec()],
        Version::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(Arc::new(config))
}

/// The client side of TLS: the system's authorities, or Mozilla's where it has none, and those of `ca_pem`.
pub fn client_tls(ca_pem: Option<&str>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(pem) = ca_pem {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("the CA bundle is not PEM: {e}"))?;
        if certificates.is_empty() {
            return Err("expected at least one certificate in the CA bundle, found none".into());
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|e| format!("a certificate of the CA bundle cannot be used: {e}"))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
