//! `comat doctor`: reports what the program finds on this machine, and what to do about what is missing.

mod check;

use crate::{share, text::counted, threads};
use anyhow::Result;
use clap::Args as Group;
use diffusion::settings::Where;
use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};
use torch_ext::nccl::Nccl;

/// Say what this machine has for comat, and what it lacks
///
/// libtorch, processor and memory, GPUs and their driver, disk, the hub's settings. Nothing is changed and nothing is
/// downloaded.
///
/// With --check it also computes: one iteration of the miniature world in each precision, held against the CPU in float64, the same one
/// twice, and how fast the device is. The exit code is 1 where something is off.
#[derive(Group)]
pub struct Doctor {
    /// Compute on the device, and hold it against the CPU
    #[arg(long)]
    pub check: bool,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", requires = "check")]
    device: Where,
    /// Folder with the miniature world's networks
    #[arg(long, value_name = "DIR", default_value = "weights/world", value_parser = share::path, requires = "check")]
    world: PathBuf,
}

/// A line of the report, and advice if something is wrong.
#[derive(Debug, PartialEq)]
struct Finding {
    about: &'static str,
    found: String,
    advice: Option<String>,
}

impl Finding {
    fn new(about: &'static str, found: impl Into<String>) -> Self {
        Self { about, found: found.into(), advice: None }
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

pub fn run(args: Doctor) -> Result<()> {
    say!("comat {}", env!("CARGO_PKG_VERSION"));
    for Finding { about, found, advice } in findings() {
        say!("{about:<10} {found}");
        if let Some(advice) = advice {
            say!("{:<10} → {advice}", "");
        }
    }
    if args.check { check::run(&args.world, args.device) } else { Ok(()) }
}

fn findings() -> Vec<Finding> {
    let mut all = vec![Finding::new(
        "libtorch",
        format!("{}, computing with {}", torch_ext::version::torch(), torch_ext::version::cpu_capability()),
    )];
    all.push(processor());
    let loaded = torch_ext::cuda::load().map_err(|e| e.to_string());
    let seen = if tch::Cuda::is_available() { tch::Cuda::device_count().max(0) as usize } else { 0 };
    let has_cuda = loaded.is_ok();
    all.extend(gpus(seen, loaded.err().as_deref(), nvidia_smi().as_deref()));
    if has_cuda {
        all.push(nccl(Nccl::open().map(|nccl| nccl.version())));
    }
    all.push(disk());
    all.push(models(hub::Settings::from_env()));
    all
}

/// Where models named by an id come from: endpoint, cache, and the source of the token. The token itself is never
/// shown.
fn models(settings: hub::Result<hub::Settings>) -> Finding {
    match settings {
        Err(error) => Finding::new("hub", error.to_string()).advice("models in local folders can be used all the same"),
        Ok(hub::Settings { endpoint, cache, token, offline, .. }) => {
            let token =
                token.map_or("no token (gated models need one: HF_TOKEN)".into(), |t| format!("token from {}", t.from));
            let way = if offline { "offline (HF_HUB_OFFLINE), the cache alone".into() } else { endpoint };
            Finding::new("hub", format!("{way}; cache {}; {token}", cache.display()))
        }
    }
}

fn processor() -> Finding {
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory(&text));
    let memory = memory.map_or("memory unknown".into(), |[total, free]| {
        format!("{:.1} GiB memory, {:.1} GiB of it free", total, free)
    });
    let threads = tch::get_num_threads();
    let finding = Finding::new(
        "processor",
        format!("{}, {} used, {memory}", counted(cores, "core"), counted(threads.max(0) as usize, "thread")),
    );
    if threads < cores as i32 && env::var_os("OMP_NUM_THREADS").is_some() {
        return finding.advice("OMP_NUM_THREADS is set; without it all cores are used");
    }
    match threads::busy() {
        Some(notice) => finding.advice(notice),
        None => finding,
    }
}

/// Free memory of the host, in bytes.
pub fn memory_free() -> Option<f64> {
    let [_, free] = memory(&fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(free * f64::from(1 << 30))
}

/// Major number of the compute capability of the least capable GPU.
pub fn compute_capability() -> Option<u32> {
    let all = nvidia_smi()?;
    all.lines().filter_map(|line| line.rsplit(',').next()?.trim().split('.').next()?.parse().ok()).min()
}

/// Total and free memory in GiB, from the text of /proc/meminfo.
fn memory(meminfo: &str) -> Option<[f64; 2]> {
    let kib = |key: &str| -> Option<f64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    Some([kib("MemTotal:")?, kib("MemAvailable:")?].map(|kib| kib / f64::from(1 << 20)))
}

/// The output of nvidia-smi: one line per GPU.
fn nvidia_smi() -> Option<String> {
    let fields = "--query-gpu=index,name,memory.total,memory.free,driver_version,compute_cap";
    let mut command = Command::new("nvidia-smi");
    command.args([fields, "--format=csv,noheader"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let output = torch_ext::signals::spawn(&mut command).ok()?.wait_with_output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `seen`: number of GPUs that libtorch can use; `missing`: why libtorch's CUDA part could not be opened; `driver`:
/// output of nvidia-smi.
fn gpus(seen: usize, missing: Option<&str>, driver: Option<&str>) -> Vec<Finding> {
    let there = driver.filter(|text| !text.is_empty());
    let list = |text: &str| text.lines().map(|line| Finding::new("GPU", line.trim().to_owned())).collect::<Vec<_>>();
    match (seen, missing, there) {
        (1.., _, Some(text)) => list(text),
        (1.., _, None) => vec![Finding::new("GPU", format!("{seen}, as libtorch says; nvidia-smi says nothing"))],
        (0, Some(_), Some(text)) => {
            let mut all = list(text);
            all.push(Finding::new("CUDA", "libtorch has no CUDA half, so the GPU is not used").advice(
                "cargo xtask setup --cuda (3.8 GB), or LIBTORCH_CUDA=…/libtorch_cuda.so of such an installation",
            ));
            all
        }
        (0, None, Some(text)) => {
            let mut all = list(text);
            all.push(Finding::new("CUDA", "libtorch's CUDA half is there, but it cannot use the GPU").advice(
                "most likely the driver is too old for it (the build of setup --cuda needs 580 or newer, and compute capability 7.5 or newer): update the NVIDIA driver, \
                 or use another build of torch 2.11 (README.md); CUDA_VISIBLE_DEVICES may also hide the GPU",
            ));
            all
        }
        (0, None, None) => vec![
            Finding::new("GPU", "none: libtorch's CUDA half is there, but no NVIDIA driver answers")
                .advice("install the NVIDIA driver (in a container: start it with access to the GPU)"),
        ],
        (0, Some(_), None) => vec![Finding::new("GPU", "none, and libtorch is the one for the CPU")],
    }
}

/// NCCL, which comes with libtorch's CUDA part.
fn nccl(version: Result<String, torch_ext::nccl::Error>) -> Finding {
    match version {
        Ok(version) => Finding::new("NCCL", version),
        Err(error) => Finding::new("NCCL", format!("none ({error})"))
            .advice("gradients of several GPUs travel through the CPU; cargo xtask setup --cuda installs libnccl.so.2"),
    }
}

fn disk() -> Finding {
    let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    match fs4::available_space(&here) {
        Ok(bytes) => {
            let free = bytes as f64 / f64::from(1 << 30);
            let finding = Finding::new("disk", format!("{free:.1} GiB free in {}", here.display()));
            match free < 10.0 {
                true => finding.advice("SDXL in float16 alone takes 7 GB; a run's checkpoints some hundred MB each"),
                false => finding,
            }
        }
        Err(error) => Finding::new("disk", format!("{}: {error}", here.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let text = "MemTotal:       25165824 kB\nMemFree:  1 kB\nMemAvailable:   12582912 kB\n";
        assert_eq!(memory(text), Some([24.0, 12.0]));
        assert_eq!(memory("MemTotal: x kB"), None);
    }

    #[test]
    fn tokens_are_not_shown() {
        let token = hub::Token { secret: "hf_secret".into(), from: "HF_TOKEN".into() };
        let settings = hub::Settings {
            endpoint: "https://hub".into(),
            cache: "cache".into(),
            token: Some(token),
            offline: false,
            pause: std::time::Duration::ZERO,
        };
        let found = models(Ok(settings)).found;
        assert!(
            found.contains("https://hub; cache cache; token from HF_TOKEN") && !found.contains("secret"),
            "{found}"
        );
    }

    const CARD: &str = "0, NVIDIA H100 80GB HBM3, 81559 MiB, 81000 MiB, 550.54.15, 9.0";

    fn advice(seen: usize, missing: Option<&str>, driver: Option<&str>) -> String {
        let all = gpus(seen, missing, driver);
        assert!(all.iter().all(|f| !f.found.is_empty()));
        all.into_iter().filter_map(|f| f.advice).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn every_state_of_cuda_has_its_advice() {
        assert_eq!(advice(1, None, Some(CARD)), "");
        assert_eq!(advice(0, Some("no such file"), None), "");
        assert!(advice(0, Some("no such file"), Some(CARD)).contains("setup --cuda"));
        assert!(advice(0, None, Some(CARD)).contains("driver is too old"));
        assert!(advice(0, None, None).contains("install the NVIDIA driver"));
        assert_eq!(gpus(2, None, Some(&format!("{CARD}\n{CARD}"))).len(), 2);
        assert_eq!(nccl(Ok("2.28.9".into())), Finding::new("NCCL", "2.28.9"));
        let none = nccl(Err(torch_ext::nccl::Error::Failed("no such file".into())));
        assert!(none.found.contains("no such file") && none.advice.unwrap().contains("through the CPU"));
    }
}
