//! `{% generation %}` … `{% endgeneration %}`: which parts of a template the assistant says.
//!
//! These are tags of transformers, which minijinja cannot be taught. They are replaced, before the
//! template is compiled, by tags that it knows: a filter over the block, in a scope of its own,
//! since what a block sets is not seen behind it. Whitespace control and line numbers stay.

/// The filter over a block.
pub(super) const FILTER: &str = "__assistant__";

/// A template whose generation tags are replaced.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) source: String,
    pub(super) n_blocks: usize,
}

/// Replaces the tags. What is not well formed is left for the compiler to complain about.
pub(super) fn rewrite(source: &str) -> Rewritten {
    let mut out = Rewritten { source: String::with_capacity(source.len()), n_blocks: 0 };
    let mut rest = source;
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).chain(rest.find("{#")).min() {
        let (text, tag) = rest.split_at(at);
        out.source.push_str(text);
        let end = match &tag[..2] {
            "{#" => tag.find("#}").map(|at| at + 2),
            "{{" => closing(tag, "}}"),
            _ => closing(tag, "%}"),
        };
        let Some(end) = end else {
            out.source.push_str(tag);
            return out;
        };
        let (tag, behind) = tag.split_at(end);
        rest = behind;
        match word(tag) {
            Some(Tag { name: "generation", open, close }) => {
                out.n_blocks += 1;
                out.source.push_str(&format!("{{%{open} with %}}{{% filter {FILTER} {close}%}}"));
                keep_lines(tag, &mut out.source);
            }
            Some(Tag { name: "endgeneration", open, close }) => {
                out.source.push_str(&format!("{{%{open} endfilter %}}{{% endwith {close}%}}"));
                keep_lines(tag, &mut out.source);
            }
            Some(Tag { name: "raw", .. }) => {
                let end = end_of_raw(rest);
                out.source.push_str(tag);
                out.source.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => out.source.push_str(tag),
        }
    }
    out.source.push_str(rest);
    out
}

/// A tag of one word, with its whitespace controls.
struct Tag<'a> {
    name: &'a str,
    open: &'a str,
    close: &'a str,
}

fn word(tag: &str) -> Option<Tag<'_>> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let control = |c: Option<char>| c.filter(|c| matches!(c, '-' | '+')).map_or(0, char::len_utf8);
    let (open, inner) = inner.split_at(control(inner.chars().next()));
    let (inner, close) = inner.split_at(inner.len() - control(inner.chars().next_back()));
    Some(Tag { name: inner.trim(), open, close })
}

/// A tag written over several lines is one line now: the lines it had come inside a comment.
fn keep_lines(tag: &str, out: &mut String) {
    let lines = tag.matches('\n').count();
    if lines > 0 {
        // Before the tag's own closing, so that trimming behind it is not disturbed.
        let close = out.len() - if out.ends_with("-%}") || out.ends_with("+%}") { 3 } else { 2 };
        out.insert_str(close, &"\n".repeat(lines));
    }
}

/// Where a tag ends, behind its closing. Quoted texts do not count, nor do the braces of a dict.
fn closing(tag: &str, close: &str) -> Option<usize> {
    let bytes = tag.as_bytes();
    let (mut at, mut depth, mut quote) = (2, 0_usize, None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(q), b) if q == b => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(bytes[at]),
            (None, _) if depth == 0 && tag.as_bytes()[at..].starts_with(close.as_bytes()) => {
                return Some(at + close.len());
            }
            (None, b'{') => depth += 1,
            (None, b'}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

/// Where the text of a raw block ends, at its closing tag.
fn end_of_raw(text: &str) -> usize {
    let closes = |(at, _): &(usize, &str)| {
        let tag = &text[*at..];
        closing(tag, "%}").and_then(|end| word(&tag[..end])).is_some_and(|tag| tag.name == "endraw")
    };
    text.match_indices("{%").find(closes).map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> (String, usize) {
        let rewritten = rewrite(source);
        (rewritten.source, rewritten.n_blocks)
    }

    #[test]
    fn tags_keep_their_whitespace_control() {
        let (source, n) = of("a {%- generation -%} b {%endgeneration+%} c");
        assert_eq!(n, 1);
        assert_eq!(source, "a {%- with %}{% filter __assistant__ -%} b {% endfilter %}{% endwith +%} c");
    }

    #[test]
    fn lines_stay_where_they_are() {
        let (source, _) = of("{%\ngeneration\n-%}x{% endgeneration %}\n{{ y }}");
        assert_eq!(source.matches('\n').count(), 3);
        assert!(source.starts_with("{% with %}{% filter __assistant__ \n\n-%}x"), "{source}");
    }

    #[test]
    fn only_tags_are_replaced() {
        for source in [
            "{{ '{% generation %}' }}",
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{%- endraw %}",
            "{% if generation %}generation{% endif %}",
            "{{ {'a': {'}}': '{% generation %}'}} }}",
            "{% set x = \"%}\" %}",
            "{% generation",
            "{{ 'open",
        ] {
            assert_eq!(of(source), (source.to_owned(), 0), "{source}");
        }
    }
}
