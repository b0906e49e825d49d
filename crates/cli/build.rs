//! Where the binary looks for libtorch, and for the files that are shipped with it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a build ends there

fn main() {
    println!("cargo:rerun-if-env-changed=COMAT_RELOCATABLE"); // for other machines: nothing of where it was built
    let lib = std::env::var("DEP_TORCH_EXT_LIBTORCH_LIB").expect("torch-ext must be a direct dependency");
    if std::env::var_os("COMAT_RELOCATABLE").is_none() {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let checkout = std::fs::canonicalize(checkout).expect("the crate lies in its workspace");
        println!("cargo:rustc-env=COMAT_CHECKOUT={}", checkout.display());
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../libtorch/torch/lib"); // shipped beside libtorch
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../torch/lib"); // in site-packages: comat/bin beside torch
}
