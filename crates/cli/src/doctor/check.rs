//! `comat doctor --check`: runs the device check and prints its table.

use anyhow::{Result, bail};
use diffusion::settings::Where;
use std::path::Path;
use tch::Device;
use workbench::device_check::{Check, Finding, Verdict};

pub fn run(world: &Path, device: Where) -> Result<()> {
    let check = Check::new(world, device)?;
    let name = match check.device() {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".into(),
    };
    say!("");
    say!("Check of {name}: one iteration of the miniature world (2 prompts, 3 steps of DDIM), part by part.");
    say!("Relative errors against float64 on the CPU; dL/d x is the gradient of the loss with respect to x.");
    say!("{}", line("", "found", "at most", ""));
    let findings = check.run(|finding| {
        say!("{}", row(finding));
        Ok(())
    })?;
    let judged = findings.iter().filter(|f| f.verdict != Verdict::Told).count();
    let failed: Vec<&Finding> = findings.iter().filter(|f| f.verdict == Verdict::Failed).collect();
    if failed.is_empty() {
        say!("all {judged} checks passed: {name} can train in float32, float16 and bfloat16");
        return Ok(());
    }
    let mut advice: Vec<&str> = failed.iter().filter_map(|f| f.advice).collect();
    advice.dedup();
    for advice in advice {
        say!("→ {advice}");
    }
    let names: Vec<&str> = failed.iter().map(|f| f.what.as_str()).collect();
    bail!("{} of {judged} checks of {name} failed: {}", failed.len(), names.join(", "))
}

fn row(Finding { what, found, bound, verdict, .. }: &Finding) -> String {
    let verdict = match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Told => "",
    };
    line(what, found, bound.as_deref().unwrap_or_default(), verdict)
}

fn line(what: &str, found: &str, bound: &str, verdict: &str) -> String {
    format!("{what:<26}{found:<16}{bound:<20}{verdict}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let finding = Finding {
            what: "float32: latents".into(),
            found: "2.0e-7".into(),
            bound: Some("1e-5".into()),
            verdict: Verdict::Failed,
            advice: None,
        };
        assert_eq!(row(&finding), "float32: latents          2.0e-7          1e-5                FAILED");
        let told = Finding { bound: None, verdict: Verdict::Told, ..finding };
        assert_eq!(row(&told), "float32: latents          2.0e-7");
    }
}
