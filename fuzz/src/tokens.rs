//! Tokens against keys of every algorithm. Input: a line `raw`, then the token; or a line `hs256`, `hs384` or `hs512`, a line with the
//! header, then the claims, which are signed here. A token is taken only if a second look at its signature finds it right, and its
//! claims only if a plain reading of the rules does.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use holdfast::claims::{ClaimPath, Grant, GroupRule, Requirement, may_join};
use holdfast::message::CONTEXT_BYTES_MAX;
use holdfast::routing::Pattern;
use holdfast::telemetry::Metrics;
use holdfast::tokens::{Algorithm, KeySource, Refused, TOKEN_BYTES_MAX, Verifier, VerifierSettings};
use secrecy::SecretString;
use serde_json::Value;

use super::{check, json};

const NOW: u64 = 1_800_000_000;
const LEEWAY: u64 = 5;
const ISSUER: &str = "https://id.example.com";
const AUDIENCE: &str = "chat";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
const RSA: &str = include_str!("tokens/rsa.pem");
const P256: &str = include_str!("tokens/p256.pem");
const P384: &str = include_str!("tokens/p384.pem");
const ED25519: &str = include_str!("tokens/ed25519.pem");
const SET: &str = include_str!("tokens/jwks.json");

const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const PUBLIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

pub fn run(data: &[u8]) {
    let mut rest = data;
    let Some(how) = check::text_line(&mut rest) else { return };
    match how {
        "raw" => {
            if let Ok(token) = std::str::from_utf8(rest) {
                verifiers().iter().for_each(|verifier| held_against(verifier, token));
            }
        }
        "hs256" => signed(hmac::HMAC_SHA256, &mut rest),
        "hs384" => signed(hmac::HMAC_SHA384, &mut rest),
        "hs512" => signed(hmac::HMAC_SHA512, &mut rest),
        _ => {}
    }
}

/// One for each kind of key, with every algorithm allowed that can be: what must not be taken is kept out by the key's kind alone.
fn verifiers() -> &'static [Verifier] {
    static VERIFIERS: OnceLock<Vec<Verifier>> = OnceLock::new();
    VERIFIERS.get_or_init(|| {
        let file = |text: &str| KeySource::File(text.into());
        let secret = KeySource::Secret(SecretString::from(SECRET.to_owned()));
        let keys = [secret, file(RSA), file(P256), file(P384), file(ED25519), file(SET)];
        let verifier = |keys| {
            let algorithms = HMAC.into_iter().chain(PUBLIC).collect();
            Verifier::new(settings(algorithms, keys), None, &Arc::new(Metrics::new())).expect("settings")
        };
        keys.into_iter().map(verifier).collect()
    })
}

fn settings(algorithms: Vec<Algorithm>, keys: KeySource) -> VerifierSettings {
    VerifierSettings {
        algorithms,
        keys,
        issuers: vec![ISSUER.into()],
        audiences: vec!["web".into(), AUDIENCE.into()],
        leeway: Duration::from_secs(LEEWAY),
        required: vec![ClaimPath::new("exp")],
        user: ClaimPath::new("sub"),
        groups: Some(ClaimPath::new("groups")),
        context: Some(ClaimPath::new("ctx")),
    }
}

fn held_against(verifier: &Verifier, token: &str) {
    let keys = &verifier.settings().keys;
    match verify(verifier, token) {
        Ok(grant) => {
            assert!(token.len() <= TOKEN_BYTES_MAX);
            assert!(is_signed(token, matches!(keys, KeySource::Secret(_))), "no key signed {token}");
            let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).expect("claims");
            granted(&payload, &grant);
        }
        Err(refused) => refusal(token, &refused),
    }
}

fn verify(verifier: &Verifier, token: &str) -> Result<Grant, Refused> {
    let verified = pin!(verifier.verify(token, UNIX_EPOCH + Duration::from_secs(NOW)));
    match verified.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verified) => verified,
        Poll::Pending => panic!("keys of the configuration's own are there at once"),
    }
}

/// A refusal goes to the log and to the client: one line, and nothing of the token.
fn refusal(token: &str, refused: &Refused) {
    let words = refused.to_string();
    check::words(&words);
    assert!(token.len() < 16 || !words.contains(token), "the token is repeated");
    assert!(!matches!(refused, Refused::NoKeys(_) | Refused::Missing | Refused::Revoked | Refused::User));
}

/// Looks at a signature without the library that reads tokens.
fn is_signed(token: &str, is_secret: bool) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else { return false };
    let part = |at: usize| message.split('.').nth(at).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let header: Value = part(0).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
    let algorithm = header["alg"].as_str().unwrap_or_default();
    let secret = |kind| hmac::verify(&hmac::Key::new(kind, SECRET.as_bytes()), message.as_bytes(), &signature).is_ok();
    let public = |kind: &'static dyn signature::VerificationAlgorithm, pem: &str| {
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let key = STANDARD.decode(text).expect("PEM");
        signature::UnparsedPublicKey::new(kind, key).verify(message.as_bytes(), &signature).is_ok()
    };
    match (is_secret, algorithm) {
        (true, "HS256") => secret(hmac::HMAC_SHA256),
        (true, "HS384") => secret(hmac::HMAC_SHA384),
        (true, "HS512") => secret(hmac::HMAC_SHA512),
        (false, "RS256") => public(&signature::RSA_PKCS1_2048_8192_SHA256, RSA),
        (false, "RS384") => public(&signature::RSA_PKCS1_2048_8192_SHA384, RSA),
        (false, "RS512") => public(&signature::RSA_PKCS1_2048_8192_SHA512, RSA),
        (false, "PS256") => public(&signature::RSA_PSS_2048_8192_SHA256, RSA),
        (false, "PS384") => public(&signature::RSA_PSS_2048_8192_SHA384, RSA),
        (false, "PS512") => public(&signature::RSA_PSS_2048_8192_SHA512, RSA),
        (false, "ES256") => public(&signature::ECDSA_P256_SHA256_FIXED, P256),
        (false, "ES384") => public(&signature::ECDSA_P384_SHA384_FIXED, P384),
        (false, "EdDSA") => public(&signature::ED25519, ED25519),
        _ => false,
    }
}

/// Signs what the input says, and holds it against the secret and against every public key.
fn signed(kind: hmac::Algorithm, rest: &mut &[u8]) {
    let header = check::line(rest);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(*rest));
    let tag = hmac::sign(&hmac::Key::new(kind, SECRET.as_bytes()), message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
    verifiers().iter().for_each(|verifier| held_against(verifier, &token));
    let is_plain = header == br#"{"alg":"HS256"}"# && kind == hmac::HMAC_SHA256;
    if let (true, Some(grants)) = (is_plain && token.len() <= TOKEN_BYTES_MAX, grants_plainly(rest)) {
        assert_eq!(verify(&verifiers()[0], &token).is_ok(), grants, "{}", String::from_utf8_lossy(rest));
    }
}

/// Whether claims of the usual shape are enough; none where their shape is another.
fn grants_plainly(payload: &[u8]) -> Option<bool> {
    let whole = json::parse(payload).ok().filter(|whole| !whole.repeats)?;
    let claims = whole.value.as_object()?;
    if !claims.keys().all(|key| ["exp", "nbf", "iss", "aud"].contains(&key.as_str())) {
        return None;
    }
    let time = |name: &str| claims.get(name).map(Value::as_u64);
    let exp = time("exp").unwrap_or_default();
    let nbf = time("nbf").unwrap_or(Some(0))?;
    let is = |name: &str, text: &str| claims.get(name).and_then(Value::as_str) == Some(text);
    let is_aud = is("aud", AUDIENCE) || is("aud", "web");
    if claims.get("aud").is_some_and(|aud| !aud.is_string()) || claims.get("iss").is_some_and(|iss| !iss.is_string()) {
        return None;
    }
    Some(exp? + LEEWAY > NOW && nbf <= NOW + LEEWAY && is("iss", ISSUER) && is_aud)
}

/// What a token that was taken may say.
fn granted(payload: &[u8], grant: &Grant) {
    let claims: Value = serde_json::from_slice(payload).expect("claims that were read");
    assert!(claims.is_object() && claims == grant.claims);
    let end = grant.expires_at.expect("exp is required");
    assert!(end > UNIX_EPOCH + Duration::from_secs(NOW) && end < SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40));
    let says = |claim: &str, text: &str| match &claims[claim] {
        Value::Array(list) => list.iter().any(|one| one == text),
        value => value == text,
    };
    assert!(says("iss", ISSUER) && (says("aud", AUDIENCE) || says("aud", "web")));
    assert!(claims["nbf"].as_f64().is_none_or(|from| from <= (NOW + LEEWAY) as f64));
    grant.user.iter().chain(&grant.groups).for_each(|text| check::name(text));
    if let Some(context) = &grant.context {
        assert!(context.len() <= CONTEXT_BYTES_MAX && !context.chars().any(char::is_control));
    }
    // A rule for every group that nobody fulfils: no name gets past it.
    let nobody = Requirement::new(vec![(ClaimPath::new("/no/such/claim"), vec!["x".into()])]);
    let rules = [GroupRule { group: Pattern::parse("*").expect("a pattern"), require: nobody }];
    let past = grant.groups.iter().find(|group| may_join(&rules, Some(&grant.claims), group));
    assert_eq!(past, None, "a group that the rule for all does not take");
}
