//! Devices by name, and the thread pool of the CPU ones.

use burn::tensor::Device;

use crate::error::Error;

/// The plain device of a name: `flex`, `ndarray`, `cuda`, `cuda:1`, `wgpu`. Autodiff is turned on
/// where a policy is made, with [`Device::autodiff`].
///
/// # Errors
/// A name that is unknown, or whose feature this binary was built without.
pub fn named(name: &str) -> Result<Device, Error> {
    match name.split_once(':').unwrap_or((name, "0")) {
        #[cfg(feature = "flex")]
        ("flex", _) => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", _) => Ok(ndarray()),
        #[cfg(feature = "cuda")]
        ("cuda", index) => Ok(Device::cuda(index.parse::<usize>().map_err(|_| unknown(name))?)),
        #[cfg(feature = "wgpu")]
        ("wgpu", _) => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        _ => Err(unknown(name)),
    }
}

#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "the deterministic reference device, deprecated upstream, still in Burn 0.22")]
fn ndarray() -> Device {
    Device::ndarray()
}

fn unknown(name: &str) -> Error {
    let built: &[&str] = &[
        #[cfg(feature = "flex")]
        "flex",
        #[cfg(feature = "ndarray")]
        "ndarray",
        #[cfg(feature = "cuda")]
        "cuda[:N]",
        #[cfg(feature = "wgpu")]
        "wgpu",
    ];
    let expected = format!("one that this binary was built with: {}", built.join(", "));
    Error::config("config", "device", expected, name)
}

/// More threads than any machine of today has cores: a slip of the pen.
const MAX_THREADS: usize = 512;

/// Sizes the global thread pool, once a process.
///
/// # Errors
/// More than 512 threads, or a pool of another size that stands already.
pub fn threads(n: usize) -> Result<(), Error> {
    if n > MAX_THREADS {
        let expected = format!("at most {MAX_THREADS}");
        return Err(Error::config("config", "threads", expected, n.to_string()));
    }
    let built = rayon::ThreadPoolBuilder::new().num_threads(n).build_global();
    if built.is_err() && rayon::current_num_threads() != n {
        let found = rayon::current_num_threads().to_string();
        return Err(Error::config("config", "threads", format!("{n}, as asked"), found));
    }
    Ok(())
}
