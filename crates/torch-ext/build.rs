use std::{env, fs, path::PathBuf};

fn main() {
    // torch-sys (links = "tch") tells where libtorch is; include/ lies beside lib/.
    let lib = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys must be a direct dependency"));
    let root = lib.parent().expect("libtorch/lib has a parent");
    let include = root.join("include");
    println!("cargo:rerun-if-changed=cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .define("NDEBUG", None) // as libtorch itself: some of its classes have more members without it
        .warnings(false)
        .include("cpp/gloo-decl")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .debug(false)
        .opt_level(1)
        .file("cpp/all.cpp")
        .compile("torch_ext");
    let kernels = |name: &str, flags: &[&str], files: &[&str]| {
        let mut build = cc::Build::new();
        flags.iter().for_each(|flag| {
            build.flag(flag);
        });
        build.cpp(true).std("c++17").warnings(false).debug(false).opt_level(3).files(files).compile(name);
    };
    kernels("torch_ext_plain", &[], &["cpp/unfolded_kernel.cpp"]);
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        let (convolution, norm) = ("cpp/conv3x3_kernel.cpp", "cpp/group_norm_kernel.cpp");
        kernels("torch_ext_avx2", &["-mavx2", "-mfma"], &[convolution, norm]);
        kernels("torch_ext_avx512", &["-mavx512f", "-mavx512vl", "-mavx2", "-mfma"], &[convolution]);
    }
    println!("cargo:libtorch_lib={}", lib.display()); // for dependants: DEP_TORCH_EXT_LIBTORCH_LIB

    // Cargo puts native search paths that lie under target/PROFILE on the library path of `cargo run` and `cargo test`,
    // for every dependant: a link under OUT_DIR spares each crate of the workspace its own rpath.
    let link = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("torch");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(root, &link).expect("OUT_DIR is writable");
    println!("cargo:rustc-link-search=native={}", link.join("lib").display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display()); // this package's own tests
}
