//! The attention losses against a plain transcription of the formulas, their gradients against finite differences, and what
//! they do where a prompt or an image gives them nothing to hold on to.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::loss::attention::{Parts, Target, losses};
use config::Form;
use models::network::{Layer, Place};
use tch::{Device, Kind, Tensor};
use torch_ext::testing::device;

fn options() -> (Kind, Device) {
    (Kind::Double, device())
}

const TOKENS: i64 = 9;

/// Maps as a UNet has them: two resolutions, one of them not square, one with two modules.
fn layers(samples: i64) -> Vec<Layer> {
    let map =
        |heads, cells| (Tensor::randn([samples, heads, cells, TOKENS], options()) * 2.0).softmax(-1, Kind::Double);
    vec![
        Layer { place: Place::Mid, height: 2, width: 3, modules: vec![map(2, 6)] },
        Layer { place: Place::Up, height: 4, width: 6, modules: vec![map(2, 24), map(2, 24)] },
    ]
}

/// A mask of 8×12 with a rectangle in it.
fn mask(top: i64, left: i64, height: i64, width: i64) -> Tensor {
    let mask = Tensor::zeros([8, 12], (Kind::Bool, device()));
    let _ = mask.narrow(0, top, height).narrow(1, left, width).fill_(1.0);
    mask
}

fn targets() -> Vec<Vec<Target>> {
    let target = |tokens: &[i64], mask| Target { tokens: tokens.to_vec(), mask };
    vec![
        vec![target(&[2, 3], mask(0, 0, 4, 5)), target(&[5, 6, 7], mask(5, 6, 3, 6))],
        vec![],
        vec![target(&[1], mask(2, 3, 3, 3))],
    ]
}

/// A cell is in a mask when one of the mask's pixels is nearer to the cell's middle than the cell is wide, and than it is high: there the
/// triangle of the antialiased bilinear resize is above zero.
fn covers(mask: &Tensor, layer: &Layer) -> Vec<bool> {
    let near = |cell: i64, cells: i64, pixel: i64, pixels: i64| {
        let side = pixels as f64 / cells as f64;
        ((cell as f64 + 0.5) * side - (pixel as f64 + 0.5)).abs() < side
    };
    let (rows, columns) = mask.size2().unwrap();
    let is_in = |y: i64, x: i64| {
        let of_row = |row: i64| {
            (0..columns).any(|column| near(x, layer.width, column, columns) && mask.double_value(&[row, column]) > 0.0)
        };
        (0..rows).any(|row| near(y, layer.height, row, rows) && of_row(row))
    };
    (0..layer.height).flat_map(|y| (0..layer.width).map(move |x| (y, x))).map(|(y, x)| is_in(y, x)).collect()
}

/// As PyTorch says: `interpolate(mask, (4, 6), mode="bilinear", antialias=True) > 0` of the first mask below.
#[test]
fn what_a_mask_covers() {
    let layer = Layer { place: Place::Up, height: 4, width: 6, modules: vec![] };
    let row = |count: usize| (0..6).map(move |cell| cell < count);
    let expected: Vec<bool> = [3, 3, 3, 0].into_iter().flat_map(row).collect();
    assert_eq!(covers(&mask(0, 0, 4, 5), &layer), expected);
}

/// Section 3 of the method, number by number.
fn by_hand(form: Form, layers: &[Layer], targets: &[Vec<Target>], batch: usize) -> (f64, f64) {
    let (mut token, mut pixel) = (0.0, 0.0);
    for layer in layers {
        for (row, targets) in targets.iter().enumerate() {
            let entities = targets.len() as f64;
            for target in targets {
                let inside = covers(&target.mask, layer);
                let value = |module: &Tensor, head: i64, cell: usize, token: i64| {
                    module.double_value(&[row as i64, head, cell as i64, token])
                };
                let mean = |cell: usize, token: i64| {
                    let all = layer.modules.iter().flat_map(|m| (0..2).map(move |h| value(m, h, cell, token)));
                    all.sum::<f64>() / (2.0 * layer.modules.len() as f64)
                };
                let share = |a: &dyn Fn(usize) -> f64| {
                    let sum: f64 = (0..inside.len()).map(a).sum();
                    (0..inside.len()).filter(|c| inside[*c]).map(a).sum::<f64>() / sum
                };
                for k in &target.tokens {
                    match form {
                        Form::Reference => {
                            for module in &layer.modules {
                                let heads = (0..2).map(|h| share(&|c| value(module, h, c, *k))).sum::<f64>() / 2.0;
                                token += (1.0 - heads).powi(2) / target.tokens.len() as f64 / entities;
                            }
                        }
                        Form::Paper => {
                            let sum: f64 = (0..inside.len()).map(|c| mean(c, *k)).sum();
                            for (cell, is_inside) in inside.iter().enumerate() {
                                let part = mean(cell, *k) / sum;
                                token += if *is_inside { -part } else { part } / entities;
                            }
                        }
                    }
                }
                for (cell, is_inside) in inside.iter().enumerate() {
                    let p: f64 = target.tokens.iter().map(|k| mean(cell, *k)).sum();
                    pixel -= if *is_inside { p.ln() } else { (1.0 - p).ln() } / inside.len() as f64 / entities;
                }
            }
        }
    }
    (token / batch as f64, pixel / batch as f64)
}

fn value(t: &Tensor) -> f64 {
    t.double_value(&[])
}

#[test]
fn values_are_those_of_the_formulas() {
    tch::manual_seed(1);
    let (layers, targets) = (layers(3), targets());
    for form in [Form::Reference, Form::Paper] {
        let Parts { token, pixel } = losses(form, &layers, &targets, 5).unwrap();
        let (expected_token, expected_pixel) = by_hand(form, &layers, &targets, 5);
        assert!(expected_token.abs() > 1e-3 && expected_pixel > 1e-3);
        assert!((value(&token) - expected_token).abs() < 1e-12, "{form:?} {token} {expected_token}");
        assert!((value(&pixel) - expected_pixel).abs() < 1e-12, "{form:?} {pixel} {expected_pixel}");
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    tch::manual_seed(2);
    let targets = targets();
    let scores = Tensor::randn([3, 2, 24, TOKENS], options()).set_requires_grad(true);
    let direction = Tensor::randn(scores.size(), options());
    for form in [Form::Reference, Form::Paper] {
        for pick in [|p: Parts| p.token, |p: Parts| p.pixel] {
            let loss = |scores: &Tensor| {
                let maps = scores.softmax(-1, Kind::Double);
                let layer = Layer { place: Place::Up, height: 4, width: 6, modules: vec![maps] };
                pick(losses(form, &[layer], &targets, 3).unwrap())
            };
            let l = loss(&scores);
            let gradient = torch_ext::vjp(&[&l], &[&scores], &[&l.ones_like()]).unwrap().remove(0).unwrap();
            let expected = value(&(gradient * &direction).sum(None));
            let at = |step: f64| value(&loss(&(scores.detach() + &direction * step)));
            let found = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((found - expected).abs() < 1e-7 * expected.abs().max(1.0), "{form:?}: {found} {expected}");
            assert!(expected.abs() > 1e-6);
        }
    }
}

/// What was not drawn cannot be pointed at: the token loss is still, the pixel loss pushes the attention down.
#[test]
fn an_empty_mask_only_pushes_down() {
    tch::manual_seed(3);
    for form in [Form::Reference, Form::Paper] {
        let maps = (Tensor::randn([1, 2, 24, TOKENS], options())).softmax(-1, Kind::Double).set_requires_grad(true);
        let layer = Layer { place: Place::Up, height: 4, width: 6, modules: vec![maps.shallow_clone()] };
        let targets = [vec![Target { tokens: vec![2, 3], mask: mask(0, 0, 0, 0) }]];
        let gradient = |pick: fn(Parts) -> Tensor| {
            let loss = pick(losses(form, std::slice::from_ref(&layer), &targets, 1).unwrap());
            torch_ext::vjp(&[&loss], &[&maps], &[&loss.ones_like()]).unwrap().remove(0).unwrap().select(3, 2)
        };
        assert!(value(&gradient(|p| p.token).abs().max()) < 1e-12, "{form:?}");
        assert!(value(&gradient(|p| p.pixel).min()) > 0.0, "less attention everywhere is better");
    }
}

/// libtorch's own cross-entropy stops the program at such maps, on a GPU without a word about the cause.
#[test]
fn maps_that_are_no_numbers_give_losses_that_are_none() {
    let layers = layers(3);
    let _ = layers[1].modules[0].get(0).fill_(f64::NAN);
    for form in [Form::Reference, Form::Paper] {
        let Parts { token, pixel } = losses(form, &layers, &targets(), 3).unwrap();
        assert!(value(&token).is_nan() && value(&pixel).is_nan());
    }
}

#[test]
fn no_targets_no_loss() {
    assert!(losses(Form::Reference, &layers(2), &[vec![], vec![]], 2).is_none());
    assert!(losses(Form::Reference, &[], &targets(), 3).is_none(), "a UNet without cross-attention");
}

/// A word that belongs to two nouns is drawn to both: to each with the noun's own share.
#[test]
fn a_shared_attribute_counts_for_both() {
    tch::manual_seed(4);
    let layers = layers(1);
    let both = |tokens: [&[i64]; 2]| {
        let [a, b] = tokens;
        vec![vec![
            Target { tokens: a.to_vec(), mask: mask(0, 0, 4, 5) },
            Target { tokens: b.to_vec(), mask: mask(5, 6, 3, 6) },
        ]]
    };
    let shared = both([&[2, 3], &[2, 5]]);
    let parts = losses(Form::Reference, &layers, &shared, 1).unwrap();
    let (token, pixel) = by_hand(Form::Reference, &layers, &shared, 1);
    assert!((value(&parts.token) - token).abs() < 1e-12 && (value(&parts.pixel) - pixel).abs() < 1e-12);
}

/// Probabilities of half precision may add up to a little more than 1.
#[test]
fn sums_past_one_are_no_error() {
    let maps = Tensor::full([1, 1, 24, TOKENS], 0.6, options());
    let layer = Layer { place: Place::Up, height: 4, width: 6, modules: vec![maps] };
    let targets = [vec![Target { tokens: vec![2, 3], mask: mask(0, 0, 4, 5) }]];
    let parts = losses(Form::Reference, &[layer], &targets, 1).unwrap();
    assert!(value(&parts.pixel).is_finite());
}
