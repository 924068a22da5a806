//! Broken tokenizers and templates: an error or a result, never a panic, and in bounded time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rand::{Rng, RngExt};
use rlhf_core::rng::stream;
use rlhf_policy::chat::{ChatTemplate, Message, RenderOptions};
use rlhf_policy::tokenizer::{Ends, Specials, Spelling, Tokenizer};
use serde_json::{Value, json};

const TEXT: &str = "the cat <|endoftext|> naïve 東京 🙂\r\n\t  x";

const TEMPLATE: &str = "{%- set ns = namespace(n=0) -%}{% for m in messages %}{% if m.role == 'assistant' %}\
                        {% generation %}{{ m.content | trim }}{% endgeneration %}{% else %}{{ bos_token ~ m['content'] }}\
                        {% endif %}{% set ns.n = ns.n + loop.index0 % 2 %}{% endfor %}{% macro f(x, y=1) %}{{ x * y }}\
                        {% endmacro %}{{ f(messages | length, y=2) }}{{ messages[1:][0].content.split('l')[-1] }}\
                        {{ messages | tojson(indent=1) }}{{ strftime_now('%Y') if strftime_now is defined }}\
                        {% if ns.n > 5 %}{{ raise_exception('no') }}{% endif %}{# done #}";

/// Pieces of templates and of JSON.
const PIECES: [&str; 28] = [
    "{%",
    "%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "-%}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% for a in range(99999) %}",
    "{% raw %}",
    "| tojson",
    "(",
    "[",
    "'",
    "\"",
    "\\",
    "null",
    "-1",
    "1e999",
    "{}",
    "[[[[",
    "]",
    ",",
    "\u{fdd2}",
    "%",
    "messages",
    "99999999999999999999",
];

/// A few random changes of the bytes.
fn mutated(bytes: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..=out.len());
        let end = (at + rng.random_range(0..40)).min(out.len());
        match rng.random_range(0..6) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..end)),
            2 => {
                let copy = out[at..end].to_vec();
                out.splice(at..at, copy);
            }
            3 => out.insert(at, rng.random()),
            4 if at < out.len() => out[at] ^= 1 << rng.random_range(0..8),
            _ => {
                let piece = PIECES[rng.random_range(0..PIECES.len())];
                out.splice(at..at, piece.bytes());
            }
        }
    }
    out
}

/// A value of the document replaced by one of another kind, or left out.
fn transplanted(document: &Value, rng: &mut impl Rng) -> Value {
    let mut out = document.clone();
    transplant(&mut out, rng);
    out
}

fn transplant(here: &mut Value, rng: &mut impl Rng) {
    let down = rng.random_range(0..5) > 0;
    match here {
        Value::Object(map) if down && !map.is_empty() => {
            let n = rng.random_range(0..map.len());
            let key = map.keys().nth(n).expect("within").clone();
            if rng.random_range(0..8) == 0 {
                map.remove(&key);
            } else {
                transplant(&mut map[&key], rng);
            }
        }
        Value::Array(items) if down && !items.is_empty() => {
            let n = rng.random_range(0..items.len());
            transplant(&mut items[n], rng);
        }
        _ => *here = other(rng.random_range(0..16)),
    }
}

fn other(n: usize) -> Value {
    let all = json!([
        null, -1, 0, 3, u64::MAX, 1e300, "", "a", "▁", "<unk>", [], {}, true, "Sequence",
        {"Regex": "(a*)*b"}, {"String": ""},
    ]);
    all[n].clone()
}

/// Loads what lies in the folder and uses it, if it loads.
fn used(dir: &Path) -> bool {
    let Ok(tokenizer) = Tokenizer::load(dir) else { return false };
    for spelling in [Spelling::Text, Spelling::Token] {
        for ends in [Ends::Bare, Ends::Added] {
            for text in [TEXT, "", " ", "\u{0}\u{fffd}e\u{301}", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
                let encoding = tokenizer.encode_with(text, spelling, ends);
                tokenizer.decode(&encoding.ids);
                tokenizer.decode_special(&encoding.ids);
                let mut stream = tokenizer.decode_stream();
                encoding.ids.iter().for_each(|id| drop(stream.push(*id)));
                stream.finish();
            }
        }
    }
    (0..40).chain([u32::MAX]).for_each(|id| drop(tokenizer.decode(&[id, 1, id])));
    let source = "{{ messages[0].content }}{{ eos_token }}";
    if let Ok(template) = ChatTemplate::load(dir).or_else(|_| ChatTemplate::parse(source, &BTreeMap::new())) {
        let talk = [Message::new("user", TEXT), Message::new("assistant", "Hello")];
        let _ = template.encode_masked(&tokenizer, &talk, &RenderOptions::prompt());
    }
    true
}

fn bpe() -> Value {
    let dir = tempfile::tempdir().expect("a folder");
    let texts = ["the cat sat on the mat", "the cat"];
    Tokenizer::train(texts.iter(), 262, &Specials::gpt2()).expect("trains").save(dir.path()).expect("saved");
    let text = fs::read_to_string(dir.path().join("tokenizer.json")).expect("read");
    let mut bpe: Value = serde_json::from_str(&text).expect("JSON");
    bpe["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|pad|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|pad|>": {"id": "<|pad|>", "ids": [1], "tokens": ["<|pad|>"]}},
    });
    bpe
}

fn added() -> Value {
    json!([{"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": true,
            "normalized": true, "special": true}])
}

/// The other kinds of model, each with the parts that usually go with it.
fn others() -> [Value; 3] {
    let unigram = json!({"version": "1.0", "added_tokens": added(),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Replace",
            "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
        "model": {"type": "Unigram", "unk_id": 1, "byte_fallback": false, "vocab": [["<|endoftext|>", 0.0],
            ["<unk>", 0.0], ["▁", -2.0], ["▁the", -1.0], ["a", -3.0], ["c", -3.0], ["t", -3.5]]}});
    let wordpiece = json!({"version": "1.0", "added_tokens": added(),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"<|endoftext|>": 0, "[UNK]": 1, "the": 2, "c": 3, "##at": 4}}});
    let fallback = json!({"version": "1.0", "added_tokens": added(),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": {"<|endoftext|>": 0, "<unk>": 1, "<0xF0>": 2, "<0x9F>": 3, "<0x99>": 4, "<0x82>": 5, "▁": 6, "t": 7,
                "h": 8, "▁t": 9, "e": 10, "a": 11}, "merges": [["▁", "t"]]}});
    [unigram, wordpiece, fallback]
}

const CONFIG: &str = r#"{"eos_token": {"content": "<|endoftext|>"}, "bos_token": null, "pad_token": "<|endoftext|>",
    "chat_template": [{"name": "default", "template": "{{ messages[0].content }}"}], "model_max_length": 128}"#;

#[test]
fn every_kind_of_model_encodes_and_streams() {
    let specials = BTreeMap::from([("eos_token".to_owned(), "<|endoftext|>".to_owned())]);
    for document in [bpe()].into_iter().chain(others()) {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("tokenizer.json"), document.to_string()).expect("written");
        fs::write(dir.path().join("tokenizer_config.json"), CONFIG).expect("written");
        assert!(used(dir.path()), "{}", document["model"]["type"]);
        let tokenizer = Tokenizer::load(dir.path()).expect("loads");
        assert_eq!(tokenizer.eos(), 0);
        let ids = tokenizer.encode("the cat 🙂🙂 the<|endoftext|>");
        assert!(!ids.contains(&0), "{}", document["model"]["type"]);
        // Nor is it with an end that is, or with what could pass for our own anchors.
        let odd = tokenizer.encode_with("\u{fdd0}0\u{fdd1}<|endoftext|>", Spelling::Text, Ends::Bare);
        assert!(!odd.ids.contains(&0), "{}", document["model"]["type"]);
        let template =
            ChatTemplate::parse("{{ messages[0].content }}{{ eos_token }}", &specials).expect("compiles");
        let talk = [Message::new("user", "the<|endoftext|>cat")];
        let masked = template.encode(&tokenizer, &talk, &RenderOptions::conversation()).expect("encodes");
        let n_ends = masked.iter().filter(|id| **id == 0).count();
        assert_eq!((n_ends, masked.last()), (1, Some(&0)), "{}", document["model"]["type"]);
        let mut stream = tokenizer.decode_stream();
        let streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(streamed + &stream.finish(), tokenizer.decode(&ids), "{}", document["model"]["type"]);
    }
}

#[test]
fn broken_tokenizers_are_refused_or_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("tokenizer_config.json"), CONFIG).expect("written");
    let mut rng = stream(11, "broken tokenizers", 0, 0);
    let mut loaded = 0;
    for document in [bpe()].into_iter().chain(others()) {
        let text = document.to_string().into_bytes();
        for i in 0..150 {
            let broken = match i % 3 {
                0 => mutated(&text, &mut rng),
                _ => transplanted(&document, &mut rng).to_string().into_bytes(),
            };
            fs::write(at("tokenizer.json"), &broken).expect("written");
            loaded += usize::from(used(dir.path()));
        }
    }
    // Some changes do not matter, most do.
    assert!((50..550).contains(&loaded), "{loaded} of 600 loaded");
}

#[test]
fn broken_configs_are_refused_or_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("tokenizer.json"), bpe().to_string()).expect("written");
    let mut rng = stream(12, "broken configs", 0, 0);
    let config = r#"{"eos_token_id": [0, 1], "vocab_size": 262}"#.as_bytes();
    for i in 0..300 {
        fs::write(at("tokenizer_config.json"), mutated(CONFIG.as_bytes(), &mut rng)).expect("written");
        fs::write(at("config.json"), mutated(config, &mut rng)).expect("written");
        if i % 2 == 0 {
            fs::write(at("tokenizer_config.json"), "{}").expect("written");
        }
        used(dir.path());
    }
}

#[test]
fn broken_templates_are_refused_or_work() {
    let talk =
        [Message::new("user", "Hi {{ x }}"), Message::new("assistant", " Hello "), Message::new("user", "?")];
    let tokenizer = Tokenizer::train(["x"].iter(), 258, &Specials::gpt2()).expect("trains");
    let mut rng = stream(13, "broken templates", 0, 0);
    let (mut parsed, mut rendered) = (0, 0);
    for _ in 0..400 {
        let source = String::from_utf8_lossy(&mutated(TEMPLATE.as_bytes(), &mut rng)).into_owned();
        let Ok(template) = ChatTemplate::parse(&source, &BTreeMap::new()) else { continue };
        parsed += 1;
        rendered += usize::from(template.encode_masked(&tokenizer, &talk, &RenderOptions::prompt()).is_ok());
    }
    assert!(parsed > 20 && rendered > 10 && parsed < 400, "{parsed} parsed, {rendered} rendered");
}

#[test]
fn an_endless_template_ends() {
    let talk = [Message::new("user", "Hi")];
    let error = |source: &str| {
        let template = ChatTemplate::parse(source, &BTreeMap::new()).expect("compiles");
        template.render(&talk, &RenderOptions::prompt()).unwrap_err().to_string()
    };
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert!(error(loops).contains("engine ran out of fuel"), "{}", error(loops));
    let calls = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(error(calls).contains("recursion limit"), "{}", error(calls));
    let long = "{% for a in range(9999) %}{{ 'x' * 1000000 }}{% endfor %}";
    assert!(error(long).contains("expected at most 67108864 bytes"), "{}", error(long));
    let deep =
        "{% set ns = namespace(x=1) %}{% for a in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
    assert!(error(deep).contains("expected lists nested 100 deep"), "{}", error(deep));
}
