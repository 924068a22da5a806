//! cubecl-llvm without LLVM, for machines where its prebuilt LLVM cannot be fetched.
//!
//! CubeCL's CUDA runtime links two compilers and runs one: CUDA C++ through NVRTC where its feature `cpp` is on, and
//! PTX through LLVM otherwise. Here the first is chosen; this crate holds just those types of the second that the
//! runtime names, and its compiler refuses whatever it is given.

use core::ffi::c_char;
use core::fmt;

use cubecl_environment::backtrace::BackTrace;
use cubecl_ir::nvidia::SmArch;
use cubecl_runtime::compiler::{CompilationError, Compiler};
use cubecl_runtime::kernel::{BufferIOAttr, KernelDefinition};

use nvptx::ptx_version::PtxVersion;

/// What the LLVM compiler would emit code for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// PTX.
    #[default]
    Nvptx,
}

/// A compiler that refuses.
#[derive(Debug, Clone, Default)]
pub struct PlironCompiler {
    /// What it would emit code for.
    pub target: LlvmTarget,
}

/// What the runtime tells the compiler; none of it is read.
#[derive(Debug, Clone, Default)]
pub struct PlironOptions {
    /// An AMD architecture.
    pub arch: Option<String>,
    /// An NVIDIA architecture.
    pub sm_arch: Option<SmArch>,
    /// The version of PTX.
    pub ptx_version: Option<PtxVersion>,
    /// Whether scalars and metadata are parameters of the kernel.
    pub grid_constants: bool,
}

/// A compiled kernel. None is ever made.
#[derive(Debug, Clone)]
pub struct NvptxModule {
    /// Its PTX, ended by a zero.
    pub ptx: Vec<c_char>,
    /// Its entry point.
    pub entrypoint: String,
    /// Its intermediate text.
    pub ir: String,
    /// Bytes of shared memory a launch.
    pub shared_memory_size: usize,
    /// How each buffer is used.
    pub io: Vec<BufferIOAttr>,
}

/// What the compiler makes of a kernel.
#[derive(Debug, Clone)]
pub enum PlironArtifact {
    /// PTX.
    NvptxCode(NvptxModule),
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NvptxCode(module) = self;
        f.write_str(&module.ir)
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        let reason = "this binary was built without LLVM, by `cargo xtask gpu-build`: its kernels are CUDA C++ for \
                      NVRTC (feature `cuda-cpp` of cubecl)";
        Err(CompilationError::Generic { reason: reason.to_owned(), backtrace: BackTrace::capture() })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

/// What is particular to PTX.
pub mod nvptx {
    /// Versions of PTX.
    pub mod ptx_version {
        use core::fmt;

        /// A version of PTX. None is ever chosen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct PtxVersion(u32);

        impl PtxVersion {
            /// The newest version that a driver loads: none, as nothing is emitted.
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "ptx{}", self.0)
            }
        }
    }
}

/// What the targets share.
pub mod shared {
    /// Features of a device that the LLVM compiler lowers.
    pub mod lowered_features {
        use cubecl_ir::DeviceProperties;

        /// A target whose features are narrowed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum GpuTarget {
            /// PTX.
            Nvptx,
        }

        /// Takes away what the compiler does not lower. It is asked only where LLVM compiles, so never here.
        pub fn restrict_features(_: &mut DeviceProperties, _: GpuTarget) {}
    }
}
