//! Reports of the right form, signed by nobody: enough for what reads offsets, nothing for what
//! verifies.

/// An SNP attestation report of 1184 bytes, version 3, for these 64 bytes.
pub fn snp(inblob: &[u8], privlevel: u32) -> Vec<u8> {
    let mut report = vec![0; 1184];
    put(&mut report, 0x00, &3_u32.to_le_bytes());
    put(&mut report, 0x08, &0x3_0000_u64.to_le_bytes());
    put(&mut report, 0x30, &privlevel.to_le_bytes());
    put(&mut report, 0x34, &1_u32.to_le_bytes());
    put(&mut report, 0x50, inblob);
    report
}

/// The certificate table that goes with it: one entry (VCEK), whose certificate is none.
pub fn certificates() -> Vec<u8> {
    let certificate = b"not a certificate\0";
    let mut table = vec![0; 48];
    let vcek = [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
    put(&mut table, 0, &vcek);
    put(&mut table, 16, &48_u32.to_le_bytes());
    put(&mut table, 20, &u32::try_from(certificate.len()).unwrap_or(0).to_le_bytes());
    table.extend_from_slice(certificate);
    table
}

/// A TDX quote, version 4, for these 64 bytes.
pub fn tdx_v4(inblob: &[u8]) -> Vec<u8> {
    quote(4, &[], 48, inblob)
}

/// A TDX quote, version 5 with the body of TDX 1.5, for these 64 bytes.
pub fn tdx_v5(inblob: &[u8]) -> Vec<u8> {
    quote(5, &[&3_u16.to_le_bytes()[..], &648_u32.to_le_bytes()].concat(), 54, inblob)
}

/// Something for a CCA token: nobody here parses it.
pub fn cca(inblob: &[u8]) -> Vec<u8> {
    [&[0xd9, 0x01, 0x8f][..], inblob].concat()
}

fn quote(version: u16, descriptor: &[u8], body: usize, inblob: &[u8]) -> Vec<u8> {
    let mut quote = vec![0; 2048];
    put(&mut quote, 0, &version.to_le_bytes());
    put(&mut quote, 2, &2_u16.to_le_bytes());
    put(&mut quote, 4, &0x81_u32.to_le_bytes());
    put(&mut quote, 48, descriptor);
    put(&mut quote, body + 520, inblob);
    quote
}

fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(part) {
        *to = *from;
    }
}
