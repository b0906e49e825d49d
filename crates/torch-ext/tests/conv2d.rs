use tch::{Device, Kind, Tensor};
use torch_ext::{Generator, KeptWeights, conv2d, vjp};

/// Numbers of a generator of their own, so that no other test changes them.
fn randn(seed: u64, shape: &[i64]) -> Tensor {
    Generator::seeded(seed).unwrap().randn(shape).unwrap()
}

/// The largest difference over the largest value.
fn off(found: &Tensor, wanted: &Tensor) -> f64 {
    ((found.to_kind(Kind::Double) - wanted).abs().max() / wanted.abs().max()).double_value(&[])
}

/// `[batch, in, out, height, width]`: whole tiles and parts of tiles, panels of every width, one block of tiles and many.
const SHAPES: [[i64; 5]; 11] = [
    [1, 8, 8, 16, 16],
    [3, 40, 48, 16, 16],
    [16, 24, 104, 4, 4],
    [2, 16, 56, 17, 9],
    [2, 80, 40, 13, 31],
    [5, 96, 88, 6, 7],
    [40, 8, 16, 3, 5],
    [70, 8, 8, 5, 2],
    [60, 8, 24, 3, 3],
    [1, 320, 64, 24, 20],
    [1, 8, 32, 64, 130],
];

/// Output and gradient at the input against libtorch's in float64.
#[test]
fn output_and_gradient_are_those_of_the_sum() {
    for (seed, [batch, inputs, outputs, height, width]) in (0..).zip(SHAPES) {
        let x = randn(3 * seed, &[batch, inputs, height, width]).set_requires_grad(true);
        let w = randn(3 * seed + 1, &[outputs, inputs, 3, 3]) / (9.0 * inputs as f64).sqrt();
        let bias = randn(3 * seed + 2, &[outputs]);
        let cotangent = randn(77 + seed, &[batch, outputs, height, width]);
        let exact = |bias: Option<&Tensor>| {
            let x = x.detach().to_kind(Kind::Double).set_requires_grad(true);
            let y = x.conv2d(&w.to_kind(Kind::Double), bias, [1, 1], [1, 1], [1, 1], 1);
            let gradient = vjp(&[&y], &[&x], &[&cotangent.to_kind(Kind::Double)]).unwrap().remove(0).unwrap();
            (y.detach(), gradient)
        };
        for bias in [Some(&bias), None] {
            let y = conv2d(&x, &w, bias, 1, 1).unwrap();
            let gradient = vjp(&[&y], &[&x], &[&cotangent]).unwrap().remove(0).unwrap();
            let (wanted, wanted_gradient) = exact(bias.map(|b| b.to_kind(Kind::Double)).as_ref());
            let errors = [off(&y.detach(), &wanted), off(&gradient, &wanted_gradient)];
            println!("{batch} x {inputs} -> {outputs} x {height} x {width}: {errors:?}");
            assert!(errors.iter().all(|error| *error < 5e-6), "{errors:?}");
        }
    }
}

/// An image's numbers are the same to the bit whatever else is in the batch, however many threads there are, and however it lies in memory.
#[test]
fn an_image_depends_on_itself_alone() {
    let (x, w) = (randn(1, &[7, 40, 12, 20]), randn(2, &[48, 40, 3, 3]));
    let whole = conv2d(&x, &w, None, 1, 1).unwrap();
    for i in 0..7 {
        assert_eq!(conv2d(&x.narrow(0, i, 1), &w, None, 1, 1).unwrap(), whole.narrow(0, i, 1), "{i}");
    }
    let shifted =
        |x: &Tensor| Tensor::cat(&[&randn(3, &[1]), &x.flatten(0, -1)], 0).narrow(0, 1, x.numel() as i64).view_as(x);
    let bias = randn(4, &[48]);
    let biased = conv2d(&x, &w, Some(&bias), 1, 1).unwrap();
    assert_eq!(conv2d(&shifted(&x), &shifted(&w), Some(&shifted(&bias)), 1, 1).unwrap(), biased, "at an odd address");
    let transposed = x.transpose(2, 3).contiguous().transpose(2, 3);
    assert_eq!(conv2d(&transposed, &w, None, 1, 1).unwrap(), whole);
    let threads = tch::get_num_threads();
    tch::set_num_threads(if threads == 1 { 3 } else { 1 });
    let again = conv2d(&x, &w, None, 1, 1).unwrap();
    tch::set_num_threads(threads);
    assert_eq!(again, whole);
}

/// What the fast way does not do, libtorch does: other types, channels, gradients at weights and bias; and what is wrong is an error.
#[test]
fn everything_else_is_libtorchs() {
    let x = randn(1, &[4, 12, 16, 16]);
    let w = randn(2, &[10, 12, 3, 3]);
    let plain = |x: &Tensor, w: &Tensor| x.conv2d(w, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1);
    assert_eq!(conv2d(&x, &w, None, 1, 1).unwrap(), plain(&x, &w));
    let (x, w) = (randn(1, &[4, 16, 16, 16]), randn(2, &[16, 16, 3, 3]));
    let double = (x.to_kind(Kind::Double), w.to_kind(Kind::Double));
    assert_eq!(conv2d(&double.0, &double.1, None, 1, 1).unwrap(), plain(&double.0, &double.1));
    let trained = w.set_requires_grad(true);
    let bias = Tensor::zeros([16], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let ones = Tensor::ones([4, 16, 16, 16], (Kind::Float, Device::Cpu));
    let y = conv2d(&x, &trained, Some(&bias), 1, 1).unwrap();
    let gradients = vjp(&[&y], &[&trained, &bias], &[&ones]).unwrap();
    assert!(gradients.iter().all(Option::is_some));
    let y = conv2d(&x, &trained.detach(), Some(&bias), 1, 1).unwrap();
    assert!(vjp(&[&y], &[&bias], &[&ones]).unwrap()[0].is_some());
    assert!(conv2d(&x, &randn(3, &[16, 24, 3, 3]), None, 1, 1).is_err());
    assert!(conv2d(&x, &w.detach(), Some(&randn(4, &[8])), 1, 1).is_err());
}

/// Transformed weights that are kept give the same numbers, are never taken for another layer's, and gradients are as before.
#[test]
fn kept_weights_change_nothing() {
    let x = randn(1, &[4, 16, 16, 16]).set_requires_grad(true);
    let weights: Vec<Tensor> = (0..5).map(|seed| randn(10 + seed, &[16, 16, 3, 3])).collect();
    let all = || -> Vec<Tensor> {
        weights
            .iter()
            .flat_map(|w| {
                let y = conv2d(&x, w, None, 1, 1).unwrap();
                let gradient = vjp(&[&y], &[&x], &[&y.detach()]).unwrap().remove(0).unwrap();
                [y.detach(), gradient]
            })
            .collect()
    };
    let wanted = all();
    let kept = KeptWeights::new();
    for _ in 0..2 {
        assert_eq!(all(), wanted);
        let inner = KeptWeights::new();
        assert_eq!(all(), wanted);
        drop(inner);
        // Weights that are freed, so that others come to lie where they were.
        for seed in 20..60 {
            let once = randn(seed, &[16, 16, 3, 3]);
            let y = conv2d(&x.detach(), &once, None, 1, 1).unwrap();
            assert!(
                off(
                    &y,
                    &x.detach().to_kind(Kind::Double).conv2d(
                        &once.to_kind(Kind::Double),
                        None::<Tensor>,
                        [1, 1],
                        [1, 1],
                        [1, 1],
                        1
                    )
                ) < 5e-6
            );
        }
    }
    drop(kept);
    assert_eq!(all(), wanted);
}

/// Few pixels (and one shape for Winograd): other kernels, strides and paddings, sizes that are not square, one image and several.
#[test]
fn few_pixels_give_what_the_sum_gives() {
    for (seed, [batch, inputs, outputs, height, width, kernel, stride, padding]) in (0..).zip([
        [2, 128, 256, 8, 8, 3, 1, 1],
        [1, 256, 64, 8, 8, 3, 1, 1],
        [3, 96, 128, 5, 7, 3, 2, 1],
        [2, 64, 192, 9, 4, 3, 2, 0],
        [2, 300, 257, 4, 6, 1, 1, 0],
        [1, 40, 200, 8, 8, 4, 4, 0],
        [1, 64, 120, 1, 1, 3, 1, 1],
        [1, 48, 130, 3, 2, 5, 3, 2],
    ]) {
        let x = randn(3 * seed, &[batch, inputs, height, width]).set_requires_grad(true);
        let w = randn(3 * seed + 1, &[outputs, inputs, kernel, kernel]) / (inputs as f64).sqrt();
        let bias = randn(3 * seed + 2, &[outputs]);
        let plain =
            |x: &Tensor, w: &Tensor, bias: Option<&Tensor>| x.conv2d(w, bias, [stride; 2], [padding; 2], [1, 1], 1);
        let doubled = x.detach().to_kind(Kind::Double).set_requires_grad(true);
        for bias in [Some(&bias), None] {
            let wanted = plain(&doubled, &w.to_kind(Kind::Double), bias.map(|b| b.to_kind(Kind::Double)).as_ref());
            let y = conv2d(&x, &w, bias, stride, padding).unwrap();
            assert!(y.is_contiguous() && y.size() == wanted.size());
            let cotangent = randn(50 + seed, &wanted.size());
            let gradient = vjp(&[&y], &[&x], &[&cotangent]).unwrap().remove(0).unwrap();
            let exact = vjp(&[&wanted], &[&doubled], &[&cotangent.to_kind(Kind::Double)]).unwrap().remove(0).unwrap();
            let errors = [off(&y.detach(), &wanted.detach()), off(&gradient, &exact)];
            println!(
                "{batch} x {inputs} -> {outputs} x {height} x {width}, {kernel} / {stride} + {padding}: {errors:?}"
            );
            assert!(errors.iter().all(|error| *error < 5e-6), "{errors:?}");
        }
        let transposed = x.detach().transpose(2, 3).contiguous().transpose(2, 3);
        let (there, here) = (conv2d(&transposed, &w, None, stride, padding), conv2d(&x, &w, None, stride, padding));
        assert_eq!(there.unwrap(), here.unwrap().detach());
    }
    let (x, w) = (randn(1, &[1, 300, 2, 2]), randn(2, &[300, 300, 3, 3]));
    assert!(conv2d(&x, &w, None, 1, -1).is_err());
    assert!(conv2d(&x, &w, None, 0, 1).is_err());
    for stride in 1..4 {
        assert!(conv2d(&x, &w, None, stride, 0).is_err(), "the kernel is larger than the image");
    }
    let patches = randn(2, &[300, 300, 16, 16]);
    assert!(conv2d(&randn(1, &[1, 300, 8, 8]), &patches, None, 16, 0).is_err());
    assert!(conv2d(&randn(1, &[1, 300, 8, 17]), &patches, None, 16, 0).is_err());
    let none = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    _ = conv2d(&none(&[1, 0, 64, 64]), &none(&[0, 0, 3, 3]), None, 1, 1); // an error or nothing, as libtorch likes
}
