//! The verifiers against real solutions, equations and descriptions, where they lie beside the project.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use rlhf_reward::verify::{Extract, Tolerance, extract};
use serde_json::Value;

use super::descriptions::{self, Checker, Slots, Split, Venue};
use super::word_problems::{execute, gives, problems};
use super::*;
use crate::data::OnBadRecord;

fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.is_file() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}

fn json_lines(path: &Path) -> Vec<Value> {
    let reader = BufReader::new(GzDecoder::new(BufReader::new(File::open(path).expect("there"))));
    reader.lines().map(|line| serde_json::from_str(&line.expect("text")).expect("JSON")).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key}"))
}

#[test]
fn every_answer_of_gsm8k_is_a_marked_whole_number() {
    for (name, n) in [("math/gsm8k_train.jsonl.gz", 7473), ("math/gsm8k_test.jsonl.gz", 1319)] {
        let Some(path) = shared(name) else { return };
        let rows = json_lines(&path);
        assert_eq!(rows.len(), n);
        for row in &rows {
            let answer = text(row, "answer");
            let (_, key) = answer.rsplit_once("#### ").expect("a mark");
            let key: f64 = key.replace(',', "").parse().expect("a number");
            for how in [Extract::Marked, Extract::Any, Extract::Last] {
                let found = extract(answer, how).map(|n| n.value().to_bits());
                assert_eq!(found, Some(key.to_bits()), "{how:?} of {answer}");
            }
        }
    }
}

#[test]
fn model_samples_are_marked_as_their_makers_marked_them() {
    let Some(path) = shared("math/gsm8k_example_model_solutions.jsonl.gz") else { return };
    let rows = json_lines(&path);
    assert_eq!(rows.len(), 1319);
    let mut n_right = BTreeMap::new();
    for row in &rows {
        let key = extract(text(row, "ground_truth"), Extract::Marked).expect("a marked answer");
        for model in ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"] {
            let solution = text(&row[model], "solution");
            let found = extract(solution, Extract::Marked);
            let right = found.is_some_and(|found| key.equals(&found, Tolerance::Exact));
            assert_eq!(Some(right), row[model]["is_correct"].as_bool(), "{model}: {key:?}, {solution}");
            *n_right.entry(model).or_insert(0) += usize::from(right);
        }
    }
    // 21.7, 39.0, 34.7 and 56.3 %.
    let expected = [
        ("175b_finetuning", 458),
        ("175b_verification", 742),
        ("6b_finetuning", 286),
        ("6b_verification", 515),
    ];
    assert_eq!(n_right, BTreeMap::from(expected));
}

#[test]
fn all_but_a_few_equations_of_mawps_give_the_stated_answer() {
    // Equation, numbers, answer: mistakes of the data set, two of them (41.0, 9.0) a rounding that was called whole.
    let known = [
        ("/ number1 number0", "0.165"),
        ("* number0 number1", "134.0"),
        ("/ + number0 number1 2.0", "54.545"),
        ("* / number1 number0 number2", "9.0"),
        ("- number0 number1", "208.0"),
        ("+ * number0 number1 number2", "36.78"),
        ("/ number0 5.0", "26.0"),
        ("/ number0 7.0", "7.0"),
        ("* / - number0 number1 number0 100.0", "41.0"),
        ("/ number0 number1", "5.0"),
    ];
    let (mut others, mut n) = (Vec::new(), 0);
    for name in ["math/mawps_fold0_train.csv.gz", "math/mawps_fold0_dev.csv.gz"] {
        let Some(path) = shared(name) else { return };
        let loaded = problems(&path, OnBadRecord::Fail).expect("no bad record");
        n += loaded.records.len();
        for p in loaded.records {
            let result = execute(&p.equation, &p.numbers).expect("a number");
            if !gives(&p.answer, result) {
                others.push((p.equation, p.answer));
            }
        }
    }
    let others: Vec<(&str, &str)> = others.iter().map(|(e, a)| (e.as_str(), a.as_str())).collect();
    assert_eq!((n, others.as_slice()), (1921, &known[..]));
}

#[test]
fn most_human_descriptions_pass_the_rule() {
    let Some(task) = restaurants(Split::Pooled, Venue::Checked) else { return };
    assert_eq!(task.verify, Some(Verify::Descriptions(Checker { venue: Venue::Checked })));
    assert_eq!((task.train_prompts.len(), task.eval_prompts.len()), (1724, 431));
    let references = task.eval_prompts.iter().zip(&task.eval_references);
    let heldout = references.flat_map(|(prompt, texts)| texts.iter().map(move |t| (prompt, t)));
    let all: Vec<(&String, &String)> =
        task.sft.iter().map(|e| (&e.prompt, &e.completion)).chain(heldout).collect();
    let mut n: HashMap<&str, usize> = HashMap::new();
    for (prompt, text) in &all {
        let meaning = descriptions::Meaning::parse(prompt).expect("a prompt of the task");
        let slots = Slots::of(&meaning, text);
        for (what, holds) in [
            ("right", slots.all_right()),
            ("told", slots.realised == slots.asked),
            ("added", slots.added > 0),
            ("venue added", slots.venue_added),
        ] {
            *n.entry(what).or_default() += usize::from(holds);
        }
    }
    let share = |what: &str| n[what] as f64 / all.len() as f64;
    eprintln!("{} texts: {n:?}", all.len());
    assert!((0.80..0.90).contains(&share("right")), "{n:?} of {}", all.len());
    assert!(share("told") > 0.94 && share("added") < 0.15 && share("venue added") < 0.01, "{n:?}");
}

/// All texts of both files, the same from one load to the next; none where the files are absent.
fn restaurants(split: Split, venue: Venue) -> Option<TaskData> {
    let names = ["datatotext/e2e_clean_devel.csv.gz", "datatotext/e2e_clean_test.csv.gz"];
    let [Some(path), Some(second)] = names.map(shared) else { return None };
    let sizes = Sizes { n_sft: 0, n_preferences: 1, n_prompts: 0, n_eval_prompts: 0 };
    let on_bad_record = OnBadRecord::Fail;
    let source = descriptions::Source { path: &path, second: Some(&second), split, venue, on_bad_record };
    let task = descriptions::load(0, &sizes, &source).expect("good files");
    assert_eq!(descriptions::load(0, &sizes, &source).expect("good files"), task);
    Some(task)
}

#[test]
fn the_official_split_is_a_shifted_one() {
    let Some(task) = restaurants(Split::Official, Venue::Open) else { return };
    let pubs = |prompts: &[String]| {
        let n = prompts.iter().filter(|p| p.contains("type: pub")).count();
        n as f64 / prompts.len() as f64
    };
    assert!(pubs(&task.train_prompts) < 0.01 && pubs(&task.eval_prompts) > 0.3, "{:?}", task.notes);
}

#[test]
fn masked_problems_are_split() {
    let names = ["math/mawps_fold0_train.csv.gz", "math/mawps_fold0_dev.csv.gz"];
    let [Some(path), Some(second)] = names.map(shared) else { return };
    let sizes = Sizes { n_sft: 500, n_preferences: 1, n_prompts: 0, n_eval_prompts: 300 };
    let source =
        word_problems::Source { path: &path, second: Some(&second), on_bad_record: OnBadRecord::Fail };
    let task = word_problems::load(0, &sizes, &source).expect("good files");
    assert_eq!((task.sft.len(), task.train_prompts.len(), task.eval_prompts.len()), (500, 692, 300));
    let verify = task.verify.as_ref().expect("a rule");
    let right = |e: &Example| verify.verdict(&e.prompt, &e.completion).expect("a key").correct;
    assert!(task.sft.iter().chain(&task.sft_heldout).all(right));
}
