//! Writes the seeds of every target where cargo-fuzz looks for them: `cargo run -p fuzzing --example seeds -- fuzz/corpus`

use std::{env, fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    let corpus = PathBuf::from(env::args_os().nth(1).unwrap_or_else(|| "fuzz/corpus".into()));
    for target in &fuzzing::TARGETS {
        let folder = corpus.join(target.name);
        fs::create_dir_all(&folder)?;
        for (i, seed) in fuzzing::seeds::of(target.name).iter().enumerate() {
            fs::write(folder.join(format!("seed-{i}")), seed)?;
        }
    }
    Ok(())
}
