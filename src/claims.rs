//! What a client's token says of it, and the rules that ask for it. Pure; must not know how a token is read, nor who asks.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use crate::routing::Pattern;

/// What a token gave its connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    pub user: Option<Arc<str>>,
    /// Groups that the connection joins.
    pub groups: Vec<Arc<str>>,
    pub context: Option<Arc<str>>,
    /// When the token is worth nothing any more, leeway included.
    pub expires_at: Option<SystemTime>,
    /// The claims set of RFC 7519: a JSON object.
    pub claims: Value,
}

/// Where a claim is: its name, or a JSON Pointer (RFC 6901) into the claims.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimPath(Box<str>);

impl ClaimPath {
    /// A text that starts with `/` is a pointer; any other is a name, whatever is in it.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn find<'a>(&self, claims: &'a Value) -> Option<&'a Value> {
        if self.0.starts_with('/') { claims.pointer(&self.0) } else { claims.get(&*self.0) }
    }

    /// True if the claim says `wanted`: it is that text, number or truth, or a list that has it. Of `scope` and `scp`, the words
    /// between spaces count (RFC 8693 section 4.2); in no other claim, since a name may have spaces too.
    pub fn holds(&self, claims: &Value, wanted: &str) -> bool {
        let is_scope = matches!(self.0.rsplit('/').next(), Some("scope" | "scp"));
        let is = |value: &Value| match value {
            Value::String(text) => text == wanted || (is_scope && text.split(' ').any(|word| word == wanted)),
            Value::Number(number) => number.to_string() == wanted,
            Value::Bool(truth) => truth.to_string() == wanted,
            _ => false,
        };
        match self.find(claims) {
            Some(Value::Array(values)) => values.iter().any(is),
            Some(value) => is(value),
            None => false,
        }
    }
}

/// What a rule asks of the claims: each listed claim must hold one of its values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirement {
    asked: Vec<(ClaimPath, Vec<String>)>,
}

/// In a wanted value of a group's rule: what the star of its pattern stood for.
pub const STAR: &str = "{*}";

impl Requirement {
    pub fn new(asked: Vec<(ClaimPath, Vec<String>)>) -> Self {
        Self { asked }
    }

    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// The first claim that does not hold what is asked.
    pub fn unmet(&self, claims: Option<&Value>) -> Option<&ClaimPath> {
        self.unmet_for(claims, "")
    }

    fn unmet_for(&self, claims: Option<&Value>, star: &str) -> Option<&ClaimPath> {
        let is_met = |(path, wanted): &&(ClaimPath, Vec<String>)| {
            claims.is_some_and(|claims| wanted.iter().any(|wanted| path.holds(claims, &wanted.replace(STAR, star))))
        };
        self.asked.iter().find(|asked| !is_met(asked)).map(|(path, _)| path)
    }
}

/// Who may be in the groups of one pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRule {
    pub group: Pattern,
    pub require: Requirement,
}

/// True if claims may be in a group: the first rule whose pattern takes its name decides; without one nothing is asked.
pub fn may_join(rules: &[GroupRule], claims: Option<&Value>, group: &str) -> bool {
    let Some(rule) = rules.iter().find(|rule| rule.group.matches_text(group)) else { return true };
    rule.require.unmet_for(claims, star_of(&rule.group, group)).is_none()
}

/// What the only star of a pattern stands for in a text that it takes; nothing where there is no star, or more than one.
fn star_of<'a>(pattern: &Pattern, text: &'a str) -> &'a str {
    match pattern.as_str().split_once('*') {
        Some((before, after)) if !after.contains('*') => &text[before.len()..text.len() - after.len()],
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn require(asked: &[(&str, &[&str])]) -> Requirement {
        let asked = asked
            .iter()
            .map(|(path, wanted)| (ClaimPath::new(path), wanted.iter().map(|wanted| (*wanted).to_owned()).collect()));
        Requirement::new(asked.collect())
    }

    #[test]
    fn a_claim_is_a_value_a_list_or_the_words_of_a_scope() {
        let claims = json!({
            "sub": "u1", "scope": "chat:read chat:write", "roles": ["staff", 7], "admin": true, "name": "root admin",
            "https://example.com/tier": "gold", "realm": {"access": {"roles": ["ops"]}}
        });
        let holds = |path: &str, wanted: &str| ClaimPath::new(path).holds(&claims, wanted);
        assert!(holds("sub", "u1") && holds("scope", "chat:write") && holds("roles", "staff") && holds("roles", "7"));
        assert!(
            holds("admin", "true") && holds("https://example.com/tier", "gold") && holds("/realm/access/roles", "ops")
        );
        assert!(!holds("scope", "chat") && !holds("name", "admin"), "only a scope has words");
        assert!(!holds("realm", "access") && !holds("none", "") && !holds("roles", "staff 7"));
    }

    #[test]
    fn each_claim_is_asked_for_and_one_of_its_values_is_enough() {
        let rule = require(&[("scope", &["a", "b"]), ("role", &["staff"])]);
        let unmet = |claims: Value| rule.unmet(Some(&claims)).map(|path| path.as_str().to_owned());
        assert_eq!(unmet(json!({"scope": "b", "role": "staff"})), None);
        assert_eq!(unmet(json!({"scope": "b"})).as_deref(), Some("role"));
        assert_eq!(unmet(json!({"role": "staff"})).as_deref(), Some("scope"));
        assert!(rule.unmet(None).is_some(), "without a token nothing is met");
        assert!(require(&[]).unmet(None).is_none());
    }

    #[test]
    fn a_group_s_rule_may_ask_for_what_its_star_stood_for() {
        let rule = |group: &str, asked: &[(&str, &[&str])]| GroupRule {
            group: Pattern::parse(group).expect("a pattern"),
            require: require(asked),
        };
        let rules = [rule("room:*", &[("rooms", &[STAR])]), rule("staff", &[("role", &["staff"])])];
        let claims = json!({"rooms": ["1", "2"], "role": "guest"});
        let may = |group: &str| may_join(&rules, Some(&claims), group);
        assert!(may("room:1") && may("room:2") && may("lobby"));
        assert!(!may("room:3") && !may("room:") && !may("staff") && !may("room:*"));
        assert!(!may_join(&rules, None, "room:1"));
        let all = [rule("*", &[("role", &["staff"])])];
        assert!(
            !may_join(&all, Some(&claims), "$binary"),
            "a name that is reserved for events is a group like any other"
        );
    }
}
