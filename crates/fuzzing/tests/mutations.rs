//! Damaged files of every kind: each reader refuses them or reads them, without a panic, and within its memory.
//!
//! The mutations are the same in every run. `COMAT_FUZZ_SECONDS` says how long each reader is tried (absent: a third),
//! `COMAT_FUZZ_SEED` from which number the mutations are drawn, `COMAT_FUZZ_TARGET` names one reader. What fails is written to the
//! folder for temporary files, and named.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use cap::Cap;
use fastrand::Rng;
use fuzzing::{TARGETS, Target, seeds};
use std::{
    alloc::System,
    env, fs, panic,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Numbers that lengths and counts are replaced with.
const NUMBERS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "64",
    "1000000",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "-0.5",
    "NaN",
    "1e-300",
];
const PIECES: [&str; 10] = ["{", "[", "\"", "null", "true", ":", "}", "]", "\u{1F600}", "\0"];

/// In 0..end, or 0.
fn below(random: &mut Rng, end: usize) -> usize {
    random.usize(..end.max(1))
}

fn mutated(seed: &[u8], other: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + below(random, 4) {
        let length = bytes.len();
        match below(random, 11) {
            0 => {
                let at = below(random, length);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << below(random, 8);
                }
            }
            1 => {
                let at = below(random, length);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\n', b'9'][below(random, 8)];
                }
            }
            2 => bytes.truncate(below(random, length + 1)),
            3 => {
                // the start of one and the end of another
                bytes.truncate(below(random, length + 1));
                bytes.extend_from_slice(&other[below(random, other.len() + 1)..]);
            }
            4 => {
                // a length field, inflated
                let width = [1, 2, 4, 8][below(random, 4)];
                let within = if below(random, 2) == 0 { length } else { length.min(64) };
                let at = below(random, within);
                let value = match below(random, 4) {
                    0 => u64::MAX,
                    1 => 1 << below(random, 64),
                    2 => length as u64 * 2,
                    _ => random.u64(..),
                };
                let little = below(random, 2) == 0;
                for (i, byte) in bytes.iter_mut().skip(at).take(width).enumerate() {
                    *byte = (value >> (8 * if little { i } else { width - 1 - i })) as u8;
                }
            }
            5 | 6 => {
                // a number in a text
                let starts: Vec<usize> = (0..length)
                    .filter(|&i| bytes[i].is_ascii_digit() && (i == 0 || !bytes[i - 1].is_ascii_digit()))
                    .take(4000)
                    .collect();
                if let Some(&start) = starts.get(below(random, starts.len())) {
                    let end = bytes[start..].iter().position(|b| !b.is_ascii_digit()).map_or(length, |n| start + n);
                    bytes.splice(start..end, NUMBERS[below(random, NUMBERS.len())].bytes());
                }
            }
            7 => {
                let (from, at) = (below(random, length), below(random, length + 1));
                let piece: Vec<u8> = bytes[from..length.min(from + below(random, 64))].to_vec();
                bytes.splice(at..at, piece);
            }
            8 => {
                let from = below(random, length);
                bytes.drain(from..length.min(from + below(random, 64)));
            }
            9 => {
                let at = below(random, length + 1);
                bytes.splice(at..at, PIECES[below(random, PIECES.len())].bytes());
            }
            _ => {
                // deep
                let at = below(random, length + 1);
                let piece = ["[", "{\"a\":", "a.", "("][below(random, 4)].repeat(1 + below(random, 3000));
                bytes.splice(at..at, piece.bytes());
            }
        }
    }
    bytes
}

/// What a reader may have at its peak: parsed JSON and tokenizers are large beside their text, an image that compresses well is large
/// beside its file, up to the limit of the decoder.
fn most(target: &str, bytes: usize) -> usize {
    match target {
        "images" | "pairs" => (1 << 30) + (1 << 29) + 64 * bytes,
        "scheduler" => (1 << 28) + 256 * bytes, // up to a million training steps
        _ => (64 << 20) + 256 * bytes,
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn attempt(target: &Target, bytes: &[u8], what: &str) -> Result<(), String> {
    let keep = |why: &str| {
        let file = env::temp_dir().join(format!("comat-fuzz-{}-{what}", target.name));
        fs::write(&file, bytes).unwrap();
        format!("{}: {why}; the file is {}", target.name, file.display())
    };
    let (began, before, peak) = (Instant::now(), ALLOCATOR.allocated(), ALLOCATOR.max_allocated());
    panic::catch_unwind(|| (target.run)(bytes)).map_err(|_| keep("panicked"))?;
    let now = ALLOCATOR.max_allocated();
    if now > peak && now - before > most(target.name, bytes.len()) {
        return Err(keep(&format!("asked for {} bytes, of a file of {}", now - before, bytes.len())));
    }
    let seconds = began.elapsed().as_secs_f64();
    if seconds > 20.0 { Err(keep(&format!("took {seconds:.0} s"))) } else { Ok(()) }
}

#[test]
fn damaged_files() {
    let seconds = number("COMAT_FUZZ_SECONDS");
    let only = env::var("COMAT_FUZZ_TARGET").ok();
    let mut failures = vec![];
    for target in TARGETS.iter().filter(|target| only.as_ref().is_none_or(|name| name == target.name)) {
        let seeds = seeds::of(target.name);
        assert!(!seeds.is_empty(), "{}: no seeds", target.name);
        let mut random = Rng::with_seed(number("COMAT_FUZZ_SEED").unwrap_or(1));
        let limit = Duration::from_secs_f64(seconds.map_or(0.3, |seconds| seconds as f64));
        let most_failures = 5;
        let (mut tried, mut failed) = (0, 0);
        for (i, seed) in seeds.iter().enumerate() {
            failures.extend(attempt(target, seed, &format!("seed{i}")).err());
        }
        let began = Instant::now();
        while began.elapsed() < limit && failed < most_failures {
            let (seed, other) = (&seeds[below(&mut random, seeds.len())], &seeds[below(&mut random, seeds.len())]);
            let bytes = mutated(seed, other, &mut random);
            if let Err(failure) = attempt(target, &bytes, &tried.to_string()) {
                failed += 1;
                failures.push(failure);
            }
            tried += 1;
        }
        println!("{}: {tried} files from {} seeds", target.name, seeds.len());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
