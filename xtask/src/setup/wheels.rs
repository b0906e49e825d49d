//! The wheels that libtorch 2.11.0 for x86_64 Linux is in, as torch's own metadata names them, with their SHA-256 on PyPI.

use super::stamp::Kind;

/// One wheel and what is wanted from it.
pub struct Wheel {
    pub name: &'static str,
    pub version: &'static str,
    pub sha256: &'static str,
    /// Files for the CPU alone, as shell patterns in which `*` also matches `/`; none if only CUDA needs the wheel.
    cpu: &'static [&'static str],
    /// Files with CUDA.
    cuda: &'static [&'static str],
}

impl Wheel {
    /// The patterns of the files to unpack.
    pub fn keep(&self, kind: Kind) -> &'static [&'static str] {
        match kind {
            Kind::Cpu => self.cpu,
            Kind::Cuda => self.cuda,
        }
    }
}

/// The wheels of one kind of set-up.
pub fn of(kind: Kind) -> Vec<&'static Wheel> {
    WHEELS.iter().filter(|wheel| !wheel.keep(kind).is_empty()).collect()
}

/// NVIDIA's headers and static libraries are not needed.
const NVIDIA: &[&str] = &["nvidia/*/lib/*.so*"];

const fn nvidia(name: &'static str, version: &'static str, sha256: &'static str) -> Wheel {
    Wheel { name, version, sha256, cpu: &[], cuda: NVIDIA }
}

/// The torch wheel is one for CUDA: even its libtorch_cpu.so wants libcudart and libcupti.
const WHEELS: &[Wheel] = &[
    Wheel {
        name: "torch",
        version: "2.11.0",
        sha256: "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a", // cp311; libtorch is the same in all
        cpu: &["torch/include/*", "torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp*"],
        cuda: &[
            "torch/include/*",
            "torch/lib/libtorch_c*.so", // cpu, cuda, cuda_linalg
            "torch/lib/libtorch_nvshmem.so",
            "torch/lib/libc10*.so",
            "torch/lib/libcaffe2_nvrtc.so",
            "torch/lib/libgomp*",
        ],
    },
    Wheel {
        name: "nvidia-cuda-runtime",
        version: "13.0.96",
        sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        cpu: &["nvidia/*/lib/libcudart.so*"],
        cuda: NVIDIA,
    },
    Wheel {
        name: "nvidia-cuda-cupti",
        version: "13.0.85",
        sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        cpu: &["nvidia/*/lib/libcupti.so*"],
        cuda: NVIDIA,
    },
    nvidia("nvidia-cublas", "13.1.0.3", "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171"),
    nvidia("nvidia-cuda-nvrtc", "13.0.88", "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575"),
    nvidia("nvidia-cudnn-cu13", "9.19.0.56", "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf"),
    nvidia("nvidia-cufft", "12.0.0.61", "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3"),
    nvidia("nvidia-cufile", "1.15.1.6", "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44"),
    nvidia("nvidia-curand", "10.4.0.35", "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc"),
    nvidia("nvidia-cusolver", "12.0.4.66", "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112"),
    nvidia("nvidia-cusparse", "12.6.3.3", "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b"),
    nvidia("nvidia-cusparselt-cu13", "0.8.0", "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd"),
    nvidia("nvidia-nccl-cu13", "2.28.9", "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42"),
    nvidia("nvidia-nvjitlink", "13.0.88", "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b"),
    nvidia("nvidia-nvshmem-cu13", "3.4.5", "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80"),
    nvidia("nvidia-nvtx", "13.0.85", "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned() {
        for wheel in WHEELS {
            let hex = wheel.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            assert!(hex && wheel.sha256.len() == 64, "{}", wheel.name);
            assert!(!wheel.cuda.is_empty(), "{}", wheel.name);
        }
    }

    #[test]
    fn torch_is_the_version_we_say() {
        assert_eq!((WHEELS[0].name, WHEELS[0].version), ("torch", super::super::VERSION));
        assert_eq!((of(Kind::Cpu).len(), of(Kind::Cuda).len()), (3, WHEELS.len()));
    }
}
