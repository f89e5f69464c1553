//! The part of the configuration that concerns tokens and what they allow. Must not know how modules work.

use std::time::Duration;

use secrecy::SecretString;

use super::super::raw::Entry;
use super::{Build, duration, texts};
use crate::claims::{ClaimPath, GroupRule, Requirement, STAR};
use crate::routing::{Pattern, Pointer, Template};
use crate::snapshot::{AuthDraft, TokenSource};
use crate::tokens::{Algorithm, JwksSettings, KeySource, Verifier, VerifierSettings};

/// Where keys may come from: one of these.
const KEY_SOURCES: [&str; 4] = ["secret", "secret_file", "key_file", "jwks"];

impl Build<'_> {
    pub(super) fn auth(&mut self, entry: &Entry) -> Option<AuthDraft> {
        if entry.is_absent() {
            return None;
        }
        let before = self.problems.len();
        let required = entry.get("required_claims");
        let verifier = VerifierSettings {
            algorithms: self.algorithms(entry.get("algorithms")),
            keys: self.key_source(entry)?,
            issuers: texts(entry.get("issuer")),
            audiences: texts(entry.get("audience")),
            leeway: duration(entry.get("leeway")),
            required: match required.is_absent() {
                true => vec![ClaimPath::new("exp")],
                false => required.list().iter().filter_map(|claim| self.claim(claim)).collect(),
            },
            user: self.claim(entry.get("user")).unwrap_or_else(|| ClaimPath::new("sub")),
            groups: self.claim(entry.get("groups")),
            context: self.claim(entry.get("context")),
        };
        // What is named with its own place already is not said again.
        if before == self.problems.len()
            && let Err(reason) = Verifier::check(&verifier)
        {
            let source = KEY_SOURCES.into_iter().map(|key| entry.get(key)).find(|source| !source.is_absent());
            self.problem(source.unwrap_or(entry), reason, None);
        }
        let refresh_event = entry.get("refresh_event").text().unwrap_or_default();
        if refresh_event.is_empty() {
            self.problem(entry.get("refresh_event"), "expected an event name, found none", None);
        }
        let (sources, is_optional) = (self.token_sources(entry.get("token_from")), entry.get("optional").is_true());
        if is_optional && sources.contains(&TokenSource::Message) {
            let hint = "remove `message` from `token_from`, or `optional`".to_owned();
            self.problem(entry.get("optional"), "who comes without a token cannot be told from who will send it", hint);
        }
        Some(AuthDraft {
            verifier,
            sources,
            is_optional,
            message_timeout: duration(entry.get("message_timeout")),
            warning: entry.get("warning").duration().filter(|warning| *warning > Duration::ZERO),
            refresh_event: refresh_event.into(),
        })
    }

    fn algorithms(&mut self, entries: &Entry) -> Vec<Algorithm> {
        if entries.list().is_empty() && !entries.is_absent() {
            self.problem(entries, "expected at least one algorithm", "write for instance `[RS256]`".to_owned());
        }
        // The table of keys let only names of algorithms through.
        entries.list().iter().filter_map(|entry| entry.text()?.parse().ok()).collect()
    }

    fn key_source(&mut self, entry: &Entry) -> Option<KeySource> {
        let given: Vec<_> = KEY_SOURCES.into_iter().filter(|key| !entry.get(key).is_absent()).collect();
        let [only] = given[..] else {
            let hint = "tokens are held against keys from one place".to_owned();
            self.problem(entry, "expected one of `secret`, `secret_file`, `key_file` and `jwks`", hint);
            return None;
        };
        let source = entry.get(only);
        let secret = |text: &str| KeySource::Secret(SecretString::from(text.to_owned()));
        match only {
            "secret" => source.text().map(secret),
            "secret_file" => self.file_text(source).map(|text| secret(text.trim_end_matches(['\r', '\n']))),
            "key_file" => self.file_text(source).map(KeySource::File),
            _ => self.jwks(source).map(KeySource::Jwks),
        }
    }

    fn jwks(&mut self, entry: &Entry) -> Option<JwksSettings> {
        Some(JwksSettings {
            url: self.url(entry.get("url"))?,
            refresh: duration(entry.get("refresh")),
            refetch_interval: duration(entry.get("refetch_interval")),
            timeout: duration(entry.get("timeout")),
            ca_pem: self.file_text(entry.get("ca_file")),
        })
    }

    fn token_sources(&mut self, entries: &Entry) -> Vec<TokenSource> {
        if entries.is_absent() {
            return vec![TokenSource::Header, TokenSource::Subprotocol];
        }
        let mut sources = Vec::new();
        for entry in entries.list() {
            let text = entry.text().unwrap_or_default();
            let source = match text.split_once(':') {
                None if text == "header" => TokenSource::Header,
                None if text == "subprotocol" => TokenSource::Subprotocol,
                None if text == "message" => TokenSource::Message,
                Some(("cookie", name)) if !name.is_empty() => TokenSource::Cookie(name.to_owned()),
                Some(("query", name)) if !name.is_empty() => TokenSource::Query(name.to_owned()),
                _ => {
                    let hint = "write `header`, `subprotocol`, `cookie:NAME`, `query:NAME` or `message`".to_owned();
                    self.problem(entry, format!("{text:?} is no place where a token may be"), hint);
                    continue;
                }
            };
            sources.push(source);
        }
        if entries.list().is_empty() {
            self.problem(entries, "expected at least one place where a token may be", None);
        }
        sources
    }

    /// A claim's name, or a pointer to it.
    fn claim(&mut self, entry: &Entry) -> Option<ClaimPath> {
        let text = entry.text()?;
        self.check_claim(entry, text);
        Some(ClaimPath::new(text))
    }

    fn check_claim(&mut self, entry: &Entry, text: &str) {
        if text.is_empty() {
            self.problem(entry, "expected a claim's name, found none", None);
        } else if text.starts_with('/')
            && let Err(error) = Pointer::parse(text)
        {
            self.problem(entry, error.to_string(), "write for instance `sub` or `/realm_access/roles`".to_owned());
        }
    }

    /// What a route or group asks of the claims; `has_auth` says whether there can be any.
    pub(super) fn require(&mut self, entry: &Entry, has_auth: bool, has_star: bool) -> Requirement {
        let mut asked = Vec::new();
        for (claim, wanted) in entry.named() {
            self.check_claim(wanted, claim);
            let values = texts(wanted);
            if values.is_empty() && !wanted.is_absent() {
                self.problem(wanted, "expected at least one value", None);
            }
            if !has_star && values.iter().any(|value| value.contains(STAR)) {
                let hint = "it needs a `group` with one `*`".to_owned();
                self.problem(wanted, format!("nothing for {STAR} to stand for"), hint);
            }
            asked.push((ClaimPath::new(claim), values));
        }
        if !entry.is_absent() && !has_auth {
            let hint = "add `auth` to the endpoint, or remove this".to_owned();
            self.problem(entry, "nobody has claims here: the endpoint takes no tokens", hint);
        }
        if !entry.is_absent() && asked.is_empty() {
            self.problem(entry, "expected at least one claim", None);
        }
        Requirement::new(asked)
    }

    /// Who may be in which group, and where the messages of which groups bear what they are the newest of.
    pub(super) fn group_rules(&mut self, entries: &Entry, has_auth: bool) -> (Vec<GroupRule>, Vec<(Pattern, Pointer)>) {
        let (mut rules, mut conflations) = (Vec::new(), Vec::new());
        for entry in entries.list() {
            let group = entry.get("group");
            match Pattern::parse(group.text().unwrap_or_default()) {
                Ok(pattern) => {
                    let has_star = pattern.as_str().matches('*').count() == 1;
                    let require = self.require(entry.get("require"), has_auth, has_star);
                    if entry.get("require").is_absent() && entry.get("conflate").is_absent() {
                        self.problem(entry, "expected `require` or `conflate`", None);
                    }
                    conflations.extend(self.conflate(entry.get("conflate")).map(|pointer| (pattern.clone(), pointer)));
                    if !require.is_empty() {
                        rules.push(GroupRule { group: pattern, require });
                    }
                }
                Err(error) if group.text().is_some() => self.problem(group, error.to_string(), None),
                Err(_) => {}
            }
        }
        (rules, conflations)
    }

    fn conflate(&mut self, entry: &Entry) -> Option<Pointer> {
        let pointer = Pointer::parse(entry.text()?);
        pointer.map_err(|error| self.problem(entry, error.to_string(), "write for instance `/symbol`".to_owned())).ok()
    }

    /// The name of a group that a route joins or leaves.
    pub(super) fn group_template(&mut self, entry: &Entry) -> Option<Template> {
        match Template::parse(entry.text()?) {
            Ok(template) => Some(template.unescaped()),
            Err(error) => {
                self.problem(entry, error.to_string(), "write for instance `room:{/room}`".to_owned());
                None
            }
        }
    }
}
