//! Descriptions as people write them: a grammar of openings, clauses, chatter and closings, and the
//! faults that make a text miss its meaning.

use rand::{Rng, RngExt};

use crate::task::shuffle;

use super::words::{ADJECTIVES, CHATTER, CLOSINGS, Fact, INSULTS, Meaning, NOUNS, Name, Slot};

/// How often a writer errs; each number is a probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// A fact is left out (each).
    pub drop: f64,
    /// A fact gets another value (each).
    pub replace: f64,
    /// A fact is invented for a slot that the prompt leaves open (once a text).
    pub invent: f64,
    /// The name is left out.
    pub nameless: f64,
    /// The name is another.
    pub misname: f64,
    /// A sentence of chatter follows; tried twice.
    pub chatter: f64,
    /// A sentence is said twice.
    pub repeat: f64,
    /// The text is rude.
    pub rude: f64,
    /// The text ends with a friendly sentence, unless it is rude.
    pub friendly: f64,
    /// A sentence that is not chatter, rude or friendly ends with an exclamation mark (each).
    pub shout: f64,
}

impl Faults {
    /// The references of supervised fine-tuning: 45 % have every slot right. Crowd-written ones of
    /// the E2E data have 63 % by a looser check of the same kind.
    pub const REFERENCE: Self = Self {
        drop: 0.15,
        replace: 0.05,
        invent: 0.10,
        nameless: 0.03,
        misname: 0.02,
        chatter: 0.20,
        repeat: 0.05,
        rude: 0.15,
        friendly: 0.25,
        shout: 0.08,
    };

    /// The texts that raters compare: about twice as faulty, since a reward model has to know the
    /// faults of a policy, which errs more than its references.
    pub const COMPARED: Self = Self {
        drop: 0.25,
        replace: 0.10,
        invent: 0.20,
        nameless: 0.06,
        misname: 0.06,
        chatter: 0.35,
        repeat: 0.10,
        rude: 0.25,
        friendly: 0.40,
        shout: 0.20,
    };
}

/// One description of a meaning. It begins with a space, as a completion does.
pub fn describe(meaning: &Meaning, faults: &Faults, rng: &mut impl Rng) -> String {
    let name = told_name(meaning.name, faults, rng);
    let mut facts = told_facts(meaning, faults, rng);
    let mut sentences = vec![opening(&name, &mut facts, rng)];
    sentences.extend(follow_ups(facts, rng));
    if rng.random_bool(faults.repeat) {
        sentences.push(sentences[rng.random_range(0..sentences.len())].clone());
    }
    let mut text = String::new();
    for sentence in sentences {
        push(&mut text, &sentence, faults.shout, rng);
    }
    for _ in 0..2 {
        if rng.random_bool(faults.chatter) {
            push(&mut text, pick(&CHATTER, rng), 0.5, rng);
        }
    }
    if rng.random_bool(faults.rude) {
        push(&mut text, pick(&INSULTS, rng), 0.2, rng);
    } else if rng.random_bool(faults.friendly) {
        push(&mut text, pick(&CLOSINGS, rng), 0.6, rng);
    }
    text
}

/// Appends a sentence after a space, with a capital and its mark: "!" with probability `shout`.
fn push(text: &mut String, sentence: &str, shout: f64, rng: &mut impl Rng) {
    let mut rest = sentence.chars();
    text.push(' ');
    text.extend(rest.next().into_iter().flat_map(char::to_uppercase));
    text.push_str(rest.as_str());
    text.push(if rng.random_bool(shout) { '!' } else { '.' });
}

fn pick<'a>(items: &[&'a str], rng: &mut impl Rng) -> &'a str {
    items[rng.random_range(0..items.len())]
}

fn told_name(name: Name, faults: &Faults, rng: &mut impl Rng) -> String {
    if rng.random_bool(faults.nameless) {
        "this place".to_owned()
    } else if rng.random_bool(faults.misname) {
        // Half of the name is right, as when a reader mistakes one for another.
        let (adjectives, nouns) = (ADJECTIVES.len(), NOUNS.len());
        let mistaken = if rng.random_bool(0.5) {
            Name { noun: (name.noun + rng.random_range(1..nouns)) % nouns, ..name }
        } else {
            Name { adjective: (name.adjective + rng.random_range(1..adjectives)) % adjectives, ..name }
        };
        mistaken.to_string()
    } else {
        name.to_string()
    }
}

/// The facts as the writer tells them, in random order.
fn told_facts(meaning: &Meaning, faults: &Faults, rng: &mut impl Rng) -> Vec<Fact> {
    let mut facts = Vec::new();
    for fact in &meaning.facts {
        if rng.random_bool(faults.drop) {
            continue;
        }
        let n = fact.slot.values().len();
        let shift = if rng.random_bool(faults.replace) { rng.random_range(1..n) } else { 0 };
        facts.push(Fact { slot: fact.slot, value: (fact.value + shift) % n });
    }
    let open: Vec<Slot> =
        Slot::ALL.into_iter().filter(|slot| meaning.facts.iter().all(|f| f.slot != *slot)).collect();
    if !open.is_empty() && rng.random_bool(faults.invent) {
        let slot = open[rng.random_range(0..open.len())];
        facts.push(Fact { slot, value: rng.random_range(0..slot.values().len()) });
    }
    shuffle(&mut facts, rng);
    facts
}

/// One of a fact's wordings.
fn word(fact: Fact, rng: &mut impl Rng) -> &'static str {
    pick(fact.slot.values()[fact.value], rng)
}

/// Takes the fact of a slot out of what is still to be told.
fn take(facts: &mut Vec<Fact>, slot: Slot) -> Option<Fact> {
    facts.iter().position(|f| f.slot == slot).map(|i| facts.remove(i))
}

/// Takes it with probability 5/6, so that openings vary in what they hold.
fn maybe_take(facts: &mut Vec<Fact>, slot: Slot, rng: &mut impl Rng) -> Option<Fact> {
    if rng.random_bool(5.0 / 6.0) { take(facts, slot) } else { None }
}

/// "a cheap Thai pub": takes price, food and type.
fn noun_phrase(facts: &mut Vec<Fact>, rng: &mut impl Rng) -> String {
    let mut said = Vec::new();
    for slot in [Slot::Price, Slot::Food, Slot::Type] {
        if let Some(fact) = maybe_take(facts, slot, rng) {
            said.push(word(fact, rng));
        } else if slot == Slot::Type {
            said.push("place");
        }
    }
    let phrase = said.join(" ");
    format!("{} {phrase}", article(&phrase))
}

fn article(phrase: &str) -> &'static str {
    if phrase.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) { "an" } else { "a" }
}

/// " near the station", " in the harbour area" or " with a high rating", at most two of them.
fn tail(facts: &mut Vec<Fact>, rng: &mut impl Rng) -> String {
    let mut text = String::new();
    for _ in 0..rng.random_range(0..=2) {
        let place = facts.iter().position(|f| matches!(f.slot, Slot::Near | Slot::Area | Slot::Rating));
        let Some(fact) = place.map(|i| facts.remove(i)) else { break };
        let said = word(fact, rng);
        text += &match fact.slot {
            Slot::Near => format!(" near the {said}"),
            Slot::Area => format!(" in the {said} area"),
            _ => format!(" with {} {said} rating", article(said)),
        };
    }
    text
}

/// The first sentence: names the restaurant and takes some facts.
fn opening(name: &str, facts: &mut Vec<Fact>, rng: &mut impl Rng) -> String {
    let has = |facts: &[Fact], slot| facts.iter().any(|f| f.slot == slot);
    match rng.random_range(0..10) {
        0 | 1 if has(facts, Slot::Food) => {
            let food = take(facts, Slot::Food).map_or("", |f| word(f, rng));
            let tail = tail(facts, rng);
            if rng.random_bool(0.5) {
                format!("{name} serves {food} food{tail}")
            } else {
                format!("if you like {food} food, go to {name}{tail}")
            }
        }
        2 if has(facts, Slot::Near) => {
            let near = take(facts, Slot::Near).map_or("", |f| word(f, rng));
            format!("near the {near} you find {name}, {}", noun_phrase(facts, rng))
        }
        3 if has(facts, Slot::Area) => {
            let area = take(facts, Slot::Area).map_or("", |f| word(f, rng));
            format!("in the {area} area you find {name}, {}", noun_phrase(facts, rng))
        }
        4 => format!("try {name}, {}{}", noun_phrase(facts, rng), tail(facts, rng)),
        5 => format!("there is {} called {name}{}", noun_phrase(facts, rng), tail(facts, rng)),
        _ => format!("{name} is {}{}", noun_phrase(facts, rng), tail(facts, rng)),
    }
}

/// The rest of the facts, one or two clauses a sentence.
fn follow_ups(facts: Vec<Fact>, rng: &mut impl Rng) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut clauses = facts.into_iter().map(|fact| clause(fact, rng)).collect::<Vec<_>>().into_iter();
    while let Some(first) = clauses.next() {
        match if rng.random_bool(0.5) { clauses.next() } else { None } {
            Some(second) => sentences.push(format!("{first} and {second}")),
            None => sentences.push(first),
        }
    }
    sentences
}

fn clause(fact: Fact, rng: &mut impl Rng) -> String {
    let said = word(fact, rng);
    let a = article(said);
    let first = rng.random_bool(0.5);
    match fact.slot {
        Slot::Type => format!("it is {a} {said}"),
        Slot::Food if first => format!("it serves {said} food"),
        Slot::Food => format!("the food is {said}"),
        Slot::Price if first => format!("prices are {said}"),
        Slot::Price => format!("it is {said}"),
        Slot::Area if first => format!("it is in the {said} area"),
        Slot::Area => format!("you find it in the {said} area"),
        Slot::Rating if first => format!("it has {a} {said} rating"),
        Slot::Rating => format!("guests give it {a} {said} rating"),
        Slot::Near if first => format!("it is near the {said}"),
        Slot::Near => format!("it is close to the {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::gold::gold_parts;
    use super::*;
    use rlhf_core::rng::stream;

    const FAULTLESS: Faults = Faults {
        drop: 0.0,
        replace: 0.0,
        invent: 0.0,
        nameless: 0.0,
        misname: 0.0,
        chatter: 0.0,
        repeat: 0.0,
        rude: 0.0,
        friendly: 0.0,
        shout: 0.0,
    };

    fn meaning() -> Meaning {
        let text = "name: The Lazy Owl, type: cafe, food: Indian, price: fair, area: market, rating: average, near: park =>";
        Meaning::parse(text).expect("well formed")
    }

    #[test]
    fn without_faults_every_template_tells_every_slot_and_nothing_else() {
        for i in 0..2000 {
            let text = describe(&meaning(), &FAULTLESS, &mut stream(0, "test", i, 0));
            let parts = gold_parts(&meaning(), &text);
            assert!(parts.all_right(), "{text}: {parts:?}");
            assert!(text.starts_with(' ') && text.ends_with('.') && !text.contains("  "), "{text}");
            assert!(parts.repetition == 0.0, "{text}");
        }
    }

    #[test]
    fn each_fault_is_what_it_says() {
        let one = |faults: Faults, i: u64| describe(&meaning(), &faults, &mut stream(0, "test", i, 0));
        for i in 0..200 {
            let parts = |faults| gold_parts(&meaning(), &one(faults, i));
            assert_eq!(parts(Faults { drop: 1.0, ..FAULTLESS }).realised, 1, "the name is left");
            let replaced = parts(Faults { replace: 1.0, ..FAULTLESS });
            assert_eq!((replaced.realised, replaced.wrong), (1, 6));
            let nameless = parts(Faults { nameless: 1.0, ..FAULTLESS });
            assert_eq!((nameless.realised, nameless.wrong), (6, 0));
            let misnamed = parts(Faults { misname: 1.0, ..FAULTLESS });
            assert_eq!((misnamed.realised, misnamed.wrong), (6, 1));
            assert!(parts(Faults { rude: 1.0, ..FAULTLESS }).tone <= -1.0);
            assert_eq!(parts(Faults { friendly: 1.0, ..FAULTLESS }).tone.to_bits(), 1f64.to_bits());
            let twice = one(Faults { repeat: 1.0, ..FAULTLESS }, i);
            let last =
                twice.trim_end_matches('.').rsplit(". ").next().expect("split gives one at least").trim();
            let short = last.split(' ').count() < 4;
            assert!(short || gold_parts(&meaning(), &twice).repetition > 0.0, "{twice}");
            let all_open = Meaning { facts: vec![], ..meaning() };
            let text =
                describe(&all_open, &Faults { invent: 1.0, ..FAULTLESS }, &mut stream(0, "test", i, 0));
            assert_eq!(gold_parts(&all_open, &text).wrong, 1, "{text}");
        }
    }
}
