//! A reader for the part of TOML that Cargo manifests use: section headers and `key = value`.
//!
//! Not a TOML parser: a value stays text, brackets closed over several lines are joined, comments go. That is
//! enough to see names, features and versions of dependencies, and it keeps this program without dependencies.

/// One `key = value` of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The section header, without brackets.
    pub(crate) section: String,
    /// The key; for a dependency written `[dependencies.name]` or `name.workspace = true`, the whole dotted key.
    pub(crate) key: String,
    /// The value as written, on one line.
    pub(crate) value: String,
    /// Line of the key, from 1.
    pub(crate) line: usize,
}

/// One dependency: all that the manifest says about it, wherever it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// Name of the package (its `package = "…"` where it is renamed).
    pub(crate) package: String,
    /// What is written about it, as one inline table.
    pub(crate) value: String,
    /// Line, from 1.
    pub(crate) line: usize,
}

/// The kinds of table a dependency stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// `[dependencies]`, `[build-dependencies]` and both for one target.
    Normal,
    /// `[workspace.dependencies]`.
    Workspace,
}

/// The entries of a manifest, in order.
pub(crate) fn entries(text: &str) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let mut section = String::new();
    let mut open = 0_i64;
    for (index, raw) in text.lines().enumerate() {
        let line = without_comment(raw).trim();
        if open > 0 {
            if let Some(last) = found.last_mut() {
                last.value.push(' ');
                last.value.push_str(line);
            }
            open += balance(line);
        } else if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).replace(['"', '\''], "");
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.trim();
            open = balance(value);
            found.push(Entry {
                section: section.clone(),
                key: key.trim().replace('"', ""),
                value: value.to_owned(),
                line: index + 1,
            });
        }
    }
    found
}

/// The dependencies in tables of one kind.
pub(crate) fn dependencies(entries: &[Entry], table: Table) -> Vec<Dependency> {
    let mut found: Vec<Dependency> = Vec::new();
    for entry in entries {
        let Some(below) = below_table(&entry.section, table) else { continue };
        // `[dependencies.name] key = …` and `name.key = …` are brought into the form `name = { key = … }`.
        let dotted = if below.is_empty() { entry.key.clone() } else { format!("{below}.{}", entry.key) };
        let (name, value) = match dotted.split_once('.') {
            Some((name, key)) => (name.to_owned(), format!("{{ {key} = {} }}", entry.value)),
            None => (dotted, entry.value.clone()),
        };
        let package = string_after(&value, "package").unwrap_or(name);
        match found.iter_mut().find(|known| known.package == package) {
            Some(known) => known.value.push_str(&value),
            None => found.push(Dependency { package, value, line: entry.line }),
        }
    }
    found
}

impl Dependency {
    /// The strings of `features = […]`.
    pub(crate) fn features(&self) -> Vec<String> {
        let Some(at) = find_key(&self.value, "features") else { return Vec::new() };
        let list = &self.value[at..];
        strings(list.split_once(']').map_or(list, |(inside, _)| inside))
    }

    /// What `key = true|false` says, if it is there.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        let at = find_key(&self.value, key)?;
        Some(self.value[at..].trim_start_matches([' ', '=']).starts_with("true"))
    }

    /// The version requirement.
    pub(crate) fn version(&self) -> Option<String> {
        match self.value.starts_with('"') {
            true => strings(&self.value).into_iter().next(),
            false => string_after(&self.value, "version"),
        }
    }
}

/// The double-quoted strings of a value.
pub(crate) fn strings(value: &str) -> Vec<String> {
    value.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What follows the table's name in a section header: `""` for the table itself, a name for `[table.name]`.
fn below_table(section: &str, table: Table) -> Option<&str> {
    let names: &[&str] = match table {
        Table::Workspace => &["workspace.dependencies"],
        Table::Normal => &["dependencies", "build-dependencies"],
    };
    let section = match (table, section.starts_with("target.")) {
        // `[target.'cfg(…)'.dependencies]`: the condition may hold dots, the table's name comes last.
        (Table::Normal, true) => {
            let at = section.find(".dependencies").or_else(|| section.find(".build-dependencies"))?;
            &section[at + 1..]
        }
        _ => section,
    };
    names.iter().find_map(|name| {
        let rest = section.strip_prefix(name)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
    })
}

/// The first string after `key =`.
fn string_after(value: &str, key: &str) -> Option<String> {
    let at = find_key(value, key)?;
    strings(&value[at..]).into_iter().next()
}

/// The end of `key` where it stands as a key of an inline table.
fn find_key(value: &str, key: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(offset) = value[from..].find(key) {
        let start = from + offset;
        let end = start + key.len();
        let free = value[..start].chars().next_back().is_none_or(|c| matches!(c, ' ' | '{' | ','));
        if free && value[end..].trim_start().starts_with('=') {
            return Some(end);
        }
        from = end;
    }
    None
}

/// A line up to its `#`, where that does not stand in a string.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (c, quote) {
            ('#', None) => return &line[..at],
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            _ => {}
        }
    }
    line
}

/// Brackets opened minus brackets closed, outside strings.
fn balance(line: &str) -> i64 {
    line.split('"').step_by(2).flat_map(str::chars).fold(0, |open, c| match c {
        '[' | '{' => open + 1,
        ']' | '}' => open - 1,
        _ => open,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[package]
name = "a" # the name

[features]
cuda = [
    "burn/cuda", # one
    "x/y",
]

[dependencies]
burn = { version = "=0.22.1", default-features = false, features = ["std", "flex"] }
core = { package = "rlhf-core", workspace = true }
rlhf-eval.workspace = true
serde = "1"

[dependencies.rand]
version = "0.10"
default-features = false

[target.'cfg(target_os = "linux")'.dependencies]
rlhf-policy = { workspace = true }

[dev-dependencies]
rlhf = { workspace = true }
"#;

    #[test]
    fn every_way_to_write_a_dependency_is_read() {
        let all = entries(TEXT);
        let normal = dependencies(&all, Table::Normal);
        let names: Vec<&str> = normal.iter().map(|d| d.package.as_str()).collect();
        assert_eq!(names, ["burn", "rlhf-core", "rlhf-eval", "serde", "rand", "rlhf-policy"]);
        assert_eq!(normal[0].features(), ["std", "flex"]);
        assert_eq!(normal[0].version().as_deref(), Some("=0.22.1"));
        assert_eq!(normal[0].flag("default-features"), Some(false));
        assert_eq!(normal[1].flag("workspace"), Some(true));
        assert_eq!(normal[2].flag("workspace"), Some(true));
        assert_eq!(normal[3].version().as_deref(), Some("1"));
        assert_eq!(
            (normal[4].version().as_deref(), normal[4].flag("default-features")),
            (Some("0.10"), Some(false))
        );
        assert_eq!(normal[0].line, 12);
    }

    #[test]
    fn a_value_over_several_lines_is_one_value() {
        let all = entries(TEXT);
        let cuda = all.iter().find(|entry| entry.key == "cuda").expect("the feature is in the text");
        assert_eq!(strings(&cuda.value), ["burn/cuda", "x/y"]);
        assert_eq!((cuda.section.as_str(), cuda.line), ("features", 6));
    }
}
