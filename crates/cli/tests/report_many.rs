//! `comat report` on runs and evaluations that are made here.

use crate::common::{Folder, page};
use benchmarks::records::{Answer, Benchmark, Image as Scored, Log, Metric, Subject};
use images::Image;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;

/// A plain image of a colour, with a prompt.
fn draw(folder: &Folder, name: &str, side: usize, [r, g, b]: [u8; 3], prompt: &str) {
    let path = folder.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(0); // a large image must not be a small file
    let pixels = (0..side * side).flat_map(|_| {
        let shade = rng.random_range(0..8u8);
        [r, g, b].map(|c| c.saturating_sub(shade))
    });
    let image = Image { width: side, height: side, pixels: pixels.collect() };
    image.save(&path, &[("parameters", &format!("{prompt}\nSteps: 4, Sampler: DDIM"))]).unwrap();
}

/// A run of 40 steps with two rounds of samples, an attention panel and three measurements.
fn run(folder: &Folder, name: &str, rate: f64, tint: u8) {
    fs::create_dir_all(folder.path(name)).unwrap();
    folder.write(
        &format!("{name}/config.toml"),
        format!("output = \"{name}\"\nseed = 1\n[optimizer]\nlearning_rate = {rate}\n[train]\nsteps = 40\n"),
    );
    let mut text = String::from("{\"event\":\"start\",\"step\":0,\"trainable\":98304}\n");
    for step in 0..=40 {
        let loss = 1.2 + (-f64::from(step) * rate).exp();
        if step > 0 {
            text += &format!(
                "{{\"event\":\"step\",\"step\":{step},\"caption_loss\":{loss},\"grad_norm\":0.5,\"learning_rate\":{rate},\"seconds\":2.5,\"peak_memory\":1073741824}}\n"
            );
        }
        if step % 20 == 0 {
            let losses = [loss - 0.2, loss, loss + 0.2, loss + 0.4];
            text += &format!(
                "{{\"event\":\"validation\",\"step\":{step},\"caption_loss\":{},\"standard_error\":0.08,\"prompts\":4,\"losses\":{losses:?},\"judge\":{{\"zest\":0.75,\"clean\":0.5}}}}\n",
                loss + 0.1
            );
        }
    }
    text += "{\"event\":\"finished\",\"step\":40}\n";
    folder.write(&format!("{name}/events.jsonl"), text);
    for (number, prompt) in ["a red <dog>", "a blue cat"].iter().enumerate() {
        let grey = [200 - 50 * number as u8; 3];
        draw(folder, &format!("{name}/samples/step-0/{number:03}.png"), 32, grey, prompt);
        draw(folder, &format!("{name}/samples/step-40/{number:03}.png"), 32, [tint, 40, 90], prompt);
    }
    Image::white(30, 30).save(&folder.path(&format!("{name}/samples/step-0/grid.png")), &[]).unwrap();
    let panel = folder.path(&format!("{name}/samples/step-40/attention"));
    fs::create_dir_all(&panel).unwrap();
    Image::white(60, 20).save(&panel.join("000.png"), &[("prompt", "a panel")]).unwrap();
}

/// Scores of 12 prompts with two images each in two categories. `lift`: what all of the second category gain.
fn scored(folder: &Folder, name: &str, lift: f64, side: usize) {
    fs::create_dir_all(folder.path(name)).unwrap();
    let (mut log, _) = Log::open(&folder.path(&format!("{name}/scores.jsonl"))).unwrap();
    for number in 0..12u64 {
        for index in 0..2 {
            let (category, lift) = if number % 2 == 0 { ("color", 0.0) } else { ("shape", lift) };
            let file = format!("images/{number:03}_{index}.png");
            draw(folder, &format!("{name}/{file}"), side, [10 * number as u8, 90, 60], "x");
            let subject = Subject {
                benchmark: Benchmark::T2iCompbench,
                category: category.into(),
                kind: None,
                prompt_id: number.to_string(),
                prompt: format!("prompt {number} & more"),
                index,
                seed: Some(42 + index),
                file,
                digest: None,
                asked: None,
            };
            let score = 0.3 + 0.02 * number as f64 + lift;
            let answer = Answer { question: Some("a <thing>?".into()), score, ..Answer::default() };
            log.add(&Scored::new(&subject, Metric::BlipVqa, vec![answer]).unwrap()).unwrap();
        }
    }
}

fn evaluation() -> Folder {
    let folder = Folder::new();
    scored(&folder, "eval/base", 0.0, 16);
    scored(&folder, "eval/lora", 0.25, 16);
    folder.write(
        "eval/evaluation.json",
        r#"{"model": "sd15", "sampling": {"steps": 50, "size": null}, "seeds": [1, 2]}"#,
    );
    folder
}

#[test]
fn runs_and_evaluations_are_on_one_page() {
    let folder = evaluation();
    run(&folder, "first", 0.1, 10);
    run(&folder, "second", 0.05, 250);
    let done = folder.comat(&["report", "first", "second", "eval", "--out", "page.html", "--title", "A <title>"]).ok();
    assert_eq!(done.stdout, "The report is page.html\n");
    let page = folder.read("page.html");
    page::assert_alone(&page);
    page::assert_balanced(&page);
    for part in [
        "<title>A &lt;title&gt;</title>",
        "2 training runs, 1 evaluation",
        "zest, before 0.750", // the judge's first figure, not the first by name
        "<td class=\"better\">−0.982<small>−0.982 to −0.982</small></td>", // every prompt gained the same
        "2.50 s",
        "1.0 GiB",
        "Learning rate",
        "Caption loss on held-out prompts",
        "In these the runs differ.",
        "<td>0.1</td><td>0.05</td>",
        "first: all settings",
        "a red &lt;dog&gt;",
        "first, step 40",
        "second, step 40",
        "<h3>a panel</h3>",
        "lora against base",
        "+0.2500",
        "sampling.steps",
        "a &lt;thing&gt;? 0.57",
        "prompt 3 &amp; more",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<th scope=\"row\">output</th><td>first</td><td>"), "each has its own");
    let samples = page.split("id=\"samples\"").nth(1).unwrap().split("</section>").next().unwrap();
    assert_eq!(samples.matches("<article").count(), 2, "runs that start alike share their cards");
    assert_eq!(samples.matches("<img").count(), 2 * 3);
    assert_eq!(page.matches("polyline class=\"s0 d0\"").count(), page.matches("polyline class=\"s1 d0\"").count());
    folder.assert_no_leftovers();
}

#[test]
fn one_run_shows_all_its_settings() {
    let folder = Folder::new();
    run(&folder, "first", 0.1, 10);
    folder.comat(&["report", "first/"]).ok();
    let page = folder.read("report.html");
    page::assert_balanced(&page);
    for part in ["<title>first</title>", "train.steps", "optimizer.learning_rate", "mean of nearby steps", "step 40"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("differ.") && !page.contains("class=\"runs\""));
}

/// Images are as many as were asked for, of every outcome, and of a size for a page.
#[test]
fn the_gallery_of_an_evaluation() {
    let folder = evaluation();
    let cards = |words: &[&str]| {
        folder.comat(&[&["report", "eval"], words].concat()).ok();
        let page = folder.read("report.html");
        page::assert_balanced(&page);
        ["all <small>", "won <small>", "even <small>", "lost <small>", "color <small>"]
            .map(|label| page.split(label).nth(1).unwrap().split('<').next().unwrap().parse::<usize>().unwrap())
    };
    assert_eq!(cards(&[]), [12, 6, 6, 0, 6], "all of `shape` won, `color` is as it was");
    assert_eq!(cards(&["--images", "2"]), [4, 2, 2, 0, 2]);

    scored(&folder, "alone", 0.0, 700);
    folder.comat(&["report", "alone"]).ok();
    let page = folder.read("report.html");
    page::assert_alone(&page);
    assert_eq!(page.matches("src=\"data:image/jpeg").count(), 12);
    let png = fs::metadata(folder.path("alone/images/000_0.png")).unwrap().len() as usize;
    assert!(page.len() < 12 * png / 2, "{} bytes; an image has {png}", page.len());
    assert!(!page.contains(">difference<") && !page.contains("won <small>"), "there is nothing to compare with");
    assert!(page.contains("0.4000<small>") && page.contains("0.4200<small>"), "the means of both");

    scored(&folder, "better", 0.1, 16);
    folder.comat(&["report", "better", "--base", "alone"]).ok();
    let page = folder.read("report.html");
    assert!(page.contains("better against base") && page.contains("+0.1000") && page.contains("won <small>6<"));
}

/// Whatever is shown may hold signs of HTML: prompts, names, settings, questions, the title.
#[test]
fn text_cannot_become_markup() {
    let odd = "<b>&\"'";
    let quoted = r#"<b>&\"'"#; // as JSON and TOML write it
    let folder = Folder::new();
    for name in [odd, "other"] {
        run(&folder, name, 0.1, 10);
        fs::remove_dir_all(folder.path(&format!("{name}/samples"))).unwrap();
        for step in [0, 40] {
            draw(&folder, &format!("{name}/samples/step-{step}/000.png"), 32, [40, 60, step as u8], odd);
        }
        let panel = folder.path(&format!("{name}/samples/step-40/attention"));
        fs::create_dir_all(&panel).unwrap();
        Image::white(60, 20).save(&panel.join("000.png"), &[("prompt", odd)]).unwrap();
        folder.edit_text(&format!("{name}/events.jsonl"), |text| text.replace("zest", quoted));
        let setting = if name == odd { quoted } else { "other" };
        folder.write(&format!("{name}/config.toml"), format!("[prompts]\ntrain = \"{setting}\"\n"));
    }
    for (side, lift) in [("base", 0.0), (odd, 0.25)] {
        scored(&folder, &format!("eval/{side}"), lift, 16);
        folder.edit_text(&format!("eval/{side}/scores.jsonl"), |text| {
            text.replace("prompt 3 & more", quoted).replace("a <thing>", quoted)
        });
        fs::remove_file(folder.path(&format!("eval/{side}/images/005_0.png"))).unwrap();
    }
    folder.comat(&["report", odd, "other", "eval", "--title", odd]);
    let page = folder.read("report.html");
    page::assert_balanced(&page);
    assert!(!page.contains("<b>"), "text became markup");
    let odd = "&lt;b&gt;&amp;&quot;'";
    let shown = [
        format!("<title>{odd}</title>"),
        format!("<h1>{odd}</h1>"),
        format!("<th scope=\"row\">{odd}</th>"), // a run of the overview
        format!("<th scope=\"col\">{odd}</th>"), // a run beside others, a side of an evaluation
        format!("<td>{odd}</td>"),               // a setting
        format!("<summary>{odd}: all settings</summary>"),
        format!("<title>{odd}</title></polyline>"),
        format!("<h3>The judge: {odd}</h3>"),
        format!("<h3 class=\"versus\">{odd}</h3>"),
        format!("<h3>{odd}</h3>"),
        format!(" alt=\"step 0: {odd}\""),
        format!(">{odd}, step 40</span>"),
        format!("{odd} against base</h3>"),
        format!("<li>{odd}? 0.36</li>"),
        format!("eval/{odd}/images/005_0.png"), // a note
    ];
    shown.iter().for_each(|part| assert!(page.contains(part), "{part}"));
}

#[test]
fn gaps_are_named() {
    let folder = evaluation();
    run(&folder, "x/run", 0.1, 10);
    run(&folder, "y/run", 0.1, 20);
    folder.edit_text("x/run/events.jsonl", |text| text[..text.len() / 2].to_owned());
    folder.write("y/run/events.jsonl", "");
    fs::remove_dir_all(folder.path("y/run/samples")).unwrap();
    fs::remove_file(folder.path("eval/lora/images/003_0.png")).unwrap();
    folder.write("eval/base/images/001_0.png", "GIF89a");
    folder.edit_text("eval/lora/scores.jsonl", |text| text[..text.len() - 20].to_owned());
    let done = folder.comat(&["report", "x/run", "y/run", "eval"]).ok();
    for part in [
        "scores.jsonl:24: the line is cut off",
        "x/run: line ",
        "of events.jsonl is not whole; it is left out",
        "x/run: the run is not finished",
        "y/run: no step is done yet",
        "eval/lora/images/003_0.png",
        "eval/base/images/001_0.png: is not a PNG, JPEG or WebP image",
        "The report is report.html",
    ] {
        assert!(done.stdout.contains(part), "{part}: {}", done.stdout);
    }
    let page = folder.read("report.html");
    page::assert_balanced(&page);
    assert_eq!(page.matches("no image</div>").count(), 2);
    assert!(page.contains("y/run: no step is done yet") && page.contains("of 40"));
}

#[test]
fn what_cannot_be_reported() {
    let folder = evaluation();
    folder.comat(&["report"]).usage(&["FOLDER"]);
    folder.comat(&["report", "none"]).error(&["none is no folder"]);
    folder.write("notes.txt", "");
    folder.comat(&["report", "notes.txt"]).error(&["notes.txt is no folder"]);
    fs::create_dir(folder.path("empty")).unwrap();
    folder
        .comat(&["report", "eval", "empty"])
        .error(&["empty is neither a training run (events.jsonl)", "scores.jsonl"]);
    folder.comat(&["report", "eval", "./eval/"]).error(&["is given twice"]);
    folder
        .comat(&["report", "eval", "--base", "eval/base"])
        .error(&["--base eval/base", "every evaluation here has its own base"]);
    folder.comat(&["report", "eval/lora", "--base", "empty"]).error(&["empty is neither"]);
    folder.comat(&["report", "eval", "--images", "0"]).usage(&["at least 1"]);
    folder.comat(&["report", "eval", "--out", "no/such/page.html"]).error(&["page.html", "no such file"]);
    folder.write("empty/events.jsonl", "");
    folder.comat(&["report", "empty"]).error(&["empty is not the folder of a run", "config.toml"]);
    folder.write("eval/evaluation.json", "{");
    folder.comat(&["report", "eval"]).error(&["evaluation.json", "EOF"]);
    folder.write("eval/lora/scores.jsonl", "{\"prompt\":\"x\",\"verdict\":{}}\n");
    folder.comat(&["report", "eval"]).error(&["comat world judge", "comat world report"]);
    folder.write("eval/lora/scores.jsonl", "my notes\n");
    folder.comat(&["report", "eval"]).error(&["lora/scores.jsonl:1"]);
    assert!(!folder.exists("report.html"));
}

/// On a phone and on a desk; buttons of both rows work together.
#[test]
fn the_page_fits_the_screen() {
    let folder = evaluation();
    run(&folder, "a-run-with-a-name-that-is-quite-long-2026-11-26", 0.1, 10);
    run(&folder, "second", 0.05, 250);
    folder.comat(&["report", "a-run-with-a-name-that-is-quite-long-2026-11-26", "second", "eval"]).ok();
    let page = folder.read("report.html");
    for (width, height) in [(400, 844), (1400, 900)] {
        let Some(said) = page::look(&folder, "report", &page, (width, height), LOOK) else { return };
        assert_eq!(said, format!("{width} of {width}, 6 won, 6 won in shape, 0 won in color, true"));
    }
}

const LOOK: &str = "
  const said = [`${root.scrollWidth} of ${root.clientWidth}`];
  const evaluation = root.querySelector('#evaluation-0');
  const press = (label) =>
    [...evaluation.querySelectorAll('.filters button')].find((b) => b.textContent.startsWith(label)).click();
  const count = () => evaluation.querySelectorAll('.card:not([hidden])').length;
  press('won');
  said.push(`${count()} won`);
  press('shape');
  said.push(`${count()} won in shape`);
  press('color');
  said.push(`${count()} won in color`);
  press('shape');
  evaluation.querySelector('.card:not([hidden]) .enlarge').click();
  said.push(root.querySelector('dialog').open && root.querySelectorAll('dialog img').length === 2);
  root.querySelector('dialog').close();
";
