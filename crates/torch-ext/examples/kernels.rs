//! Milliseconds of layers by libtorch's operator and by ours, least of several, in turn:
//! `OMP_NUM_THREADS=1 cargo run --release -p torch-ext --example kernels`

use std::time::Instant;
use tch::{Device, Kind, Tensor};
use torch_ext::{conv2d, linear};

fn main() {
    let _no_graph = tch::no_grad_guard();
    println!("{} instructions, {} threads", torch_ext::version::cpu_capability(), tch::get_num_threads());
    println!("\n| batch, channels, size; kernel / stride | libtorch | here | ratio | back: libtorch | here | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for [batch, inputs, outputs, size, kernel, stride] in [
        [8, 32, 32, 64, 3, 1],
        [8, 64, 64, 64, 3, 1],
        [8, 128, 128, 16, 3, 1],
        [2, 320, 320, 64, 3, 1],
        [2, 320, 320, 32, 3, 1],
        [2, 640, 640, 32, 3, 1],
        [2, 640, 640, 16, 3, 1],
        [1, 512, 512, 64, 3, 1],
        [1, 256, 256, 256, 3, 1],
        [2, 1280, 1280, 8, 3, 1],
        [2, 2560, 1280, 8, 3, 1],
        [2, 1280, 1280, 4, 3, 1],
        [2, 1280, 1280, 8, 3, 2],
    ] {
        let (x, w) = (random(&[batch, inputs, size, size]), random(&[outputs, inputs, kernel, kernel]));
        let padding = kernel / 2;
        let theirs = |x: &Tensor| x.conv2d(&w, None::<&Tensor>, [stride; 2], [padding; 2], [1, 1], 1);
        let ours = |x: &Tensor| conv2d(x, &w, None, stride, padding).expect("shapes that fit");
        row(&format!("{batch}, {inputs} to {outputs}, {size}x{size}; {kernel} / {stride}"), &x, theirs, ours);
    }
    println!("\n| rows, in and out | libtorch | here | ratio | back: libtorch | here | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for [rows, inputs, outputs] in
        [[2048, 320, 320], [2048, 320, 2560], [512, 2560, 640], [128, 1280, 10240], [154, 768, 320], [4096, 64, 64]]
    {
        let (x, w) = (random(&[rows, inputs]), random(&[outputs, inputs]));
        let theirs = |x: &Tensor| x.linear(&w, None::<&Tensor>);
        let ours = |x: &Tensor| linear(x, &w, None).expect("shapes that fit");
        row(&format!("{rows}, {inputs} to {outputs}"), &x, theirs, ours);
    }
}

fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

/// Forward without a graph, and the gradient at the input.
fn row(name: &str, x: &Tensor, theirs: impl Fn(&Tensor) -> Tensor, ours: impl Fn(&Tensor) -> Tensor) {
    let [there, here] = least(&[&|| drop(theirs(x)), &|| drop(ours(x))]);
    let x = x.detach().set_requires_grad(true);
    let (y, z) = tch::with_grad(|| (theirs(&x), ours(&x)));
    let cotangent = y.ones_like();
    let back = |y: &Tensor| drop(torch_ext::vjp_and_keep(&[y], &[&x], &[&cotangent]));
    let [back_there, back_here] = least(&[&|| back(&y), &|| back(&z)]);
    println!(
        "| {name} | {there:.2} | {here:.2} | {:.2} | {back_there:.2} | {back_here:.2} | {:.2} |",
        here / there,
        back_here / back_there
    );
}

/// Least milliseconds of each, over rounds in which each has a turn.
fn least(sides: &[&dyn Fn(); 2]) -> [f64; 2] {
    let mut least = [f64::MAX; 2];
    for _ in 0..9 {
        for (side, least) in sides.iter().zip(&mut least) {
            let start = Instant::now();
            side();
            *least = least.min(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    least
}
