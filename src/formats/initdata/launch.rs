//! What the hardware holds of an initdata: its digest, cut or padded with zeros to each field.
//!
//! Source: the initdata specification of `CoCo`; for the vTPM, the attestation agent, which extends
//! PCR 8 once, with sha256 only.

use aws_lc_rs::digest;

use super::Initdata;

/// Bytes of `HOST_DATA` in a report of SEV-SNP.
pub const HOST_DATA_LEN: usize = 32;
/// Bytes of `MRCONFIGID` in a report of TDX.
pub const MRCONFIGID_LEN: usize = 48;
/// Bytes of the realm personalization value of Arm CCA.
pub const RPV_LEN: usize = 64;

impl Initdata {
    /// `HOST_DATA` of SEV-SNP. Of sha384 and sha512 it is the first 32 bytes.
    pub fn host_data(&self) -> [u8; HOST_DATA_LEN] {
        fitted(&self.digest())
    }

    /// `MRCONFIGID` of TDX. sha256 is padded with 16 zeros.
    pub fn mrconfigid(&self) -> [u8; MRCONFIGID_LEN] {
        fitted(&self.digest())
    }

    /// The realm personalization value of Arm CCA. Trustee compares it with the digest without its
    /// padding, so only sha512 is accepted there.
    pub fn cca_rpv(&self) -> [u8; RPV_LEN] {
        fitted(&self.digest())
    }

    /// PCR 8 of Azure's vTPM, extended once from zero. `None` unless the algorithm is sha256.
    pub fn azure_pcr8(&self) -> Option<[u8; 32]> {
        azure_pcr8(&self.digest())
    }
}

/// PCR 8 of Azure's vTPM, extended once from zero with this digest. `None` unless it is one of sha256.
pub fn azure_pcr8(initdata: &[u8]) -> Option<[u8; 32]> {
    (initdata.len() == digest::SHA256_OUTPUT_LEN)
        .then(|| fitted(digest::digest(&digest::SHA256, &[&[0; 32], initdata].concat()).as_ref()))
}

/// A digest as a field of `width` bytes holds it.
pub fn fit(digest: &[u8], width: usize) -> Vec<u8> {
    let mut field: Vec<u8> = digest.iter().copied().take(width).collect();
    field.resize(width, 0);
    field
}

fn fitted<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&fit(bytes, N));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: &str) -> Initdata {
        Initdata::parse(format!("algorithm = \"{algorithm}\"\nversion = \"0.1.0\"\n[data]\n").as_bytes()).unwrap()
    }

    #[test]
    fn each_field_is_the_digest_cut_or_padded() {
        for (name, len) in [("sha256", 32), ("sha384", 48), ("sha512", 64)] {
            let initdata = of(name);
            let digest = initdata.digest();
            assert_eq!(initdata.host_data(), digest[..32]);
            let kept = len.min(48);
            assert_eq!(initdata.mrconfigid()[..kept], digest[..kept]);
            assert!(initdata.mrconfigid()[kept..].iter().all(|byte| *byte == 0));
            assert_eq!(initdata.cca_rpv()[..len], digest[..]);
            assert!(initdata.cca_rpv()[len..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn pcr_8_is_one_extension_with_sha256_and_nothing_else() {
        // sha256(32 zeros || sha256(toml)), as `printf` and sha256sum make it.
        let initdata = of("sha256");
        let extended: Vec<u8> = [vec![0; 32], initdata.digest()].concat();
        assert_eq!(initdata.azure_pcr8().unwrap(), digest::digest(&digest::SHA256, &extended).as_ref());
        assert_eq!(of("sha384").azure_pcr8(), None);
    }
}
