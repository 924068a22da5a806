//! What a text tells: patterns of words for each value, written for this task by looking at the texts.
//!
//! A pattern is a row of alternatives, `low|lower rating|ratings`, with gaps: `~3` stands for up to three words
//! between. No gap goes over the end of a sentence, a comma, *and*, *but*, *with* or a word of price, so
//! that "moderate prices, high ratings" is one of each.

use std::sync::LazyLock;

use super::meaning::{NAME, NEAR, Slot};

/// What no gap goes over.
const BLOCKS: [&str; 12] = [".", "!", "?", ";", ",", ":", "and", "but", "with", "price", "priced", "prices"];
/// What turns "family friendly" round, before it or in it.
const NEGATIONS: &str = "not nt no non never without un nor neither unsuitable none lacks lack excluding against \
    discouraged inappropriate cannot cant isnt arent doesnt dont prohibited prohibits discourages unwelcome \
    unfriendly";
/// Words that say that families are not welcome.
const NO_FAMILY: &[&str] = &[
    "adult|adults|grown",
    "no|not|nt|without|unsuitable|none|never ~4 family|families|kid|kids|child|children",
];
/// Words that say that they are, unless a negation is near.
const FAMILY: &[&str] = &[
    "family|families|kid|kids|child|children|childrens|familys ~1 friendly|friendliness|oriented|welcome|welcomed|allowed|welcoming|atmosphere|environment|establishment",
    "friendly ~2 family|families|kid|kids|child|children",
    "welcome|welcomes|welcoming|welcomed|suitable|perfect|great|good|allow|allows|bring|accommodates|appropriate|ideal|invites|accepts|accept|takes|entire|whole|encouraged ~4 family|families|kid|kids|child|children",
    "family|families|kid|kids|child|children ~3 welcome|welcomed|allowed|okay|ok|can|enjoy|love|catered|permitted|encouraged|are",
    "family restaurant|pub|coffee|place|venue|setting",
    "all ages",
];
/// The other values, in the order of [`Slot::values`].
const VALUES: &[(Slot, &[&[&str]])] = &[
    (
        Slot::EatType,
        &[
            &["restaurant|restaurants"],
            &["pub|pubs"],
            &["coffee ~1 shop|shops|house", "coffeehouse|coffeeshop|cafe|cafes"],
        ],
    ),
    (
        Slot::Food,
        &[
            &["chinese"],
            &["english|british"],
            &["french"],
            &["indian"],
            &["italian|pasta|italy"],
            &["japanese|sushi"],
            &["fast food|foods", "burger|burgers|hamburgers"],
        ],
    ),
    (
        Slot::Price,
        &[
            &[
                "cheap|cheaply|cheaper|inexpensive|affordable|affordably|budget",
                "low|lower|lowest ~1 price|prices|priced|cost|costs|pricing",
                "price|prices|priced|pricing range|ranges ~1 is|are|of|in|being ~1 low",
                "price|prices|pricing|cost|costs is|are|being|were ~1 low",
                "less|under|below|lower|within ~3 £20|20|twenty",
                "up to £20",
                "not ~1 expensive",
            ],
            &[
                "moderate|moderately|moderated|mid|medium|midrange",
                "average|averagely|averaged|reasonable|reasonably|fair|fairly|normal|decent|median|middle ~2 price|prices|priced|cost|costs|pricing",
                "price|prices|pricing|cost|costs ~1 range|ranges|is|are|being|of ~2 average|reasonable|fair|median|normal",
                "£20|20|twenty ~2 £25|25|twenty",
            ],
            &[
                "expensive|pricey|pricy|costly|upscale",
                "high|higher|highly|above ~3 price|prices|priced|cost|costs|pricing",
                "price|prices|pricing|cost|costs ~1 range|ranges ~2 high|higher|highly",
                "price|prices|pricing|cost|costs is|are|being|were|tends ~2 high|higher|highly",
                "more|over|above|least|upwards|upward|excess|exceeding|greater|higher|beyond ~3 £30|30|thirty",
                "£30",
            ],
        ],
    ),
    (
        Slot::Rating,
        &[
            &[
                "1of5",
                "1|one ~1 star|stars|point",
                "low|lowly|poor|poorly|bad|badly|lower|lowest|terrible|mediocre|worst|negative|below ~3 rated|rating|ratings|rate|review|reviews|reviewed|rates|scores|score|quality",
                "rating|ratings|rated|rates|rate|reviews|review|score|quality ~2 low|poor|poorly|bad|badly|lowly|lower",
                "rating|ratings|rated|rates|rate|reviews|review|score ~1 1|one",
                "not|nt ~2 well ~1 rated|reviewed|received",
                "not|nt ~2 high|highly|good|great ~3 rated|rating|ratings|reviews",
                "low ~1 customer|customers|consumer",
            ],
            &[
                "3of5",
                "3|three ~1 star|stars|point",
                "average|averagely|averaged|moderate|moderately|decent|fair|ok|okay|mixed|middle|mid|medium ~3 rated|rating|ratings|rate|review|reviews|reviewed|rates|scores|score",
                "rating|ratings|rated|rates|rate|reviews|review|score ~2 average|averagely|decent|moderate|ok|okay|middle",
                "rating|ratings|rated|rates|rate|reviews|review|score ~1 3|three",
                "average ~1 customer|customers|consumer",
            ],
            &[
                "5of5",
                "5|five ~1 star|stars",
                "high|highly|higher|highest|excellent|excellently|great|greatly|good|top|best|well|superb|fantastic|outstanding|exceptional|perfect|rave|wonderful|amazing|positive|favorable|favorably ~3 rated|rating|ratings|rate|review|reviews|reviewed|rates|scores|score|ranked|acclaimed|regarded",
                "rating|ratings|rated|rates|rate|reviews|review|score|ranks ~2 high|highly|excellent|great|good|well|top|best|perfect",
                "rating|ratings|rated|rates|rate|reviews|review|score ~1 5|five",
                "highly|well|excellent ~1 customer|customers|consumer|regarded|reviewed",
            ],
        ],
    ),
    (
        Slot::Area,
        &[
            &[
                "city|town centre|center|centres|centers",
                "centre|center ~1 of ~1 the|a|our|this|town|city",
                "heart|middle of ~1 city|town",
                "downtown|central|centrally",
                "in the city",
            ],
            &["riverside|river|riverfront|waterfront|waterside|rivers|thames"],
        ],
    ),
];

/// Part of a pattern.
enum Item {
    Gap(usize),
    Words(Vec<&'static str>),
}

struct Pattern(Vec<Item>);

impl Pattern {
    fn new(text: &'static str) -> Self {
        let item = |part: &'static str| match part.strip_prefix('~') {
            Some(n) => Item::Gap(n.parse().expect("a pattern's gap is a number")),
            None => Item::Words(part.split('|').collect()),
        };
        Self(text.split(' ').map(item).collect())
    }

    /// The first place behind a match that begins at `at`.
    fn end(&self, words: &[String], at: usize) -> Option<usize> {
        fn from(items: &[Item], words: &[String], at: usize) -> Option<usize> {
            let Some((item, rest)) = items.split_first() else { return Some(at) };
            match item {
                Item::Gap(most) => {
                    let open =
                        words[at.min(words.len())..].iter().take(*most).take_while(|w| !blocks(w)).count();
                    (0..=open).find_map(|n| from(rest, words, at + n))
                }
                Item::Words(any) => {
                    any.contains(&words.get(at)?.as_str()).then(|| from(rest, words, at + 1)).flatten()
                }
            }
        }
        from(&self.0, words, at)
    }

    fn matches<'a>(&'a self, words: &'a [String]) -> impl Iterator<Item = (usize, usize)> + 'a {
        (0..words.len()).filter_map(|at| Some((at, self.end(words, at)?)))
    }
}

fn blocks(word: &str) -> bool {
    BLOCKS.contains(&word)
}

struct Patterns {
    /// Slot, class, pattern.
    values: Vec<(Slot, usize, Pattern)>,
    family: Vec<Pattern>,
    no_family: Vec<Pattern>,
    negations: Vec<&'static str>,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let all = |texts: &[&'static str]| texts.iter().map(|t| Pattern::new(t)).collect();
    let mut values = Vec::new();
    for (slot, classes) in VALUES {
        for (class, texts) in classes.iter().enumerate() {
            values.extend(texts.iter().map(|t| (*slot, class, Pattern::new(t))));
        }
    }
    let negations = NEGATIONS.split_whitespace().collect();
    Patterns { values, family: all(FAMILY), no_family: all(NO_FAMILY), negations }
});

/// The classes of values that a text tells, a set for each slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told([u8; 8]);

impl Told {
    /// Reads a text, names already replaced.
    pub fn read(text: &str) -> Self {
        let words = words(text);
        let mut told = Self([0; 8]);
        for (slot, mark) in [(Slot::Name, NAME), (Slot::Near, NEAR)] {
            if words.iter().any(|w| w == mark) {
                told.add(slot, 0);
            }
        }
        for (slot, class, pattern) in &PATTERNS.values {
            if !told.tells(*slot, *class) && pattern.matches(&words).next().is_some() {
                told.add(*slot, *class);
            }
        }
        if let Some(class) = family(&words) {
            told.add(Slot::Family, class);
        }
        told
    }

    /// Whether the text tells this value.
    pub fn tells(&self, slot: Slot, class: usize) -> bool {
        self.0[slot as usize] & (1 << class) != 0
    }

    /// Whether it tells another value than `class`, or any where that is `None`.
    pub fn tells_other(&self, slot: Slot, class: Option<usize>) -> bool {
        self.0[slot as usize] & !class.map_or(0, |class| 1 << class) != 0
    }

    fn add(&mut self, slot: Slot, class: usize) {
        self.0[slot as usize] |= 1 << class;
    }
}

/// 0 for "no", 1 for "yes": one negation decides, for nobody says both.
fn family(words: &[String]) -> Option<usize> {
    const BEFORE: usize = 5;
    const AFTER: usize = 4;
    let patterns = &*PATTERNS;
    if patterns.no_family.iter().any(|p| p.matches(words).next().is_some()) {
        return Some(0);
    }
    let mut found = patterns.family.iter().flat_map(|p| p.matches(words)).peekable();
    found.peek()?;
    let negated = |(start, end): (usize, usize)| {
        let before = words[..start].iter().rev().take(BEFORE).take_while(|w| !blocks(w));
        let within = words[start..words.len().min(end + AFTER)].iter().take_while(|w| !blocks(w));
        before.chain(within).any(|w| patterns.negations.contains(&w.as_str()))
    };
    Some(usize::from(!found.any(negated)))
}

/// Words in lower case and marks of punctuation. `n't` is a word; "1 out of 5" in its forms is one, `1of5`; other
/// apostrophes go.
fn words(text: &str) -> Vec<String> {
    let text =
        text.to_lowercase().replace('’', "'").replace("n't", " nt ").replace("'s", " s ").replace('\'', "");
    let text = text.replace("£ ", "£").replace('é', "e");
    let (mut words, mut word) = (Vec::new(), String::new());
    for c in text.chars() {
        if !(word.is_empty() || c.is_alphanumeric() || c == '_') {
            words.push(std::mem::take(&mut word));
        }
        match c {
            '.' | '!' | '?' | ';' | ',' | ':' => words.push(c.to_string()),
            '£' | '_' => word.push(c),
            _ if c.is_alphanumeric() => word.push(c),
            _ => {}
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    out_of_five(&words)
}

fn out_of_five(words: &[String]) -> Vec<String> {
    const DIGITS: [(&str, &str); 6] =
        [("0", "zero"), ("1", "one"), ("2", "two"), ("3", "three"), ("4", "four"), ("5", "five")];
    let digit = |w: &str| DIGITS.iter().find(|(d, name)| *d == w || *name == w).map(|(d, _)| *d);
    let mut out: Vec<String> = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        let between = words[at + 1..].iter().take(4).take_while(|w| OF.contains(&w.as_str())).count();
        let five = words.get(at + 1 + between).is_some_and(|w| w == "5" || w == "five");
        match digit(&words[at]) {
            Some(d) if between > 0 && five => {
                out.push(format!("{d}of5"));
                at += between + 2;
            }
            _ => {
                out.push(words[at].clone());
                at += 1;
            }
        }
    }
    out
}

/// What stands between the digits of a rating.
const OF: [&str; 6] = ["out", "our", "of", "or", "a", "possible"];

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<(&'static str, &'static str)> {
        let told = Told::read(text);
        let classes = |slot: Slot| (0..slot.values().len()).filter(move |c| told.tells(slot, *c));
        Slot::ALL.into_iter().flat_map(|s| classes(s).map(move |c| (s.key(), s.values()[c][0]))).collect()
    }

    #[test]
    fn values_are_told_in_many_ways() {
        assert_eq!(told("Xname is a pub."), [("name", "xname"), ("type", "pub")]);
        assert_eq!(
            told("cheap french fast food by the river"),
            [("food", "french"), ("food", "fast food"), ("price", "cheap"), ("area", "riverside")]
        );
        for (text, price) in [
            ("prices under £20", "cheap"),
            ("for less than 20 pounds", "cheap"),
            ("it is moderately priced", "moderate"),
            ("the £20-£25 range", "moderate"),
            ("at average prices", "moderate"),
            ("a high price range", "high"),
            ("over £30", "high"),
        ] {
            assert_eq!(told(text), [("price", price)], "{text}");
        }
        for (text, rating) in [
            ("rated 1 out of 5", "low"),
            ("it has a low customer rating", "low"),
            ("a one-star place", "low"),
            ("rated 3 out of five", "average"),
            ("an average rating", "average"),
            ("a customer rating of 5 of 5 stars", "high"),
            ("highly rated", "high"),
            ("the reviews are excellent", "high"),
        ] {
            assert_eq!(told(text), [("rating", rating)], "{text}");
        }
        assert_eq!(told("moderate prices, high ratings"), [("price", "moderate"), ("rating", "high")]);
        assert_eq!(
            told("near xnear in the centre of the city"),
            [("area", "city centre"), ("near", "xnear")]
        );
    }

    #[test]
    fn negations_turn_families_away() {
        for (text, family) in [
            ("it is family-friendly", "yes"),
            ("kids are welcome", "yes"),
            ("for the whole family", "yes"),
            ("not cheap, but family friendly", "yes"),
            ("it is not family friendly", "no"),
            ("it isn’t kid friendly", "no"),
            ("children are not welcome", "no"),
            ("non-family-friendly", "no"),
            ("adults only", "no"),
            ("no children", "no"),
        ] {
            let found = told(text).into_iter().filter(|(key, _)| *key == "family").map(|(_, v)| v);
            assert_eq!(found.collect::<Vec<_>>(), [family], "{text}");
        }
        assert_eq!(told("a place to sit"), []);
        assert_eq!(told(""), []);
    }
}
