//! How long the ranks' sum of a buffer takes, between processes of this machine: `all_reduce [RANKS] [MEGABYTES]...`

use std::{env, process::Command, time::Duration, time::Instant};
use tch::{Device, Kind, Tensor};
use torch_ext::{Group, Store};

const TIMEOUT: Duration = Duration::from_secs(60);
const REPEAT: usize = 9;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let ranks: usize = arguments.next().unwrap_or("2".into()).parse()?;
    let megabytes: Vec<String> = arguments.collect();
    let Ok(rank) = env::var("RANK") else {
        let store = Store::serve(0, TIMEOUT)?;
        let start = |rank: usize| {
            let mut command = Command::new(env::current_exe()?);
            command.arg(ranks.to_string()).args(&megabytes);
            command.env("RANK", rank.to_string()).env("PORT", store.port().to_string()).spawn()
        };
        let started = (0..ranks).map(start).collect::<Result<Vec<_>, _>>()?;
        started.into_iter().try_for_each(|mut rank| rank.wait().map(drop))?;
        return Ok(());
    };
    let store = Store::connect("localhost", env::var("PORT")?.parse()?, TIMEOUT)?;
    let group = Group::join(&store, "example", rank.parse()?, ranks)?;
    for size in if megabytes.is_empty() { vec!["0.001".to_owned(), "100".to_owned()] } else { megabytes } {
        let numbers = (size.parse::<f64>()? * 1e6 / 4.0) as i64;
        let mut buffer = Tensor::ones([numbers.max(1)], (Kind::Float, Device::Cpu));
        let mut seconds = vec![];
        for _ in 0..REPEAT {
            group.barrier()?;
            let since = Instant::now();
            group.sum(&mut buffer)?;
            seconds.push(since.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        if rank == "0" {
            let (least, median) = (seconds[0], seconds[REPEAT / 2]);
            println!("{ranks} ranks, {size} MB: median {:.2} ms, least {:.2} ms", median * 1e3, least * 1e3);
        }
    }
    Ok(())
}
