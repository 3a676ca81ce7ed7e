//! Formats of the field, parsed from hostile bytes. Pure: no I/O, no clock.

pub mod csr;
pub mod delivery;
pub mod ear;
pub mod frames;
pub mod hex;
pub mod initdata;
pub mod jcs;
pub(crate) mod json;
pub mod jwe;
pub mod jwk;
pub mod kbs_error;
pub mod kbs_uri;
pub mod pins;
pub mod runtime_data;
pub mod sealed;
pub mod statement;
pub mod wanted;
pub mod x509;
