//! The two pages of kubectl-coco's sidecar that programs read. What they say is what is known here.

use time::OffsetDateTime;

/// What the pages say of the pod.
#[derive(Clone, Debug)]
pub struct About {
    /// `POD_NAME`, as the control plane says.
    pub pod: String,
    /// `POD_NAMESPACE`, likewise.
    pub namespace: String,
}

impl About {
    /// The page, if there is one of this path: JSON. `since` is when the KBS released our key, seconds since
    /// 1970. Whoever reads this was shown the certificate of that key.
    pub fn page(&self, path: &str, since: u64) -> Option<String> {
        let page = match path {
            "/api/status" => serde_json::json!({
                "podName": self.pod, "namespace": self.namespace, "attested": true,
            }),
            "/api/attestation" => serde_json::json!({
                "status": "verified",
                "timestamp": rfc3339(since),
                "details": "the KBS released this sidecar's key to this guest at that time; which evidence its policy \
                            asked for is not seen here",
            }),
            _ => return None,
        };
        Some(format!("{page}\n"))
    }
}

/// RFC 3339, in whole seconds. Empty for a time that no calendar has.
fn rfc3339(unix: u64) -> String {
    let time = i64::try_from(unix).ok().and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
    time.map_or_else(String::new, |at| {
        let (date, clock) = (at.date(), at.time());
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            clock.hour(),
            clock.minute(),
            clock.second()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_pages_are_answered() {
        let about = About { pod: "app-1\"".to_owned(), namespace: "demo".to_owned() };
        for path in ["/", "/api", "/api/status/", "/api//status", "/API/status", "/dashboard"] {
            assert_eq!(about.page(path, 0), None, "{path}");
        }
        let status: serde_json::Value = serde_json::from_str(&about.page("/api/status", 0).unwrap()).unwrap();
        assert_eq!(status, serde_json::json!({ "podName": "app-1\"", "namespace": "demo", "attested": true }));
        let page: serde_json::Value =
            serde_json::from_str(&about.page("/api/attestation", 1_790_000_000).unwrap()).unwrap();
        assert_eq!(
            (page["status"].as_str(), page["timestamp"].as_str()),
            (Some("verified"), Some("2026-09-21T14:13:20Z"))
        );
    }
}
