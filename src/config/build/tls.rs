//! The parts of the configuration that concern TLS and proxies in front: files that must be there and fit. Must not know how modules
//! work.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use secrecy::SecretString;

use super::super::raw::Entry;
use super::Build;
use crate::listener::{AddressHeader, ProxySettings};
use crate::tls::{CertificateSettings, ClientAuth, Tls, TlsError, TlsSettings, TlsVersion};

impl Build<'_> {
    pub(super) fn tls(&mut self, entry: &Entry) -> Option<TlsSettings> {
        if entry.is_absent() {
            return None;
        }
        let before = self.problems.len();
        let certificates = entry.get("certificates");
        let settings = TlsSettings {
            certificates: certificates.list().iter().map(|certificate| self.certificate(certificate)).collect(),
            client_ca_pem: self.file_text(entry.get("client_ca_file")),
            client_auth: match entry.get("client_auth").text() {
                Some("optional") => ClientAuth::Optional,
                _ => ClientAuth::Required,
            },
            version_min: if entry.get("version_min").text() == Some("1.3") {
                TlsVersion::Tls13
            } else {
                TlsVersion::Tls12
            },
        };
        if certificates.list().is_empty() && !certificates.is_absent() {
            self.problem(certificates, "expected at least one certificate", None);
        }
        // What is named with its own place already is not said again.
        if before == self.problems.len()
            && let Err(error) = Tls::new(&settings)
        {
            match error {
                TlsError::Certificate { certificate, reason } => {
                    let list = certificates.list();
                    self.problem(list.get(certificate).unwrap_or(certificates), reason, None);
                }
                TlsError::ClientCa(reason) => self.problem(entry.get("client_ca_file"), reason, None),
            }
        }
        Some(settings)
    }

    pub(super) fn proxies(&mut self, entry: &Entry) -> ProxySettings {
        let mut trusted = Vec::new();
        for entry in entry.get("trusted").list() {
            let text = entry.text().unwrap_or_default();
            match text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
                Some(net) => trusted.push(net),
                None => {
                    let hint = "write for instance `10.0.0.0/8` or `::1`".to_owned();
                    self.problem(entry, format!("expected an address or a network, found {text:?}"), hint);
                }
            }
        }
        let header = match entry.get("header").text() {
            Some("forwarded") => AddressHeader::Forwarded,
            Some("none") => AddressHeader::None,
            _ => AddressHeader::XForwardedFor,
        };
        ProxySettings { trusted, header, protocol: entry.get("protocol").is_true() }
    }

    fn certificate(&mut self, entry: &Entry) -> CertificateSettings {
        let chain_pem = self.file_text(entry.get("cert_file")).unwrap_or_default();
        let key = self.file_text(entry.get("key_file")).as_deref().map(str::to_owned).unwrap_or_default();
        CertificateSettings { chain_pem: Arc::clone(&chain_pem), key_pem: SecretString::from(key) }
    }
}
