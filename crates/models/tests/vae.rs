//! The autoencoder against diffusers.

use crate::common::{assert_close, device, fixture, io};
use models::{autoencoder::Autoencoder, vae::AutoencoderKl};
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

fn parity(name: &str) -> BTreeSet<String> {
    let vae = AutoencoderKl::open(&fixture(name), Kind::Float, device()).unwrap();
    let io = io(name);
    let cases: BTreeSet<String> = io.keys().filter_map(|k| k.split('.').next()).map(str::to_owned).collect();
    for case in &cases {
        let get = |key: &str| &io[&format!("{case}.{key}")];
        if case.starts_with("decode") {
            let image = vae.decode(&(get("latents") * vae.config().scaling_factor)).unwrap();
            assert_close(&format!("{name} {case}"), &image, get("image"), 1e-5);
        } else {
            let (mean, logvar) = vae.encode(get("image")).unwrap();
            assert_close(&format!("{name} {case} mean"), &mean, get("mean"), 1e-5);
            assert_close(&format!("{name} {case} logvar"), &logvar, get("logvar"), 1e-5);
        }
    }
    cases
}

#[test]
fn decode_and_encode() {
    assert_eq!(parity("vae").len(), 6);
}

/// SD1.5's own file names the projections of its attention as diffusers once did.
#[test]
fn old_names_of_the_attention() {
    assert_eq!(parity("vae_old").len(), 1);
}

#[test]
fn wrong_inputs_are_errors() {
    let vae = AutoencoderKl::open(&fixture("vae"), Kind::Float, device()).unwrap();
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, device()));
    assert!(vae.decode(&zeros(&[1, 3, 8, 8])).is_err());
    assert!(vae.encode(&zeros(&[1, 3, 2, 8])).is_err());
}
