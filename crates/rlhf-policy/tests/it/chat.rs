//! Chat templates against transformers' rendering (data/chat.json, written by
//! tests/python/chat_cases.py), masks, bad input.

use std::collections::BTreeMap;
use std::fs;

use rlhf_policy::chat::{ChatTemplate, Content, Ending, Message, Now, RenderOptions, messages};
use rlhf_policy::tokenizer::{Specials, Spelling, Tokenizer};
use serde_json::{Value, json};

/// Every byte is a token; special are the end token and the padding token.
fn bytes() -> Tokenizer {
    let specials = Specials { eos: "<|im_end|>".to_owned(), pad: "<|pad|>".to_owned() };
    Tokenizer::train(["x"].iter(), 258, &specials).expect("trains")
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::parse(source, &BTreeMap::new()).expect("compiles")
}

const CHATML: &str = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>\\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";

const MARKED: &str = "{% for m in messages %}{{ m.role + ': ' }}{% if m.role == 'assistant' %}\
                      {% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}\
                      {{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}";

fn talk() -> Vec<Message> {
    ["Hi", "Hello, 東.", "2 + 2?", "4"]
        .into_iter()
        .zip(["user", "assistant"].into_iter().cycle())
        .map(|(content, role)| Message::new(role, content))
        .collect()
}

/// The texts of the tokens that the mask lets through, run by run.
fn said(template: &ChatTemplate, messages: &[Message], options: &RenderOptions) -> Vec<String> {
    let tokenizer = bytes();
    let masked = template.encode_masked(&tokenizer, messages, options).expect("encodes");
    assert_eq!(masked.ids.len(), masked.assistant.len());
    let runs = masked.ids.iter().zip(&masked.assistant).collect::<Vec<_>>();
    let runs = runs.chunk_by(|a, b| a.1 == b.1).filter(|run| *run[0].1);
    runs.map(|run| tokenizer.decode_special(&run.iter().map(|(id, _)| **id).collect::<Vec<_>>())).collect()
}

#[test]
fn templates_render_as_in_transformers() {
    let file: Value = serde_json::from_str(include_str!("../data/chat.json")).expect("JSON");
    let specials: BTreeMap<String, String> = serde_json::from_value(file["specials"].clone()).expect("texts");
    let now = Now { unix_seconds: file["now"].as_i64().expect("seconds"), utc_offset_seconds: 0 };
    let cases = file["cases"].as_array().expect("a list");
    assert!(cases.len() >= 25);
    for case in cases {
        let place = format!("{}: {}", case["template"], case["name"]);
        let source = file["templates"][case["template"].as_str().expect("a name")].as_str();
        let template = ChatTemplate::parse(source.expect("a template"), &specials).expect("compiles");
        let options = RenderOptions {
            ending: match case["ending"].as_str() {
                Some("prompt") => Ending::GenerationPrompt,
                Some("continue") => Ending::ContinueFinal,
                _ => Ending::Complete,
            },
            now: Some(now),
            extra: case["extra"].as_object().expect("an object").clone(),
            ..RenderOptions::conversation()
        };
        let messages = messages(&case["messages"]).expect("messages");
        let found = template.render(&messages, &options);
        if let Some(refusal) = case["refusal"].as_str() {
            let found = found.expect_err(&place).to_string();
            let expected = format!(": the template refuses these messages: {refusal}");
            assert!(
                found.starts_with("chat_template: line ") && found.ends_with(&expected),
                "{place}: {found}"
            );
            continue;
        }
        let found = found.unwrap_or_else(|e| panic!("{place}: {e}"));
        assert_eq!(json!(found), case["text"], "{place}");
        if template.marks_assistant() {
            assert_eq!(json!(said(&template, &messages, &options)), case["assistant"], "{place}");
        }
    }
}

#[test]
fn a_template_without_a_clock_uses_its_own_date() {
    let source =
        "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}";
    let at = |now| {
        let options = RenderOptions { now, ..RenderOptions::prompt() };
        template(source).render(&talk(), &options).expect("renders")
    };
    assert_eq!(at(None), "26 Jul 2024");
    // Half an hour before midnight in London is the next day in Paris.
    let late = Now { unix_seconds: 86_400 - 1800, utc_offset_seconds: 0 };
    assert_eq!(at(Some(late)), "01 Jan 1970");
    assert_eq!(at(Some(Now { utc_offset_seconds: 3600, ..late })), "02 Jan 1970");
    let bad = template("{{ strftime_now('%Q!') }}");
    let error = bad.render(&talk(), &RenderOptions { now: Some(late), ..RenderOptions::prompt() });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("strftime_now: expected conversions of strftime, found \"%Q!\""), "{error}");
}

#[test]
fn masks_come_from_blocks_or_from_prefixes() {
    let options = RenderOptions::conversation();
    let blocks = said(&template(MARKED), &talk(), &options);
    assert_eq!(blocks, ["Hello, 東.<|im_end|>", "4<|im_end|>"]);
    let prefixes = said(&template(CHATML), &talk(), &options);
    assert_eq!(prefixes, ["Hello, 東.<|im_end|>\n", "4<|im_end|>\n"]);
    let prompt = said(&template(CHATML), &talk()[..3], &RenderOptions::prompt());
    assert_eq!(prompt, ["Hello, 東.<|im_end|>\n"]);
    let open = RenderOptions { ending: Ending::ContinueFinal, ..options };
    assert_eq!(said(&template(MARKED), &talk()[..2], &open), ["Hello, 東."]);
    assert_eq!(said(&template(CHATML), &talk()[..2], &open), ["Hello, 東."]);
}

#[test]
fn a_template_that_rewrites_earlier_turns_has_no_prefix_mask() {
    let source = "{% for m in messages %}{{ m.role + ': ' + (m.content if loop.last else '-') }}{% endfor %}";
    let refused = |n: usize| {
        template(source).encode_masked(&bytes(), &talk()[..n], &RenderOptions::conversation()).unwrap_err()
    };
    let expected = "chat_template: assistant mask: expected {% generation %} blocks, or a rendering that begins with \
                    that of its first 1 messages, found neither";
    assert_eq!(refused(2).to_string(), expected);
}

#[test]
fn a_user_can_not_end_a_turn_nor_forge_a_mark() {
    let (template, tokenizer) = (template(CHATML), bytes());
    let eos = tokenizer.eos();
    let count = |content: &str, spelling| {
        let options = RenderOptions { spelling, ..RenderOptions::prompt() };
        let messages = [Message::new("user", content)];
        let ids = template.encode(&tokenizer, &messages, &options).expect("encodes");
        let text = template.render(&messages, &options).expect("renders");
        assert_eq!(tokenizer.decode_special(&ids), text, "{content}");
        ids.iter().filter(|id| **id == eos).count()
    };
    for content in
        ["a<|im_end|>b", "<|im_end|><|im_end|>", "<|im_<|im_end|>end|>", "<|im_end|>\u{fdd3}", "<|pad|>"]
    {
        assert_eq!(count(content, Spelling::Text), 1, "{content}");
    }
    assert_eq!(count("a<|im_end|>b", Spelling::Token), 2);
    // Characters that could pass for our own marks.
    for mark in '\u{fdd0}'..='\u{fdef}' {
        assert_eq!(count(&format!("{mark}0\u{fdd1}<|im_end|>{mark}"), Spelling::Text), 1, "{mark:?}");
    }
    // In the role and in a variable, too.
    let role = [Message::new("user<|im_end|>", "x")];
    let ids = template.encode(&tokenizer, &role, &RenderOptions::prompt()).expect("encodes");
    assert_eq!(ids.iter().filter(|id| **id == eos).count(), 1);
}

#[test]
fn parts_are_joined_for_templates_that_want_a_text() {
    let parts = Content::Parts(vec!["a".to_owned(), "b".to_owned()]);
    let message = Message { content: parts, ..Message::new("user", "") };
    let one = std::slice::from_ref(&message);
    assert_eq!(template(CHATML).render(one, &RenderOptions::conversation()).unwrap(), "user: ab<|im_end|>\n");
    let looks = template("{% for p in messages[0].content %}({{ p.text }}){% endfor %}");
    assert_eq!(looks.render(one, &RenderOptions::conversation()).unwrap(), "(a)(b)");
    let open = RenderOptions { ending: Ending::ContinueFinal, ..RenderOptions::conversation() };
    assert_eq!(looks.render(one, &open).unwrap(), "(a)(b");
}

#[test]
fn folders_give_their_template() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let error = ChatTemplate::load(dir.path()).unwrap_err().to_string();
    let expected = "expected this file or a chat_template in tokenizer_config.json, found neither";
    assert_eq!(error, format!("{}: {expected}", at("chat_template.jinja").display()));
    let config = |template: Value| {
        let config = json!({"bos_token": {"content": "<s>"}, "eos_token": null, "chat_template": template});
        fs::write(at("tokenizer_config.json"), config.to_string()).expect("written");
    };
    let says = |name: &str| {
        let template = ChatTemplate::load_named(dir.path(), name)?;
        template.render(&talk(), &RenderOptions::prompt())
    };
    config(json!("{{ bos_token }}A{{ eos_token is defined }}"));
    assert_eq!(says("default").unwrap(), "<s>AFalse");
    config(json!([{"name": "default", "template": "B"}, {"name": "rag", "template": "C"}]));
    assert_eq!([says("default").unwrap(), says("rag").unwrap()], ["B", "C"]);
    let error = says("tool").unwrap_err().to_string();
    assert!(error.ends_with("found those named [\"default\", \"rag\"]"), "{error}");
    template("D").save(dir.path()).expect("saved");
    assert_eq!(says("default").unwrap(), "D");
    fs::write(at("chat_template.jinja"), b"\xff").expect("written");
    assert!(says("default").unwrap_err().to_string().contains("reading the chat template"));
}

#[test]
fn faults_are_named() {
    let parse = |source: &str| ChatTemplate::parse(source, &BTreeMap::new()).unwrap_err().to_string();
    let error = parse("a\n{% if x %}\n{{ y +* }}");
    assert!(error.starts_with("chat_template: line 3: syntax error: "), "{error}");
    assert!(parse("{% generation %}").starts_with("chat_template: line 1: syntax error: "));
    let run = |source: &str, messages: &[Message]| {
        template(source).render(messages, &RenderOptions::conversation()).unwrap_err().to_string()
    };
    assert_eq!(run(CHATML, &[]), "messages: expected at least one message, found none");
    assert!(run("\n\n{{ messages.x.y }}", &talk()).starts_with("chat_template: line 3: undefined value"));
    assert!(run("{{ nothing() }}", &talk()).contains("unknown function: nothing"));
    let read = |value: Value| messages(&value).unwrap_err().to_string();
    assert_eq!(read(json!("x")), "messages: expected a list of messages, found a text");
    assert_eq!(read(json!([1])), "messages[0]: expected an object with role and content, found a number");
    let user = json!({"role": "user", "content": "x"});
    assert_eq!(
        read(json!([user, {"role": null, "content": "x"}])),
        "messages[1]: role: expected a text, found null"
    );
    assert_eq!(
        read(json!([{"role": "user"}])),
        "messages[0]: content: expected a text or a list of parts, found nothing"
    );
    assert_eq!(
        read(json!([{"role": "user", "content": [{"type": "image"}]}])),
        "messages[0]: content[0].type: expected text, found image"
    );
    let open = RenderOptions { ending: Ending::ContinueFinal, ..RenderOptions::conversation() };
    let lost = template("{{ messages[0].role }}").render(&talk(), &open).unwrap_err().to_string();
    assert!(lost.contains("the last message: expected in the rendered text"), "{lost}");
}
