//! Drawing beside other programs: how OpenMP's threads wait decides whether a busy machine is slow or stands still.

use super::{Bench, median, output};
use anyhow::{Context, Result};
use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

/// Images drawn.
const IMAGES: usize = 60;
/// Ways to wait: what the environment says.
const WAYS: [(&str, Option<(&str, &str)>); 6] = [
    ("as comat sets it", None),
    ("spin 300", Some(("GOMP_SPINCOUNT", "300"))),
    ("spin 1000", Some(("GOMP_SPINCOUNT", "1000"))),
    ("spin 10000", Some(("GOMP_SPINCOUNT", "10000"))),
    ("passive", Some(("OMP_WAIT_POLICY", "passive"))),
    ("libgomp's default", Some(("GOMP_SPINCOUNT", "300000"))),
];

pub fn loaded(bench: &Bench) -> Result<()> {
    let cores = thread::available_parallelism()?.get();
    println!("  seconds to draw {IMAGES} images of the miniature world, beside N busy processes on {cores} cores");
    println!("  {:20}{:>8}{:>8}{:>8}", "medians", "N = 0", "N = 1", "N = 2");
    let mut seconds = WAYS.map(|_| [vec![], vec![], vec![]]);
    for _ in 0..bench.runs {
        for busy in [0, 1, 2] {
            let _neighbours = Neighbours::start(busy)?;
            for ((_, variable), of) in WAYS.iter().zip(&mut seconds) {
                of[busy].push(draw(bench, *variable)?);
            }
        }
    }
    for busy in [1, 2] {
        let [as_set, ..] = &seconds;
        let times: Vec<f64> = as_set[busy].iter().zip(&as_set[0]).map(|(busy, idle)| busy / idle).collect();
        bench.ratios.add(&format!("drawing beside {busy} busy, over idle"), &times);
    }
    for ((name, _), of) in WAYS.iter().zip(seconds) {
        let [none, one, two] = of.map(median);
        println!("  {name:20}{none:8.1}{one:8.1}{two:8.1}");
    }
    Ok(())
}

fn draw(bench: &Bench, variable: Option<(&str, &str)>) -> Result<f64> {
    let folder = bench.scratch("loaded")?;
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut generate = bench.comat(&["generate", "--quiet", "--model", super::MODEL, "--prompt", "a red heart"]);
    generate.args(["--count", &IMAGES.to_string(), "--steps", "10", "--guidance-scale", "4", "--out"]).arg(&folder);
    generate.env_remove("GOMP_SPINCOUNT").env_remove("OMP_WAIT_POLICY").envs(variable);
    let start = Instant::now();
    output(&mut generate)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Programs that compute all the time, until they are dropped.
struct Neighbours(Vec<Child>);

impl Neighbours {
    fn start(count: usize) -> Result<Self> {
        let one = || Command::new("yes").stdout(Stdio::null()).spawn().context("could not start `yes`");
        Ok(Self((0..count).map(|_| one()).collect::<Result<_>>()?))
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = (child.kill(), child.wait());
        }
    }
}
