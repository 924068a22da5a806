use super::*;

const CORPUS: [&str; 6] = [
    "the cat sat on the mat and the hat",
    "a rat sat on that cat; the cat spat",
    "<|endoftext|> is only text here\r\n",
    "aaaaaaaa aaaa aaa ----- ... ---------",
    "naïve café, Ελλάδα, 東京都, 👩‍👩‍👧",
    "the mat, the hat, the rat: at at at",
];

fn trained(vocab_size: usize) -> Tokenizer {
    Tokenizer::train(CORPUS.iter(), vocab_size, &Specials::gpt2()).unwrap()
}

fn json_of(t: &Tokenizer) -> String {
    let dir = tempfile::tempdir().unwrap();
    t.save(dir.path()).unwrap();
    fs::read_to_string(dir.path().join("tokenizer.json")).unwrap()
}

/// Sebastiano Vigna's splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Up to 40 pieces: any Unicode scalar, ASCII, or a troublesome string.
fn text(state: &mut u64) -> String {
    let pieces =
        ["\r\n", "\n\n", "  ", "\t", "👩‍👩‍👧", "🇨🇭", "e\u{301}", "\0", "<|pad|>", "<|endoftext|>", "\u{feff}"];
    let n = next(state) % 41;
    let mut out = String::new();
    for _ in 0..n {
        match next(state) % 4 {
            0 => out.extend(char::from_u32((next(state) % 0x11_0000) as u32)),
            1 => out.push(char::from((next(state) % 128) as u8)),
            2 => out.push_str(pieces[(next(state) % pieces.len() as u64) as usize]),
            _ => out.push_str(CORPUS[(next(state) % 6) as usize]),
        }
    }
    out
}

#[test]
fn every_text_comes_back_byte_for_byte() {
    let t = trained(300);
    let mut state = 7;
    for i in 0..2000 {
        let text = text(&mut state);
        let ids = t.encode(&text);
        assert!(ids.iter().all(|id| *id != t.eos() && *id != t.pad()), "case {i}: a text ended a sequence");
        assert_eq!(t.decode(&ids), text, "case {i}");
    }
}

#[test]
fn special_tokens_come_first_and_are_not_decoded() {
    let t = trained(300);
    assert_eq!((t.eos(), t.pad(), t.bos(), t.start()), (0, 1, None, None));
    assert_eq!(t.token(0).unwrap(), "<|endoftext|>");
    let mut ids = t.encode("the cat");
    ids.extend([t.eos(), t.pad(), t.pad()]);
    assert_eq!(t.decode(&ids), "the cat");
}

#[test]
fn the_first_merge_is_the_most_frequent_pair() {
    // "a"+"t" stands 16 times in the corpus as a neighbour pair, "aa" and "--" 12 times, no other more than 8.
    let t = trained(259);
    assert_eq!(t.vocab_size(), 259);
    assert_eq!(t.encode("at").len(), 1);
    assert_eq!(t.encode("ta").len(), 2);
    assert_eq!(trained(258).encode("at").len(), 2);
}

#[test]
fn a_pair_seen_once_is_not_merged() {
    let size = |text| Tokenizer::train([text].iter(), 300, &Specials::gpt2()).unwrap().vocab_size();
    assert_eq!(size("xyz"), 258);
    // "xy" stands twice; after that merge nothing else does.
    assert_eq!(size("xyzxyw"), 259);
}

#[test]
fn texts_alone_decide_the_vocabulary() {
    let expected = json_of(&trained(400));
    for n_threads in [1, 2, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        for _ in 0..5 {
            assert!(pool.install(|| json_of(&trained(400))) == expected, "{n_threads} threads");
        }
    }
    let reversed = Tokenizer::train(CORPUS.iter().rev(), 400, &Specials::gpt2()).unwrap();
    assert!(json_of(&reversed) == expected, "order of the texts");
}

#[test]
fn what_is_saved_loads_and_saves_alike() {
    let dir = tempfile::tempdir().unwrap();
    trained(300).with_max_length(128).save(dir.path()).unwrap();
    let config = fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
    let expected = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "bos_token": null,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
        "model_max_length": 128,
    });
    assert_eq!(serde_json::from_str::<Value>(&config).unwrap(), expected);
    for path in [dir.path().to_owned(), dir.path().join("tokenizer.json")] {
        let loaded = Tokenizer::load(path).unwrap();
        let again = tempfile::tempdir().unwrap();
        loaded.save(again.path()).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            let read = |dir: &Path| fs::read_to_string(dir.join(name)).unwrap();
            assert_eq!(read(again.path()), read(dir.path()), "{name}");
        }
        assert_eq!(loaded.encode("the cat sat"), trained(300).encode("the cat sat"));
    }
}

#[test]
fn special_tokens_are_found_in_either_file() {
    let dir = tempfile::tempdir().unwrap();
    trained(300).save(dir.path()).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), "{\"chat_template\": \"x\"}").unwrap();
    let map = "{\"eos_token\": {\"content\": \"<|endoftext|>\"}, \"bos_token\": \"<|endoftext|>\"}";
    fs::write(dir.path().join("special_tokens_map.json"), map).unwrap();
    let t = Tokenizer::load(dir.path()).unwrap();
    // No pad token is named, so the end token pads; the post-processor adds no start token.
    assert_eq!((t.eos(), t.pad(), t.bos(), t.start()), (0, 0, Some(0), None));
    t.save(dir.path()).unwrap();
    let config = fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["chat_template"], &config["bos_token"]), (&json!("x"), &json!("<|endoftext|>")));
}

#[test]
fn an_end_token_may_be_known_by_its_number_alone() {
    let dir = tempfile::tempdir().unwrap();
    trained(300).save(dir.path()).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
    let config = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    config("generation_config.json", "{\"eos_token_id\": [1, 0]}");
    assert_eq!(Tokenizer::load(dir.path()).unwrap().eos(), 1);
    config("config.json", "{\"eos_token_id\": 0}");
    assert_eq!(Tokenizer::load(dir.path()).unwrap().eos(), 0);
    config("config.json", "{\"eos_token_id\": 300}");
    let message = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("config.json: eos_token_id: expected the number of a token, found 300"),
        "{message}"
    );
}

#[test]
fn spellings_are_text_or_tokens() {
    let t = trained(300);
    let text = "the <|pad|>cat<|endoftext|";
    assert_eq!(t.encode_special("the <|pad|>cat").iter().filter(|id| **id == t.pad()).count(), 1);
    assert!(!t.encode(text).contains(&t.pad()));
    for spelling in [Spelling::Text, Spelling::Token] {
        let found = t.encode_with(text, spelling, Ends::Bare);
        assert_eq!(found.ids, t.ids(text, spelling, Ends::Bare));
        let spelled: String = found.spans.iter().map(|span| &text[span.clone()]).collect();
        assert_eq!(spelled, text);
        assert_eq!(t.decode_special(&found.ids), text);
    }
    // One spelling is text, the next a token; the place of each is that in the text.
    let text = "é<|pad|>x<|pad|> y";
    let found = t.encode_guarded(text, std::slice::from_ref(&(2..9)));
    assert_eq!(found.ids.iter().filter(|id| **id == t.pad()).count(), 1);
    let at = found.ids.iter().position(|id| *id == t.pad()).unwrap();
    assert_eq!(&text[found.spans[at].clone()], "<|pad|>");
    assert_eq!((found.spans[at].start, found.spans.last().unwrap().end), (10, text.len()));
    assert_eq!(t.decode_special(&found.ids), text);
    assert_eq!(t.encode_guarded(text, &[2..9, 10..17]).ids, t.encode(text));
}

#[test]
fn a_stream_gives_whole_characters() {
    let t = trained(300);
    let mut state = 3;
    for case in 0..300 {
        // Every second case is bytes that are no text.
        let ids: Vec<u32> = match case % 2 {
            0 => t.encode(&text(&mut state)),
            _ => (0..30).map(|_| 2 + (next(&mut state) % 256) as u32).collect(),
        };
        let mut stream = t.decode_stream();
        let mut all = String::new();
        for (i, id) in ids.iter().enumerate() {
            all.push_str(&stream.push(*id));
            let so_far = t.decode(&ids[..=i]);
            assert!(so_far.starts_with(all.trim_end_matches(char::REPLACEMENT_CHARACTER)), "case {case}");
            assert!(so_far.len() - all.len().min(so_far.len()) <= 3 * 3, "case {case}: text is held back");
        }
        all.push_str(&stream.finish());
        assert_eq!(all, t.decode(&ids), "case {case}");
    }
}

#[test]
fn a_post_processor_that_starts_with_bos_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    trained(300).save(dir.path()).unwrap();
    let file = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|pad|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|pad|>": {"id": "<|pad|>", "ids": [1], "tokens": ["<|pad|>"]}},
    });
    fs::write(&file, json.to_string()).unwrap();
    let config = "{\"eos_token\": \"<|endoftext|>\", \"bos_token\": \"<|pad|>\"}";
    fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    let t = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(t.start(), Some(1));
    assert_eq!(t.encode("the"), trained(300).encode("the"));
}

#[test]
fn faults_are_named() {
    let message = |r: Result<Tokenizer, Error>| r.unwrap_err().to_string();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    assert!(message(Tokenizer::load(dir.path())).starts_with(&at("tokenizer.json: reading the tokenizer: ")));

    trained(300).save(dir.path()).unwrap();
    let eos = |text: &str| fs::write(dir.path().join("tokenizer_config.json"), text).unwrap();
    eos("{}");
    let expected = at("tokenizer_config.json: eos_token: expected the text of a token, found none");
    assert_eq!(message(Tokenizer::load(dir.path())), expected);
    eos("{\"eos_token\": \"</s>\"}");
    let expected = at("tokenizer.json: eos_token: expected a token of the vocabulary, found \"</s>\"");
    assert_eq!(message(Tokenizer::load(dir.path())), expected);
    eos("{\"eos_token\": ");
    let expected = at("tokenizer_config.json: expected a JSON object, found EOF");
    assert!(message(Tokenizer::load(dir.path())).starts_with(&expected));

    let file = dir.path().join("tokenizer.json");
    fs::write(&file, "{\"version\": 1}").unwrap();
    let expected = at("tokenizer.json: expected a tokenizer of the tokenizers crate, found ");
    assert!(message(Tokenizer::load(&file)).starts_with(&expected));
    eos("{\"eos_token\": \"a\"}");
    let words = |unk: &str| {
        let model = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": unk});
        fs::write(&file, json!({"version": "1.0", "added_tokens": [], "model": model}).to_string()).unwrap();
        Tokenizer::load(&file)
    };
    assert_eq!(words("a").unwrap().encode("東"), [0]);
    let expected = at("tokenizer.json: model.unk_token: expected a token of the vocabulary, found \"<unk>\"");
    assert_eq!(message(words("<unk>")), expected);
    let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
    let all = json!({"model": {"type": "BPE", "vocab": {}, "merges": []}, "decoder": {"type": "Sequence", "decoders": [strip]}});
    fs::write(&file, all.to_string()).unwrap();
    assert_eq!(
        message(Tokenizer::load(&file)),
        at("tokenizer.json: decoder: Strip.stop: expected 0, found 1")
    );
    let model = json!({"type": "Unigram", "unk_id": null, "vocab": [["a", 0.0]]});
    fs::write(&file, json!({"version": "1.0", "added_tokens": [], "model": model}).to_string()).unwrap();
    let expected = at("tokenizer.json: model.unk_id: expected the number of a token, found null");
    assert_eq!(message(Tokenizer::load(&file)), expected);
}

#[test]
fn impossible_requests_are_refused() {
    let message = |n, s: &Specials| Tokenizer::train(CORPUS.iter(), n, s).unwrap_err().to_string();
    assert_eq!(
        message(257, &Specials::gpt2()),
        "tokenizer: vocab_size: expected at least 258 (256 bytes, 2 special tokens), found 257"
    );
    let same = Specials { eos: "x".into(), pad: "x".into() };
    assert_eq!(
        message(300, &same),
        "tokenizer: pad: expected a text other than the end token's, found \"x\""
    );
    let empty = Specials { eos: String::new(), pad: "x".into() };
    assert!(message(300, &empty).starts_with("tokenizer: specials: expected two texts, found "));
}
