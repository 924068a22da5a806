//! Random streams: every random choice is named by (seed, purpose, step, index), so it depends on
//! nothing that happened before it, nor on what is computed beside it.

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

/// The stream of one choice. The four parts fill the 32 bytes of the ChaCha key, `purpose` by its
/// 64-bit FNV-1a hash.
///
/// ```
/// use rand::RngExt;
/// use rlhf_core::rng::stream;
///
/// let a: u64 = stream(7, "rollout", 3, 0).random();
/// assert_eq!(a, stream(7, "rollout", 3, 0).random::<u64>());
/// assert_ne!(a, stream(7, "rollout", 3, 1).random::<u64>());
/// ```
pub fn stream(seed: u64, purpose: &str, step: u64, index: u64) -> ChaCha12Rng {
    let mut key = [0u8; 32];
    for (part, place) in [seed, fnv1a(purpose.as_bytes()), step, index].into_iter().zip(key.chunks_mut(8)) {
        place.copy_from_slice(&part.to_le_bytes());
    }
    ChaCha12Rng::from_seed(key)
}

/// FNV-1a over bytes, 64 bits (Fowler, Noll and Vo).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn fnv1a_has_its_published_values() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn each_part_makes_another_stream() {
        let first = |mut r: ChaCha12Rng| r.random::<u64>();
        let base = first(stream(1, "a", 2, 3));
        for other in [stream(2, "a", 2, 3), stream(1, "b", 2, 3), stream(1, "a", 3, 3), stream(1, "a", 2, 4)]
        {
            assert_ne!(base, first(other));
        }
    }
}
