//! Initdata of a guest: the document that `HOST_DATA` or `MRCONFIGID` commits to.

use aws_lc_rs::digest::{SHA384, digest};

/// An agent policy in the shape of Kata's `genpolicy`: rules, and the data they are about.
const POLICY: &str = "package agent_policy\ndefault CreateContainerRequest := false\n\
                      default ExecProcessRequest := false\npolicy_data := {\"containers\": []}\n";

/// A document, version 0.1.0, digest sha384.
#[derive(Clone, Debug)]
pub struct Document {
    entries: Vec<(String, String)>,
}

impl Document {
    /// For a guest whose own services and whose agent know this KBS.
    pub fn of_kbs(url: &str, ca: &str) -> Self {
        let aa = format!("[token_configs.kbs]\nurl = \"{url}\"\ncert = \"\"\"\n{ca}\"\"\"\n");
        let cdh = format!("[kbc]\nname = \"cc_kbc\"\nurl = \"{url}\"\nkbs_cert = \"\"\"\n{ca}\"\"\"\n");
        Self { entries: Vec::new() }.entry("aa.toml", &aa).entry("cdh.toml", &cdh).entry("policy.rego", POLICY)
    }

    /// With one more entry of `[data]`.
    ///
    /// # Panics
    /// Where the text holds `'''`, which ends it in TOML.
    #[must_use]
    pub fn entry(mut self, name: &str, text: &str) -> Self {
        assert!(!text.contains("'''"), "{name} holds '''");
        self.entries.push((name.to_owned(), text.to_owned()));
        self
    }

    /// With this agent policy, in place of the one in the generator's shape.
    #[must_use]
    pub fn policy(mut self, text: &str) -> Self {
        self.entries.retain(|(name, _)| name != "policy.rego");
        self.entry("policy.rego", text)
    }

    /// With this configuration of ours.
    #[must_use]
    pub fn countersign(self, text: &str) -> Self {
        self.entry("countersign.toml", text)
    }

    /// Its TOML.
    pub fn text(&self) -> String {
        let head = "algorithm = \"sha384\"\nversion = \"0.1.0\"\n\n[data]\n".to_owned();
        self.entries.iter().fold(head, |text, (name, value)| text + &format!("\"{name}\" = '''\n{value}'''\n"))
    }

    /// Its digest, 48 bytes.
    pub fn digest(&self) -> Vec<u8> {
        digest(&SHA384, self.text().as_bytes()).as_ref().to_vec()
    }
}
