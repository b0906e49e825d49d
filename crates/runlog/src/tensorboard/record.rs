//! Records in TFRecord format: length (8 bytes, little endian), its checksum, payload, its checksum.

use anyhow::{Result, bail};

/// A payload as a record.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let checksum = |bytes: &[u8]| masked(bytes).to_le_bytes();
    [&length[..], &checksum(&length), payload, &checksum(payload)].concat()
}

/// The payloads of a file.
///
/// # Errors
/// A record that is truncated, or does not match its checksums.
pub fn unframe(mut bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut payloads = vec![];
    while !bytes.is_empty() {
        let (length, rest) = checked(bytes, 8)?;
        let length = length.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let (payload, rest) = checked(rest, usize::try_from(length)?)?;
        payloads.push(payload);
        bytes = rest;
    }
    Ok(payloads)
}

/// Splits off `length` bytes and verifies the checksum that follows them; also returns the remaining bytes.
fn checked(bytes: &[u8], length: usize) -> Result<(&[u8], &[u8])> {
    let cut = || anyhow::anyhow!("a record is cut off");
    let (part, rest) = bytes.split_at_checked(length).ok_or_else(cut)?;
    let (checksum, rest) = rest.split_first_chunk().ok_or_else(cut)?;
    if u32::from_le_bytes(*checksum) != masked(part) {
        bail!("a record does not fit its checksum");
    }
    Ok((part, rest))
}

/// CRC-32C, rotated and offset: without that, checksums of data that contains checksums would be weak.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let file = [frame(b"one"), frame(b""), frame(&[7; 300])].concat();
        assert_eq!(unframe(&file).unwrap(), [&b"one"[..], b"", &[7; 300]]);
        assert_eq!(unframe(b"").unwrap(), [b""; 0]);
        for cut in 1..frame(b"one").len() {
            assert_eq!(unframe(&file[..cut]).unwrap_err().to_string(), "a record is cut off");
        }
        for byte in 0..frame(b"one").len() {
            let mut damaged = frame(b"one");
            damaged[byte] ^= 1;
            assert_eq!(unframe(&damaged).unwrap_err().to_string(), "a record does not fit its checksum");
        }
    }

    /// `masked_crc32c(b"123456789")` by TensorBoard; without the mask it is 0xe3069283.
    #[test]
    fn the_checksum_of_tensorboard() {
        assert_eq!(masked(b"123456789"), 0xc78a_b0e5);
    }
}
