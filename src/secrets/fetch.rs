//! From the configuration's list to values in memory: fetch, unseal, all at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{SecretFile, Secrets, Source};
use crate::finding::{Class, Finding};
use crate::formats::jwk::EcPublicJwk;
use crate::formats::kbs_uri::KbsUri;
use crate::formats::sealed::SealedSecret;
use crate::secret::Secret;

/// Most bytes of a verification key: a P-256 JWK has about 200.
const MAX_KEY_BYTES: usize = 4096;

/// Where resources come from: a road to the KBS.
pub trait Resources: Send + Sync + 'static {
    /// Fetches one resource, at most `max_bytes` long. Retries and deadline are the road's business.
    fn fetch(&self, uri: &KbsUri, max_bytes: usize) -> impl Future<Output = Result<Secret, Finding>> + Send;

    /// How many fetches may be under way at once, at least one.
    fn concurrent(&self) -> usize;

    /// The way's name, for the receipt.
    fn label(&self) -> &'static str;
}

/// One value, and what to call its origin in messages and in the receipt.
pub struct Value {
    /// The bytes, not yet checked.
    pub bytes: Secret,
    /// `kbs:///…`, or `sealed secret for kbs:///…`.
    pub origin: String,
}

/// What one fetch was for, and how it ended.
pub struct Attempt<T> {
    /// Path in the set, or the resource of a gate.
    pub label: String,
    /// How it ended.
    pub result: Result<T, Finding>,
}

/// Fetches the value of every file, in the order of the list. All or none.
pub async fn values(road: &Arc<impl Resources>, secrets: &Secrets) -> Result<Vec<Value>, Finding> {
    let keys = if secrets.files.iter().any(|file| matches!(file.from, Source::Sealed(_))) {
        sealing_keys(road, &secrets.sealed_keys).await?
    } else {
        Vec::new()
    };
    let mut wanted = Vec::with_capacity(secrets.files.len());
    for file in &secrets.files {
        let (uri, origin) = resource_of(file, &keys)?;
        wanted.push((file.path.to_string(), uri, file.expect.max_bytes, origin));
    }
    let requests = wanted.iter().map(|(path, uri, max, _)| (path.clone(), uri.clone(), *max)).collect();
    let fetched = all_or_none(many(road, requests).await)?;
    Ok(fetched.into_iter().zip(wanted).map(|(bytes, (_, _, _, origin))| Value { bytes, origin }).collect())
}

/// Fetches many resources, a few at a time; answers in the order of the requests.
pub async fn many(road: &Arc<impl Resources>, requests: Vec<(String, KbsUri, usize)>) -> Vec<Attempt<Secret>> {
    let permits = Arc::new(Semaphore::new(road.concurrent().max(1)));
    let mut tasks = JoinSet::new();
    let mut labels = BTreeMap::new();
    for (index, (label, uri, max_bytes)) in requests.into_iter().enumerate() {
        labels.insert(index, label);
        let (road, permits) = (Arc::clone(road), Arc::clone(&permits));
        tasks.spawn(async move {
            // Closed never: the semaphore lives as long as the tasks.
            let _permit = permits.acquire().await;
            (index, road.fetch(&uri, max_bytes).await)
        });
    }
    let mut results = BTreeMap::new();
    while let Some(ended) = tasks.join_next().await {
        if let Ok((index, result)) = ended {
            results.insert(index, result);
        }
    }
    labels
        .into_iter()
        .map(|(index, label)| {
            let result = results
                .remove(&index)
                .unwrap_or_else(|| Err(Finding::new(Class::Bug, "a fetch ended without a result")));
            Attempt { label, result }
        })
        .collect()
}

/// All values, or the first refusal with a word on how many more there are.
pub fn all_or_none<T>(attempts: Vec<Attempt<T>>) -> Result<Vec<T>, Finding> {
    let total = attempts.len();
    let mut values = Vec::with_capacity(total);
    let mut refused: Vec<(String, Finding)> = Vec::new();
    for attempt in attempts {
        match attempt.result {
            Ok(value) => values.push(value),
            Err(finding) => refused.push((attempt.label, finding)),
        }
    }
    let others: Vec<String> = refused.iter().skip(1).map(|(label, _)| label.clone()).collect();
    match refused.into_iter().next() {
        None => Ok(values),
        Some((label, finding)) if others.is_empty() && total == 1 => {
            tracing::debug!(%label, "refused");
            Err(finding)
        }
        Some((label, mut finding)) => {
            finding.saw = format!("{label}: {}", finding.saw);
            if !others.is_empty() {
                let names = others.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
                let more = if others.len() > 5 { ", …" } else { "" };
                finding.saw = format!("{} (and {} more of {total} refused: {names}{more})", finding.saw, others.len());
            }
            Err(finding)
        }
    }
}

/// Which resource a file's value is, and what to call it. For a sealed secret only a verified one
/// says so, and where the configuration demands a resource, it must be that one.
pub(super) fn resource_of(file: &SecretFile, keys: &[(KbsUri, EcPublicJwk)]) -> Result<(KbsUri, String), Finding> {
    let text = match &file.from {
        Source::Resource(uri) => return Ok((uri.clone(), uri.to_string())),
        Source::Sealed(text) => text,
    };
    let verified = SealedSecret::parse(text)
        .and_then(|unverified| unverified.verify(keys))
        .map_err(|error| error.finding(file.path.as_str()))?;
    let name = verified.name().clone();
    if let Some(expected) = &file.resource
        && *expected != name
    {
        return Err(Finding::new(
            Class::Sealed,
            format!("the sealed secret for {} is authentic, but names another resource than `resource`", file.path),
        )
        .why("a sealed secret that was made for one path must not stand in for another")
        .next(format!("seal {expected} for {} in `[[secrets.file]]`, or correct `resource` there", file.path)));
    }
    Ok((name.clone(), format!("sealed secret for {name}")))
}

pub(super) async fn sealing_keys(
    road: &Arc<impl Resources>,
    uris: &[KbsUri],
) -> Result<Vec<(KbsUri, EcPublicJwk)>, Finding> {
    let requests = uris.iter().map(|uri| (uri.to_string(), uri.clone(), MAX_KEY_BYTES)).collect();
    let texts = all_or_none(many(road, requests).await)?;
    let mut keys = Vec::with_capacity(texts.len());
    for (uri, text) in uris.iter().zip(texts) {
        let key = EcPublicJwk::parse(text.expose()).map_err(|error| {
            Finding::new(Class::Content, format!("{uri}, listed in `[secrets].sealed_keys`, {error}"))
                .why("a sealed secret is believed only under a P-256 public key in JWK form")
                .next(format!("upload the public half of the sealing key as a JWK (kty EC, crv P-256, x, y) to {uri}"))
        })?;
        if key.has_private() {
            tracing::warn!(
                resource = %uri,
                "this sealing key holds its private half: every pod that may read it can forge sealed secrets; \
                 upload the public half only"
            );
        }
        keys.push((uri.clone(), key));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(label: &str, class: Option<Class>) -> Attempt<u8> {
        let result = class.map_or(Ok(1), |class| Err(Finding::new(class, "no")));
        Attempt { label: label.to_owned(), result }
    }

    #[test]
    fn one_refusal_among_many_refuses_all() {
        let attempts =
            vec![attempt("a", None), attempt("b", Some(Class::Backend)), attempt("c", Some(Class::GuestApi))];
        let finding = all_or_none(attempts).unwrap_err();
        assert_eq!(finding.class, Class::Backend);
        assert_eq!(finding.saw, "b: no (and 1 more of 3 refused: c)");
    }

    #[test]
    fn a_single_refusal_is_told_as_it_is() {
        assert_eq!(all_or_none(vec![attempt("a", Some(Class::Backend))]).unwrap_err().saw, "no");
        assert_eq!(all_or_none(vec![attempt("a", None), attempt("b", None)]).unwrap(), [1, 1]);
    }
}
