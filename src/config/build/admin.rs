//! The part of the configuration that concerns the admin listener: who may call it. Must not know how modules work.

use secrecy::SecretString;

use super::super::raw::Entry;
use super::{Build, is_loopback};
use crate::admin::{AdminSettings, Audit, Scope, TokenSettings};
use crate::tls::ClientAuth;

impl Build<'_> {
    pub(super) fn admin(&mut self, admin: &Entry) -> AdminSettings {
        let listen = self.address(admin.get("listen"));
        let mut tokens = Vec::new();
        if let Some(token) = admin.get("token").text().filter(|token| !token.is_empty()) {
            tokens.push(TokenSettings { name: "token".into(), token: secret(token), scopes: Scope::ALL.to_vec() });
        }
        for (name, entry) in admin.get("tokens").named() {
            tokens.extend(self.token(name, entry));
        }
        let tls = self.tls(admin.get("tls"));
        let asks =
            tls.as_ref().is_some_and(|tls| tls.client_ca_pem.is_some() && tls.client_auth == ClientAuth::Required);
        let has_tokens = !tokens.is_empty() || admin.get("tokens").named().next().is_some();
        if !has_tokens && !asks && !is_loopback(listen.ip()) {
            let hint =
                "set `admin.token`, ask for client certificates by `admin.tls`, or listen on 127.0.0.1".to_owned();
            self.problem(admin.get("listen"), "not on loopback, and there is no token", hint);
        }
        AdminSettings {
            listen,
            tokens,
            requests_per_second: admin.get("requests_per_second").number().and_then(|n| u32::try_from(n).ok()),
            audit: if admin.get("audit").text() == Some("all") { Audit::All } else { Audit::Changes },
            console: admin.get("console").is_true(),
            body_size: admin.get("body_size").size(),
            tls,
        }
    }

    fn token(&mut self, name: &str, entry: &Entry) -> Option<TokenSettings> {
        let (own, file) = (entry.get("token"), entry.get("token_file"));
        let token = match (own.text(), file.is_absent()) {
            (Some(token), true) => token.to_owned(),
            (None, false) => self.file_text(file)?.trim().to_owned(),
            _ => {
                self.problem(entry, "expected one of `token` and `token_file`", None);
                return None;
            }
        };
        if token.is_empty() {
            self.problem(entry, "the token is empty", "make one with `head -c 32 /dev/urandom | base64`".to_owned());
            return None;
        }
        let words = entry.get("scopes").list();
        let is_named = |scope: &Scope| words.iter().any(|word| word.text() == Some(scope.name()));
        let scopes: Vec<Scope> = Scope::ALL.into_iter().filter(is_named).collect();
        if words.is_empty() && !entry.get("scopes").is_absent() {
            self.problem(entry.get("scopes"), "expected at least one of read, push and admin", None);
        }
        Some(TokenSettings { name: name.into(), token: secret(&token), scopes })
    }
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}
