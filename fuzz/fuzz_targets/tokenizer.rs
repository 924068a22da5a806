#![no_main]

// The tokenizers crate panics on some files, and the reader makes an error of it: libFuzzer's own hook would
// end the process at once. A panic that nobody catches still does.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| rlhf_fuzz::tokenizer(bytes)
);
