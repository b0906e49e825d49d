#![allow(clippy::unwrap_used, clippy::expect_used)] // a build ends there

use std::{env, path::PathBuf};

fn main() {
    // torch-ext tells where libtorch is
    let lib = PathBuf::from(env::var("DEP_TORCH_EXT_LIBTORCH_LIB").expect("torch-ext must be a direct dependency"));
    let include = lib.parent().expect("libtorch/lib has a parent").join("include");
    println!("cargo:rerun-if-changed=cpp");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (library, witness) = (out.join("libstand_in.so"), out.join("libwitness.so"));
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .define("NDEBUG", None) // as libtorch itself
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .debug(false)
        .opt_level(1)
        .pic(true);
    let mut link = build.get_compiler().to_command();
    link.arg("-shared").arg("cpp/stand_in.cpp").arg("-o").arg(&library);
    link.arg("-L").arg(&lib).args(["-ltorch_cpu", "-lc10"]).arg(format!("-Wl,-rpath,{}", lib.display()));
    let status = link.status().expect("a C++ compiler");
    assert!(status.success(), "{link:?}: {status}");
    println!("cargo:rustc-env=STAND_IN={}", library.display());
    let mut link = cc::Build::new().pic(true).debug(false).get_compiler().to_command();
    let status =
        link.arg("-shared").arg("cpp/witness.c").arg("-o").arg(&witness).arg("-ldl").status().expect("a C compiler");
    assert!(status.success(), "{link:?}: {status}");
    println!("cargo:rustc-env=WITNESS={}", witness.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display()); // this package's own tests
}
