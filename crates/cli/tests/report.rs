//! `comat world report` on judged images of known scenes.

use crate::common::{Folder, page};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scenes::{
    prompts::{self, Split},
    render,
    scene::{Color, Kind, Shape},
    staging,
    wording::Demand,
};
use std::fs;

const REPORT: &[&str] =
    &["world", "report", "--run", "run", "--base", "base", "--tuned", "tuned", "--prompts", "prompts.jsonl"];

/// A folder with prompts, a run of 60 steps, and judged images of two seeds, of which the tuned ones are more often right.
fn judged() -> Folder {
    let folder = Folder::new();
    let prompts = prompts::make(Split::HeldOut, 45, 1);
    let lines: String = prompts.iter().map(|p| serde_json::to_string(p).unwrap() + "\n").collect();
    folder.write("prompts.jsonl", lines);
    for (side, chance) in [("base", 0.35), ("tuned", 0.7)] {
        draw(&folder, side, &prompts, chance);
    }
    fs::create_dir(folder.path("run")).unwrap();
    folder.write("run/config.toml", "output = \"run\"\n[model]\npath = \"weights/world/sd\"\n[train]\nsteps = 60\n");
    folder.write("run/events.jsonl", events());
    folder
}

fn draw(folder: &Folder, side: &str, prompts: &[prompts::Prompt], chance: f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(chance.to_bits());
    fs::create_dir(folder.path(side)).unwrap();
    for (number, prompts::Prompt { prompt, .. }) in prompts.iter().enumerate() {
        for seed in 0..2u64 {
            let demand = Demand::parse(prompt).unwrap();
            let mut scene = staging::scene_for(&demand, &mut rng).unwrap();
            if !rng.random_bool(chance) {
                match rng.random_range(0..3) {
                    0 => drop(scene.objects.pop()),
                    1 => scene.objects[0].color = Color::any(&mut rng),
                    _ => scene.objects[0].shape = Shape::any(&mut rng),
                }
                let more = scene.room_for(Kind::any(&mut rng), &mut rng).filter(|_| rng.random_bool(0.3));
                scene.objects.extend(more);
            }
            let image = render::image(&scene);
            let settings = format!("{prompt}\nSteps: 10, Sampler: DDIM, CFG scale: 4, Seed: {seed}");
            let texts = [("prompt", prompt.as_str()), ("seed", &seed.to_string()), ("parameters", &settings)];
            image.save(&folder.path(side).join(format!("{:05}.png", 2 * number as u64 + seed)), &texts).unwrap();
        }
    }
    folder.comat(&["world", "judge", "--images", side, "--prompts", "prompts.jsonl"]).ok();
}

fn events() -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut text = String::from("{\"event\":\"start\",\"step\":0,\"trainable\":98304}\n");
    for step in 0..=60 {
        let loss = 1.2 + 1.5 * (-f64::from(step) / 25.0).exp();
        if step == 0 || step == 60 {
            text += &format!(
                "{{\"event\":\"validation\",\"step\":{step},\"caption_loss\":{loss},\"standard_error\":0.08,\"prompts\":160}}\n"
            );
        }
        if step > 0 {
            let (loss, norm) = (loss + rng.random_range(-0.3..0.3), rng.random_range(0.4..1.6));
            text += &format!(
                "{{\"event\":\"step\",\"step\":{step},\"caption_loss\":{loss},\"grad_norm\":{norm},\"seconds\":4.2,\"peak_memory\":null}}\n"
            );
        }
    }
    text
}

#[test]
fn the_report_is_one_file_that_needs_nothing_else() {
    let folder = judged();
    folder.write("report.html", "notes of mine");
    folder.comat(REPORT).error(&["report.html: it exists and is no page of a report"]);
    assert_eq!(folder.read("report.html"), "notes of mine");
    folder.write("report.html", "<!doctype HTML><p>an older one");
    let done = folder.comat(REPORT).ok();
    assert!(done.stdout.contains("All correct: ") && done.stdout.ends_with("The report is report.html\n"), "{done:?}");
    let page = folder.read("report.html");
    page::assert_alone(&page);
    assert_eq!(page.matches("src=").count(), 2 * 4 * 8, "eight prompts of each category, on both sides");
    for part in
        ["--steps 10 --sampler ddim --guidance-scale 4", "--count 2 --seed 0", "98,304", "4 min 12 s", "45 held-out"]
    {
        assert!(page.contains(part), "{part}");
    }
    page::assert_balanced(&page);
    folder.assert_no_leftovers();
}

#[test]
fn another_lora_is_a_third_column() {
    let folder = judged();
    draw(&folder, "long", &prompts::make(Split::HeldOut, 45, 1), 0.9);
    let note = "Tuned: 12 steps & no <more>.";
    let also = |value: &str| folder.comat(&[REPORT, &["--also", value, "--note", note]].concat());
    also("longer training=long").ok();
    let page = folder.read("report.html");
    page::assert_alone(&page);
    page::assert_balanced(&page);
    assert_eq!(page.matches("src=").count(), 3 * 4 * 8, "eight prompts of each category, on three sides");
    for part in
        ["Base and longer training", "with another LoRA: longer training, guidance 4.", "12 steps &amp; no &lt;more"]
    {
        assert!(page.contains(part), "{part}");
    }
    also("long").usage(&["must be NAME=DIR"]);
    also("tuned=long").error(&["--also tuned=", "choose another name"]);
    also("long=gone").error(&["gone/scores.jsonl does not exist; run `comat world judge` on gone first"]);
}

#[test]
fn attention_panels_of_the_newest_samples_are_shown() {
    let folder = judged();
    assert!(!folder.comat(REPORT).ok().stdout.is_empty() && !folder.read("report.html").contains("Attention of words"));
    for (step, panels) in [(0, 1), (50, 5), (9, 1)] {
        let round = folder.path(&format!("run/samples/step-{step}/attention"));
        fs::create_dir_all(&round).unwrap();
        for i in 0..panels {
            let texts = [("prompt", format!("<prompt {i} of step {step}>"))];
            let texts: Vec<(&str, &str)> = texts.iter().map(|(k, v)| (*k, v.as_str())).collect();
            images::Image::white(30, 10).save(&round.join(format!("{i:03}.png")), &texts).unwrap();
        }
    }
    folder.comat(REPORT).ok();
    let page = folder.read("report.html");
    (0..3).for_each(|i| assert!(page.contains(&format!("<h3>&lt;prompt {i} of step 50&gt;</h3>"))));
    assert!(!page.contains("prompt 3 of") && !page.contains("of step 9"));
    page::assert_balanced(&page);
}

/// Images of one seed are laid out alike, so the seeds are shown in turn.
#[test]
fn seeds_take_turns() {
    let folder = judged();
    folder.comat(REPORT).ok();
    let page = folder.read("report.html");
    let count = |seed: u64| page.matches(&format!(", seed {seed}</p>")).count();
    assert_eq!((count(0), count(1)), (16, 16));
}

#[test]
fn prompts_cannot_break_the_page() {
    let folder = judged();
    let first = folder.read("prompts.jsonl").lines().next().unwrap().to_owned();
    let prompt = serde_json::from_str::<serde_json::Value>(&first).unwrap()["prompt"].as_str().unwrap().to_owned();
    let odd = "<b>bold</b> & \\\"quoted\\\" </script>";
    folder.edit_text("prompts.jsonl", |text| {
        let line = format!("{{\"prompt\": \"{odd}\", \"category\": \"color\"}}");
        text.replace(&first, &line)
    });
    for file in ["base/scores.jsonl", "tuned/scores.jsonl"] {
        folder.edit_text(file, |text| text.replace(&format!("\"{prompt}\""), &format!("\"{odd}\"")));
    }
    folder.comat(REPORT).ok();
    let page = folder.read("report.html");
    assert!(page.contains("<h3>&lt;b&gt;bold&lt;/b&gt; &amp; &quot;quoted&quot; &lt;/script&gt;</h3>"));
    assert!(!page.contains("<b>bold") && page.matches("</script>").count() == 1);
    page::assert_balanced(&page);
}

/// The best of several candidates has the seed of its own candidate.
#[test]
fn the_best_of_several_stands_beside_the_image_of_the_same_number() {
    let folder = judged();
    folder.comat(REPORT).ok();
    let plain = folder.read("report.html");
    folder.edit_text("tuned/scores.jsonl", |text| text.replace("\"seed\":0,", "\"seed\":7000,"));
    folder.comat(REPORT).error(&["base and tuned", "the tuned images have none"]);
    let first = folder.path("tuned/00000.png");
    let (image, texts) = images::Image::open_with_texts(&first).unwrap();
    let parameters =
        format!("{}, Best of: 2", texts.get("parameters").map_or("Steps: 1, CFG scale: 1", |t| t.as_str()));
    image.save(&first, &[("parameters", &parameters)]).unwrap();
    let digest = models::digest(&fs::read(&first).unwrap());
    folder.edit_text("tuned/scores.jsonl", |text| {
        let (line, rest) = text.split_once('\n').unwrap();
        let (before, after) = line.split_once("\"digest\":\"").unwrap();
        format!("{before}\"digest\":\"{digest}{}\n{rest}", &after[digest.len()..])
    });
    folder.comat(REPORT).ok();
    let page = folder.read("report.html");
    assert!(page.contains("best of 2") && page.contains("--best-of 2 --captioner"), "it says how they were drawn");
    let won = |page: &str| page.split("won <small>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    assert_eq!(won(&page), won(&plain), "the same pairs");
}

#[test]
fn what_is_missing_is_named() {
    let folder = judged();
    let scores = folder.read("tuned/scores.jsonl");
    fs::remove_file(folder.path("tuned/scores.jsonl")).unwrap();
    folder.comat(REPORT).error(&["tuned/scores.jsonl does not exist", "comat world judge"]);
    folder.write("tuned/scores.jsonl", scores.lines().skip(1).collect::<Vec<_>>().join("\n"));
    folder.comat(REPORT).error(&["base and tuned", "the tuned images have none"]);
    folder.write("tuned/scores.jsonl", "{}\n");
    folder.comat(REPORT).error(&["tuned/scores.jsonl", "line 1: missing field"]);
    folder.write("tuned/scores.jsonl", &scores);
    fs::rename(folder.path("tuned/00000.png"), folder.path("away.png")).unwrap();
    folder.comat(REPORT).error(&["tuned/00000.png"]);
    fs::rename(folder.path("away.png"), folder.path("tuned/00000.png")).unwrap();
    folder.edit_text("prompts.jsonl", |text| text.lines().skip(1).collect::<Vec<_>>().join("\n"));
    folder.comat(REPORT).error(&["prompts.jsonl", "is not in it"]);
    fs::remove_file(folder.path("run/events.jsonl")).unwrap();
    folder.comat(REPORT).error(&["run is not the folder of a run", "events.jsonl"]);
    assert!(!folder.exists("report.html"));
}

/// On a phone and on a desk, in a headless browser where there is one. COMAT_KEEP_SCREENSHOTS=DIR keeps page and screenshots.
#[test]
fn the_page_fits_the_screen() {
    let folder = judged();
    folder.comat(REPORT).ok();
    let page = folder.read("report.html");
    let won = page.split("won <small>").nth(1).and_then(|rest| rest.split('<').next()).unwrap();
    for (width, height) in [(390, 844), (1280, 900)] {
        let Some(said) = page::look(&folder, "world-report", &page, (width, height), LOOK) else { return };
        assert_eq!(said, format!("{width} of {width}, 64 images, {won} won, true"));
    }
}

/// Tells the width, the images, how many a button leaves, and whether a click on an image enlarges it.
const LOOK: &str = "
  const said = [`${root.scrollWidth} of ${root.clientWidth}`, `${root.querySelectorAll('img').length} images`];
  root.querySelector('[data-tag=won]').click();
  said.push(`${root.querySelectorAll('.card:not([hidden])').length} won`);
  root.querySelector('.card:not([hidden]) .enlarge').click();
  said.push(root.querySelector('dialog').open && root.querySelectorAll('dialog img').length === 2);
  root.querySelector('dialog').close();
  root.querySelector('.filters button').click();
";

/// Judgements of images that are there no more are no judgements of those that are.
#[test]
fn images_that_were_replaced_are_not_reported() {
    let folder = judged();
    folder.comat(REPORT).ok();
    fs::copy(folder.path("tuned/00000.png"), folder.path("tuned/00003.png")).unwrap();
    folder.comat(REPORT).error(&["tuned/00003.png", "replaced since it was judged", "comat world judge"]);
}
