//! Text to tokens and back against transformers 5.23, on the golden tokenizers where they are.

use std::path::Path;

use rlhf_policy::chat::{ChatTemplate, Ending, Message, RenderOptions, messages};
use rlhf_policy::tokenizer::{Ends, Spelling, Tokenizer};
use serde_json::{Value, json};

use crate::expected::golden;

fn expected(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("tokenizer/expected.json")).expect("expected.json");
    serde_json::from_str(&text).expect("JSON")
}

/// Byte ranges as ranges of characters.
fn in_chars(text: &str, spans: &[std::ops::Range<usize>]) -> Value {
    let place = |at: usize| text.char_indices().take_while(|(i, _)| *i < at).count();
    spans.iter().map(|span| json!([place(span.start), place(span.end)])).collect()
}

#[test]
fn texts_have_the_tokens_of_transformers() {
    let Some(folder) = golden(".") else { return };
    let plain = Tokenizer::load(folder.join("tokenizer")).expect("loads");
    let starting = Tokenizer::load(folder.join("tokenizer_bos")).expect("loads");
    let expected = expected(&folder);
    let texts = expected["texts"].as_array().expect("a list");
    assert!(texts.len() > 10);
    for case in texts {
        let text = case["text"].as_str().expect("a text");
        let found = plain.encode_with(text, Spelling::Token, Ends::Added);
        assert_eq!(json!(found.ids), case["ids"], "{text:?}");
        assert_eq!(in_chars(text, &found.spans), case["offsets"], "{text:?}");
        assert_eq!(json!(plain.encode_special(text)), case["ids_no_special"], "{text:?}");
        assert_eq!(json!(starting.encode_special(text)), case["ids_no_special"], "{text:?}");
        assert_eq!(json!(starting.ids(text, Spelling::Token, Ends::Added)), case["ids_bos"], "{text:?}");
        assert_eq!(json!(plain.decode_special(&found.ids)), case["decoded"], "{text:?}");
        assert_eq!(json!(plain.decode(&found.ids)), case["decoded_skip_special"], "{text:?}");
        // As text, nothing is special and nothing is lost.
        let bare = plain.encode(text);
        assert_eq!(plain.decode(&bare), text);
        let spells = text.contains("<|");
        assert_eq!(bare == found.ids, !spells, "{text:?}");
        assert_eq!(starting.start(), Some(1));
        let mut stream = plain.decode_stream();
        let streamed: String = bare.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(streamed + &stream.finish(), text);
    }
    assert_eq!(json!(plain.vocab_size()), expected["vocab_size"]);
    for (token, id) in expected["specials"].as_object().expect("an object") {
        assert_eq!(json!(plain.id(token)), *id, "{token}");
    }
    assert!(plain.fits(384).is_ok());
    let found = plain.fits(383).unwrap_err().to_string();
    assert_eq!(
        found,
        "config.json: vocab_size: expected at least 384, the tokens of the tokenizer, found 383"
    );
}

#[test]
fn chats_have_the_tokens_of_transformers() {
    let Some(folder) = golden(".") else { return };
    let expected = expected(&folder);
    let chats = expected["chats"].as_array().expect("a list");
    assert!(chats.len() > 3);
    for name in ["tokenizer", "tokenizer_bos"] {
        let tokenizer = Tokenizer::load(folder.join(name)).expect("loads");
        let template = ChatTemplate::load(folder.join(name)).expect("loads");
        assert_eq!(json!(template.source()), expected["chat_template"]);
        for case in chats {
            let prompt = case["add_generation_prompt"] == true;
            let options = if prompt { RenderOptions::prompt() } else { RenderOptions::conversation() };
            let messages = messages(&case["messages"]).expect("messages");
            assert_eq!(json!(template.render(&messages, &options).expect("renders")), case["text"]);
            for spelling in [Spelling::Text, Spelling::Token] {
                let options = RenderOptions { spelling, ..options.clone() };
                let ids = template.encode(&tokenizer, &messages, &options).expect("encodes");
                assert_eq!(json!(ids), case["ids"]);
            }
        }
    }
}

/// Values by `apply_chat_template` of transformers 5.23 on the golden tokenizer, with and without
/// `sanitize_control_tokens`.
#[test]
fn what_users_spell_is_text_unless_asked_for() {
    let Some(folder) = golden(".") else { return };
    let tokenizer = Tokenizer::load(folder.join("tokenizer")).expect("loads");
    let template = ChatTemplate::load(folder.join("tokenizer")).expect("loads");
    let talk = [Message::new("user", "a<|im_end|>b <|eos|>"), Message::new("assistant", "<|im_end|>\n")];
    let ids = |spelling| {
        let options = RenderOptions { spelling, ending: Ending::GenerationPrompt, ..RenderOptions::prompt() };
        template.encode(&tokenizer, &talk, &options).expect("encodes")
    };
    let text = [
        3, 89, 87, 276, 203, 69, 32, 96, 359, 67, 73, 271, 96, 34, 70, 225, 32, 96, 73, 83, 87, 96, 34, 4,
        203, 3, 301, 87, 360, 300, 88, 203, 32, 96, 359, 67, 73, 271, 96, 34, 203, 4, 203, 3, 301, 87, 360,
        300, 88, 203,
    ];
    let token = [
        3, 89, 87, 276, 203, 69, 4, 70, 225, 2, 4, 203, 3, 301, 87, 360, 300, 88, 203, 4, 203, 4, 203, 3,
        301, 87, 360, 300, 88, 203,
    ];
    assert_eq!(ids(Spelling::Text), text);
    assert_eq!(ids(Spelling::Token), token);
}

/// `return_assistant_tokens_mask` of transformers 5.23 on the golden tokenizer.
#[test]
fn masks_are_those_of_transformers() {
    let Some(folder) = golden(".") else { return };
    let tokenizer = Tokenizer::load(folder.join("tokenizer")).expect("loads");
    let source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}\
                  {% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}\
                  {{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}";
    let template = ChatTemplate::parse(source, &Default::default()).expect("compiles");
    let talk = [
        Message::new("user", "Can you help?"),
        Message::new("assistant", "Yes, of course."),
        Message::new("user", "Two plus two?"),
        Message::new("assistant", "naïve 東"),
    ];
    let masked = template.encode_masked(&tokenizer, &talk, &RenderOptions::conversation()).expect("encodes");
    let ids = [
        3, 89, 87, 276, 203, 39, 300, 382, 225, 262, 80, 84, 35, 4, 203, 3, 301, 87, 360, 300, 88, 203, 61,
        282, 16, 312, 270, 311, 287, 18, 4, 203, 3, 89, 87, 276, 203, 56, 91, 83, 288, 316, 87, 348, 35, 4,
        203, 3, 301, 87, 360, 300, 88, 203, 82, 352, 112, 334, 225, 167, 256, 114, 4, 203,
    ];
    assert_eq!(masked.ids, ids);
    let assistant: Vec<usize> = (0..ids.len()).filter(|i| masked.assistant[*i]).collect();
    let expected: Vec<usize> = (22..31).chain(54..63).collect();
    assert_eq!(assistant, expected);
    // With a spelling in the user's words the mask lies where it lay, so much later.
    let mut longer = talk.clone();
    longer[0] = Message::new("user", "<|eos|><|im_start|>Can you help?");
    let shifted =
        template.encode_masked(&tokenizer, &longer, &RenderOptions::conversation()).expect("encodes");
    let by = shifted.ids.len() - ids.len();
    assert!(by > 2);
    let assistant: Vec<usize> = (0..shifted.ids.len()).filter(|i| shifted.assistant[*i]).collect();
    assert_eq!(assistant, expected.iter().map(|i| i + by).collect::<Vec<_>>());
}
