use tch::{Device, Kind, Tensor};
use torch_ext::{Generator, group_norm_silu, vjp};

/// Numbers of a generator of their own, so that no other test changes them.
fn randn(seed: u64, shape: &[i64]) -> Tensor {
    Generator::seeded(seed).unwrap().randn(shape).unwrap()
}

fn plain(x: &Tensor, groups: i64, weight: &Tensor, bias: &Tensor, eps: f64) -> Tensor {
    x.group_norm(groups, Some(weight), Some(bias), eps, true).silu()
}

/// The largest difference over the largest value.
fn off(found: &Tensor, wanted: &Tensor) -> f64 {
    ((found.to_kind(Kind::Double) - wanted).abs().max() / wanted.abs().max()).double_value(&[])
}

/// `[batch, channels, groups, height, width]`: pixels that are no multiple of eight, one pixel, one channel a group, and
/// more numbers than are added up at once.
const SHAPES: [[i64; 5]; 8] = [
    [1, 8, 8, 16, 16],
    [3, 40, 8, 4, 4],
    [2, 32, 32, 7, 9],
    [5, 24, 3, 1, 1],
    [2, 6, 1, 1, 5],
    [1, 64, 2, 33, 65],
    [16, 96, 8, 3, 3],
    [1, 4, 2, 128, 130],
];

/// Output and gradient at the input against libtorch's in float64, of images far from zero and with large and small values.
#[test]
fn output_and_gradient_are_those_of_libtorch() {
    for (seed, [batch, channels, groups, height, width]) in (0..).zip(SHAPES) {
        for (shift, scale) in [(0.0, 1.0), (30.0, 3.0), (-2.0, 1e-3), (0.0, 1e4)] {
            let x = (randn(4 * seed, &[batch, channels, height, width]) * scale + shift).set_requires_grad(true);
            let (weight, bias) = (randn(4 * seed + 1, &[channels]) * 3.0, randn(4 * seed + 2, &[channels]) * 3.0);
            let cotangent = randn(4 * seed + 3, &[batch, channels, height, width]);
            let [wide_x, wide_weight, wide_bias, wide_cotangent] =
                [&x, &weight, &bias, &cotangent].map(|t| t.detach().to_kind(Kind::Double));
            let wide_x = wide_x.set_requires_grad(true);
            let wanted = plain(&wide_x, groups, &wide_weight, &wide_bias, 1e-5);
            let wanted_gradient = vjp(&[&wanted], &[&wide_x], &[&wide_cotangent]).unwrap().remove(0).unwrap();
            let error = |y: Tensor| {
                let gradient = vjp(&[&y], &[&x], &[&cotangent]).unwrap().remove(0).unwrap();
                [off(&y.detach(), &wanted.detach()), off(&gradient, &wanted_gradient)]
            };
            let ours = error(group_norm_silu(&x, groups, &weight, &bias, 1e-5).unwrap());
            let libtorchs = error(plain(&x, groups, &weight, &bias, 1e-5));
            println!(
                "{batch} x {channels}/{groups} x {height} x {width}, {scale} + {shift}: {ours:?}, libtorch {libtorchs:?}"
            );
            for (ours, libtorchs) in ours.into_iter().zip(libtorchs) {
                assert!(ours < (4.0 * libtorchs).max(2e-6), "{ours} where libtorch has {libtorchs}");
            }
        }
    }
}

/// SiLU's tails: no overflow on the way, and what is no number stays none.
#[test]
fn values_far_from_zero_and_none() {
    let weight = Tensor::ones([1], (Kind::Float, Device::Cpu));
    let values = [0f32, -1.0, 1.0, 0.0, 0.0, -20.0, 20.0, 0.0, 0.5];
    let x = Tensor::from_slice(&values).view([1, 1, 3, 3]);
    for size in [1f32, 30.0, 300.0, 1e6] {
        let (w, b) = (&weight * f64::from(size), Tensor::zeros([1], (Kind::Float, Device::Cpu)));
        let found = group_norm_silu(&x, 1, &w, &b, 1e-5).unwrap();
        let wanted = plain(&x.to_kind(Kind::Double), 1, &w.to_kind(Kind::Double), &b.to_kind(Kind::Double), 1e-5);
        assert!(off(&found, &wanted) < 1e-6, "{size}");
        let below = (found.minimum(&b).abs().max().double_value(&[]), wanted.abs().min());
        assert!(below.0 < 0.3, "SiLU is never below -0.28: {below:?}");
    }
    let with_nan =
        Tensor::cat(&[x.flatten(0, -1).narrow(0, 0, 8), Tensor::from_slice(&[f32::NAN])], 0).view([1, 1, 3, 3]);
    let y = group_norm_silu(&with_nan, 1, &weight, &Tensor::zeros([1], (Kind::Float, Device::Cpu)), 1e-5).unwrap();
    assert!(bool::try_from(y.isnan().all()).unwrap());
}

/// An image's numbers are the same to the bit whatever else is in the batch, however many threads there are, and however
/// it lies in memory.
#[test]
fn an_image_depends_on_itself_alone() {
    let (x, weight, bias) = (randn(1, &[7, 40, 12, 20]), randn(2, &[40]), randn(3, &[40]));
    let of = |x: &Tensor| group_norm_silu(x, 8, &weight, &bias, 1e-5).unwrap();
    let whole = of(&x);
    for i in 0..7 {
        assert_eq!(of(&x.narrow(0, i, 1)), whole.narrow(0, i, 1), "{i}");
    }
    let shifted = Tensor::cat(&[&randn(3, &[1]), &x.flatten(0, -1)], 0).narrow(0, 1, x.numel() as i64).view_as(&x);
    assert_eq!(of(&shifted), whole, "at an odd address");
    assert_eq!(of(&x.transpose(2, 3).contiguous().transpose(2, 3)), whole);
    let threads = tch::get_num_threads();
    tch::set_num_threads(if threads == 1 { 3 } else { 1 });
    let again = of(&x);
    tch::set_num_threads(threads);
    assert_eq!(again, whole);
}

/// What the fast way does not do, libtorch does: other types, gradients at weight and bias; and what is wrong is an error.
#[test]
fn everything_else_is_libtorchs() {
    let (x, weight, bias) = (randn(1, &[2, 8, 5, 5]), randn(2, &[8]), randn(3, &[8]));
    let [wide_x, wide_weight, wide_bias] = [&x, &weight, &bias].map(|t| t.to_kind(Kind::Double));
    assert_eq!(
        group_norm_silu(&wide_x, 4, &wide_weight, &wide_bias, 1e-6).unwrap(),
        plain(&wide_x, 4, &wide_weight, &wide_bias, 1e-6)
    );
    let trained = weight.copy().set_requires_grad(true);
    let y = group_norm_silu(&x, 4, &trained, &bias, 1e-6).unwrap();
    assert!(vjp(&[&y], &[&trained], &[&x]).unwrap()[0].is_some());
    assert!(group_norm_silu(&x, 3, &weight, &bias, 1e-6).is_err());
    assert!(group_norm_silu(&x, 4, &randn(2, &[9]), &bias, 1e-6).is_err());
}
