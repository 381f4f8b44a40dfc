//! The framing of records: length, its checksum, the bytes, their checksum.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use std::io::{ErrorKind, Read, Result};

/// A longer record is none of ours.
const MAX_BYTES: u64 = 1 << 24;

/// CRC32C, rotated and offset so that a checksum over data that holds checksums stays one.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    let crc = crc_fast::checksum(Crc32Iscsi, bytes) as u32;
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A record as it stands in the file.
pub fn framed(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), payload, &masked_crc(payload)].concat()
}

/// The length of [`framed`].
pub fn framed_len(payload: &[u8]) -> u64 {
    payload.len() as u64 + 16
}

/// The next record; `None` at the end, and where what follows is cut short or damaged.
///
/// # Errors
/// Those of the reader.
pub fn read(file: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut header = [0; 12];
    if !fills(file, &mut header)? {
        return Ok(None);
    }
    let (length, crc) = header.split_at(8);
    let size = u64::from_le_bytes(length.try_into().unwrap_or_default());
    if crc != masked_crc(length) || size > MAX_BYTES {
        return Ok(None);
    }
    let mut payload = vec![0; size as usize];
    let mut crc = [0; 4];
    let whole = fills(file, &mut payload)? && fills(file, &mut crc)? && crc == masked_crc(&payload);
    Ok(whole.then_some(payload))
}

fn fills(file: &mut impl Read, buffer: &mut [u8]) -> Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_of_every_event_file() {
        // Its first 12 bytes as TensorFlow writes them for the 24 bytes of "brain.Event:2": length 24, masked CRC32C.
        let bytes = framed(&[0; 24]);
        assert_eq!(bytes[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(bytes.len() as u64, framed_len(&[0; 24]));
    }

    #[test]
    fn damage_and_torn_ends_are_noticed() {
        let bytes = [framed(b"one"), framed(b"")].concat();
        let read_all = |bytes: &[u8]| {
            let mut rest = bytes;
            std::iter::from_fn(|| read(&mut rest).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(read_all(&bytes), [b"one".to_vec(), Vec::new()]);
        for end in 0..19 {
            assert!(read_all(&bytes[..end]).is_empty(), "{end} bytes");
        }
        for at in 0..19 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(read_all(&damaged).is_empty(), "byte {at}");
        }
        assert!(read_all(&framed(&vec![0; MAX_BYTES as usize + 1])).is_empty());
    }
}
