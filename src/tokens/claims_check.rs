//! The claims of a token whose signature fits: times, issuer, audience, and what they become. Pure; must not know keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{Refused, VerifierSettings};
use crate::claims::{ClaimPath, Grant};
use crate::message::command::{context, name};

/// Groups that one token may name; what is more is an error, not a loss.
const GROUPS_MAX: usize = 1000;

/// Holds the claims against the settings (RFC 7519 section 4.1), at `now`.
pub fn grant(settings: &VerifierSettings, claims: Value, now: SystemTime) -> Result<Grant, Refused> {
    for path in &settings.required {
        if path.find(&claims).is_none_or(Value::is_null) {
            return Err(Refused::Claim(path.as_str().to_owned()));
        }
    }
    let expires_at = time(&claims, "exp")?.and_then(|at| at.checked_add(settings.leeway));
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Refused::Expired);
    }
    let latest = now.checked_add(settings.leeway).unwrap_or(now);
    if time(&claims, "nbf")?.is_some_and(|at| at > latest) {
        return Err(Refused::Immature);
    }
    let has =
        |claim: &str, allowed: &[String]| allowed.is_empty() || allowed.iter().any(|one| lists(claims.get(claim), one));
    if !has("iss", &settings.issuers) {
        return Err(Refused::Issuer);
    }
    if !has("aud", &settings.audiences) {
        return Err(Refused::Audience);
    }
    Ok(Grant {
        user: user(&settings.user, &claims)?,
        groups: groups(settings.groups.as_ref(), &claims)?,
        context: context_of(settings.context.as_ref(), &claims)?,
        expires_at,
        claims,
    })
}

/// A NumericDate: seconds since 1970, perhaps with a fraction. One that is beyond any clock counts as the end of time.
fn time(claims: &Value, claim: &str) -> Result<Option<SystemTime>, Refused> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let seconds = seconds.ok_or_else(|| Refused::Claim(claim.to_owned()))?;
    const END_OF_TIME: f64 = 253_402_300_799.0;
    Ok(UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds.min(END_OF_TIME))))
}

/// True if a claim is this text, or a list with it.
fn lists(claim: Option<&Value>, text: &str) -> bool {
    match claim {
        Some(Value::String(own)) => own == text,
        Some(Value::Array(own)) => own.iter().any(|own| own.as_str() == Some(text)),
        _ => false,
    }
}

fn user(path: &ClaimPath, claims: &Value) -> Result<Option<Arc<str>>, Refused> {
    let unfit = || Refused::Claim(path.as_str().to_owned());
    match path.find(claims) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => name("user", text).map(Some).map_err(|_| unfit()),
        Some(Value::Number(number)) => Ok(Some(number.to_string().into())),
        Some(_) => Err(unfit()),
    }
}

fn groups(path: Option<&ClaimPath>, claims: &Value) -> Result<Vec<Arc<str>>, Refused> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let unfit = || Refused::Claim(path.as_str().to_owned());
    let group = |value: &Value| value.as_str().and_then(|text| name("group", text).ok()).ok_or_else(unfit);
    match path.find(claims) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) if values.len() <= GROUPS_MAX => values.iter().map(group).collect(),
        Some(value) => group(value).map(|group| vec![group]),
    }
}

/// Text as it is; anything else as JSON.
fn context_of(path: Option<&ClaimPath>, claims: &Value) -> Result<Option<Arc<str>>, Refused> {
    let Some(path) = path else { return Ok(None) };
    let text = match path.find(claims) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    context(&text).map(Some).map_err(|_| Refused::Claim(path.as_str().to_owned()))
}
