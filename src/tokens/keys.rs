//! Keys of an endpoint, each with the algorithms that it may be used for: never an HS algorithm with a public key.
//! Must not know where keys are fetched.

use std::collections::HashSet;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use secrecy::ExposeSecret as _;

use super::KeySource;

/// Keys that one set may hold.
const KEYS_MAX: usize = 100;
/// RFC 7518 section 3.2: a key as long as the hash, at least.
const SECRET_BYTES_MIN: usize = 32;

/// One key.
pub struct Key {
    pub id: Option<String>,
    pub key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// The keys in use.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// The keys that the configuration itself holds.
    pub fn own(source: &KeySource, allowed: &[Algorithm]) -> Result<Self, String> {
        match source {
            KeySource::Secret(secret) => secret_key(secret.expose_secret().as_bytes(), allowed),
            KeySource::File(text) if text.trim_start().starts_with('{') => Self::parse(text.as_bytes(), allowed),
            KeySource::File(text) => pem_key(text, allowed),
            KeySource::Jwks(_) => Err("expected keys of the configuration's own".into()),
        }
    }

    /// A JWK set (RFC 7517 section 5). Keys that no allowed algorithm may use are left out, as it says.
    pub fn parse(json: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_slice(json).map_err(|e| format!("expected a JWK set: {e}"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("expected at most {KEYS_MAX} keys, found {}", set.keys.len()));
        }
        let keys: Vec<Key> = set.keys.iter().filter_map(|jwk| key_of(jwk, allowed)).collect();
        match keys.is_empty() {
            true => Err(format!("none of its {} keys fits the allowed algorithms", set.keys.len())),
            false => Ok(Self { keys }),
        }
    }

    /// The keys for a token that names this key, or none.
    pub fn fitting(&self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let named = move |key: &&Key| match (&key.id, id) {
            (Some(own), Some(id)) => own == id,
            // A key without a name fits a token that names one only where it is the only key.
            (None, Some(_)) => self.keys.len() == 1,
            (_, None) => true,
        };
        self.keys.iter().filter(named).filter(move |key| key.algorithms.contains(&algorithm))
    }

    /// True if a token that names this key, or none, may be held against these keys.
    pub fn knows(&self, id: Option<&str>) -> bool {
        match id {
            None => !self.keys.is_empty(),
            Some(_) => {
                self.keys.iter().any(|key| key.id.as_deref() == id || (key.id.is_none() && self.keys.len() == 1))
            }
        }
    }
}

/// A key that leaves out algorithms of other kinds; none where nothing is left.
fn key(id: Option<String>, key: DecodingKey, fits: &[Algorithm], allowed: &[Algorithm]) -> Option<Key> {
    let fits: HashSet<_> = fits.iter().collect();
    let algorithms: Vec<_> = allowed.iter().filter(|algorithm| fits.contains(algorithm)).copied().collect();
    (!algorithms.is_empty()).then_some(Key { id, key, algorithms })
}

fn secret_key(secret: &[u8], allowed: &[Algorithm]) -> Result<KeySet, String> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!("expected a secret of at least {SECRET_BYTES_MIN} bytes, found {}", secret.len()));
    }
    let key = key(None, DecodingKey::from_secret(secret), AlgorithmFamily::Hmac.algorithms(), allowed);
    Ok(KeySet { keys: vec![key.ok_or("a secret is for HS256, HS384 and HS512 only")?] })
}

fn pem_key(text: &str, allowed: &[Algorithm]) -> Result<KeySet, String> {
    if text.contains("PRIVATE KEY") {
        return Err("expected a public key, found a private one; keep that where tokens are signed".into());
    }
    if text.contains("BEGIN CERTIFICATE") {
        return Err("expected a public key, found a certificate; take its key by `openssl x509 -pubkey -noout`".into());
    }
    let pem = text.as_bytes();
    let unfit = || format!("the key fits none of {allowed:?}");
    let found = if let Ok(rsa) = DecodingKey::from_rsa_pem(pem) {
        key(None, rsa, AlgorithmFamily::Rsa.algorithms(), allowed)
    } else if let Ok(ec) = DecodingKey::from_ec_pem(pem) {
        let fits = match ec.try_get_as_bytes().map(<[u8]>::len) {
            Ok(97) => [Algorithm::ES384],
            _ => [Algorithm::ES256],
        };
        key(None, ec, &fits, allowed)
    } else if let Ok(ed) = DecodingKey::from_ed_pem(pem) {
        key(None, ed, &[Algorithm::EdDSA], allowed)
    } else {
        return Err("expected a public key of RSA, EC P-256, EC P-384 or Ed25519 in PEM, or a JWK set".into());
    };
    Ok(KeySet { keys: vec![found.ok_or_else(unfit)?] })
}

/// A key of a set, if it is one for signatures that an allowed algorithm may use.
fn key_of(jwk: &Jwk, allowed: &[Algorithm]) -> Option<Key> {
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|r#use| *r#use != PublicKeyUse::Signature) {
        return None;
    }
    if common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return None;
    }
    let fits: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P384 => &[Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        // A secret in a set that is for everybody to read is none.
        _ => return None,
    };
    let own: Vec<Algorithm> = match &common.key_algorithm {
        Some(named) => fits.iter().filter(|fit| KeyAlgorithm::from(**fit) == *named).copied().collect(),
        None => fits.to_vec(),
    };
    key(common.key_id.clone(), DecodingKey::from_jwk(jwk).ok()?, &own, allowed)
}
