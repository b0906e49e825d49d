//! Images: the same as diffusers', whole, and with prompt, seed and settings in them.

use crate::common::{Done, Folder, Image, Running, SD1, SDXL, fixture, generate_words, relative_error};
use models::tensors;
use serde_json::Value;
use std::fs;
use tch::Tensor;

/// Final latents and images of the parity fixtures, from the same noise.
fn parity(model: &str) {
    let folder = Folder::new();
    let io = fixture(model).join("io.safetensors");
    let (expected, _) = tensors::read(&io).unwrap();
    let cases: Value = serde_json::from_str(&fs::read_to_string(fixture(model).join("prompts.json")).unwrap()).unwrap();
    let prompts: Vec<&str> = cases["prompts"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    let mut count = 0;
    for (name, case) in cases["cases"].as_object().unwrap() {
        let (io, steps) = (io.to_str().unwrap(), cases["steps"].to_string());
        let (folder_of_case, latents) = (folder.path(name), folder.path(&format!("{name}.safetensors")));
        let mut words = vec!["generate", "--model"];
        let model = fixture(model);
        words.push(model.to_str().unwrap());
        prompts.iter().for_each(|prompt| words.extend(["--prompt", prompt]));
        words.extend(["--steps", &steps, "--init-latents", io, "--out", folder_of_case.to_str().unwrap()]);
        words.extend(["--save-latents", latents.to_str().unwrap()]);
        let options: Vec<[String; 2]> = case
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| {
                [format!("--{}", key.replace('_', "-")), value.as_str().map_or(value.to_string(), str::to_owned)]
            })
            .collect();
        words.extend(options.iter().flatten().map(String::as_str));
        let done = folder.comat(&words);
        assert_eq!(done.code, Some(0), "{done:#?}");

        let x_0 = &folder.tensors(&format!("{name}.safetensors"))["x_0"];
        let error = relative_error(x_0, &expected[&format!("{name}.latents")]);
        println!("{name}: relative error {error:.1e}");
        assert!(error <= 1e-4, "{name}: relative error {error:e}");
        for (i, file) in folder.names(name).iter().enumerate() {
            let saved = Image::open(&folder.path(&format!("{name}/{file}")));
            assert_eq!((saved.width, saved.height), (48, 32));
            let image = ((expected[&format!("{name}.image")].get(i as i64) / 2.0 + 0.5) * 255.0).clamp(0.0, 255.0);
            let image = Vec::<f32>::try_from(image.permute([1, 2, 0]).contiguous().view([-1])).unwrap();
            let furthest = image.iter().zip(&saved.pixels).map(|(a, b)| (a - f32::from(*b)).abs()).fold(0.0, f32::max);
            assert!(furthest <= 1.0, "{name}, image {i}: {furthest} levels of 255");
        }
        count += 1;
    }
    assert_eq!(count, 4);
}

#[test]
fn sd1_draws_what_diffusers_draws() {
    parity(SD1);
}

#[test]
fn sdxl_draws_what_diffusers_draws() {
    parity(SDXL);
}

/// Trained once, in three formats: the images are the same, and not those without the adapter.
#[test]
fn formats_of_an_adapter() {
    let folder = Folder::of_run();
    folder.train("train.steps=2 optimizer.learning_rate=0.1 lora.alpha=5 optimizer.max_grad_norm=100").ok();
    let draw = |out: &str, words: &str| {
        folder.generate(SD1, &["a red dog"], &format!("--out {out} --steps 4 {words}")).ok();
        Image::open(&folder.path(&format!("{out}/00000-a-red-dog-seed0.png")))
    };
    let plain = draw("plain", "");
    let diffusers = draw("diffusers", "--lora out/adapter/pytorch_lora_weights.safetensors");
    assert!(plain.difference(&diffusers) > 10, "the adapter changes nothing");
    assert!(diffusers.texts["parameters"].contains("Lora: out:1"));
    let kohya = draw("kohya", "--lora out/adapter/out.safetensors");
    let peft = draw("peft", "--lora out/checkpoints/step-2/adapter.safetensors");
    assert!(diffusers.difference(&kohya) <= 1 && diffusers.difference(&peft) <= 1);
    let none = draw("none", "--lora out/adapter/out.safetensors --lora-scale 0");
    assert_eq!(none.difference(&plain), 0);
    let half = draw("half", "--lora out/adapter/out.safetensors --lora-scale -0.5");
    assert!(half.difference(&plain) > 0 && half.difference(&kohya) > 0);

    // A run's samples are drawn alike.
    let settings = "lora.init=out/adapter/out.safetensors lora.alpha=5 sampling.sampler=ddim samples.count=1";
    folder.train(&format!("output=again train.steps=0 {settings}")).ok();
    let sample = Image::open(&folder.path("again/samples/step-0/000-a-red-dog.png"));
    assert!(sample.difference(&kohya) <= 1);
}

#[test]
fn images_say_how_they_were_made() {
    let folder = Folder::new();
    let words = "--out g --seed 7 --steps 2 --sampler ddim --eta 0.5 --guidance-scale 3 --guidance-rescale 0.25 \
                 --size 48x32 --negative-prompt blurred";
    folder.generate(SD1, &["a Red dog\nin a café"], words).ok();
    assert_eq!(folder.names("g"), ["00000-a-red-dog-in-a-café-seed7.png"]);
    let saved = Image::open(&folder.path("g/00000-a-red-dog-in-a-café-seed7.png"));
    assert_eq!((saved.width, saved.height), (48, 32));
    assert_eq!(saved.texts["prompt"], "a Red dog\nin a café");
    assert_eq!(saved.texts["seed"], "7");
    let expected = format!(
        "a Red dog\nin a café\nNegative prompt: blurred\nSteps: 2, Sampler: DDIM, CFG scale: 3, Seed: 7, \
         Size: 48x32, Model: pipeline_sd1, CFG rescale: 0.25, Eta: 0.5, Version: comat {}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(saved.texts["parameters"], expected);
}

#[test]
fn counts_files_and_the_grid() {
    let folder = Folder::new();
    folder.write("p.jsonl", "{\"prompt\": \"two birds\", \"tag\": 1}\n\n{\"prompt\": \"a cat\"}\n");
    let done = folder.generate(SD1, &["a dog"], "--prompts p.jsonl --count 2 --seed 5 --steps 1 --grid --out g").ok();
    assert_eq!(done.stdout, "7 files in g\n");
    let names = [
        "00000-a-dog-seed5.png",
        "00001-a-dog-seed6.png",
        "00002-two-birds-seed5.png",
        "00003-two-birds-seed6.png",
        "00004-a-cat-seed5.png",
        "00005-a-cat-seed6.png",
        "grid.png",
    ];
    assert_eq!(folder.names("g"), names);
    let grid = Image::open(&folder.path("g/grid.png"));
    assert_eq!((grid.width, grid.height), (2 * 32 + 4, 3 * 32 + 2 * 4), "a row a prompt");
    let last = Image::open(&folder.path("g/00005-a-cat-seed6.png"));
    let row = |y: usize| &grid.pixels[((2 * 36 + y) * 68 + 36) * 3..][..32 * 3];
    (0..32).for_each(|y| assert_eq!(row(y), &last.pixels[y * 96..][..96]));

    // An image depends on its prompt and its seed, not on its neighbours.
    folder.generate(SD1, &["a cat"], "--seed 6 --steps 1 --out alone").ok();
    let alone = Image::open(&folder.path("alone/00000-a-cat-seed6.png"));
    assert!(alone.difference(&last) <= 1);
    folder.write("p.txt", "a cat\n");
    folder.generate(SD1, &[], "--prompts p.txt --steps 1 --out file --seed 6").ok();
    assert_eq!(folder.bytes("file"), folder.bytes("alone"));
}

#[test]
fn batches_change_nothing() {
    let folder = Folder::new();
    for sampler in ["ddim", "ddpm"] {
        let draw = |batch: usize| {
            let words = format!(
                "--count 5 --steps 5 --sampler {sampler} --batch {batch} --out {sampler}{batch} \
                 --save-latents {sampler}{batch}.safetensors"
            );
            folder.generate(SD1, &["a red dog"], &words).ok();
            let file = |name: &String| Image::open(&folder.path(&format!("{sampler}{batch}/{name}")));
            let images: Vec<Image> = folder.names(&format!("{sampler}{batch}")).iter().map(file).collect();
            (images, folder.tensors(&format!("{sampler}{batch}.safetensors")).remove("x_0").unwrap())
        };
        let (ones, latents) = draw(1);
        for batch in [2, 8] {
            let (images, others) = draw(batch);
            let error = relative_error(&others, &latents);
            assert!(error < 1e-5, "batch {batch}: relative error {error:e}");
            assert!(ones.len() == 5 && ones.iter().zip(&images).all(|(a, b)| a.difference(b) <= 1));
        }
        assert!(ones[0].difference(&ones[1]) > 0, "seeds make no difference");
    }
}

/// Every sampler draws, says what it is called elsewhere, and repeats itself; new noise comes from the seed.
#[test]
fn samplers() {
    let folder = Folder::new();
    let mut drawn: Vec<(&str, (Image, Tensor))> = vec![];
    for (name, title) in [
        ("ddim", "DDIM"),
        ("ddpm", "DDPM"),
        ("euler", "Euler"),
        ("euler_a", "Euler a"),
        ("dpm++_2m", "DPM++ 2M"),
        ("dpm++_2m_karras", "DPM++ 2M Karras"),
    ] {
        let draw = |out: &str| {
            let words = format!("--steps 6 --seed 3 --sampler {name} --out {out} --save-latents {out}.safetensors");
            folder.generate(SD1, &["a red dog"], &words).ok();
            let saved = Image::open(&folder.path(&format!("{out}/00000-a-red-dog-seed3.png")));
            (saved, folder.tensors(&format!("{out}.safetensors")).remove("x_0").unwrap())
        };
        let (saved, latents) = draw(name);
        assert_eq!(latents, draw(&format!("{name}-again")).1, "{name}");
        let said = &saved.texts["parameters"];
        assert!(said.contains(&format!("Steps: 6, Sampler: {title}, CFG scale: 7.5")), "{said}");
        for (other, (_, others)) in &drawn {
            assert!(relative_error(&latents, others) > 1e-4, "{name} and {other}");
        }
        drawn.push((name, (saved, latents)));
    }
    // with the same times and as much noise to begin with, these two are one sampler; where a file names no spacing, each has its own
    folder.copy(SD1, "model");
    folder.edit_json("model/scheduler/scheduler_config.json", "timestep_spacing", "leading");
    let model = folder.path("model");
    let [euler_a, ddpm] = ["euler_a", "ddpm"].map(|name| {
        let words = format!(
            "--steps 6 --seed 3 --sampler {name} --out leading-{name} --save-latents leading-{name}.safetensors"
        );
        folder.generate(model.to_str().unwrap(), &["a red dog"], &words).ok();
        folder.tensors(&format!("leading-{name}.safetensors")).remove("x_0").unwrap()
    });
    assert!(relative_error(&euler_a, &ddpm) < 1e-4);
    // one image is the same beside another
    folder.generate(SD1, &["a cat", "a red dog"], "--steps 6 --seed 3 --sampler euler_a --batch 2 --out two").ok();
    let beside = Image::open(&folder.path("two/00001-a-red-dog-seed3.png"));
    assert!(beside.difference(&drawn[3].1.0) <= 1);
}

/// Saved latents are those of the images, and noise from a file is noise.
#[test]
fn noise_in_and_latents_out() {
    let folder = Folder::new();
    let words = "--steps 3 --out a --save-latents a.safetensors";
    folder.generate(SD1, &["a red dog"], words).ok();
    let noise = torch_ext::Generator::seeded(0).unwrap().randn(&[4, 8, 8]).unwrap().unsqueeze(0);
    folder.write_tensors("noise.safetensors", [("x_T".to_owned(), noise)]);
    let words = "--steps 3 --out b --save-latents b.safetensors --init-latents noise.safetensors";
    folder.generate(SD1, &["a red dog"], words).ok();
    assert_eq!(folder.tensors("a.safetensors")["x_0"], folder.tensors("b.safetensors")["x_0"]);
    let image = |out: &str| Image::open(&folder.path(&format!("{out}/00000-a-red-dog-seed0.png")));
    assert_eq!(image("a").difference(&image("b")), 0);
}

/// Number of threads that do not block SIGINT and SIGTERM.
fn threads_that_receive(run: &Running) -> usize {
    const BITS: u64 = 1 << 1 | 1 << 14;
    let threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", run.id())).unwrap().map(Result::unwrap).collect();
    assert!(threads.len() > 2, "{threads:?}");
    let receives = |status: &String| {
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
        u64::from_str_radix(blocked, 16).unwrap() & BITS != BITS
    };
    let statuses = threads.iter().filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    statuses.filter(receives).count()
}

#[test]
fn ctrl_c_leaves_whole_images() {
    let folder = Folder::new();
    let model = fixture(SD1);
    let words = generate_words(
        model.to_str().unwrap(),
        &["a red dog"],
        "--out g --count 5000 --batch 2 --steps 3 --grid --save-latents l.safetensors",
    );
    for signal in ["INT", "TERM"] {
        let mut run = folder.start(&words);
        run.until("the fifth image", || folder.names("g").len() >= 5);
        assert_eq!(threads_that_receive(&run), 1, "no thread that computes receives signals");
        run.signal(signal);
        let Done { code, stdout, stderr } = run.wait();
        assert_eq!((code, stdout.as_str()), (Some(130), ""));
        assert_eq!(
            stderr,
            "Stopping; images that are done are whole. The same command with --resume draws the others. Ctrl-C once more stops at once.\n"
        );
        let names = folder.names("g");
        assert!(names.len() >= 5 && names.len() < 5000 && !names.contains(&"grid.png".to_owned()));
        names.iter().for_each(|name| drop(Image::open(&folder.path(&format!("g/{name}")))));
        assert!(!folder.exists("l.safetensors"));
        folder.assert_no_leftovers();
        fs::remove_dir_all(folder.path("g")).unwrap();
    }
}

/// With `--resume` images that are there stay, and the others are drawn; all is as if it had not been stopped.
#[test]
fn a_stopped_run_goes_on() {
    let folder = Folder::new();
    const WORDS: &str = "--count 3 --batch 2 --steps 3 --grid --metadata";
    let prompts = ["a red dog", "a cat"];
    let files = |out: &str| {
        folder.names(out).into_iter().map(|name| folder.bytes(&format!("{out}/{name}"))).collect::<Vec<_>>()
    };
    folder.generate(SD1, &prompts, &format!("--out g {WORDS}")).ok();
    let (names, whole) = (folder.names("g"), files("g"));
    assert_eq!(names.len(), 8);
    let time = |name: &String| fs::metadata(folder.path(&format!("g/{name}"))).unwrap().modified().unwrap();
    let [first, second, third] = [0, 1, 2].map(|i| names[i].clone());
    for name in [&second, &third, &"grid.png".into()] {
        fs::remove_file(folder.path(&format!("g/{name}"))).unwrap();
    }
    let before = time(&first);
    folder.generate(SD1, &prompts, &format!("--out g {WORDS} --resume")).ok();
    assert_eq!((folder.names("g"), files("g")), (names, whole));
    assert_eq!(time(&first), before, "it was not drawn again");

    let other = |words: &str| folder.generate(SD1, &prompts, &format!("--out g --count 3 --resume {words}"));
    other("--steps 4").error(&["was drawn with other settings or files"]);
    other("--steps 3 --dtype float64").error(&["was drawn with other settings or files"]);
    other("--steps 3 --save-latents l.safetensors").usage(&["--resume", "--save-latents"]);
    for words in ["--clip-skip 2", "--prediction-type v_prediction", "--vae-dtype float64", "--chunks 2"] {
        other(&format!("--steps 3 {words}")).error(&["was drawn with other settings or files"]);
    }
    // with another number of images they have other names
    for words in ["--count 2", "--count 4", "--count 3 --seed 8"] {
        let done = folder.generate(SD1, &prompts, &format!("--out g --steps 3 --resume {words}"));
        done.error(&["of another command in g", "-seed"]);
    }
    let done = folder.generate(SD1, &prompts, "--out g --steps 3 --overwrite --count 2");
    assert!(done.code == Some(0) && done.stderr.contains("images of another command stay in g"), "{done:?}");
}

/// Files of the same name are known by what is in them, and what a seed does not say is said.
#[test]
fn images_say_what_they_are_drawn_from() {
    let folder = Folder::new();
    folder.copy(SD1, "model");
    let draw = |words: &str| {
        folder.comat(
            &[
                &["generate", "--model", "model", "--prompt", "a red dog", "--steps", "2"][..],
                &words.split(' ').collect::<Vec<_>>(),
            ]
            .concat(),
        )
    };
    draw("--out a --save-latents x.safetensors --clip-skip 2").ok();
    let parameters =
        |out: &str| Image::open(&folder.path(&format!("{out}/00000-a-red-dog-seed0.png"))).texts["parameters"].clone();
    assert!(parameters("a").contains(", Clip skip: 2"), "{}", parameters("a"));
    draw("--out b").ok();
    draw("--out b --resume").ok();
    folder.edit_tensors("model/unet/diffusion_pytorch_model.safetensors", |all| {
        let halved = &all["conv_in.weight"] * 0.5;
        all.insert("conv_in.weight".into(), halved);
    });
    draw("--out b --resume").error(&["was drawn with other settings or files"]);
    folder.edit_tensors("x.safetensors", |all| {
        let start = all.remove("x_0").unwrap();
        all.insert("x_T".into(), start);
    });
    draw("--out c --init-latents x.safetensors").ok();
    assert!(parameters("c").contains(", Init latents: x.safetensors"), "{}", parameters("c"));
    draw("--out d --size 100000x8").usage(&["100000x8", "16384"]);
}

/// Of the candidates the one that the captioner finds likeliest is kept, whatever is drawn at a time; it is the image of its seed.
#[test]
fn the_best_of_several() {
    let folder = Folder::new();
    let captioner = fixture("blip");
    let draw = |out: &str, words: &str| {
        let words = format!("--out {out} --steps 3 --captioner {} {words}", captioner.display());
        folder.generate(SD1, &["a red dog", "a cat"], &words).ok();
        let open = |name: &String| Image::open(&folder.path(&format!("{out}/{name}")));
        folder.names(out).iter().filter(|name| name.ends_with(".png")).map(open).collect::<Vec<Image>>()
    };
    let loss = |image: &Image| image.texts["caption_loss"].parse::<f64>().unwrap();
    let seed = |image: &Image| image.texts["seed"].parse::<usize>().unwrap();

    let all = draw("all", "--best-of 1 --count 6 --batch 4");
    assert_eq!(all.iter().map(seed).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]);
    let best: Vec<&Image> =
        all.chunks(3).map(|c| c.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap()).collect();
    assert!(best.iter().any(|image| seed(image) % 3 > 0), "the first is the best everywhere: the test sees nothing");
    for batch in [1, 2, 8] {
        let kept = draw(&format!("kept{batch}"), &format!("--best-of 3 --count 2 --batch {batch}"));
        assert_eq!(kept.len(), 4);
        for (kept, best) in kept.iter().zip(&best) {
            assert_eq!(seed(kept), seed(best), "batch {batch}");
            assert!((loss(kept) - loss(best)).abs() < 1e-3 && kept.difference(best) <= 1, "batch {batch}");
        }
    }
    // two processes keep the same ones, and say in the data set what the images say
    let shared = draw("shared", "--best-of 3 --count 2 --processes 2 --metadata");
    let lines = fs::read_to_string(folder.path("shared/metadata.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((shared.len(), lines.len()), (4, 4));
    for ((image, best), line) in shared.iter().zip(&best).zip(&lines) {
        assert_eq!(seed(image), seed(best));
        assert_eq!(line["text"].as_str(), Some(image.texts["prompt"].as_str()));
        assert_eq!(line["seed"].as_u64(), Some(seed(image) as u64));
        assert!((line["caption_loss"].as_f64().unwrap() - loss(image)).abs() < 1e-5);
        assert!(folder.exists(&format!("shared/{}", line["file_name"].as_str().unwrap())));
    }
    let again =
        format!("--out shared --overwrite --steps 3 --metadata --best-of 1 --captioner {}", captioner.display());
    folder
        .generate(SD1, &["a red dog", "a cat"], &again.replace("--overwrite ", "--seed 9 "))
        .error(&["metadata.jsonl"]);
    let done = folder.generate(SD1, &["a red dog", "a cat"], &again);
    assert!(done.code == Some(0) && done.stderr.contains("images of another command stay in shared"), "{done:?}");
    let pairs = pairs::Pairs::open(&folder.path("shared")).unwrap();
    assert_eq!(pairs.pairs().iter().map(|pair| pair.caption.as_str()).collect::<Vec<_>>(), ["a red dog", "a cat"]);
    folder.generate(SD1, &["a dog"], "--out x --best-of 2").usage(&["--captioner"]);
    folder.generate(SD1, &["a dog"], "--out x --best-of 2 --captioner nowhere").error(&["--captioner", "nowhere"]);
}
