//! The judge on images of which the truth is known: renders, wrong renders, spoilt ones, and things that are no scene.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use images::Image;
use laboratory::pretrain::{data, painter, vae};
use models::autoencoder::Autoencoder;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scenes::{
    judge::{self, Look, Verdict},
    prompts::{self, Category, Split},
    render,
    scene::{Color, Kind, Object, SIDE, Scene, Shape, Texture},
    staging,
    wording::Demand,
};
use std::{collections::BTreeMap, path::PathBuf};
use tch::{Kind as Type, Tensor};
use torch_ext::testing::device;

/// JUDGE_SEED=N draws everything anew: the thresholds were found on the draws without it.
fn fresh(seed: u64) -> u64 {
    let more = std::env::var("JUDGE_SEED").map_or(0, |n| n.parse::<u64>().expect("JUDGE_SEED is a number"));
    seed + 1000 * more
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(fresh(seed))
}

struct Case {
    prompt: String,
    category: Category,
    demand: Demand,
    scene: Scene,
}

/// Prompts of all categories, each with a scene of what it asks for.
fn cases(count: usize, seed: u64) -> Vec<Case> {
    let mut rng = rng(seed);
    let case = |p: prompts::Prompt| {
        let demand = Demand::parse(&p.prompt).unwrap();
        let scene = staging::scene_for(&demand, &mut rng).unwrap();
        Case { prompt: p.prompt, category: p.category, demand, scene }
    };
    prompts::make(Split::HeldOut, count, fresh(seed)).into_iter().map(case).collect()
}

fn verdict(demand: &Demand, image: &Image) -> (Verdict, Look) {
    let look = judge::look(image);
    (judge::verdict(demand, &look), look)
}

/// Share of yes by key, printed.
struct Tally<K>(&'static str, BTreeMap<K, (usize, usize)>);

impl<K: Ord + std::fmt::Display> Tally<K> {
    fn new(name: &'static str) -> Self {
        Self(name, BTreeMap::new())
    }

    fn count(&mut self, key: K, yes: bool) {
        let (all, right) = self.1.entry(key).or_default();
        *all += 1;
        *right += usize::from(yes);
    }

    #[track_caller]
    fn at_least(self, share: f64) {
        let lines: Vec<String> = self.1.iter().map(|(key, (all, right))| format!("{key}: {right} of {all}")).collect();
        println!("{}: {}", self.0, lines.join(", "));
        for (key, (all, right)) in self.1 {
            assert!(right as f64 >= share * all as f64, "{}: {key}: {right} of {all}", self.0);
        }
    }
}

#[test]
fn renders_are_right() {
    let mut right = Tally::new("renders found right");
    for case in cases(400, 11) {
        let (verdict, look) = verdict(&case.demand, &render::image(&case.scene));
        if !verdict.correct {
            println!("{}\n  {verdict:?}\n  {look:?}\n  {:?}", case.prompt, case.scene.objects);
        }
        right.count(case.category, verdict.correct);
    }
    right.at_least(0.99);
}

/// Every attribute of every object, its place, and nothing left over.
#[test]
fn renders_are_seen_as_they_are() {
    let mut rng = rng(12);
    let mut right = Tally::new("objects seen as they are");
    for _ in 0..100 {
        let scene = Scene::any(&mut rng);
        let look = judge::look(&render::image(&scene));
        assert!(look.unexplained < 0.005, "{look:?}");
        for object in &scene.objects {
            let near = |f: &&judge::Found| (f.center.0 - object.center.0).hypot(f.center.1 - object.center.1) < 1.0;
            let found = look.found.iter().find(near);
            let seen = found.and_then(|f| Some(Kind { shape: f.shape?, color: f.color?, texture: f.texture? }));
            if seen != Some(object.kind()) {
                println!("{object:?}\n  {:?}", look.found);
            }
            right.count(object.shape, seen == Some(object.kind()));
        }
    }
    right.at_least(0.99);
}

/// One of the words of a demand is made untrue of its scene.
fn made_wrong(case: &Case, how: &str, rng: &mut ChaCha8Rng) -> Option<Scene> {
    let mut scene = case.scene.clone();
    let wanted: Vec<_> = case.demand.wanted.iter().flat_map(|w| std::iter::repeat_n(*w, w.count)).collect();
    let one = rng.random_range(0..wanted.len());
    let another = (one + 1) % wanted.len();
    match how {
        "swapped colours" => {
            let colors = [wanted[one].color?, wanted[another].color?];
            if colors[0] == colors[1] || wanted[one].shape == wanted[another].shape {
                return None;
            }
            (scene.objects[one].color, scene.objects[another].color) = (colors[1], colors[0]);
        }
        "swapped textures" => {
            let textures = [wanted[one].texture?, wanted[another].texture?];
            if textures[0] == textures[1] || wanted[one].shape == wanted[another].shape {
                return None;
            }
            (scene.objects[one].texture, scene.objects[another].texture) = (textures[1], textures[0]);
        }
        "wrong colour" => {
            let color = wanted[one].color?;
            scene.objects[one].color = *Color::ALL.iter().cycle().nth(color as usize + rng.random_range(1..6))?;
        }
        "wrong texture" => {
            let texture = wanted[one].texture?;
            scene.objects[one].texture = *Texture::ALL.iter().cycle().nth(texture as usize + 1)?;
        }
        "wrong shape" => {
            let shape = scene.objects[one].shape;
            scene.objects[one].shape = *Shape::ALL.iter().cycle().nth(shape as usize + rng.random_range(1..6))?;
        }
        "missing object" => {
            scene.objects.remove(one);
        }
        "extra object" => {
            let object = scene.room_for(Kind::any(rng), rng)?;
            scene.objects.push(object);
        }
        "one more of a kind" => {
            let object = scene.room_for(scene.objects[one].kind(), rng)?;
            scene.objects.push(object);
        }
        "opposite relation" => {
            case.demand.relation?;
            let (a, b) = (scene.objects[0].center, scene.objects[1].center);
            (scene.objects[0].center, scene.objects[1].center) = (b, a);
        }
        other => panic!("{other}"),
    }
    Some(scene)
}

const WAYS: [&str; 9] = [
    "swapped colours",
    "swapped textures",
    "wrong colour",
    "wrong texture",
    "wrong shape",
    "missing object",
    "extra object",
    "one more of a kind",
    "opposite relation",
];

#[test]
fn wrong_renders_are_rejected() {
    let mut rng = rng(13);
    let mut rejected = Tally::new("wrong renders rejected");
    for case in cases(120, 13) {
        for how in WAYS {
            let Some(scene) = made_wrong(&case, how, &mut rng) else { continue };
            let (verdict, look) = verdict(&case.demand, &render::image(&scene));
            if verdict.correct {
                println!("{how}: {}\n  {look:?}\n  {:?}", case.prompt, scene.objects);
            }
            rejected.count(how, !verdict.correct);
        }
    }
    assert_eq!(rejected.1.len(), WAYS.len() - 1); // prompts ask for no relations, so none can be turned round
    rejected.at_least(0.98);
}

fn tensor(image: &Image) -> Tensor {
    let side = SIDE as i64;
    let bytes = Tensor::from_slice(&image.pixels).view([1, side, side, 3]);
    bytes.permute([0, 3, 1, 2]).to_kind(Type::Float) / 255.0
}

fn to_image(image: &Tensor) -> Image {
    Image::from_tensor(&image.squeeze_dim(0)).unwrap()
}

fn noise(image: &Tensor, deviation: f64, rng: &mut ChaCha8Rng) -> Tensor {
    image + data::randn(rng, &image.size()).unwrap() * deviation
}

/// What a good decoder may do to an image is no fault of the scene.
#[test]
fn mild_spoilings_are_forgiven() {
    let mut rng = rng(14);
    let mut right = Tally::new("spoilt renders found right");
    for case in cases(100, 14) {
        let clean = render::image(&case.scene);
        let image = tensor(&clean);
        let gain: Vec<f32> = (0..3).map(|_| rng.random_range(0.95..1.03)).collect();
        let shift: Vec<f32> = (0..3).map(|_| rng.random_range(-0.02..0.02)).collect();
        let color = |v: &[f32]| Tensor::from_slice(v).view([1, 3, 1, 1]);
        let spoilt = [
            ("blur 0.5", painter::blur(&image, 0.5)),
            ("noise 0.03", noise(&image, 0.03, &mut rng)),
            ("tints", &image * color(&gain) + color(&shift)),
            ("wobbly edges", wobbly(&clean, &mut rng)),
            ("blur 0.4 and noise 0.02", noise(&painter::blur(&image, 0.4), 0.02, &mut rng)),
        ];
        for (how, image) in spoilt {
            let (verdict, look) = verdict(&case.demand, &to_image(&image));
            if !verdict.correct {
                println!("{how}: {}\n  {verdict:?}\n  {look:?}\n  {:?}", case.prompt, case.scene.objects);
            }
            right.count(how, verdict.correct);
        }
    }
    right.at_least(0.97);
}

/// Every pixel from up to half a pixel away, neighbours from about the same place.
fn wobbly(image: &Image, rng: &mut ChaCha8Rng) -> Tensor {
    let waves: [[f32; 4]; 2] = std::array::from_fn(|_| std::array::from_fn(|_| rng.random_range(0.3..0.9)));
    let side = SIDE as i64;
    let mut pixels = vec![0.0f32; 3 * SIDE * SIDE];
    for i in 0..SIDE * SIDE {
        let (x, y) = ((i % SIDE) as f32, (i / SIDE) as f32);
        let shift = |w: &[f32; 4]| 0.5 * (w[0] * x + 7.0 * w[1]).sin() * (w[2] * y + 7.0 * w[3]).sin();
        let at = |v: f32| v.clamp(0.0, (SIDE - 1) as f32);
        let (sx, sy) = (at(x + shift(&waves[0])), at(y + shift(&waves[1])));
        let (left, top) = (sx.floor().min((SIDE - 2) as f32), sy.floor().min((SIDE - 2) as f32));
        for c in 0..3 {
            let value = |dx: usize, dy: usize| {
                f32::from(image.pixels[((top as usize + dy) * SIDE + left as usize + dx) * 3 + c]) / 255.0
            };
            let (fx, fy) = (sx - left, sy - top);
            let upper = value(0, 0) * (1.0 - fx) + value(1, 0) * fx;
            let lower = value(0, 1) * (1.0 - fx) + value(1, 1) * fx;
            pixels[c * SIDE * SIDE + i] = upper * (1.0 - fy) + lower * fy;
        }
    }
    Tensor::from_slice(&pixels).view([1, 3, side, side])
}

/// The scene's image with one object drawn through `change`: (image without it, with it) to pixels.
fn with_one_changed(scene: &Scene, one: usize, change: impl Fn(&Tensor, &Tensor) -> Tensor) -> Image {
    let mut others = scene.clone();
    others.objects.remove(one);
    to_image(&change(&tensor(&render::image(&others)), &tensor(&render::image(scene))))
}

/// Moves the second object up to the first, until their outlines touch.
fn touching(scene: &Scene) -> Option<Scene> {
    let mut scene = scene.clone();
    scene.objects.truncate(2);
    let (a, b) = (scene.objects[0].clone(), scene.objects[1].clone());
    let (dx, dy) = (b.center.0 - a.center.0, b.center.1 - a.center.1);
    let covered = |object: &Object| render::mask(object).iter().map(|v| *v > 0.5).collect::<Vec<bool>>();
    let first = covered(&a);
    for step in 0..200 {
        let along = 1.0 - step as f32 / 200.0;
        scene.objects[1].center = (a.center.0 + dx * along, a.center.1 + dy * along);
        let second = covered(&scene.objects[1]);
        if first.iter().zip(&second).filter(|(a, b)| **a && **b).count() >= 6 {
            return Some(scene);
        }
    }
    None
}

#[test]
fn what_is_no_scene_is_rejected() {
    let mut rng = rng(15);
    let mut rejected = Tally::new("rejected");
    let cases: Vec<Case> = cases(60, 15);
    for (i, case) in cases.iter().enumerate() {
        let one = rng.random_range(0..case.scene.objects.len());
        let other = &cases[(i + 1) % cases.len()];
        let mut bad: Vec<(&str, Image)> = vec![];
        if case.scene.objects.len() == 2
            && let Some(scene) = touching(&case.scene)
        {
            bad.push(("two touching", render::image(&scene)));
        }
        for (name, part) in [("faint, 10 %", 0.1), ("faint, 30 %", 0.3), ("faint, 50 %", 0.5)] {
            bad.push((name, with_one_changed(&case.scene, one, |without, with| without + (with - without) * part)));
        }
        for (name, sigma) in [("blurred 2", 2.0), ("blurred 3", 3.0)] {
            bad.push((
                name,
                with_one_changed(&case.scene, one, |without, with| without + wide_blur(&(with - without), sigma)),
            ));
        }
        let object = &case.scene.objects[one];
        let middle = (object.center.0.round() as i64, object.center.1.round() as i64);
        let rest = SIDE as i64;
        let halves = [
            ("left half", 3, 0, middle.0),
            ("right half", 3, middle.0, rest - middle.0),
            ("upper half", 2, 0, middle.1),
            ("lower half", 2, middle.1, rest - middle.1),
        ];
        for (name, axis, start, length) in halves {
            bad.push((
                name,
                with_one_changed(&case.scene, one, |without, with| {
                    let image = without.copy();
                    image.narrow(axis, start, length).copy_(&with.narrow(axis, start, length));
                    image
                }),
            ));
        }
        bad.push((
            "a quarter missing",
            with_one_changed(&case.scene, one, |without, with| {
                let image = with.copy();
                let corner = |t: &Tensor| t.narrow(2, middle.1, rest - middle.1).narrow(3, middle.0, rest - middle.0);
                corner(&image).copy_(&corner(without));
                image
            }),
        ));
        bad.push((
            "a hole",
            with_one_changed(&case.scene, one, |without, with| {
                let image = with.copy();
                let hole = |t: &Tensor| t.narrow(2, middle.1 - 3, 6).narrow(3, middle.0 - 3, 6);
                hole(&image).copy_(&hole(without));
                image
            }),
        ));
        let mut retextured = case.scene.clone();
        retextured.objects[one].texture = *Texture::ALL.iter().cycle().nth(object.texture as usize + 1).unwrap();
        let other_texture = tensor(&render::image(&retextured));
        bad.push((
            "two textures",
            with_one_changed(&case.scene, one, |_, with| {
                let image = with.copy();
                image.narrow(3, middle.0, rest - middle.0).copy_(&other_texture.narrow(3, middle.0, rest - middle.0));
                image
            }),
        ));
        let (a, b) = (tensor(&render::image(&case.scene)), tensor(&render::image(&other.scene)));
        bad.push(("two blended scenes", to_image(&((&a + &b) / 2.0))));
        bad.push(("noise alone", to_image(&(data::randn(&mut rng, &a.size()).unwrap() * 0.3 + 0.5))));
        bad.push(("noise 0.15", to_image(&noise(&a, 0.15, &mut rng))));
        bad.push(("dark ground", to_image(&(&a * 0.6))));
        bad.push(("blurred image", to_image(&wide_blur(&a, 2.0))));
        let nothing = Scene { objects: vec![], ..case.scene.clone() };
        bad.push(("nothing", render::image(&nothing)));
        // a second colour runs into the object
        let mut recolored = case.scene.clone();
        recolored.objects[one].color = *Color::ALL.iter().cycle().nth(object.color as usize + 1).unwrap();
        let (first, second) = (tensor(&render::image(&case.scene)), tensor(&render::image(&recolored)));
        second.narrow(3, 0, middle.0).copy_(&first.narrow(3, 0, middle.0));
        bad.push(("two colours", to_image(&second)));
        for (name, image) in bad {
            let (verdict, look) = verdict(&case.demand, &image);
            if verdict.correct {
                println!("accepted: {name}: {}\n  {look:?}\n  {object:?}", case.prompt);
            }
            rejected.count(name, !verdict.correct);
        }
    }
    rejected.at_least(0.98);
}

/// Gaussian blur of any width.
fn wide_blur(images: &Tensor, sigma: f64) -> Tensor {
    let reach = (3.0 * sigma).ceil() as i64;
    let weights: Vec<f32> = (-reach..=reach).map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp() as f32).collect();
    let line = Tensor::from_slice(&weights);
    let line = &line / line.sum(Type::Float);
    let size = 2 * reach + 1;
    let kernel = (line.view([size, 1]) * line.view([1, size])).expand([3, 1, size, size], false);
    images.replication_pad2d([reach, reach, reach, reach]).conv2d(&kernel, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 3)
}

#[test]
fn images_of_another_size_show_nothing() {
    for (width, height) in [(0, 0), (1, 1), (32, 32), (128, 64)] {
        let look = judge::look(&Image { width, height, pixels: vec![200; width * height * 3] });
        assert!(look.found.is_empty() && look.unexplained == 1.0);
    }
}

/// What the autoencoder cannot keep, no drawn image can have.
#[test]
fn renders_through_the_autoencoder_are_right() {
    let shipped = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../weights/world/sd/vae");
    let folder = std::env::var_os("WORLD_VAE").map_or_else(shipped, PathBuf::from);
    let network = models::vae::AutoencoderKl::open(&folder, Type::Float, device()).unwrap();
    let _guard = tch::no_grad_guard();
    let mut right = Tally::new("renders through the autoencoder found right");
    for cases in cases(400, 16).chunks(20) {
        let scenes: Vec<Scene> = cases.iter().map(|case| case.scene.clone()).collect();
        let latents = vae::encode(&network, &data::images(&scenes).to_device(device())).unwrap();
        let images = network.decode(&latents).unwrap() / 2.0 + 0.5;
        for (i, case) in cases.iter().enumerate() {
            let (verdict, look) = verdict(&case.demand, &Image::from_tensor(&images.get(i as i64)).unwrap());
            if !verdict.correct {
                println!("{}\n  {verdict:?}\n  {look:?}\n  {:?}", case.prompt, case.scene.objects);
            }
            right.count(case.category, verdict.correct);
        }
    }
    right.at_least(0.97);
}
