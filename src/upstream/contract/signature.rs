//! Standard Webhooks signatures: HMAC-SHA256 over `id.timestamp.body`.
//! Knows a secret; must not show it, and must not know what is signed.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The least that Standard Webhooks allows.
const KEY_BYTES_MIN: usize = 24;

/// Signs with one upstream's secret.
pub struct Signer {
    key: hmac::Key,
}

impl Signer {
    /// Reads `whsec_<base64>`. The error does not hold the secret.
    pub fn new(secret: &str) -> Result<Self, String> {
        let encoded = secret.strip_prefix("whsec_").ok_or("expected a signing secret that begins with whsec_")?;
        let key = STANDARD.decode(encoded).map_err(|_| "expected base64 after whsec_ in the signing secret")?;
        if key.len() < KEY_BYTES_MIN {
            return Err(format!("expected a signing secret of at least {KEY_BYTES_MIN} bytes, found {}", key.len()));
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// The value of `webhook-signature`.
    pub fn sign(&self, id: &[u8], timestamp: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(id);
        context.update(b".");
        context.update(timestamp.to_string().as_bytes());
        context.update(b".");
        context.update(body);
        let mut signature = String::from("v1,");
        STANDARD.encode_string(context.sign(), &mut signature);
        signature
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}
