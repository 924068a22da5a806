//! Hand cases of each rule.

use rlhf_core::number::Weight;

use super::*;

fn item<'a>(prompt: &'a str, completion: &'a str) -> Candidate<'a> {
    Candidate { prompt, completion, prompt_ids: &[], completion_ids: &[1, 2, 3] }
}

fn value(text: &str) -> Option<f64> {
    extract(text, Extract::Any).map(|n| n.value())
}

/// Each text with the answer in it; all values are exact in binary or the nearest to their decimals.
fn check(cases: &[(&str, f64)]) {
    for (text, expected) in cases {
        let found = value(text);
        assert!(found.is_some_and(|v| (v - expected).abs() < 1e-12), "{text:?}: {expected}, found {found:?}");
    }
}

#[test]
fn numbers_are_read_as_people_write_them() {
    check(&[
        ("#### 72", 72.0),
        ("#### 1,234,567", 1_234_567.0),
        ("#### $18.50", 18.5),
        ("#### -$3", -3.0),
        ("#### $-3", -3.0),
        ("#### −7", -7.0),
        ("#### 25%", 25.0),
        ("#### 12 apples", 12.0),
        ("#### 5km", 5.0),
        ("#### .5", 0.5),
        ("#### 3.", 3.0),
        ("#### 3/4", 0.75),
        ("#### -3/4", -0.75),
        ("#### 1 1/2 hours", 1.5),
        ("#### 2e3", 2000.0),
        ("#### 1.5E-3", 0.0015),
        ("#### 1.2 × 10^5", 120_000.0),
        (r"\boxed{1.2 \times 10^{-3}}", 0.0012),
        (r"\boxed{\frac{-3}{4}}", -0.75),
        (r"\boxed{-\dfrac{1}{2}}", -0.5),
        (r"\boxed{\$1{,}000}, no: \boxed{\text{about } 7}", 7.0),
    ]);
}

#[test]
fn what_is_no_part_of_a_number_is_left_out() {
    check(&[
        ("16 - 3 - 4 = <<16-3-4=9>>9", 9.0),
        ("from 20-25", 25.0),
        ("x = -3", -3.0),
        ("numbers 3,4", 4.0),
        ("version 12345,678", 678.0),
        ("it costs $4.", 4.0),
        ("number0 is 5, not number1", 5.0),
        ("on 1/2/2020 he ate 3", 3.0),
        ("3 eggs", 3.0),
        ("6/0", 0.0),
    ]);
    assert_eq!(value("no number, number1"), None);
    assert_eq!(value(""), None);
    assert_eq!(value("é−ü½"), None);
}

#[test]
fn the_last_mark_says_which_number() {
    check(&[
        ("A: 5\nmore 6", 5.0),
        ("so\nA: 3,000\nand\nA: 26", 26.0),
        ("The answer is 8, since 8 = 16 / 2", 8.0),
        ("Answer: \\boxed{9}", 9.0),
        ("#### 1\n#### 2", 2.0),
        ("DNA: 4 and 7", 7.0),
    ]);
    assert_eq!(extract("####\n72", Extract::Marked), None);
    assert_eq!(extract("\\boxed{4", Extract::Boxed), None);
    assert_eq!(extract("72", Extract::Boxed), None);
    let nested = extract("\\boxed{{3}+{5}} 9", Extract::Boxed).map(|n| n.value());
    assert_eq!(nested, Some(5.0));
}

#[test]
fn whole_answers_are_met_exactly_and_others_to_the_tolerance() {
    let equal = |answer: &str, found: &str, how| {
        let [answer, found] = [answer, found].map(|t| Number::parse(t).expect("a number"));
        answer.equals(&found, how)
    };
    for how in [Tolerance::Exact, Tolerance::Stated, Tolerance::Relative(1e-3)] {
        assert!(equal("72", "72.0", how) && equal("1,000", "1e3", how) && equal("2", "4/2", how), "{how:?}");
        assert!(!equal("1000", "1000.4", how) && !equal("5.0", "5.01", how), "{how:?}");
    }
    assert!(equal("0.33", "0.3333", Tolerance::Stated) && !equal("0.33", "0.336", Tolerance::Stated));
    assert!(equal("0.335", "0.3345", Tolerance::Stated));
    assert!(equal("1/3", "0.33333333333", Tolerance::Exact) && !equal("1/3", "0.33", Tolerance::Stated));
    assert!(!equal("0.33", "0.3333", Tolerance::Exact));
    assert!(equal("4000.5", "4004", Tolerance::Relative(1e-3)));
    assert!(!equal("4000.5", "4005", Tolerance::Relative(1e-3)));
}

#[test]
fn a_numeric_answer_scores_one_and_a_prompt_without_one_is_named() {
    let answers =
        Answers::from([("a".to_owned(), "so\n#### 1,000".to_owned()), ("b".to_owned(), "1/4".into())]);
    let mut verifier = NumericAnswer::new(&answers, Extract::Any, Tolerance::Exact).expect("numbers");
    let items = [item("a", "A: 1000"), item("a", "A: 1001"), item("b", "it is 0.25."), item("b", "nothing")];
    assert_eq!(verifier.score(&items), Ok(vec![1.0, 0.0, 1.0, 0.0]));
    let error = verifier.score(&[items[0], item("c", "1")]).expect_err("no answer").to_string();
    assert_eq!(error, r#"numeric answer: expected a known answer to the prompt "c", found none"#);
    let bad = Answers::from([("a".to_owned(), "many".to_owned())]);
    let error = NumericAnswer::new(&bad, Extract::Any, Tolerance::Exact).expect_err("no number").to_string();
    assert_eq!(error, r#"numeric answer: answer to the prompt "a": expected a number, found "many""#);
    assert!(NumericAnswer::new(&answers, Extract::Any, Tolerance::Relative(f64::NAN)).is_err());
    assert!(NumericAnswer::new(&answers, Extract::Any, Tolerance::Relative(-1.0)).is_err());
}

#[test]
fn exact_match_forgives_what_it_is_told_to() {
    let answers = Answers::from([("p".to_owned(), "The Eiffel Tower".to_owned())]);
    let items = [item("p", " The  Eiffel Tower\n"), item("p", "“eiffel tower”."), item("p", "Tower")];
    let score = |how| ExactMatch::new(&answers, how).score(&items).expect("known");
    assert_eq!(score(Normalise::Space), [1.0, 0.0, 0.0]);
    assert_eq!(score(Normalise::Words), [1.0, 1.0, 0.0]);
    let error = ExactMatch::new(&answers, Normalise::Space).score(&[item("q", "")]).expect_err("no answer");
    assert!(error.to_string().contains(r#"the prompt "q""#), "{error}");
}

#[test]
fn a_pattern_anchors_both_ends_and_counts_its_literals() {
    let matches = |pattern: &str, text| Format::Pattern(pattern.to_owned()).matches(text);
    let answer = "<answer>*</answer>";
    assert!(matches(answer, " <answer>4</answer>\n") && matches(answer, "<answer></answer>"));
    assert!(!matches(answer, "so <answer>4</answer>") && !matches(answer, "<answer>4</answer> then"));
    assert!(!matches(answer, "<answer>4</answer><answer>5</answer>"));
    assert!(matches("*<a>*</a>", "so <a>4</a>") && !matches("*<a>*</a>", "<a>1</a> <a>4</a>"));
    assert!(matches("*", "") && matches("", " ") && matches("yes", "yes ") && !matches("yes", "yes, no"));
    // One "ab" cannot be both ends.
    assert!(!matches("ab*ab", "ab") && matches("ab*ab", "abab") && !matches("a*b*c", "acb"));
    assert!(
        Format::Answer(Extract::Boxed).matches("\\boxed{3}") && !Format::Answer(Extract::Boxed).matches("3")
    );
}

#[test]
fn lengths_are_counted_in_the_unit() {
    let within =
        |unit, bounds| LengthBounds { unit, bounds }.score(&[item("", " a bé ")]).expect("a rule")[0];
    assert!(within(LengthUnit::Words, 2..=2) > 0.5 && within(LengthUnit::Words, 3..=9) < 0.5);
    assert!(within(LengthUnit::Characters, 0..=4) > 0.5 && within(LengthUnit::Characters, 0..=3) < 0.5);
    assert!(within(LengthUnit::Tokens, 3..=3) > 0.5 && within(LengthUnit::Tokens, 0..=2) < 0.5);
}

/// A user's own rule with its own error.
#[derive(Debug)]
struct Own(Vec<f64>);

impl RewardModel for Own {
    type Error = std::fmt::Error;

    fn score(&mut self, _: &[Candidate<'_>]) -> Result<Vec<f64>, std::fmt::Error> {
        if self.0.is_empty() { Err(std::fmt::Error) } else { Ok(self.0.clone()) }
    }
}

#[test]
fn parts_are_weighted_and_a_failing_one_is_named() {
    let weight = |x| Weight::new(x).expect("not negative");
    let with = |own: Vec<f64>| {
        Weighted::default().with("form", weight(0.5), Format::Answer(Extract::Marked)).with(
            "own",
            weight(2.0),
            Own(own),
        )
    };
    let items = [item("", "#### 1"), item("", "1")];
    let mut reward = with(vec![0.25, -1.0]);
    assert_eq!(reward.score(&items), Ok(vec![1.0, -2.0]));
    assert_eq!(reward.parts(&items), Ok(vec![vec![1.0, 0.0], vec![0.25, -1.0]]));
    assert_eq!(reward.names().collect::<Vec<_>>(), ["form", "own"]);
    let message = |own| with(own).score(&items).expect_err("a part fails").to_string();
    assert!(message(vec![]).starts_with("reward \"own\": "), "{}", message(vec![]));
    assert_eq!(message(vec![1.0]), "reward \"own\": expected 2 scores, found 1");
    assert_eq!(message(vec![1.0, f64::NAN]), "score 1: expected a finite number, found NaN");
}
