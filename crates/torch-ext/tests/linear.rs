use tch::{Kind, Tensor};
use torch_ext::{Generator, linear, vjp};

fn randn(seed: u64, shape: &[i64]) -> Tensor {
    Generator::seeded(seed).unwrap().randn(shape).unwrap()
}

/// The largest difference over the largest value.
fn off(found: &Tensor, wanted: &Tensor) -> f64 {
    ((found.to_kind(Kind::Double) - wanted).abs().max() / wanted.abs().max()).double_value(&[])
}

/// Output and both gradients against float64: large and tiny products, odd sizes, rows in one dimension and several, inputs
/// and weights that are not contiguous or start at an odd address.
#[test]
fn output_and_gradients_are_those_of_the_product() {
    let odd =
        |x: &Tensor| Tensor::cat(&[&randn(9, &[1]), &x.flatten(0, -1)], 0).narrow(0, 1, x.numel() as i64).view_as(x);
    let turned = |x: &Tensor| x.transpose(0, -1).contiguous().transpose(0, -1);
    let same = |x: &Tensor| x.shallow_clone();
    let gaps = |x: &Tensor| Tensor::stack(&[x, x], -2).select(-2, 1);
    for (seed, (rows, inputs, outputs)) in (0..).zip([
        (vec![2, 77], 768, 320),
        (vec![128], 1280, 640),
        (vec![3, 5, 7], 65, 33),
        (vec![2, 3], 4, 5),
        (vec![1], 1280, 320),
        (vec![4096], 64, 16),
    ]) {
        let w = randn(3 * seed + 1, &[outputs, inputs]) / (inputs as f64).sqrt();
        let bias = randn(3 * seed + 2, &[outputs]);
        let plain = randn(3 * seed, &[&rows[..], &[inputs]].concat());
        let cotangent = randn(3 * seed + 40, &[&rows[..], &[outputs]].concat());
        let forms: [&dyn Fn(&Tensor) -> Tensor; 4] = [&same, &odd, &turned, &gaps];
        for (form, bias) in forms.iter().flat_map(|form| [(form, Some(&bias)), (form, None)]) {
            let [x, w] = [&plain, &w].map(|t| form(t).set_requires_grad(true));
            let exact = [&x, &w].map(|t| t.detach().to_kind(Kind::Double).set_requires_grad(true));
            let wanted = exact[0].linear(&exact[1], bias.map(|b| b.to_kind(Kind::Double)));
            let of_wanted = vjp(&[&wanted], &[&exact[0], &exact[1]], &[&cotangent.to_kind(Kind::Double)]).unwrap();
            let frozen = linear(&x, &w.detach(), bias).unwrap();
            let y = linear(&x, &w, bias).unwrap();
            assert_eq!(frozen.detach(), y.detach());
            let found = vjp(&[&y], &[&x, &w], &[&form(&cotangent)]).unwrap();
            let at_input = vjp(&[&frozen], &[&x], &[&cotangent]).unwrap();
            let errors = [
                off(&y.detach(), &wanted.detach()),
                off(found[0].as_ref().unwrap(), of_wanted[0].as_ref().unwrap()),
                off(found[1].as_ref().unwrap(), of_wanted[1].as_ref().unwrap()),
                off(at_input[0].as_ref().unwrap(), of_wanted[0].as_ref().unwrap()),
            ];
            println!("{rows:?} x {inputs} -> {outputs}: {errors:?}");
            assert!(errors.iter().all(|error| *error < 3e-6), "{errors:?}");
            assert!(!tch::no_grad(|| linear(&x, &w, bias)).unwrap().requires_grad());
        }
    }
}

/// One row for all, which lies once in memory.
#[test]
fn rows_that_are_one() {
    let (row, w) = (randn(1, &[1, 256]), randn(2, &[128, 256]).set_requires_grad(true));
    let (x, dy) = (row.expand([64, 256], false).set_requires_grad(true), randn(3, &[1, 128]).expand([64, 128], false));
    let y = linear(&x, &w, None).unwrap();
    let wanted = x.detach().contiguous().to_kind(Kind::Double).linear(&w.to_kind(Kind::Double), None::<Tensor>);
    assert!(off(&y.detach(), &wanted.detach()) < 3e-6);
    let found = vjp(&[&y], &[&x, &w], &[&dy]).unwrap();
    let dy = dy.contiguous().to_kind(Kind::Double);
    let at_input = dy.matmul(&w.detach().to_kind(Kind::Double));
    let at_weights = dy.tr().matmul(&x.detach().contiguous().to_kind(Kind::Double));
    assert!(off(found[0].as_ref().unwrap(), &at_input) < 3e-6);
    assert!(off(found[1].as_ref().unwrap(), &at_weights) < 3e-6);
}

/// Other types, a trained bias and empty batches are libtorch's; what is wrong is an error.
#[test]
fn everything_else_is_libtorchs() {
    let (x, w) = (randn(1, &[64, 128]), randn(2, &[96, 128]));
    for kind in [Kind::Double, Kind::BFloat16] {
        let (x, w) = (x.to_kind(kind), w.to_kind(kind));
        assert_eq!(linear(&x, &w, None).unwrap(), x.linear(&w, None::<Tensor>));
    }
    let bias = randn(3, &[96]).set_requires_grad(true);
    let y = linear(&x, &w, Some(&bias)).unwrap();
    assert_eq!(
        vjp(&[&y], &[&bias], &[&y.ones_like()]).unwrap()[0].as_ref().unwrap(),
        &Tensor::from(64f32).expand([96], false)
    );
    assert_eq!(linear(&x.narrow(0, 0, 0), &w, None).unwrap().size(), [0, 96]);
    assert!(linear(&x, &randn(2, &[96, 127]), None).is_err());
    assert!(linear(&x, &w, Some(&randn(3, &[95]))).is_err());
    assert!(linear(&x, &w.to_kind(Kind::Double), None).is_err());
}
