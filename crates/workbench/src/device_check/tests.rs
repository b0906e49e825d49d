use super::*;

fn world() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/world")
}

fn here() -> Where {
    torch_ext::testing::device();
    torch_ext::testing::device_name().parse().unwrap()
}

fn failed(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter(|f| f.verdict == Verdict::Failed).map(|f| f.what.as_str()).collect()
}

#[test]
fn this_device_is_right() {
    let mut told = 0;
    let findings = Check::new(&world(), here())
        .unwrap()
        .run(|_| {
            told += 1;
            Ok(())
        })
        .unwrap();
    findings.iter().for_each(|f| println!("{f:?}"));
    assert_eq!((failed(&findings), told), (vec![], findings.len()));
    for (dtype, rows) in [("float32", 7), ("float16", 6), ("bfloat16", 7)] {
        let judged = findings.iter().filter(|f| f.what.starts_with(dtype) && f.verdict == Verdict::Passed).count();
        assert_eq!(judged, rows, "{dtype}");
    }
    let error = |what: &str| findings.iter().find(|f| f.what == what).unwrap().found.parse::<f64>().unwrap();
    assert!(error("float16: image") > 1e-5, "decoded in float32");
    let repeated = findings.iter().filter(|f| f.found == "the same bits").map(|f| f.what.as_str());
    assert_eq!(repeated.collect::<Vec<_>>(), ["float32: twice the same", "bfloat16: twice the same"]);
    assert!(findings.iter().all(|f| f.advice.is_none() && !f.found.is_empty()));
}

/// A layer whose weights are slightly too large, like the result of a kernel that is slightly wrong.
#[test]
fn a_spoilt_layer_is_noticed() {
    fn spoil(session: &Session) {
        let key = "mid_block.resnets.0.conv1.weight";
        let weight = session.pipeline.weights.get(key).expect(key);
        tch::no_grad(|| _ = weight.shallow_clone().g_mul_scalar_(1.01));
    }
    let check = Check { alter: spoil, ..Check::new(&world(), here()).unwrap() };
    let exact = Iteration::new(&check.world, Device::Cpu, Kind::Double).compute(None, |_| {}).unwrap();
    let float32 = of(check.device).next().unwrap();
    let findings = check.precision(float32, &exact);
    assert_eq!(failed(&findings), ["float32: latents", "float32: dL/d adapter"], "the parts that have the layer");
    assert!(findings.iter().all(|f| f.advice == (f.verdict == Verdict::Failed).then_some(WRONG)));
}

/// A NaN fails, and so does a device that cannot compute at all.
#[test]
fn what_is_not_a_number_does_not_pass() {
    fn spoil(session: &Session) {
        let weight = session.pipeline.weights.get("conv_out.bias").unwrap();
        tch::no_grad(|| _ = weight.shallow_clone().fill_(f64::NAN));
    }
    let check = Check { alter: spoil, ..Check::new(&world(), here()).unwrap() };
    let exact = Iteration::new(&check.world, Device::Cpu, Kind::Double).compute(None, |_| {}).unwrap();
    let findings = check.precision(of(check.device).next().unwrap(), &exact);
    assert_eq!(failed(&findings), ["float32: an iteration"], "{findings:?}");
    assert!(findings[0].found.contains("not finite: latents"), "{findings:?}");
}

#[test]
fn a_folder_without_the_world_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Check::new(folder.path(), Where::Cpu).err().unwrap().to_string();
    assert!(error.contains("no folder sd in it") && error.contains("--world"), "{error}");
}

/// One GPU needs no NCCL: where it is missing, that is told, and fails nothing.
#[test]
fn a_missing_nccl_is_no_failure() {
    if Nccl::open().is_ok() {
        return;
    }
    let finding = nccl(Device::Cpu);
    assert_eq!((finding.verdict, finding.advice), (Verdict::Told, None), "{finding:?}");
    assert!(finding.found.starts_with("not tried: ") && finding.found.contains("gloo"), "{finding:?}");
}
