//! What we use of initdata, wherever its text was found: in a document, or in the claims of an
//! attestation result, where Trustee puts it after it has compared the digest with the hardware's.

use serde_json::{Map, Value};

use super::policy::AgentPolicy;
use super::{Error, Initdata, KbsEndpoint};

/// What we use of initdata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Our own configuration, `countersign.toml`.
    pub countersign: Option<String>,
    /// The KBS: the attestation agent's (`aa.toml`), else the data hub's (`cdh.toml`).
    pub kbs: Option<KbsEndpoint>,
    /// What kind of agent policy is in it.
    pub policy: AgentPolicy,
}

impl Content {
    /// Of a document.
    pub fn of(initdata: &Initdata) -> Result<Self, Error> {
        Ok(Self {
            countersign: initdata.countersign().map(ToOwned::to_owned),
            kbs: initdata.aa_kbs()?.or(initdata.cdh_kbs()?),
            policy: initdata.agent_policy(),
        })
    }

    /// Of `init_data_claims`: file name → content, `aa.toml` and `cdh.toml` as objects, and
    /// `agent_policy_claims` in place of `policy.rego` where that ends in data.
    pub fn from_claims(claims: &Map<String, Value>) -> Result<Self, Error> {
        let text = |name: &'static str| match claims.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Error::Inner(name)),
        };
        let pinned = claims
            .get("agent_policy_claims")
            .and_then(|data| data.get("containers")?.as_array())
            .is_some_and(|containers| !containers.is_empty());
        let policy = if pinned { AgentPolicy::Generated } else { AgentPolicy::of(text("policy.rego")?.as_deref()) };
        let aa = endpoint(claims, "aa.toml", &["token_configs", "kbs"], "cert")?;
        let cdh = endpoint(claims, "cdh.toml", &["kbc"], "kbs_cert")?;
        Ok(Self { countersign: text("countersign.toml")?, kbs: aa.or(cdh), policy })
    }
}

fn endpoint(
    claims: &Map<String, Value>,
    document: &'static str,
    tables: &[&str],
    cert: &str,
) -> Result<Option<KbsEndpoint>, Error> {
    let Some(mut table) = claims.get(document) else { return Ok(None) };
    if !table.is_object() {
        return Err(Error::Inner(document));
    }
    for name in tables {
        match table.get(name) {
            Some(inner) if inner.is_object() => table = inner,
            Some(_) => return Err(Error::Inner(document)),
            None => return Ok(None),
        }
    }
    let text = |key: &str| match table.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.trim().is_empty())),
        Some(_) => Err(Error::Inner(document)),
    };
    let cert = text(cert)?;
    Ok(text("url")?.map(|url| KbsEndpoint { url, cert }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TOML: &str = r#"
algorithm = "sha384"
version = "0.1.0"
[data]
"aa.toml" = '''
[token_configs.kbs]
url = "https://kbs.example:8443"
cert = "PEM"
'''
"cdh.toml" = '''
[kbc]
name = "cc_kbc"
url = "http://other.example"
'''
"countersign.toml" = "version = 1\n"
"#;

    fn claims(value: &Value) -> Result<Content, Error> {
        Content::from_claims(value.as_object().unwrap())
    }

    #[test]
    fn a_document_and_its_claims_say_the_same() {
        let from_text = Content::of(&Initdata::parse(TOML.as_bytes()).unwrap()).unwrap();
        let from_claims = claims(&json!({
            "aa.toml": {"token_configs": {"kbs": {"url": "https://kbs.example:8443", "cert": "PEM"}}},
            "cdh.toml": {"kbc": {"name": "cc_kbc", "url": "http://other.example"}},
            "countersign.toml": "version = 1\n",
        }));
        assert_eq!(from_claims, Ok(from_text.clone()));
        assert_eq!(from_text.kbs.unwrap().url, "https://kbs.example:8443");
        assert_eq!(from_text.policy, AgentPolicy::Absent);
    }

    #[test]
    fn the_data_hubs_kbs_counts_where_the_agent_names_none() {
        let content = claims(&json!({"aa.toml": {}, "cdh.toml": {"kbc": {"url": "https://b", "kbs_cert": ""}}}));
        assert_eq!(content.unwrap().kbs, Some(KbsEndpoint { url: "https://b".to_owned(), cert: None }));
    }

    #[test]
    fn policy_claims_stand_for_a_generated_policy() {
        let policy = |value: Value| claims(&value).unwrap().policy;
        assert_eq!(policy(json!({"agent_policy_claims": {"containers": [{}]}})), AgentPolicy::Generated);
        assert_eq!(policy(json!({"agent_policy_claims": {"containers": []}})), AgentPolicy::Absent);
        assert_eq!(policy(json!({"policy.rego": "default X := true"})), AgentPolicy::Permissive);
    }

    #[test]
    fn claims_of_another_shape_are_refused() {
        for value in [
            json!({"countersign.toml": {}}),
            json!({"aa.toml": "text"}),
            json!({"aa.toml": {"token_configs": {"kbs": {"url": 1}}}}),
            json!({"cdh.toml": {"kbc": []}}),
            json!({"policy.rego": 7}),
        ] {
            assert!(claims(&value).is_err(), "{value}");
        }
    }
}
