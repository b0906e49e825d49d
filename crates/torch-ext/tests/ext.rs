use tch::{Device, Kind, Tensor};
use torch_ext::{Generator, first_line, lists, memory, vjp};

const CPU: (Kind, Device) = (Kind::Double, Device::Cpu);

fn close(a: &Option<Tensor>, b: &Tensor) -> bool {
    a.as_ref().unwrap().allclose(b, 1e-12, 1e-12, false)
}

/// y = x W with cotangent g: dx = g W^T, dW = x^T g.
#[test]
fn vjp_of_matmul() {
    let x = Tensor::randn([3, 4], CPU).set_requires_grad(true);
    let w = Tensor::randn([4, 2], CPU).set_requires_grad(true);
    let g = Tensor::randn([3, 2], CPU);
    let grads = vjp(&[&x.matmul(&w)], &[&x, &w], &[&g]).unwrap();
    assert!(close(&grads[0], &g.matmul(&w.tr())));
    assert!(close(&grads[1], &x.tr().matmul(&g)));
    assert!(!x.grad().defined());
}

/// Cutting a graph in two and handing the cotangent over gives the gradient of the whole.
#[test]
fn vjp_in_two_phases() {
    let x = Tensor::randn([4], CPU).set_requires_grad(true);
    let f = |x: &Tensor| x * x;
    let g = |h: &Tensor| h.sin();
    let whole = vjp(&[&g(&f(&x))], &[&x], &[&Tensor::ones([4], CPU)]).unwrap();
    let h = f(&x).detach().set_requires_grad(true);
    let dh = vjp(&[&g(&h)], &[&h], &[&Tensor::ones([4], CPU)]).unwrap().remove(0).unwrap();
    let phases = vjp(&[&f(&x)], &[&x], &[&dh]).unwrap();
    assert!(close(&phases[0], whole[0].as_ref().unwrap()));
}

#[test]
fn unused_inputs_are_none_and_errors_are_values() {
    let x = Tensor::ones([2], CPU).set_requires_grad(true);
    let z = Tensor::ones([2], CPU).set_requires_grad(true);
    let g = Tensor::ones([2], CPU);
    assert!(vjp(&[&(&x * 2.0)], &[&z], &[&g]).unwrap()[0].is_none());
    let wrong = vjp(&[&(&x * 2.0)], &[&x], &[&Tensor::ones([3], CPU)]).unwrap_err();
    assert!(first_line(&wrong).contains("shape"), "{wrong}");
    assert!(vjp(&[&g], &[&x], &[&g]).is_err());
}

/// `torch.randn(3, generator=torch.Generator().manual_seed(7))` in Python gives the same numbers.
#[test]
fn generators_draw_what_python_draws() {
    let mut generator = Generator::seeded(7).unwrap();
    let v = Vec::<f32>::try_from(generator.randn(&[3]).unwrap()).unwrap();
    assert!((v[0] - -0.1468).abs() < 1e-3 && (v[1] - 0.7861).abs() < 1e-3, "{v:?}");
    let mut again = Generator::seeded(7).unwrap();
    assert_eq!(v, Vec::<f32>::try_from(again.randn(&[3]).unwrap()).unwrap());
    assert!((0..100).all(|_| (3..5).contains(&again.below(3, 5).unwrap())));
}

#[test]
fn some_memory_is_free() {
    let free = memory::free(Device::Cpu).unwrap();
    assert!(free > 1 << 20 && free < 1 << 50, "{free}");
    assert_eq!(memory::free(Device::Cuda(99)), None);
}

#[test]
fn peak_memory_sees_a_tensor() {
    memory::reset_peak(Device::Cpu);
    let before = memory::peak(Device::Cpu).unwrap();
    let big = Tensor::ones([16 << 20], (Kind::Float, Device::Cpu));
    assert!(memory::peak(Device::Cpu).unwrap() >= before + (50 << 20));
    drop(big);

    // what was freed does not count, wherever it lies
    let blocks = || (0..200).map(|_| Tensor::ones([1 << 18], (Kind::Float, Device::Cpu))).collect::<Vec<_>>();
    drop(blocks()); // from now on the allocator keeps blocks of that size to itself
    let mut held = blocks();
    let last = held.pop();
    memory::reset_peak(Device::Cpu);
    let during = memory::peak(Device::Cpu).unwrap();
    drop(held);
    memory::reset_peak(Device::Cpu);
    let after = memory::peak(Device::Cpu).unwrap();
    assert!(after + (150 << 20) < during, "{after} {during}");
    drop(last);
}

#[test]
fn sums_of_lists() {
    let all = |value: f64| [[2, 3], [4, 1]].map(|shape| Tensor::full(shape, value, CPU));
    let (sums, addends) = (all(1.0), all(0.5));
    lists::add_to_all(&sums.each_ref(), &addends.each_ref()).unwrap();
    assert_eq!(sums, all(1.5));
    assert!(lists::add_to_all(&[&sums[0]], &[]).is_err());
    assert!(lists::add_to_all(&[&sums[0]], &[&sums[1]]).is_err());
    lists::add_to_all(&[], &[]).unwrap();
}

#[test]
fn what_is_not_finite_is_found() {
    let factor = Tensor::full([1], 0.25, (Kind::Float, Device::Cpu));
    let tensors = [Kind::Float, Kind::Double].map(|kind| Tensor::full([3], 2.0, (kind, Device::Cpu)));
    for tensor in &tensors {
        assert_eq!(lists::unscale(&[tensor], &factor).unwrap().double_value(&[0]), 0.0);
        assert_eq!(tensor.double_value(&[1]), 0.5);
    }
    for wrong in [f32::NAN, f32::INFINITY] {
        let tensor = Tensor::from_slice(&[1.0f32, wrong]);
        assert_ne!(lists::unscale(&[&tensors[0], &tensor], &factor).unwrap().double_value(&[0]), 0.0);
    }
}

/// The formula is held in the crate `comat`; here, what it does not take.
#[test]
fn adamw_takes_what_is_alike() {
    let rule = lists::AdamW { learning_rate: 0.1, betas: [0.9, 0.999], weight_decay: 0.0, epsilon: 1e-8 };
    let zeros = |shape: &[i64]| Tensor::zeros(shape, CPU);
    let step = |mut values: Tensor, gradient: Tensor| {
        let (mut mean, mut square) = (values.zeros_like(), values.zeros_like());
        rule.step(&mut values, &gradient, [&mut mean, &mut square], 1).map(|()| values)
    };
    let gradient = Tensor::from_slice(&[1f64, -1., 1., 2., 2., -2.]).view([2, 3]);
    let expected = step(zeros(&[2, 3]), gradient.shallow_clone()).unwrap();
    assert!((expected.double_value(&[0, 1]) - 0.1).abs() < 1e-6, "a first step goes against the gradient's sign");
    let across = gradient.tr().contiguous().tr();
    assert_eq!(step(zeros(&[2, 3]), across).unwrap(), expected, "a gradient may lie in memory in another order");
    assert!(step(zeros(&[3, 2]).tr(), gradient.shallow_clone()).is_err());
    assert!(step(zeros(&[6]), gradient.shallow_clone()).is_err());
    assert!(step(zeros(&[2, 3]), gradient.to_kind(Kind::Float)).is_err());
}
