//! What is fuzzed: bytes that a user may have from anywhere, given to the readers of model folders. A target
//! fails by a panic, or by memory or time out of proportion to its input.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rlhf_policy::config::{DecoderConfig, GenerationConfig};
use rlhf_policy::family::Family;
use rlhf_policy::hf::{Checkpoint, INDEX_FILE, MODEL_FILE, TensorFile, deserialize};
use rlhf_policy::tokenizer::Tokenizer;

/// A folder of this process in memory, where the system has such a place.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let folder = base.join(format!("rlhf-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder to work in");
        folder
    })
}

fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, bytes).expect("room for the input");
    path
}

/// A weights file, an index of shards, and every tensor of them.
pub fn safetensors(bytes: &[u8]) {
    let path = put(MODEL_FILE, bytes);
    let _ = deserialize(bytes);
    if let Ok(file) = TensorFile::open(&path) {
        for name in file.names() {
            let shape = file.shape(name).expect("a tensor of this name").to_vec();
            if let Ok(floats) = file.floats(name) {
                assert_eq!(floats.len(), shape.iter().product::<usize>(), "{name}");
            }
        }
        for family in Family::ALL {
            let Ok(mut checkpoint) = Checkpoint::open(folder(), family) else { continue };
            for name in file.names() {
                let inner = family.inner_name(name);
                if let Some(shape) = checkpoint.shape(&inner) {
                    let _ = checkpoint.tensor(&inner, &shape);
                }
            }
            let _ = checkpoint.finish();
        }
    }
    // The same bytes as an index beside a shard.
    fs::remove_file(&path).expect("it was written");
    put(INDEX_FILE, bytes);
    let _ = Checkpoint::open(folder(), Family::Llama);
    fs::remove_file(folder().join(INDEX_FILE)).expect("it was written");
}

/// A `config.json`, and the same text as a `generation_config.json`.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = DecoderConfig::parse(text) {
        let n = config.architecture().n_parameters().expect("checked when it was read");
        assert!(n <= 1 << 40, "{n} parameters");
        let _ = (config.kind(), config.labels(), config.eos_token_ids(), config.pad_token_id());
        let again = config.with("use_cache", true).expect("a key of no meaning here changes nothing");
        assert_eq!(again.architecture(), config.architecture());
    }
    if let Ok(generation) = GenerationConfig::parse(text) {
        let _ = generation.token_ids("eos_token_id");
    }
}

/// A `tokenizer.json` with a `tokenizer_config.json` that names its tokens, or the same bytes as the latter.
pub fn tokenizer(bytes: &[u8]) {
    let path = put("tokenizer.json", bytes);
    let names = br#"{"eos_token":"</s>","pad_token":"<pad>","bos_token":null}"#;
    put("tokenizer_config.json", names);
    if let Ok(tokenizer) = Tokenizer::load(&path) {
        for text in ["", "a", "ab ab", "</s>", "naïve ☕\n\0"] {
            let ids = tokenizer.encode(text);
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()), "{ids:?}");
            let _ = tokenizer.decode(&ids);
        }
        let _ = tokenizer.decode(&[0, 1, 2, u32::MAX]);
    }
    put("tokenizer.json", TOKENIZER);
    put("tokenizer_config.json", bytes);
    let _ = Tokenizer::load(&path);
}

/// A right `tokenizer.json`: the seed of one target and the partner of the other file.
pub const TOKENIZER: &[u8] = include_bytes!("../seeds/tokenizer.json");
