//! pip as a downloader: one wheel at a time, checked against its SHA-256, and its errors in plain words.

use super::wheels::Wheel;
use crate::command::program;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// pip accepts a wheel only if one of its tags is named, and takes none of them to include the older ones.
const PLATFORMS: &[&str] = &[
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_25_x86_64",
    "manylinux_2_18_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
];

/// Downloads the wheel into the folder and returns the file. One that lies there already is checked and kept, or replaced.
pub fn download(wheel: &Wheel, store: &Path) -> Result<PathBuf> {
    let what = format!("{} {}", wheel.name, wheel.version);
    let start = Instant::now();

    // pip takes hashes from a file only.
    let requirement = store.join("requirement.txt");
    fs::write(&requirement, format!("{}=={} --hash=sha256:{}\n", wheel.name, wheel.version, wheel.sha256))
        .with_context(|| format!("could not write {}", requirement.display()))?;
    let mut pip = command();
    pip.args(["download", "--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--require-hashes"]);
    pip.args(["--only-binary=:all:", "--python-version=3.11"]);
    pip.args(PLATFORMS.iter().map(|platform| format!("--platform={platform}")));
    pip.arg("--dest").arg(store).arg("--requirement").arg(&requirement);
    pip.env("TMPDIR", fresh(store.join("pip"))?); // /tmp may be small
    if !std::io::stdout().is_terminal() {
        pip.arg("--quiet"); // no progress bar in log files
    }
    run(&mut pip).with_context(|| format!("could not download {what}"))?;

    let file = find(wheel, store)?
        .with_context(|| format!("pip has downloaded {what}, but the wheel is not in {}", store.display()))?;
    let size = fs::metadata(&file).map_or(0, |metadata| metadata.len()) as f64 / 1e6;
    eprintln!("setup: {what}: {size:.1} MB in {:.1} s", start.elapsed().as_secs_f64());
    Ok(file)
}

/// An empty folder: what a pip that was killed has left in it is removed.
fn fresh(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    fs::create_dir(&folder).with_context(|| format!("could not make the folder {}", folder.display()))?;
    Ok(folder)
}

/// `python3 -m pip`, or the words in PIP.
fn command() -> Command {
    let chosen = std::env::var("PIP").unwrap_or_default();
    let mut words = chosen.split_whitespace();
    match words.next() {
        Some(first) => {
            let mut pip = program(first);
            pip.args(words);
            pip
        }
        None => {
            let mut pip = program("python3");
            pip.args(["-m", "pip"]);
            pip
        }
    }
}

fn run(pip: &mut Command) -> Result<()> {
    let name = pip.get_program().to_string_lossy().into_owned();
    let mut child =
        pip.stderr(Stdio::piped()).spawn().with_context(|| format!("could not start {name}; is PIP set to a pip?"))?;
    let mut errors = String::new();
    for line in child.stderr.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok) {
        if line.contains("Retrying") {
            eprintln!("setup: the connection failed, pip tries again");
        }
        errors.push_str(&line);
        errors.push('\n');
    }
    if !child.wait().context("pip was lost")?.success() {
        bail!(explain(&errors, "pip failed without a word"));
    }
    Ok(())
}

/// What pip's or Python's error output means and what to do about it, in one line; its last error if it is none of the
/// usual ones, `otherwise` if there is none.
pub fn explain(errors: &str, otherwise: &str) -> String {
    let has = |texts: &[&str]| texts.iter().any(|text| errors.contains(text));
    if has(&["No module named pip"]) {
        return "python3 has no pip; install it (Debian, Ubuntu: apt install python3-pip) or name one in PIP".into();
    }
    if has(&["No space left on device", "Errno 28", "Disk quota exceeded"]) {
        return "the disk is full; free some space (set-up needs 1.1 GB for the CPU, 4.4 GB with CUDA) and run it again"
            .into();
    }
    if has(&["DO NOT MATCH THE HASHES", "Hashes are required"]) {
        return "it does not match its pinned SHA-256, so something has changed it on the way; run it again, and if it \
                stays so, look which index pip is set to use (`python3 -m pip config list`)"
            .into();
    }
    if has(&["Retrying (", "ConnectTimeout", "ReadTimeout", "ConnectionError", "ProxyError", "ConnectionResetError"]) {
        return "PyPI cannot be reached; check the network (pip obeys HTTPS_PROXY) and run it again".into();
    }
    if has(&["No matching distribution found", "no such option"]) {
        return "pip finds no such wheel; it must be pip 21 or newer (`python3 -m pip --version`) and its index must hold \
                the packages of PyPI (`python3 -m pip config list`)"
            .into();
    }
    let lines = || errors.lines().map(str::trim).filter(|line| !line.is_empty());
    let last = lines().rfind(|line| line.starts_with("ERROR")).or_else(|| lines().next_back());
    last.unwrap_or(otherwise).into()
}

/// The wheel's file: its name begins with the package's, underscores for hyphens, and the version.
fn find(wheel: &Wheel, store: &Path) -> Result<Option<PathBuf>> {
    let start = format!("{}-{}-", wheel.name.replace('-', "_"), wheel.version);
    for entry in fs::read_dir(store).with_context(|| format!("could not read {}", store.display()))? {
        let path = entry.with_context(|| format!("could not read {}", store.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&start) && name.ends_with(".whl") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_errors_in_plain_words() {
        let cases = [
            ("/usr/bin/python3: No module named pip\n", "python3 has no pip"),
            (
                "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError'\n\
                 ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from versions: none)\n\
                 ERROR: No matching distribution found for torch==2.11.0\n",
                "PyPI cannot be reached",
            ),
            (
                "ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from versions: 2.2.0)\n\
                 ERROR: No matching distribution found for torch==2.11.0\n",
                "pip finds no such wheel",
            ),
            (
                "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    torch==2.11.0\n",
                "it does not match its pinned SHA-256",
            ),
            ("Traceback\nOSError: [Errno 28] No space left on device: 'a' -> 'b'\n", "the disk is full"),
            ("ERROR: something new\nWARNING: a hint\n", "ERROR: something new"),
            ("Traceback\nBadZipFile: File is not a zip file\n", "BadZipFile: File is not a zip file"),
            ("\n", "nothing"),
        ];
        for (errors, start) in cases {
            let text = explain(errors, "nothing");
            assert!(text.starts_with(start) && !text.contains('\n'), "{errors}: {text}");
        }
    }

    #[test]
    fn wheels_are_found_by_name_and_version() {
        let store = tempfile::tempdir().unwrap();
        let wheel = super::super::wheels::of(super::super::stamp::Kind::Cpu)[1];
        for other in
            ["nvidia_cuda_runtime-13.0.9-py3-none-any.whl", "nvidia_cuda_runtime_cu13-13.0.96-py3-none-any.whl"]
        {
            fs::write(store.path().join(other), "").unwrap();
        }
        assert_eq!(find(wheel, store.path()).unwrap(), None);
        let file = store.path().join("nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.whl");
        fs::write(&file, "").unwrap();
        assert_eq!(find(wheel, store.path()).unwrap(), Some(file));
    }
}
