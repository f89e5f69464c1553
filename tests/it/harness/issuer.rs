//! Who signs tokens: a key that may be exchanged, and a real HTTP server with its JWK set.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::upstream::{Reply, Upstream};

/// Signs with ES256.
pub struct Issuer {
    key: EncodingKey,
    id: String,
    public_pem: String,
    /// What the server answers; none is an error.
    set: Arc<Mutex<Option<String>>>,
    pub server: Upstream,
}

impl Issuer {
    pub async fn start() -> Self {
        let set: Arc<Mutex<Option<String>>> = Arc::default();
        let shown = set.clone();
        let server = Upstream::start(move |_| match shown.lock().clone() {
            Some(set) => Reply::json(set),
            None => Reply::status(500),
        });
        let mut issuer = Self {
            key: EncodingKey::from_secret(b""),
            id: String::new(),
            public_pem: String::new(),
            set,
            server: server.await,
        };
        issuer.rotate("first");
        issuer
    }

    /// From now on another key signs, and the set has that one alone.
    pub fn rotate(&mut self, id: &str) {
        let pair = rcgen::KeyPair::generate().expect("a key");
        self.key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key");
        self.public_pem = pair.public_key_pem();
        self.id = id.to_owned();
        let public = DecodingKey::from_ec_pem(self.public_pem.as_bytes()).expect("a key");
        let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&public, Some(Algorithm::ES256)).expect("a JWK"));
        jwk.as_mut().expect("JSON")["kid"] = json!(id);
        *self.set.lock() = Some(json!({"keys": [jwk.expect("JSON")]}).to_string());
    }

    /// The set cannot be had any more.
    pub fn fail(&self) {
        *self.set.lock() = None;
    }

    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// A token with these claims and an end in a minute, unless they name one.
    pub fn token(&self, claims: &Value) -> String {
        let mut all = json!({"exp": now() + 60.0});
        all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        encode(&header, &all, &self.key).expect("a token")
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
