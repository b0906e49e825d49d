//! Rewards beside the caption loss, as `[[reward]]` names them.

use crate::common::{Folder, SD1, fixture};

fn clip(rest: &str) -> String {
    format!("reward=[{{kind=\"clip\",path=\"{}\"{rest}}}]", fixture("clip_score").display())
}

#[test]
fn a_second_reward_is_trained_for_and_logged() {
    let folder = Folder::of_run();
    folder.write("held_out.txt", "a white cat\na green car\na house\n");
    let adapter = |output: &str, settings: &str| {
        let train = format!("output={output} train.steps=2 checkpoints.every=1 {settings}");
        folder.train(&train).ok();
        folder.tensors(&format!("{output}/checkpoints/step-2/adapter.safetensors"))
    };
    let reward = clip(",weight=5");
    let rewarded = adapter("rewarded", &format!("{reward} prompts.validation=held_out.txt"));
    let events = folder.events("rewarded");
    let of = |event: &str| -> Vec<f64> {
        let events = events.iter().filter(|e| e["event"] == event);
        events.map(|e| e["reward_clip"].as_f64().unwrap_or_else(|| panic!("{e}"))).collect()
    };
    assert_eq!((of("step").len(), of("validation").len()), (2, 2));
    assert!(of("step").iter().chain(&of("validation")).all(|cosine| cosine.abs() <= 1.0));
    assert!(events.iter().filter(|e| e["event"] == "step").all(|e| e["seconds_reward"].is_f64()));

    let plain = adapter("plain", "");
    assert!(plain != rewarded);
    assert!(plain == adapter("logged", &clip(",weight=0")), "a weight of 0 only logs");
    assert!(rewarded == adapter("offloaded", &format!("{reward} memory.offload=true")));
    // images beside the prompts are for the captioner alone
    std::fs::create_dir(folder.path("images")).unwrap();
    let pixels = (0..40 * 36 * 3).map(|n| (n * 7 % 251) as u8).collect();
    images::Image { width: 40, height: 36, pixels }.save(&folder.path("images/0.png"), &[]).unwrap();
    folder.write("images/0.txt", "a red dog");
    let mixed = "mixed.pairs=images mixed.timesteps=[1,999] mixed.weight=0";
    assert!(rewarded == adapter("mixed", &format!("{reward} {mixed}")));
}

/// The same captioner twice counts twice, for the gradient and for preferences.
#[test]
fn a_second_captioner() {
    let folder = Folder::of_run();
    let second = format!("reward=[{{kind=\"captioner\",path=\"{}\"}}]", fixture("blip").display());
    for (name, method) in
        [("gradient", ""), ("preferences", "preference.candidates=2 train.ema=0.5 lora.targets=[\"to_q\"]")]
    {
        let adapter = |run: &str, settings: &str| {
            let output = format!("{name}-{run}");
            let train =
                format!("output={output} train.steps=2 checkpoints.every=1 samples.count=0 {method} {settings}");
            let done = folder.train(&train);
            assert_eq!(done.code, Some(0), "{done:?}");
            folder.tensors(&format!("{output}/checkpoints/step-2/adapter.safetensors"))
        };
        assert!(adapter("two", &second) == adapter("twice", "captioner.weight=2"), "{name}");
        let first = folder.events(&format!("{name}-two")).into_iter().find(|event| event["event"] == "step").unwrap();
        let [reward, loss] = ["reward_captioner", "caption_loss"].map(|key| first[key].as_f64().unwrap());
        assert!((reward + loss).abs() < 1e-9, "{first}");
    }
}

#[test]
fn what_a_run_with_rewards_would_do() {
    let folder = Folder::of_run();
    let plan = |settings: &str| folder.comat(&["plan", "--config", "run.toml", "--set", settings]).ok().stdout;
    let shown = plan(&clip(",weight=5"));
    assert!(shown.contains("rewards      the caption loss (weight 1), clip (weight 5, "), "{shown}");
    assert!(shown.contains("  reward     2 at a time"), "{shown}");
    let shown = plan("seed=4");
    assert!(shown.contains("rewards      the caption loss alone") && !shown.contains("  reward  "), "{shown}");
}

#[test]
fn errors_say_which_reward() {
    let folder = Folder::of_run();
    folder.train("reward=[{kind=\"clip\",path=\"no/such\"}]").error(&["reward[0].path: no/such"]);
    let sd = fixture(SD1);
    folder
        .train(&format!("reward=[{{kind=\"clip\",path=\"{}\"}}]", sd.display()))
        .error(&["reward clip", "config.json"]);
    folder.train(&clip(",weight=-1")).error(&["reward[0].weight is -1"]);
    folder.train(&clip(",name=\"my reward\"").replace(' ', "/")).error(&["reward[0].name is `my/reward`"]);
    folder.train(&clip(",weigth=1")).error(&["unknown key `weigth`; did you mean `weight`?"]);
    folder.train("reward=[{kind=\"clap\",path=\"a\"}]").error(&["clap", "clip"]);
    folder
        .train("reward=[{kind=\"clip\",path=\"a\"},{kind=\"clip\",path=\"b\"}]")
        .error(&["reward[0] and reward[1] are both called `clip`", "another `name`"]);
}
