fn main() {
    let lib = std::env::var("DEP_TORCH_EXT_LIBTORCH_LIB").expect("torch-ext must be a direct dependency");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}"); // works where it was built
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../libtorch/torch/lib"); // and when shipped beside libtorch
}
