use std::time::UNIX_EPOCH;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{AlgorithmFamily, DecodingKey, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A key pair with the algorithms that it may sign with, and its public half as PEM and as a JWK.
struct Signer {
    algorithms: &'static [Algorithm],
    key: EncodingKey,
    pem: String,
    jwk: Value,
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

impl Signer {
    fn rsa() -> Self {
        use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let public = aws_lc_rs::signature::KeyPair::public_key(&pair);
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = public.as_der().expect("DER");
        // The library signs with PKCS#1, which is inside of PKCS#8's last octet string.
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().expect("DER");
        let private = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            base64::engine::general_purpose::STANDARD.encode(pkcs8.as_ref())
        );
        let key = EncodingKey::from_rsa_pem(private.as_bytes()).expect("a key");
        Self::with(&[RS256, RS384, RS512, PS256, PS384, PS512], key, pem(public.as_ref()))
    }

    fn ec(algorithm: &'static [Algorithm], kind: &'static rcgen::SignatureAlgorithm) -> Self {
        let pair = rcgen::KeyPair::generate_for(kind).expect("a key");
        let key = match algorithm {
            [Algorithm::EdDSA] => EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()),
            _ => EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()),
        };
        Self::with(algorithm, key.expect("a key"), pair.public_key_pem())
    }

    fn with(algorithms: &'static [Algorithm], key: EncodingKey, pem: String) -> Self {
        let public = match algorithms[0].family() {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem.as_bytes()),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem.as_bytes()),
            _ => DecodingKey::from_ed_pem(pem.as_bytes()),
        };
        let jwk = Jwk::from_decoding_key(&public.expect("a key"), None).expect("a JWK");
        let jwk = serde_json::to_value(&jwk).expect("JSON");
        Self { algorithms, key, pem, jwk }
    }

    fn every_kind() -> Vec<Self> {
        vec![
            Self::rsa(),
            Self::ec(&[Algorithm::ES256], &rcgen::PKCS_ECDSA_P256_SHA256),
            Self::ec(&[Algorithm::ES384], &rcgen::PKCS_ECDSA_P384_SHA384),
            Self::ec(&[Algorithm::EdDSA], &rcgen::PKCS_ED25519),
        ]
    }
}

fn settings(algorithms: &[Algorithm], keys: KeySource) -> VerifierSettings {
    VerifierSettings {
        algorithms: algorithms.to_vec(),
        keys,
        issuers: vec!["https://id.example.com".into()],
        audiences: vec!["chat".into()],
        leeway: Duration::from_secs(5),
        required: vec![ClaimPath::new("exp")],
        user: ClaimPath::new("sub"),
        groups: Some(ClaimPath::new("groups")),
        context: Some(ClaimPath::new("ctx")),
    }
}

fn claims() -> Value {
    json!({"iss": "https://id.example.com", "aud": ["other", "chat"], "sub": "ann", "exp": NOW + 60, "groups": ["a", "b"], "ctx": {"t": 1}})
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).expect("a token")
}

fn hmac() -> (Verifier, EncodingKey) {
    let keys = KeySource::Secret(SecretString::from(SECRET.to_owned()));
    let verifier =
        Verifier::new(settings(&[Algorithm::HS256], keys), None, &Arc::new(Metrics::new())).expect("settings");
    (verifier, EncodingKey::from_secret(SECRET.as_bytes()))
}

fn verifier(algorithms: &[Algorithm], file: &str) -> Result<Verifier, String> {
    Verifier::new(settings(algorithms, KeySource::File(file.into())), None, &Arc::new(Metrics::new()))
}

fn verify(verifier: &Verifier, token: &str) -> Result<Grant, Refused> {
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    // Keys of the configuration's own are there at once.
    futures_util::FutureExt::now_or_never(verifier.verify(token, now)).expect("nothing to wait for")
}

/// A token from parts, whatever they say.
fn raw(header: &str, payload: &str, signature: &str) -> String {
    format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

#[test]
fn claims_become_user_groups_context_and_an_end() {
    let (verifier, key) = hmac();
    let grant = verify(&verifier, &sign(Algorithm::HS256, &key, &claims())).expect("valid");
    assert_eq!(grant.user.as_deref(), Some("ann"));
    assert_eq!(grant.groups.iter().map(|group| &**group).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(grant.context.as_deref(), Some("{\"t\":1}"));
    assert_eq!(grant.expires_at, Some(UNIX_EPOCH + Duration::from_secs(NOW + 65)), "with the leeway");
    assert_eq!(grant.claims, claims());
}

#[test]
fn every_algorithm_verifies_by_its_own_key_in_pem_and_as_a_jwk_and_by_no_other() {
    let signers = Signer::every_kind();
    for (at, signer) in signers.iter().enumerate() {
        let set = json!({"keys": [signer.jwk]}).to_string();
        for algorithm in signer.algorithms {
            let token = sign(*algorithm, &signer.key, &claims());
            for file in [&signer.pem, &set] {
                let verifier = verifier(&[*algorithm], file).expect("a key");
                assert!(verify(&verifier, &token).is_ok(), "{algorithm:?}");
                let mut forged = token.clone();
                let last = if forged.ends_with('A') { "QQ" } else { "AA" };
                forged.replace_range(forged.len() - 2.., last);
                assert_eq!(verify(&verifier, &forged).err(), Some(Refused::Signature), "{algorithm:?}");
            }
        }
        let other = &signers[(at + 1) % signers.len()];
        let error = verifier(signer.algorithms, &other.pem).err().expect("the key fits no algorithm");
        assert!(error.contains("fits none of"), "{error}");
    }
}

#[test]
fn no_hs_algorithm_is_ever_used_with_a_public_key() {
    use Algorithm::{HS256, RS256};
    let signer = Signer::rsa();
    // The classic confusion: the public key, which everybody has, as an HMAC secret.
    let forged = sign(HS256, &EncodingKey::from_secret(signer.pem.as_bytes()), &claims());
    let only = verifier(&[RS256], &signer.pem).expect("a key");
    assert_eq!(verify(&only, &forged).err(), Some(Refused::Algorithm));
    let both = verifier(&[RS256, HS256], &signer.pem).expect("a key");
    assert_eq!(verify(&both, &forged).err(), Some(Refused::UnknownKey), "allowed, but never with this key");
    let jwk_secret = json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)}]}).to_string();
    assert!(verifier(&[HS256], &jwk_secret).is_err(), "a secret in a public set is none");
    assert!(verifier(&[HS256], &signer.pem).is_err());
}

#[test]
fn none_and_what_is_no_algorithm_is_refused() {
    let (verifier, _) = hmac();
    for algorithm in ["none", "None", "NONE", "nOnE", "", "HS1", "RSA-OAEP", "dir"] {
        for signature in ["", "AA"] {
            let token = raw(&json!({"alg": algorithm}).to_string(), &claims().to_string(), signature);
            assert_eq!(verify(&verifier, &token).err(), Some(Refused::Algorithm), "{algorithm:?}");
        }
    }
    for header in ["{}", "[]", "null", "", "{\"alg\":7}", "{\"alg\":\"HS256\"", "\u{0}"] {
        let refused = verify(&verifier, &raw(header, &claims().to_string(), "AA")).err();
        assert!(matches!(refused, Some(Refused::Malformed(_))), "{header}: {refused:?}");
    }
}

#[test]
fn times_are_held_to_with_the_leeway() {
    let (verifier, key) = hmac();
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        verify(&verifier, &sign(Algorithm::HS256, &key, &claims)).err()
    };
    assert_eq!(with("exp", json!(NOW - 4)), None);
    assert_eq!(with("exp", json!(NOW - 5)), Some(Refused::Expired));
    assert_eq!(with("exp", json!(NOW as f64 - 4.5)), None);
    assert_eq!(with("exp", json!(1e300)), None, "the end of time");
    assert_eq!(with("nbf", json!(NOW + 5)), None);
    assert_eq!(with("nbf", json!(NOW + 6)), Some(Refused::Immature));
    for bad in [json!("soon"), json!(-1), json!(true)] {
        assert_eq!(with("exp", bad.clone()), Some(Refused::Claim("exp".into())), "{bad}");
        assert_eq!(with("nbf", bad), Some(Refused::Claim("nbf".into())));
    }
    assert!(matches!(with("exp", json!([NOW + 60])), Some(Refused::Malformed(_))));
    assert_eq!(with("exp", Value::Null), Some(Refused::Claim("exp".into())), "required");
}

#[test]
fn issuer_audience_and_names_are_held_to() {
    let (verifier, key) = hmac();
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        verify(&verifier, &sign(Algorithm::HS256, &key, &claims)).err()
    };
    for bad in [json!("https://evil.example.com"), Value::Null, json!(7), json!("https://id.example.com/")] {
        assert_eq!(with("iss", bad), Some(Refused::Issuer));
    }
    for bad in [json!("other"), json!([]), Value::Null, json!({"chat": 1}), json!("chat ")] {
        assert_eq!(with("aud", bad), Some(Refused::Audience));
    }
    assert_eq!(with("aud", json!("chat")), None);
    for bad in [json!(""), json!("a\r\nb"), json!("x".repeat(257)), json!(true)] {
        assert_eq!(with("sub", bad), Some(Refused::Claim("sub".into())));
    }
    assert_eq!(with("groups", json!("one")), None);
    assert_eq!(with("groups", json!([7])), Some(Refused::Claim("groups".into())));
    assert_eq!(with("ctx", json!("x".repeat(5000))), Some(Refused::Claim("ctx".into())));
}

#[test]
fn what_is_no_token_is_refused_whatever_it_is() {
    let (verifier, key) = hmac();
    let token = sign(Algorithm::HS256, &key, &claims());
    for at in 0..token.len() {
        assert!(verify(&verifier, &token[..at]).is_err(), "truncated to {at} bytes");
    }
    let parts: Vec<_> = token.split('.').collect();
    let signed = |payload: &str| {
        let message = format!("{}.{}", parts[0], URL_SAFE_NO_PAD.encode(payload));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("signed");
        format!("{message}.{signature}")
    };
    for payload in ["", "null", "[]", "\"text\"", "7", "{\"exp\":", "\u{0}", &token] {
        assert!(matches!(verify(&verifier, &signed(payload)), Err(Refused::Malformed(_))), "{payload}");
    }
    let doubled = claims().to_string().replacen('{', &format!("{{\"exp\":{},", NOW + 9), 1);
    assert!(verify(&verifier, &signed(&doubled)).is_err(), "a claim given twice means two things");
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    assert!(verify(&verifier, &signed(&deep)).is_err(), "nested");
    assert!(matches!(verify(&verifier, &"a".repeat(1 << 20)), Err(Refused::Malformed("it is too long"))));
    let encrypted = format!("{token}.AA.AA");
    assert!(matches!(verify(&verifier, &encrypted), Err(Refused::Malformed(_))), "five parts are encrypted");
    let mut header = Header::new(Algorithm::HS256);
    header.cty = Some("JWT".into());
    assert!(matches!(verify(&verifier, &encode(&header, &claims(), &key).expect("t")), Err(Refused::Malformed(_))));
    header.cty = None;
    header.crit = Some(vec!["b64".into()]);
    assert!(matches!(verify(&verifier, &encode(&header, &claims(), &key).expect("t")), Err(Refused::Malformed(_))));
}

#[test]
fn keys_that_a_token_itself_brings_are_not_looked_at() {
    let (own, evil) = (Signer::rsa(), Signer::rsa());
    let verifier = verifier(&[Algorithm::RS256], &own.pem).expect("a key");
    let mut header = Header::new(Algorithm::RS256);
    header.jwk = Some(serde_json::from_value(evil.jwk.clone()).expect("a JWK"));
    header.jku = Some("http://127.0.0.1:1/jwks".into());
    header.x5u = header.jku.clone();
    let token = encode(&header, &claims(), &evil.key).expect("a token");
    assert_eq!(verify(&verifier, &token).err(), Some(Refused::Signature));
}

#[test]
fn a_key_is_found_by_its_name() {
    let (one, two) = (Signer::rsa(), Signer::ec(&[Algorithm::ES256], &rcgen::PKCS_ECDSA_P256_SHA256));
    let named = |signer: &Signer, id: &str, extra: Value| {
        let mut jwk = signer.jwk.clone();
        jwk["kid"] = json!(id);
        jwk.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        jwk
    };
    let allowed = [Algorithm::RS256, Algorithm::ES256];
    let unknown = json!({"kty": "new", "kid": "3", "x": 1});
    let set = json!({"keys": [named(&one, "1", json!({"use": "sig", "alg": "RS256"})), named(&two, "2", json!({})), unknown]});
    let verifier_of = |set: Value| verifier(&allowed, &set.to_string());
    let verifier = verifier_of(set).expect("a set");
    let token = |signer: &Signer, id: Option<&str>| {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(signer.algorithms[0]) };
        encode(&header, &claims(), &signer.key).expect("a token")
    };
    assert!(verify(&verifier, &token(&one, Some("1"))).is_ok() && verify(&verifier, &token(&two, Some("2"))).is_ok());
    assert!(verify(&verifier, &token(&two, None)).is_ok(), "without a name those that fit are tried");
    assert_eq!(verify(&verifier, &token(&one, Some("9"))).err(), Some(Refused::UnknownKey));
    assert_eq!(verify(&verifier, &token(&one, Some("2"))).err(), Some(Refused::UnknownKey), "of another kind");
    for extra in
        [json!({"use": "enc"}), json!({"key_ops": ["encrypt"]}), json!({"alg": "RS512"}), json!({"alg": "RSA-OAEP"})]
    {
        assert!(verifier_of(json!({"keys": [named(&one, "1", extra.clone())]})).is_err(), "{extra}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let private = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    for (algorithms, file, says) in [
        ([Algorithm::ES256], private.as_str(), "found a private one"),
        ([Algorithm::ES256], "-----BEGIN CERTIFICATE-----\n", "openssl x509"),
        ([Algorithm::ES256], "hello", "expected a public key of"),
        ([Algorithm::ES256], "{\"keys\":[]}", "none of its 0 keys"),
        ([Algorithm::ES256], "{}", "expected a JWK set"),
    ] {
        let error = verifier(&algorithms, file).err().expect(says);
        assert!(error.contains(says), "{error}");
    }
    let short = KeySource::Secret(SecretString::from("short".to_owned()));
    assert!(Verifier::check(&settings(&[Algorithm::HS256], short)).expect_err("short").contains("32 bytes"));
}

proptest! {
    #[test]
    fn no_text_is_taken_for_a_token(text in "\\PC{0,200}", mutated in 0_usize..150, with in any::<u8>()) {
        let (verifier, key) = hmac();
        prop_assert!(verify(&verifier, &text).is_err());
        let token = sign(Algorithm::HS256, &key, &claims());
        let mut bytes = token.clone().into_bytes();
        let at = mutated % bytes.len();
        bytes[at] = with;
        if let Ok(changed) = String::from_utf8(bytes) && changed != token {
            prop_assert!(verify(&verifier, &changed).is_err(), "{}", changed);
        }
    }
}
