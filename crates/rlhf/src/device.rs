//! Devices by name, and the thread pool of the CPU ones.

use burn::tensor::Device;

use crate::error::Error;

/// The plain device of a name: `flex`, `ndarray`, `cuda`, `cuda:1`, `wgpu`. Autodiff is turned on
/// where a policy is made, with [`Device::autodiff`].
///
/// # Errors
/// A name that is unknown, or whose feature this binary was built without; a CUDA device that the driver does not
/// show, or whose first kernel does not give what it should.
pub fn named(name: &str) -> Result<Device, Error> {
    match name.split_once(':').unwrap_or((name, "0")) {
        #[cfg(feature = "flex")]
        ("flex", _) => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", _) => Ok(ndarray()),
        #[cfg(feature = "cuda")]
        ("cuda", index) => cuda(index.parse().map_err(|_| unknown(name))?),
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

/// Asked for before it is used: without a driver CubeCL panics at the first operation.
#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device, Error> {
    let count = Device::enumerate(burn::tensor::DeviceType::Cuda).len();
    if index < count {
        let device = Device::cuda(index);
        probe(&device, &format!("cuda:{index}"))?;
        return Ok(device);
    }
    let (expected, found) = match count {
        0 => ("an NVIDIA driver (libcuda) and a GPU that it shows".to_owned(), "none".to_owned()),
        _ => (format!("one of the driver's {count} GPUs, counted from 0"), format!("cuda:{index}")),
    };
    Err(Error::config("config", "device", expected, found))
}

/// One kernel whose result is known. Where no kernel can be compiled (no NVRTC, no headers), a thread of CubeCL's
/// panics and reads still answer, with whatever lay in memory: nothing after that could be trusted.
#[cfg(feature = "cuda")]
fn probe(device: &Device, name: &str) -> Result<(), Error> {
    use std::panic::{self, AssertUnwindSafe};
    use std::sync::{Arc, Mutex, PoisonError};

    let first = Arc::new(Mutex::new(None));
    let heard = Arc::clone(&first);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let said = info.payload_as_str().unwrap_or("a panic without words");
        heard.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| said.to_owned());
    }));
    let found = panic::catch_unwind(AssertUnwindSafe(|| {
        let x = burn::tensor::Tensor::<1>::from_data([1.0_f32, 2.0], device);
        let data = (x.clone() * 3.0 + x).try_into_data().map_err(|error| error.to_string())?;
        data.convert::<f32>().try_into_vec::<f32>().map_err(|error| format!("{error:?}"))
    }));
    panic::set_hook(before);
    let right = |values: &[f32]| values.iter().map(|value| value.to_bits()).eq([4.0, 8.0].map(f32::to_bits));
    let said = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    let found = match (said, found) {
        (None, Ok(Ok(values))) if right(&values) => return Ok(()),
        (Some(said), _) => said.split_whitespace().collect::<Vec<_>>().join(" "),
        (None, Ok(Ok(values))) => format!("{values:?}"),
        (None, Ok(Err(error))) => error,
        (None, Err(_)) => "a panic".to_owned(),
    };
    Err(Error::Failed(format!("device {name}: expected [4.0, 8.0] of the first kernel, found: {found}")))
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
