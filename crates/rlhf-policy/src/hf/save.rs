//! Writing a model folder: one file or shards, as f32, bf16 or f16.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};

use super::{INDEX_FILE, MODEL_FILE, header, pretty, write, write_whole};
use crate::config::{DecoderConfig, ModelKind};
use crate::error::Error;
use crate::family::Family;
use crate::weights::{HostTensor, transpose};

/// Numbers that are converted at a time.
const PIECE: usize = 1 << 16;

/// How a model's numbers lie in its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileType {
    /// 32-bit floats: exactly what the model has in memory.
    #[default]
    F32,
    /// 16 bits, with the range of f32 and 8 bits of significand.
    Bf16,
    /// 16 bits, up to 65504, with 11 bits of significand.
    F16,
}

impl FileType {
    /// The type that `f32`, `bf16` or `f16` names, in those words or in torch's.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "f32" | "float32" => Some(Self::F32),
            "bf16" | "bfloat16" => Some(Self::Bf16),
            "f16" | "float16" => Some(Self::F16),
            _ => None,
        }
    }

    /// Its name in `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    fn width(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Appends `x`; false where it is finite and its 16 bits are not.
    fn push(self, x: f32, out: &mut Vec<u8>) -> bool {
        match self {
            Self::F32 => {
                out.extend(x.to_le_bytes());
                true
            }
            Self::Bf16 => {
                let y = half::bf16::from_f32(x);
                out.extend(y.to_le_bytes());
                y.is_finite() || !x.is_finite()
            }
            Self::F16 => {
                let y = half::f16::from_f32(x);
                out.extend(y.to_le_bytes());
                y.is_finite() || !x.is_finite()
            }
        }
    }
}

/// How a folder is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saving {
    /// The type of the weights.
    pub dtype: FileType,
    /// Most bytes of tensors in one file; a larger model is cut into shards with an index, a larger
    /// tensor is a shard of its own.
    pub max_shard_size: u64,
}

impl Default for Saving {
    /// f32, shards of 5 GB: `max_shard_size` of `transformers` 4's `save_pretrained`.
    fn default() -> Self {
        Self { dtype: FileType::F32, max_shard_size: 5_000_000_000 }
    }
}

/// [`save_as`] with the default [`Saving`].
///
/// # Errors
/// As there.
pub fn save(
    dir: &Path,
    config: &DecoderConfig,
    kind: ModelKind,
    parameters: &BTreeMap<String, HostTensor>,
) -> Result<(), Error> {
    save_as(dir, config, kind, parameters, &Saving::default())
}

/// Writes `config.json`, `generation_config.json` (language models) and the weights into `dir`, which
/// is made. Each file appears whole or not at all; weights of an earlier save that the new ones
/// replace are removed.
///
/// # Errors
/// A file that cannot be written, a number beyond the range of the type.
pub fn save_as(
    dir: &Path,
    config: &DecoderConfig,
    kind: ModelKind,
    parameters: &BTreeMap<String, HostTensor>,
    how: &Saving,
) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|e| Error::file(dir, format!("making the folder: {e}")))?;
    write(&dir.join("config.json"), &pretty(&config.to_json(kind, how.dtype)))?;
    if kind == ModelKind::Causal {
        write(&dir.join("generation_config.json"), &pretty(&config.generation_json()))?;
    }
    let tensors = on_disk(config.family(), parameters, how.dtype)?;
    let shards = cut(tensors, how.max_shard_size);
    let mut written = BTreeSet::new();
    if let [all] = shards.as_slice() {
        written.insert(MODEL_FILE.to_owned());
        write_tensors(&dir.join(MODEL_FILE), all)?;
    } else {
        let name = |i: usize| format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        for (i, shard) in shards.iter().enumerate() {
            written.insert(name(i));
            write_tensors(&dir.join(name(i)), shard)?;
        }
        write(&dir.join(INDEX_FILE), &pretty(&index(&shards, &name)))?;
        written.insert(INDEX_FILE.to_owned());
    }
    remove_stale(dir, &written)
}

/// Which shard holds which tensor.
fn index(shards: &[Vec<OnDisk<'_>>], name: &dyn Fn(usize) -> String) -> Value {
    let all = || shards.iter().enumerate().flat_map(|(i, s)| s.iter().map(move |t| (i, t)));
    let map: BTreeMap<&str, String> = all().map(|(i, t)| (t.name.as_str(), name(i))).collect();
    let bytes: usize = all().map(|(_, t)| t.n_bytes()).sum();
    let parameters: usize = all().map(|(_, t)| t.tensor.data.len()).sum();
    json!({"metadata": {"total_parameters": parameters, "total_size": bytes}, "weight_map": map})
}

/// Removes the weight files of earlier saves: beside the new ones they would be read in their place
/// or be taken for them.
fn remove_stale(dir: &Path, written: &BTreeSet<String>) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(|e| Error::file(dir, format!("listing: {e}")))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::file(dir, format!("listing: {e}")))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name == MODEL_FILE
            || name == INDEX_FILE
            || (name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors"));
        if ours && !written.contains(&name) {
            fs::remove_file(entry.path())
                .map_err(|e| Error::file(entry.path(), format!("removing an earlier save: {e}")))?;
        }
    }
    Ok(())
}

/// One parameter as the file has it.
#[derive(Debug)]
struct OnDisk<'a> {
    name: String,
    tensor: &'a HostTensor,
    /// Whether it lies `[in, out]` in the file and `[out, in]` here.
    turned: bool,
    dtype: FileType,
}

impl OnDisk<'_> {
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.tensor.shape.clone();
        if self.turned {
            shape.reverse();
        }
        shape
    }

    fn n_bytes(&self) -> usize {
        self.tensor.data.len() * self.dtype.width()
    }

    fn numbers(&self) -> Cow<'_, [f32]> {
        match (self.turned, self.tensor.shape.as_slice()) {
            (true, [rows, cols]) => transpose(&self.tensor.data, *rows, *cols).into(),
            _ => self.tensor.data.as_slice().into(),
        }
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(PIECE * self.dtype.width());
        for piece in self.numbers().chunks(PIECE) {
            bytes.clear();
            for x in piece {
                if !self.dtype.push(*x, &mut bytes) {
                    return Err(Error::Tensor {
                        name: self.name.clone(),
                        expected: format!("numbers within the range of {}", self.dtype.torch_name()),
                        found: x.to_string(),
                    });
                }
            }
            out.write_all(&bytes).map_err(|e| Error::file("safetensors", format!("writing: {e}")))?;
        }
        Ok(())
    }
}

/// Parameters under the names and in the layout of the family's checkpoints, in name order.
fn on_disk(
    family: Family,
    parameters: &BTreeMap<String, HostTensor>,
    dtype: FileType,
) -> Result<Vec<OnDisk<'_>>, Error> {
    let mut all = Vec::with_capacity(parameters.len());
    for (name, tensor) in parameters {
        let turned = tensor.shape.len() == 2 && family.is_turned(name);
        all.push(filled(OnDisk { name: family.disk_name(name), tensor, turned, dtype })?);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// The tensor, where its numbers fill its shape.
fn filled(it: OnDisk<'_>) -> Result<OnDisk<'_>, Error> {
    let n = it.tensor.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    if n == Some(it.tensor.data.len()) {
        return Ok(it);
    }
    Err(Error::Tensor {
        name: it.name,
        expected: format!("{:?}", it.tensor.shape),
        found: format!("{} numbers", it.tensor.data.len()),
    })
}

/// Runs of tensors of at most `most` bytes each, at least one.
fn cut(tensors: Vec<OnDisk<'_>>, most: u64) -> Vec<Vec<OnDisk<'_>>> {
    let mut shards = vec![Vec::new()];
    let mut size = 0u64;
    for tensor in tensors {
        let bytes = tensor.n_bytes() as u64;
        let last = shards.len() - 1;
        if !shards[last].is_empty() && size.saturating_add(bytes) > most {
            shards.push(vec![tensor]);
            size = bytes;
        } else {
            shards[last].push(tensor);
            size = size.saturating_add(bytes);
        }
    }
    shards
}

fn write_tensors(path: &Path, tensors: &[OnDisk<'_>]) -> Result<(), Error> {
    write_whole(path, &mut |out| stream(tensors, out)).map_err(|e| match e {
        Error::File { what, .. } => Error::file(path, what),
        other => other,
    })
}

/// The whole of a safetensors file.
fn stream(tensors: &[OnDisk<'_>], out: &mut dyn Write) -> Result<(), Error> {
    let failed = |e: &dyn std::fmt::Display| Error::file("safetensors", format!("writing: {e}"));
    let mut at = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let end = at + tensor.n_bytes();
        let info = TensorInfo { dtype: tensor.dtype.dtype(), shape: tensor.shape(), data_offsets: (at, end) };
        infos.push((tensor.name.clone(), info));
        at = end;
    }
    let about = Some(HashMap::from([("format".to_owned(), "pt".to_owned())]));
    let metadata = Metadata::new(about, infos).map_err(|e| failed(&e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| failed(&e))?;
    // The data begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    out.write_all(&length).and_then(|()| out.write_all(&header)).map_err(|e| failed(&e))?;
    tensors.iter().try_for_each(|tensor| tensor.write(out))
}

/// Parameters as safetensors bytes, f32 under the names they have, in name order.
///
/// # Errors
/// A tensor whose data do not fill its shape.
pub fn serialize(parameters: &BTreeMap<String, HostTensor>) -> Result<Vec<u8>, Error> {
    let plain = |(name, tensor)| filled(OnDisk { name, tensor, turned: false, dtype: FileType::F32 });
    let all = parameters.iter().map(|(n, t)| plain((n.clone(), t))).collect::<Result<Vec<_>, _>>()?;
    let mut bytes = Vec::new();
    stream(&all, &mut bytes)?;
    Ok(bytes)
}

/// The inverse of [`serialize`].
///
/// # Errors
/// Bytes that are no safetensors file of f32 tensors.
pub fn deserialize(bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>, Error> {
    let mut out = BTreeMap::new();
    for (name, entry) in header::parse(Path::new("safetensors"), bytes)? {
        if entry.dtype != "F32" {
            return Err(Error::Tensor { name, expected: "F32".into(), found: entry.dtype });
        }
        let data = bytes[entry.bytes].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        out.insert(name, HostTensor { shape: entry.shape, data });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_survive_the_file_to_the_bit() {
        let tensor = HostTensor { shape: vec![2, 1], data: vec![f32::MIN_POSITIVE, -0.0] };
        let all = BTreeMap::from([("a.weight".to_owned(), tensor)]);
        let back = deserialize(&serialize(&all).expect("fits")).expect("reads");
        assert_eq!(back["a.weight"].data.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [1 << 23, 1 << 31]);
    }

    #[test]
    fn shards_are_as_full_as_they_may_be() {
        let tensor = HostTensor { shape: vec![4], data: vec![0.0; 4] };
        let all: BTreeMap<String, HostTensor> =
            ["a", "b", "c", "d", "e"].map(|n| (n.to_owned(), tensor.clone())).into();
        let sizes = |most: u64, dtype: FileType| -> Vec<usize> {
            let tensors = on_disk(Family::Llama, &all, dtype).expect("filled");
            cut(tensors, most).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(80, FileType::F32), [5]);
        assert_eq!(sizes(79, FileType::F32), [4, 1]);
        assert_eq!(sizes(32, FileType::F32), [2, 2, 1]);
        assert_eq!(sizes(32, FileType::F16), [4, 1]);
        // A tensor that is larger than a shard may be is a shard of its own.
        assert_eq!(sizes(1, FileType::F32), [1; 5]);
    }

    #[test]
    fn a_number_that_the_type_cannot_hold_is_named() {
        let tensor = HostTensor { shape: vec![2], data: vec![1.0, 1e5] };
        let all = BTreeMap::from([("norm.weight".to_owned(), tensor)]);
        let bytes = |dtype| {
            let mut out = Vec::new();
            stream(&on_disk(Family::Llama, &all, dtype).expect("filled"), &mut out).map(|()| out)
        };
        assert!(bytes(FileType::Bf16).is_ok());
        let found = bytes(FileType::F16).expect_err("refused").to_string();
        assert_eq!(found, "tensor norm.weight: expected numbers within the range of float16, found 100000");
    }
}
