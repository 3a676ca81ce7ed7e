//! Little-endian fields at fixed offsets: total functions over slices of any length.

/// `N` bytes at `offset`, or `None` where the slice ends before them.
pub(super) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// A u16 at `offset`.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_le_bytes)
}

/// A u32 at `offset`.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_le_bytes)
}

/// A u64 at `offset`.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_le_bytes)
}

/// `length` bytes at `offset`, where the length came from hostile input.
pub(super) fn slice(bytes: &[u8], offset: usize, length: u32) -> Option<&[u8]> {
    bytes.get(offset..offset.checked_add(usize::try_from(length).ok()?)?)
}

/// Writes `field` at `offset` of a buffer that has room for it. Offsets are constants of a format;
/// one that lay outside would fail the room's round trips.
pub(super) fn put(out: &mut [u8], offset: usize, field: &[u8]) {
    if let Some(slot) = out.get_mut(offset..offset.saturating_add(field.len())) {
        slot.copy_from_slice(field);
    }
}
