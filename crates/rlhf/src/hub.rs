//! `org/name` in place of a folder or file: the Hugging Face hub, behind the feature `hub`.
//!
//! A path that exists is never looked up. What was fetched once is read from the hub's own cache
//! (`HF_HOME`), which the Python tools share.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// The folder of a model: `given` itself where it exists or is no `org/name`, else what the hub has
/// under that name.
///
/// # Errors
/// A binary without the feature `hub`, a hub out of reach, a name it does not have.
pub fn model(given: &Path) -> Result<PathBuf, Error> {
    match repository(given) {
        None => Ok(given.to_owned()),
        Some(name) => fetch::model(name),
    }
}

/// The file of a data set: `given` itself where it exists or is no `org/name`, else the one file of
/// that name; `org/name/FILE` picks one of several.
///
/// # Errors
/// As [`model`], and a data set with more than one file where none was named.
pub fn data(given: &Path) -> Result<PathBuf, Error> {
    if given.exists() {
        return Ok(given.to_owned());
    }
    let parts: Vec<&str> = given.to_str().map(|text| text.split('/').collect()).unwrap_or_default();
    match parts.as_slice() {
        [org, name] if is_name(org) && is_name(name) && !has_data_suffix(name) => {
            fetch::data(&format!("{org}/{name}"), None)
        }
        [org, name, file @ ..] if is_name(org) && is_name(name) && cfg!(feature = "hub") => {
            fetch::data(&format!("{org}/{name}"), Some(&file.join("/")))
        }
        _ => Ok(given.to_owned()),
    }
}

/// `org/name`, where `given` is one and no such path exists.
fn repository(given: &Path) -> Option<&str> {
    let text = given.to_str()?;
    let (org, name) = text.split_once('/')?;
    (is_name(org) && is_name(name) && !given.exists()).then_some(text)
}

fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.chars().all(fits) && !text.starts_with('.')
}

fn has_data_suffix(name: &str) -> bool {
    [".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet"]
        .iter()
        .any(|end| name.ends_with(end))
}

#[cfg(not(feature = "hub"))]
mod fetch {
    use std::path::PathBuf;

    use crate::error::Error;

    pub(super) fn model(name: &str) -> Result<PathBuf, Error> {
        let expected = "a folder that exists (or a binary built with `--features hub`, which fetches models)";
        Err(Error::config("model", "path", expected, name))
    }

    pub(super) fn data(name: &str, _file: Option<&str>) -> Result<PathBuf, Error> {
        let expected =
            "a file that exists (or a binary built with `--features hub`, which fetches data sets)";
        Err(Error::config("data", "path", expected, name))
    }
}

#[cfg(feature = "hub")]
mod fetch {
    use std::path::PathBuf;

    use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};

    use super::has_data_suffix;
    use crate::error::Error;

    /// What of a model's repository is read here.
    fn wanted(file: &str) -> bool {
        let whole = ["config.json", "generation_config.json", "chat_template.jinja", "adapter_config.json"];
        whole.contains(&file)
            || (!file.contains('/')
                && (file.ends_with(".safetensors") || file.ends_with(".safetensors.index.json")))
            || (file.starts_with("tokenizer") && file.ends_with(".json"))
            || file == "special_tokens_map.json"
    }

    fn api() -> Result<Api, Error> {
        let built = ApiBuilder::from_env().with_progress(false).build();
        built.map_err(|e| Error::Failed(format!("Hugging Face hub: {e}")))
    }

    fn files(repo: &ApiRepo, name: &str, instead: &str) -> Result<Vec<String>, Error> {
        let info = repo.info().map_err(|e| unreachable(name, &e.to_string(), instead))?;
        Ok(info.siblings.into_iter().map(|file| file.rfilename).collect())
    }

    fn unreachable(name: &str, why: &str, instead: &str) -> Error {
        Error::Failed(format!(
            "{name}: the Hugging Face hub gave no answer ({why}); without a network give {instead}"
        ))
    }

    pub(super) fn model(name: &str) -> Result<PathBuf, Error> {
        let instead =
            "the path of a model folder: one with config.json, model.safetensors and tokenizer.json";
        let repo = api()?.model(name.to_owned());
        // A model that was fetched before needs no network, but for the list of its files.
        let all = files(&repo, name, instead)?;
        let chosen: Vec<String> = all.into_iter().filter(|file| wanted(file)).collect();
        if !chosen.iter().any(|file| file.ends_with(".safetensors")) {
            return Err(Error::Failed(format!("{name}: expected a repository with safetensors, found none")));
        }
        let mut folder = None;
        for file in &chosen {
            tracing::info!("fetching {name}: {file}");
            let path = repo.get(file).map_err(|e| unreachable(name, &e.to_string(), instead))?;
            folder = path.parent().map(std::path::Path::to_owned);
        }
        folder.ok_or_else(|| Error::Failed(format!("{name}: expected files, found none")))
    }

    pub(super) fn data(name: &str, file: Option<&str>) -> Result<PathBuf, Error> {
        let instead = "the path of a JSONL, CSV or Parquet file";
        let repo = api()?.dataset(name.to_owned());
        let file = match file {
            Some(file) => file.to_owned(),
            None => {
                let all = files(&repo, name, instead)?;
                let all: Vec<String> = all.into_iter().filter(|file| has_data_suffix(file)).collect();
                match all.as_slice() {
                    [one] => one.clone(),
                    _ => {
                        let expected = format!("one data file, or {name}/FILE with one of them");
                        return Err(Error::config("data", "path", expected, all.join(", ")));
                    }
                }
            }
        };
        repo.get(&file).map_err(|e| unreachable(name, &e.to_string(), instead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_org_slash_name_that_is_no_path_is_looked_up() {
        let looked_up = |text: &str| repository(Path::new(text)).is_some();
        assert!(looked_up("HuggingFaceTB/SmolLM2-135M"));
        for path in ["model", "./a/b", "../a/b", "/a/b", "a/b/c", "src/lib.rs", "", "a b/c"] {
            assert!(!looked_up(path), "{path}");
        }
    }

    #[test]
    fn a_file_of_data_is_taken_as_it_is() {
        let path = Path::new("some/missing.jsonl");
        assert_eq!(data(path).expect("left to the reader"), path);
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_the_error_says_how_to_give_a_folder() {
        let error = model(Path::new("org/name")).expect_err("no such folder").to_string();
        assert!(
            error.contains("expected a folder that exists") && error.ends_with("found org/name"),
            "{error}"
        );
    }
}
