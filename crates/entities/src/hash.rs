//! The two hash functions that spaCy's models use to find table rows: MurmurHash by Austin Appleby (public domain).

const M: u64 = 0xc6a4_a793_5bd1_e995;

fn scramble(h: u64, k: u64) -> u64 {
    let k = k.wrapping_mul(M);
    (h ^ (k ^ k >> 47).wrapping_mul(M)).wrapping_mul(M)
}

/// MurmurHash2, 64-bit version A: the id of a string.
pub fn murmur2(bytes: &[u8], seed: u64) -> u64 {
    let mut h = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let (whole, rest) = bytes.as_chunks::<8>();
    for chunk in whole {
        h = scramble(h, u64::from_le_bytes(*chunk));
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u64::from(*byte));
        h = (h ^ tail).wrapping_mul(M);
    }
    h = (h ^ h >> 47).wrapping_mul(M);
    h ^ h >> 47
}

/// MurmurHash3, 128-bit version for 64-bit machines, of one number: the indices of four rows of an embedding table.
pub fn murmur3(key: u64, seed: u32) -> [u32; 4] {
    fn finish(mut h: u64) -> u64 {
        h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ h >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ h >> 33
    }
    let seed = u64::from(seed);
    let length = 8;
    let k = key.wrapping_mul(0x87c3_7b91_1142_53d5).rotate_left(31).wrapping_mul(0x4cf5_ad43_2745_937f);
    let mut h1 = (k ^ seed) ^ length;
    let mut h2 = seed ^ length;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    (h1, h2) = (finish(h1), finish(h2));
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    [h1 as u32, (h1 >> 32) as u32, h2 as u32, (h2 >> 32) as u32]
}
