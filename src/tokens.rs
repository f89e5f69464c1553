//! Tokens: JSON Web Tokens (RFC 7519) held against an endpoint's keys, algorithms and claims, and what they grant.
//! Knows keys and claims; must not know sockets, how a token travelled, or what its bearer wants.

mod claims_check;
mod jwks;
mod keys;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{Validation, decode, decode_header};
use secrecy::SecretString;
use serde_json::Value;

use crate::claims::{ClaimPath, Grant};
use crate::telemetry::Metrics;

pub use jsonwebtoken::Algorithm;
use jwks::Jwks;
pub use jwks::JwksSettings;
use keys::{Key, KeySet};

/// The longest token taken, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8192;
/// Keys that are tried for a token that names none.
const TRIED_MAX: usize = 8;

/// How tokens are held against an endpoint.
#[derive(Debug, Clone)]
pub struct VerifierSettings {
    /// The only algorithms taken. Never empty.
    pub algorithms: Vec<Algorithm>,
    pub keys: KeySource,
    /// Allowed values of `iss`; empty asks for nothing.
    pub issuers: Vec<String>,
    /// `aud` must have one of them; empty asks for nothing.
    pub audiences: Vec<String>,
    /// Clocks may differ by this.
    pub leeway: Duration,
    /// Claims that must be there.
    pub required: Vec<ClaimPath>,
    /// The claim that names the user.
    pub user: ClaimPath,
    /// The claim that lists groups to join.
    pub groups: Option<ClaimPath>,
    /// The claim that becomes the context.
    pub context: Option<ClaimPath>,
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// For HS algorithms.
    Secret(SecretString),
    /// A public key in PEM, or a JWK set (RFC 7517): the text of a file.
    File(Arc<str>),
    Jwks(JwksSettings),
}

/// Why a token is refused. Says nothing of its content but what a log may hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("no token was given")]
    Missing,
    #[error("not a JSON Web Token: {0}")]
    Malformed(&'static str),
    #[error("its algorithm is not allowed here")]
    Algorithm,
    #[error("its key is not known here")]
    UnknownKey,
    #[error("its signature does not fit")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    Immature,
    #[error("its issuer is not allowed here")]
    Issuer,
    #[error("it is for another audience")]
    Audience,
    #[error("its claim {0:?} is missing or cannot be used")]
    Claim(String),
    #[error("it was revoked")]
    Revoked,
    #[error("it is another user's")]
    User,
    /// Not the client's fault: nobody could say.
    #[error("no keys could be fetched yet: {0}")]
    NoKeys(String),
}

impl Refused {
    /// As metrics name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed(_) => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::Immature => "immature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claim(_) => "claim",
            Self::Revoked => "revoked",
            Self::User => "user",
            Self::NoKeys(_) => "no_keys",
        }
    }
}

/// Holds tokens against one endpoint's settings.
pub struct Verifier {
    settings: VerifierSettings,
    keys: Keys,
}

enum Keys {
    Own(KeySet),
    Fetched(Arc<Jwks>),
}

impl Verifier {
    /// Says what is wrong with the settings, without fetching anything.
    pub fn check(settings: &VerifierSettings) -> Result<(), String> {
        match &settings.keys {
            KeySource::Jwks(jwks) => jwks::check(jwks),
            own => KeySet::own(own, &settings.algorithms).map(|_| ()),
        }
    }

    /// Readies the keys. Those of a URL are fetched from now on, unless `previous` has them from there. Needs a tokio runtime.
    pub fn new(
        settings: VerifierSettings,
        previous: Option<&Verifier>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, String> {
        let keys = match &settings.keys {
            KeySource::Jwks(jwks) => match previous.map(|previous| &previous.keys) {
                Some(Keys::Fetched(old)) if old.is_of(jwks, &settings.algorithms) => Keys::Fetched(old.clone()),
                _ => Keys::Fetched(Jwks::start(jwks.clone(), settings.algorithms.clone(), metrics)?),
            },
            own => Keys::Own(KeySet::own(own, &settings.algorithms)?),
        };
        Ok(Self { settings, keys })
    }

    pub fn settings(&self) -> &VerifierSettings {
        &self.settings
    }

    /// Holds one token against keys and claims. May wait for keys to be fetched, for some seconds at most.
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<Grant, Refused> {
        let unverified = Unverified::read(token, &self.settings.algorithms)?;
        let claims = match &self.keys {
            Keys::Own(keys) => unverified.verify(keys)?,
            Keys::Fetched(jwks) => unverified.verify(&*jwks.keys_for(unverified.key_id.as_deref()).await?)?,
        };
        claims_check::grant(&self.settings, claims, now)
    }
}

/// A token whose header fits.
struct Unverified<'a> {
    token: &'a str,
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl<'a> Unverified<'a> {
    fn read(token: &'a str, allowed: &[Algorithm]) -> Result<Self, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::Malformed("it is too long"));
        }
        if token.split('.').count() != 3 {
            return Err(Refused::Malformed("expected three parts, separated by dots"));
        }
        // `none` and whatever else is no algorithm of RFC 7518 does not read as a header at all.
        let header = decode_header(token).map_err(|_| match names_algorithm(token) {
            true => Refused::Algorithm,
            false => Refused::Malformed("its header cannot be read"),
        })?;
        if header.cty.is_some_and(|cty| cty.eq_ignore_ascii_case("jwt")) {
            return Err(Refused::Malformed("it holds another token"));
        }
        if header.crit.is_some() {
            return Err(Refused::Malformed("its header asks for an extension"));
        }
        if !allowed.contains(&header.alg) {
            return Err(Refused::Algorithm);
        }
        Ok(Self { token, algorithm: header.alg, key_id: header.kid })
    }

    /// The claims, if a key signed them.
    fn verify(&self, keys: &KeySet) -> Result<Value, Refused> {
        let mut refused = Refused::UnknownKey;
        for key in keys.fitting(self.key_id.as_deref(), self.algorithm).take(TRIED_MAX) {
            match self.verify_with(key) {
                Ok(claims) => return Ok(claims),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn verify_with(&self, key: &Key) -> Result<Value, Refused> {
        use jsonwebtoken::errors::ErrorKind;
        let mut validation = Validation::new(self.algorithm);
        // Times, issuer and audience are looked at by `claims_check`, which wants more of them.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = decode::<Value>(self.token, &key.key, &validation).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => Refused::Signature,
            ErrorKind::InvalidAlgorithm => Refused::Algorithm,
            ErrorKind::Json(_) | ErrorKind::Utf8(_) => Refused::Malformed("its claims cannot be read"),
            ErrorKind::Base64(_) => Refused::Malformed("it is not base64"),
            _ => Refused::Signature,
        })?;
        match claims.claims {
            claims @ Value::Object(_) => Ok(claims),
            _ => Err(Refused::Malformed("its claims are not an object")),
        }
    }
}

/// True if the header is a JSON object that names some algorithm.
fn names_algorithm(token: &str) -> bool {
    use base64::Engine as _;
    let header = token.split('.').next().unwrap_or_default();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap_or_default();
    let header: Value = serde_json::from_slice(&header).unwrap_or_default();
    header.get("alg").is_some_and(Value::is_string)
}

#[cfg(test)]
mod tests;
