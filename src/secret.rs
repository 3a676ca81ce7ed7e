//! Bytes that must not be seen.

use zeroize::Zeroizing;

/// A secret's bytes: wiped when dropped, without `Debug`, `Display`, `Clone` or `Serialize`, so
/// that printing one does not compile.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over. The vector must not have been grown after its first secret byte, or a
    /// freed copy stays behind: allocate it with room.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the code that checks or writes them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
