//! The stair of crates, and where backends may be named.

use crate::manifest::{self, Dependency, Entry, Table};
use crate::workspace::{Finding, Workspace};

/// Step of each crate: a crate may depend on crates of lower steps only.
const STAIR: &[(&str, u8)] = &[
    ("rlhf-core", 0),
    ("rlhf-kernels", 0),
    ("rlhf-reward", 1),
    ("rlhf-policy", 1),
    ("rlhf-eval", 1),
    ("rlhf-selfplay", 2),
    ("rlhf-nested", 2),
    ("rlhf", 3),
];

/// The crate that may name backends: the one with the binary.
const LEAF: &str = "rlhf";

/// The library that may do so too, behind a feature of the backend's name that is off by default: it
/// holds operations written for one.
const KERNELS: &str = "rlhf-kernels";

/// Burn is a public dependency below 1.0, so it is pinned, and our minor version moves with it.
const BURN: &str = "0.22.1";

/// Features of `burn` (and, after `burn-`, crates) that bring in a backend.
const BACKENDS: &[&str] = &[
    "accelerate",
    "candle",
    "candle-cuda",
    "candle-metal",
    "cpu",
    "cubecl",
    "cuda",
    "default-backend",
    "flex",
    "hip",
    "metal",
    "ndarray",
    "openblas",
    "remote",
    "rocm",
    "router",
    "server",
    "tch",
    "vulkan",
    "webgpu",
    "wgpu",
];

/// All that is wrong with the manifests and the lock file.
pub(super) fn findings(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    let root = read(workspace, "Cargo.toml", &mut findings);
    let shared = manifest::dependencies(&root, Table::Workspace);
    findings.extend(pin(&shared));
    let crates = workspace.crates();
    for (name, _) in STAIR.iter().filter(|(name, _)| !crates.iter().any(|found| found == name)) {
        findings.push(finding("crates", 0, format!("expected the crate `{name}`, found no manifest of it")));
    }
    for name in &crates {
        let file = format!("crates/{name}/Cargo.toml");
        let entries = read(workspace, &file, &mut findings);
        let dependencies = manifest::dependencies(&entries, Table::Normal);
        findings.extend(edges(&file, name, &dependencies));
        if name != LEAF {
            let named = backends(&file, &entries, &dependencies);
            findings.extend(named.into_iter().filter(|_| name != KERNELS));
        }
        if name == KERNELS {
            findings.extend(off_by_default(&file, &entries, &dependencies));
        }
        if name == "rlhf-eval" {
            findings.extend(without_burn(&file, &dependencies, &shared));
        }
    }
    match workspace.read("Cargo.lock") {
        Ok(lock) => findings.extend(one_burn(&lock)),
        Err(unreadable) => findings.push(unreadable),
    }
    findings
}

fn finding(file: &str, line: usize, message: String) -> Finding {
    Finding { file: file.to_owned(), line, message }
}

/// The entries of a manifest; none, and a finding, when it cannot be read.
fn read(workspace: &Workspace, file: &str, findings: &mut Vec<Finding>) -> Vec<Entry> {
    match workspace.read(file) {
        Ok(text) => manifest::entries(&text),
        Err(unreadable) => {
            findings.push(unreadable);
            Vec::new()
        }
    }
}

/// The step of a crate.
fn step(name: &str) -> Option<u8> {
    STAIR.iter().find(|(known, _)| *known == name).map(|(_, step)| *step)
}

/// Edges that do not go down.
fn edges(file: &str, name: &str, dependencies: &[Dependency]) -> Vec<Finding> {
    let Some(from) = step(name) else {
        let message =
            format!("stair: expected one of the crates of the stair, found `{name}` (xtask: STAIR)");
        return vec![finding(file, 0, message)];
    };
    let ours = dependencies.iter().filter(|d| d.package == "rlhf" || d.package.starts_with("rlhf-"));
    ours.filter_map(|dependency| {
        let to = step(&dependency.package);
        if to.is_some_and(|to| to < from) {
            return None;
        }
        let to = to.map_or("none".to_owned(), |to| to.to_string());
        let message = format!(
            "stair: expected dependencies of `{name}` (step {from}) on lower steps only, found `{}` (step {to})",
            dependency.package
        );
        Some(finding(file, dependency.line, message))
    })
    .collect()
}

/// Backends in a library's dependencies or features.
fn backends(file: &str, entries: &[Entry], dependencies: &[Dependency]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |line, place: &str, found: &str| {
        let message =
            format!("backend: expected no Burn backend in the {place} of a library, found `{found}`");
        findings.push(finding(file, line, message));
    };
    for dependency in dependencies {
        if dependency.package.strip_prefix("burn-").is_some_and(is_backend) {
            report(dependency.line, "dependencies", &dependency.package);
        }
        if dependency.package.starts_with("burn") || dependency.package.starts_with("rlhf") {
            for feature in dependency.features().iter().filter(|feature| is_backend(feature)) {
                report(dependency.line, "dependencies", &format!("{}/{feature}", dependency.package));
            }
        }
    }
    for entry in entries.iter().filter(|entry| entry.section == "features") {
        if is_backend(&entry.key) {
            report(entry.line, "features", &entry.key);
        }
        for value in manifest::strings(&entry.value) {
            let Some((package, feature)) = value.split_once('/') else { continue };
            if package.starts_with("burn") && is_backend(feature) {
                report(entry.line, "features", &value);
            }
        }
    }
    findings
}

/// Backends that come into the crate of kernels without being asked for.
fn off_by_default(file: &str, entries: &[Entry], dependencies: &[Dependency]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let features = entries.iter().filter(|entry| entry.section == "features" && entry.key == "default");
    for entry in features.filter(|entry| manifest::strings(&entry.value).iter().any(|f| is_backend(f))) {
        findings.push(finding(file, entry.line, "backend: expected none by default, found one".to_owned()));
    }
    for dependency in dependencies {
        for feature in dependency.features().iter().filter(|feature| is_backend(feature)) {
            let message =
                format!("backend: expected it behind a feature, found `{}/{feature}`", dependency.package);
            findings.push(finding(file, dependency.line, message));
        }
    }
    findings
}

/// Whether a feature of Burn brings in a backend.
fn is_backend(feature: &str) -> bool {
    BACKENDS.contains(&feature)
}

/// The pin in `[workspace.dependencies]`, without a backend.
fn pin(shared: &[Dependency]) -> Vec<Finding> {
    let file = "Cargo.toml";
    let Some(burn) = shared.iter().find(|d| d.package == "burn") else {
        return vec![finding(
            file,
            0,
            format!("expected `burn = \"={BURN}\"` in [workspace.dependencies], found none"),
        )];
    };
    let mut findings = Vec::new();
    let version = burn.version().unwrap_or_default();
    if version != format!("={BURN}") {
        findings.push(finding(
            file,
            burn.line,
            format!("burn: expected version `={BURN}`, found `{version}`"),
        ));
    }
    if burn.flag("default-features") != Some(false) {
        let message = "burn: expected `default-features = false`, found the default features".to_owned();
        findings.push(finding(file, burn.line, message));
    }
    for feature in burn.features().iter().filter(|feature| is_backend(feature)) {
        let message = format!("backend: expected no Burn backend for the whole workspace, found `{feature}`");
        findings.push(finding(file, burn.line, message));
    }
    findings
}

/// Ways by which Burn would come into a crate that does without.
fn without_burn(file: &str, dependencies: &[Dependency], shared: &[Dependency]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for dependency in dependencies {
        let package = &dependency.package;
        if package == "burn" || package.starts_with("burn-") {
            let message = format!("rlhf-eval: expected no dependency on Burn, found `{package}`");
            findings.push(finding(file, dependency.line, message));
        }
        if package != "rlhf-core" {
            continue;
        }
        // With `workspace = true` the default features are decided at the root; a member can only add them.
        let inherited =
            shared.iter().find(|d| d.package == *package).and_then(|d| d.flag("default-features"));
        let own = dependency.flag("default-features");
        let off = if dependency.flag("workspace") == Some(true) {
            inherited == Some(false) && own != Some(true)
        } else {
            own == Some(false)
        };
        if !off || dependency.features().iter().any(|feature| feature == "burn" || feature == "default") {
            let message = "rlhf-eval: expected rlhf-core without its feature `burn`, found it on".to_owned();
            findings.push(finding(file, dependency.line, message));
        }
    }
    findings
}

/// A second Burn, or another than the pinned one, in the lock file.
fn one_burn(lock: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in ["burn", "burn-core"] {
        let header = format!("name = \"{package}\"");
        let lines: Vec<&str> = lock.lines().collect();
        let versions: Vec<String> = lines
            .windows(2)
            .filter(|pair| pair[0] == header)
            .flat_map(|pair| manifest::strings(pair[1]))
            .collect();
        if versions != [BURN] {
            let message = format!("expected one `{package}` {BURN}, found [{}]", versions.join(", "));
            findings.push(finding("Cargo.lock", 0, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Vec<Dependency> {
        manifest::dependencies(&manifest::entries(text), Table::Normal)
    }

    fn shown(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn sideways_and_upward_edges_are_found_and_downward_ones_are_not() {
        let text = "[dependencies]\nrlhf-core.workspace = true\nrlhf-reward.workspace = true\nrlhf-nested = \"1\"\n\
                    [dev-dependencies]\nrlhf = \"1\"\n";
        assert_eq!(
            shown(&edges("m", "rlhf-policy", &normal(text))),
            [
                "m:3: stair: expected dependencies of `rlhf-policy` (step 1) on lower steps only, \
                 found `rlhf-reward` (step 1)",
                "m:4: stair: expected dependencies of `rlhf-policy` (step 1) on lower steps only, \
                 found `rlhf-nested` (step 2)",
            ]
        );
        assert_eq!(edges("m", "rlhf", &normal(text)), []);
    }

    #[test]
    fn a_backend_is_found_in_dependencies_and_features_and_not_in_dev_dependencies() {
        let text = "[features]\ngpu = [\"burn/cuda\"]\nburn = [\"dep:burn\"]\n[dependencies]\n\
                    burn = { workspace = true, features = [\"std\", \"flex\"] }\nburn-ndarray = \"0.22\"\n\
                    [dev-dependencies]\nburn = { workspace = true, features = [\"flex\"] }\n";
        let found = shown(&backends("m", &manifest::entries(text), &normal(text)));
        let places: Vec<String> = found.iter().map(|line| line.replace(" a library", "")).collect();
        assert_eq!(places.len(), 3, "{places:?}");
        assert!(places[0].starts_with("m:5:") && places[0].ends_with("`burn/flex`"));
        assert!(places[1].starts_with("m:6:") && places[1].ends_with("`burn-ndarray`"));
        assert!(places[2].starts_with("m:2:") && places[2].ends_with("`burn/cuda`"));
    }

    #[test]
    fn rlhf_eval_gets_no_burn_by_any_way() {
        let shared = |text: &str| manifest::dependencies(&manifest::entries(text), Table::Workspace);
        let off =
            shared("[workspace.dependencies]\nrlhf-core = { path = \"p\", default-features = false }\n");
        let on = shared("[workspace.dependencies]\nrlhf-core = { path = \"p\" }\n");
        let member = normal("[dependencies]\nrlhf-core = { workspace = true }\n");
        assert_eq!(without_burn("m", &member, &off), []);
        assert_eq!(without_burn("m", &member, &on).len(), 1);
        let feature = normal("[dependencies]\nrlhf-core = { workspace = true, features = [\"burn\"] }\n");
        assert_eq!(without_burn("m", &feature, &off).len(), 1);
        let direct = normal("[dependencies]\nburn-core = \"1\"\n");
        assert_eq!(without_burn("m", &direct, &off).len(), 1);
    }

    #[test]
    fn a_second_burn_in_the_lock_file_is_found() {
        let package =
            |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
        let one = package("burn", BURN) + &package("burn-core", BURN);
        assert_eq!(one_burn(&one), []);
        let two = one.clone() + &package("burn", "0.21.0");
        assert_eq!(
            shown(&one_burn(&two)),
            ["Cargo.lock: expected one `burn` 0.22.1, found [0.22.1, 0.21.0]"]
        );
    }

    #[test]
    fn the_pin_is_exact_and_names_no_backend() {
        let pinned = |value: &str| {
            pin(&manifest::dependencies(
                &manifest::entries(&format!("[workspace.dependencies]\nburn = {value}\n")),
                Table::Workspace,
            ))
        };
        assert_eq!(pinned("{ version = \"=0.22.1\", default-features = false, features = [\"std\"] }"), []);
        assert_eq!(pinned("{ version = \"0.22.1\", default-features = false }").len(), 1);
        assert_eq!(pinned("{ version = \"=0.22.1\", features = [\"wgpu\"] }").len(), 2);
    }
}
