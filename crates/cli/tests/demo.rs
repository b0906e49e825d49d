//! `comat demo`, and what is shipped with the program.

use crate::common::{Done, Folder};
use std::path::Path;

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[test]
fn a_quick_demo_in_an_empty_folder() {
    let folder = Folder::new();
    let demo = |line: &str| folder.comat(&words(line));
    let mut first = folder.start(&words("demo --quick"));
    let checkpoint = folder.path("runs/demo-quick/checkpoints/latest");
    first.until_for(240, "a checkpoint", || checkpoint.exists());
    first.signal("INT");
    let first = first.wait();
    assert_eq!(first.code, Some(130), "{first:?}");

    let done = demo("demo --quick").ok();
    let page = folder.path("runs/demo-quick/report.html").canonicalize().unwrap();
    assert!(done.stdout.ends_with(&format!("The page: {}\n", page.display())), "{}", done.stdout);
    assert!(done.stdout.starts_with("Going on in runs/demo-quick: 0 of 8 steps are done."), "{}", done.stdout);
    let events = folder.events("runs/demo-quick");
    let starts: Vec<_> = events.iter().filter(|e| e["event"] == "start").map(|e| e["step"].as_u64().unwrap()).collect();
    assert!(starts.len() == 2 && starts[1] >= 4, "it went on from its checkpoint: {starts:?}");
    for (sides, count) in [("base", 40), ("tuned", 40), ("shipped", 40)] {
        let images = folder.names(&format!("runs/demo-quick/{sides}"));
        assert_eq!(images.iter().filter(|name| name.ends_with(".png")).count(), count, "{sides}");
    }
    let page = folder.read("runs/demo-quick/report.html");
    assert!(page.starts_with("<!") && page.len() > 100_000, "{} bytes", page.len());
    let share = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let drawings = page.split("comat generate").skip(1).filter_map(|rest| rest.split("--out ").next());
    let loras: Vec<&str> = drawings
        .flat_map(|drawing| drawing.split("--lora ").skip(1))
        .filter_map(|rest| rest.split([' ', '\n', '<', '&', '\\']).next())
        .collect();
    assert_eq!(
        loras,
        ["weights/world/lora/preferences.safetensors", "runs/demo-quick/adapter/pytorch_lora_weights.safetensors"]
    );
    loras.iter().for_each(|lora| assert!(folder.exists(lora) || share.join(lora).exists(), "{lora}"));

    let again = demo("demo --quick").ok();
    assert!(!again.stdout.contains("comat generate") && again.stdout.contains("The page: "), "{}", again.stdout);
    demo("demo --out runs/demo-quick").error(&["a demo with other settings", "--anew", "--out"]);
}

#[test]
fn a_folder_of_something_else() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("mine")).unwrap();
    folder.write("mine/letter.txt", "dear");
    folder.comat(&words("demo --quick --out mine")).error(&["mine holds something else than a demo", "--out"]);
    assert_eq!(folder.names("mine"), ["letter.txt"]);
}

#[test]
fn shipped_files_are_found_or_asked_for() {
    let folder = Folder::new();
    let without = |line: &str| -> Done {
        folder.command(&words(line)).env("COMAT_SHARE", folder.path("nowhere")).output().unwrap().into()
    };
    without("demo").error(&["the miniature world is not found", "COMAT_SHARE", "weights/world"]);
    without("train --config sd15 --dry-run").error(&["sd15: no such file", "presets are not found", "COMAT_SHARE"]);
    assert!(folder.names("").is_empty());

    let share = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let with =
        |line: &str| -> Done { folder.command(&words(line)).env("COMAT_SHARE", &share).output().unwrap().into() };
    let done = with("train --config world --set output=out --dry-run").ok();
    assert!(done.stdout.contains("adapter      rank 16") && !folder.exists("out"), "{}", done.stdout);
    with("generate --model weights/world/sd --prompt star --steps 1 --out out").ok();
    with("train --config sd16").error(&["sd16: no such file", "presets are", "sd15, ", "world"]);
    with("train --config sd16.toml").error(&["sd16.toml: no such file"]);
    assert_eq!(with("config sd15").ok().stdout, std::fs::read_to_string(share.join("configs/sd15.toml")).unwrap());
    let listed = with("config --presets").ok().stdout;
    assert!(
        listed.lines().count() >= 6
            && listed.contains("sd15-8gb           CoMat on Stable Diffusion 1.5 on a GPU with 8 GB"),
        "{listed}"
    );
    // a file that is there wins
    folder.write("world", "output = 'x'");
    with("train --config world").error(&["world:1:1: missing key `model`"]);
}

/// Where nobody sees a bar, lines say what the run does.
#[test]
fn lines_without_a_terminal() {
    let folder = Folder::of_run();
    let run = |line: &str, rust_log: Option<&str>| -> Vec<String> {
        let mut command = folder.command(&words(line));
        match rust_log {
            Some(level) => command.env("RUST_LOG", level),
            None => command.env_remove("RUST_LOG"),
        };
        let done = Done::from(command.output().unwrap());
        assert_eq!(done.code, Some(0), "{done:?}");
        // but for what is said of a busy machine
        done.stderr.lines().filter(|line| !line.contains("other programs")).map(str::to_owned).collect()
    };
    let train = |rest: &str| format!("train --config run.toml {rest}");
    let steps = |lines: &[String]| -> Vec<String> {
        let step =
            |line: &String| line.split("step ").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        lines.iter().filter(|line| line.contains(" · loss ")).filter_map(step).collect()
    };

    let lines = run(&train("--set output=a --set logging.every=2"), None);
    assert!(
        lines[0].contains("training: steps 1 to 4 of 2 samples each (4 sampling steps, 2 of them replayed)"),
        "{lines:?}"
    );
    assert!(
        lines.iter().any(|line| line.contains("a step takes ") && line.contains("the 2 others some ")),
        "{lines:?}"
    );
    assert_eq!(steps(&lines), ["2/4", "4/4"], "{lines:?}");
    let last = lines.iter().find(|line| line.contains("step 4/4")).unwrap();
    assert!(last.contains(" · loss ") && last.contains(" a step · ") && last.ends_with(" left"), "{last}");

    assert_eq!(steps(&run(&train("--set output=b"), None)), ["4/4"], "by time: the last one");
    assert_eq!(steps(&run(&train("--set output=c -v"), None)).len(), 4);
    for (name, quiet, level) in [("d", " -q", None), ("e", "", Some("warn")), ("f", " -q", Some("debug"))] {
        let lines = run(&train(&format!("--set output={name}{quiet}")), level);
        assert!(lines.is_empty(), "{lines:?}");
    }
    let wrong = run(&train("--set output=g"), Some("loud=very"));
    assert!(wrong[0].contains("WARN") && wrong[0].contains("RUST_LOG=loud=very"), "{wrong:?}");
}
