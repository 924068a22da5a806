//! `gpu-build`: the binary `rlhf` for CUDA, stripped, built without CUDA, without a GPU and without LLVM.
//!
//! The feature `cuda` needs CubeCL's prebuilt LLVM, which its build fetches. Where that cannot be had, this command
//! writes a package of its own below the target folder, with a crate in the place of cubecl-llvm that names its types
//! and compiles nothing, and CubeCL's other compiler (CUDA C++ through NVRTC) chosen. The workspace's own manifest
//! and lock file stay as they are: the feature itself is plain for everybody else. `docs/gpu.md` says more.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use crate::workspace::Workspace;
use crate::{Outcome, process, usage_error};

/// The stand-in for cubecl-llvm; it has the version in the place of [`VERSION_MARK`].
const STAND_IN_MANIFEST: &str = include_str!("../gpu/stand-in.toml");
/// Its one source file.
const STAND_IN_SOURCE: &str = include_str!("../gpu/stand-in.rs");
/// Where the version goes.
const VERSION_MARK: &str = "@VERSION@";

/// The crate that is stood in for, and the one whose feature chooses the other compiler: of one version.
const LLVM: &str = "cubecl-llvm";
const CUBECL: &str = "cubecl";

/// The oldest CUDA that the binary shall run with, as cudarc writes it. A machine without `nvcc` would take the
/// newest it knows.
const CUDA_VERSION: (&str, &str) = ("CUDARC_CUDA_VERSION", "13000");

/// What the binary may weigh.
const MAX_MIB: f64 = 60.0;
const MIB: f64 = 1024.0 * 1024.0;

/// How it is built: as the workspace's release, but for size and for good.
const PROFILE: &str = "[profile.release]
debug = 0
strip = true
incremental = false
codegen-units = 1
";

/// What only describes kernels: it runs once a kernel, before NVRTC takes its seconds, and is built small.
const SMALL: &[&str] = &[
    "burn-cubecl",
    "burn-cubecl-fusion",
    "cubecl-core",
    "cubecl-cpp",
    "cubecl-environment",
    "cubecl-ir",
    "cubecl-opt",
    "cubecl-std",
    "cubek-attention",
    "cubek-convolution",
    "cubek-interpolate",
    "cubek-matmul",
    "cubek-pool",
    "cubek-quant",
    "cubek-random",
    "cubek-reduce",
    "cubek-std",
    "cubek-tile",
    "pliron",
];

/// The devices of the binary: CUDA, and the CPU's to compare with.
const FEATURES: &str = "cuda,flex";

/// What the linker saves: functions of one body become one, and a program that is not moved in memory needs no list
/// of what to move (each is worth 5 MiB). Only where rustc links with LLD, which knows the first.
const LINKING: &[&str] = if cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")) {
    &["-C", "link-arg=-Wl,--icf=all", "-C", "relocation-model=static"]
} else {
    &[]
};

/// `gpu-build`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Outcome {
    if let Some(argument) = arguments.first() {
        return Ok(usage_error("gpu-build", &format!("expected no argument, found `{argument}`")));
    }
    let folder = workspace.target().join("gpu-build");
    write_package(workspace, &folder)?;
    let binary = build(workspace, &folder)?;
    let size = fs::metadata(&binary).map_err(|error| failed(&binary, &error))?.len();
    let mib = size as f64 / MIB;
    println!("{}: {mib:.1} MiB", binary.display());
    if mib >= MAX_MIB {
        return Err(format!("expected a binary under {MAX_MIB} MiB, found {mib:.1} MiB"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the package in `folder` and gives the path of its binary.
fn build(workspace: &Workspace, folder: &Path) -> Result<PathBuf, String> {
    let target = folder.join("target");
    let mut cargo = process::cargo(workspace);
    cargo.env("CARGO_TARGET_DIR", &target);
    if env::var_os(CUDA_VERSION.0).is_none() {
        cargo.env(CUDA_VERSION.0, CUDA_VERSION.1);
    }
    cargo.args(["rustc", "--release", "--bin", "rlhf", "--no-default-features", "--features", FEATURES]);
    cargo.arg("--manifest-path").arg(folder.join("Cargo.toml")).arg("--").args(LINKING);
    process::run(&mut cargo)?;
    let binary = target.join("release").join(format!("rlhf{}", env::consts::EXE_SUFFIX));
    if binary.is_file() {
        Ok(binary)
    } else {
        Err(format!("expected the binary {}, found none", binary.display()))
    }
}

/// Writes the package, the stand-in and a copy of the lock file.
fn write_package(workspace: &Workspace, folder: &Path) -> Result<(), String> {
    let read = |file: &str| workspace.read(file).map_err(|finding| finding.to_string());
    let lock = read("Cargo.lock")?;
    let version = one_version(&lock)?;
    let root = slashes(workspace.root());
    let manifest = manifest(&root, &read("Cargo.toml")?, &read("crates/rlhf/Cargo.toml")?, &version)?;
    let stand_in = folder.join(LLVM);
    write(&folder.join("Cargo.toml"), &manifest)?;
    write(&stand_in.join("Cargo.toml"), &STAND_IN_MANIFEST.replace(VERSION_MARK, &version))?;
    write(&stand_in.join("src/lib.rs"), STAND_IN_SOURCE)?;
    // The versions of the workspace; cargo itself takes out what the package does not use.
    write(&folder.join("Cargo.lock"), &lock)
}

/// The version of [`LLVM`] and [`CUBECL`] in a lock file.
fn one_version(lock: &str) -> Result<String, String> {
    let of = |name: &str| {
        let head = format!("name = \"{name}\"");
        let mut lines = lock.lines().skip_while(|line| *line != head).skip(1);
        let version = lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
        version.ok_or_else(|| format!("Cargo.lock: expected a package `{name}`, found none"))
    };
    let (llvm, cubecl) = (of(LLVM)?, of(CUBECL)?);
    if llvm == cubecl {
        Ok(llvm.to_owned())
    } else {
        Err(format!("Cargo.lock: expected one version of {LLVM} and {CUBECL}, found {llvm} and {cubecl}"))
    }
}

/// The manifest of the package: the binary's source where it lies, with the dependencies and features of the package
/// `rlhf`, and that package as a library.
fn manifest(root: &str, workspace: &str, rlhf: &str, version: &str) -> Result<String, String> {
    let shared = [
        table("Cargo.toml", workspace, "workspace.package")?,
        table("Cargo.toml", workspace, "workspace.dependencies")?
            .replace("path = \"crates/", &format!("path = \"{root}/crates/")),
    ];
    let own = "crates/rlhf/Cargo.toml";
    let (features, dependencies) = (table(own, rlhf, "features")?, table(own, rlhf, "dependencies")?);
    let mut text = String::from("# Written by `cargo xtask gpu-build`: a change here is lost.\n");
    text.push_str("[workspace]\nresolver = \"3\"\n\n");
    text.push_str(&shared.concat());
    text.push_str("[package]\nname = \"rlhf-gpu\"\nversion.workspace = true\nedition.workspace = true\n");
    text.push_str("publish = false\n\n[[bin]]\nname = \"rlhf\"\n");
    text.push_str(&format!("path = \"{root}/crates/rlhf/src/main.rs\"\n\n"));
    text.push_str(&features);
    text.push_str(&dependencies);
    let chosen = FEATURES.replace(',', "\", \"");
    text.push_str(&format!("[dependencies.rlhf]\npath = \"{root}/crates/rlhf\"\ndefault-features = false\n"));
    text.push_str(&format!("features = [\"{chosen}\"]\n\n"));
    text.push_str(&format!("[dependencies.{CUBECL}]\nversion = \"={version}\"\ndefault-features = false\n"));
    text.push_str("features = [\"cuda-cpp\"]\n\n");
    text.push_str(&format!("[patch.crates-io]\n{LLVM} = {{ path = \"{LLVM}\" }}\n\n{PROFILE}"));
    for name in SMALL {
        text.push_str(&format!("\n[profile.release.package.{name}]\nopt-level = \"s\"\n"));
    }
    Ok(text)
}

/// A table of a manifest with its head, up to the next one, ended by an empty line.
fn table(file: &str, text: &str, name: &str) -> Result<String, String> {
    let head = format!("[{name}]");
    let mut lines = text.lines().skip_while(|line| line.trim_end() != head);
    let found = lines.next().ok_or_else(|| format!("{file}: expected a table `{head}`, found none"))?;
    let body: Vec<&str> = lines.take_while(|line| !line.starts_with('[')).collect();
    Ok(format!("{found}\n{}\n\n", body.join("\n").trim_end()))
}

/// A path as TOML and cargo take it on every system.
fn slashes(path: &Path) -> String {
    path.display().to_string().replace('\\', "/")
}

/// Writes a file that is not so already: a newer date alone would have everything built again.
fn write(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(|error| failed(path, &error))?;
    fs::write(path, text).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{self as cargo, Table};

    /// The manifest for the workspace as it is, and the version of cubecl in its lock file.
    fn written() -> (String, String, String) {
        let here = Workspace::here();
        let read = |file: &str| here.read(file).expect("a file of the workspace");
        let lock = read("Cargo.lock");
        let version = one_version(&lock).expect("cubecl is in the lock file");
        let own = (read("Cargo.toml"), read("crates/rlhf/Cargo.toml"));
        let text =
            super::manifest(&slashes(here.root()), &own.0, &own.1, &version).expect("every table is there");
        (text, version, lock)
    }

    #[test]
    fn the_package_patches_llvm_away_and_takes_the_versions_of_the_lock_file() {
        let (text, version, lock) = written();
        let entries = cargo::entries(&text);
        let value = |section: &str, key: &str| {
            let found: Vec<&str> =
                entries.iter().filter(|e| e.section == section && e.key == key).map(|e| &*e.value).collect();
            assert_eq!(found.len(), 1, "[{section}] {key}: {found:?}");
            found[0]
        };
        assert_eq!(value("patch.crates-io", LLVM), "{ path = \"cubecl-llvm\" }");
        assert_eq!(value("dependencies.cubecl", "version"), format!("\"={version}\""));
        assert_eq!(value("dependencies.cubecl", "features"), "[\"cuda-cpp\"]");
        assert_eq!(value("dependencies.rlhf", "features"), "[\"cuda\", \"flex\"]");
        assert_eq!(value("profile.release", "strip"), "true");
        for feature in ["burn/cuda", "burn/fusion", "burn/autotune"] {
            assert!(value("features", "cuda").contains(feature), "{feature}");
        }
        let burn = lock.split("[[package]]").find(|p| p.contains("\nname = \"burn\"\n")).expect("burn");
        let pin = cargo::strings(value("workspace.dependencies", "burn"))[0].clone();
        assert!(burn.contains(&format!("\nversion = \"{}\"\n", pin.trim_start_matches('='))), "{burn}");
        for name in SMALL {
            assert!(lock.contains(&format!("\nname = \"{name}\"\n")), "{name} is not in the lock file");
            assert_eq!(value(&format!("profile.release.package.{name}"), "opt-level"), "\"s\"");
        }
    }

    #[test]
    fn the_package_is_well_formed_and_its_paths_are_there() {
        let (text, ..) = written();
        let heads: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
        for head in &heads {
            assert_eq!(heads.iter().filter(|other| *other == head).count(), 1, "{head} stands twice");
        }
        let entries = cargo::entries(&text);
        let shared = cargo::dependencies(&entries, Table::Workspace);
        for dependency in cargo::dependencies(&entries, Table::Normal) {
            let known = shared.iter().any(|other| other.package == dependency.package);
            let own = dependency.version().is_some() || dependency.value.contains("path = ");
            assert!(known || own, "{} comes from nowhere", dependency.package);
        }
        let paths: Vec<String> = entries
            .iter()
            .filter(|entry| entry.section != "patch.crates-io")
            .filter_map(|entry| match entry.key.as_str() {
                "path" => cargo::strings(&entry.value).into_iter().next(),
                _ => cargo::strings(entry.value.split_once("path = ")?.1).into_iter().next(),
            })
            .collect();
        assert!(paths.len() > 5, "the crates of the workspace and the binary: {paths:?}");
        for path in paths {
            let path = Path::new(&path);
            assert!(path.is_file() || path.join("Cargo.toml").is_file(), "{} is not there", path.display());
        }
    }

    #[test]
    fn the_stand_in_has_the_name_the_version_and_the_features_that_are_asked_of_it() {
        let (_, version, _) = written();
        let entries = cargo::entries(&STAND_IN_MANIFEST.replace(VERSION_MARK, &version));
        let value = |section: &str, key: &str| {
            entries.iter().find(|e| e.section == section && e.key == key).map(|e| e.value.clone())
        };
        assert_eq!(value("package", "name"), Some(format!("\"{LLVM}\"")));
        assert_eq!(value("package", "version"), Some(format!("\"{version}\"")));
        for feature in ["std", "nvptx", "amdgpu", "tracing", "pliron-dump"] {
            assert!(value("features", feature).is_some(), "{feature}");
        }
        for dependency in cargo::dependencies(&entries, Table::Normal) {
            assert_eq!(dependency.version(), Some(format!("={version}")), "{}", dependency.package);
        }
    }

    #[test]
    fn what_is_missing_or_does_not_agree_is_named() {
        let lock = |llvm: &str, cubecl: &str| {
            format!(
                "name = \"cubecl\"\nversion = \"{cubecl}\"\n\nname = \"cubecl-llvm\"\nversion = \"{llvm}\"\n"
            )
        };
        assert_eq!(one_version(&lock("1.2.3", "1.2.3")), Ok("1.2.3".to_owned()));
        let unlike = one_version(&lock("1.2.3", "1.2.4")).expect_err("two versions");
        assert!(unlike.ends_with("found 1.2.3 and 1.2.4"), "{unlike}");
        let absent = one_version("name = \"cubecl\"\nversion = \"1.2.4\"\n").expect_err("no cubecl-llvm");
        assert!(absent.contains("`cubecl-llvm`"), "{absent}");
        assert_eq!(table("f", "[a]\nx = 1\n\n[b]\ny = 2\n", "a"), Ok("[a]\nx = 1\n\n".to_owned()));
        assert_eq!(table("f", "[a]\n", "b"), Err("f: expected a table `[b]`, found none".to_owned()));
    }

    #[test]
    fn an_argument_is_a_usage_error() {
        let code = run(&Workspace::here(), &["--fast".to_owned()]);
        assert_eq!(code, Ok(ExitCode::from(2)));
    }
}
