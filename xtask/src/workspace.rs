//! The repository on disk: where it is, which packages and files it has, and how to call cargo in it.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// What tools made. Git leaves it out; a walk without git must too. (In a worktree, `.git` is a file.)
const MADE_BY_TOOLS: &[&str] = &[".git", "target", "node_modules", "__pycache__", ".dart_tool"];

#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace this program was started from by `cargo xtask`; else the one it was built in.
    pub(crate) fn find() -> Result<Self> {
        let manifest_dir =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = PathBuf::from(manifest_dir);
        let root = root.parent().context("xtask has no folder above it")?.to_path_buf();
        ensure!(root.join("Cargo.toml").is_file(), "{} is not the root of the workspace", root.display());
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A cargo command at the root, with the surroundings that a shell would give it.
    ///
    /// `cargo run` tells its program about the package `xtask` in variables; passed on, they would make build
    /// scripts that watch them run again, and what was compiled here would be compiled once more from the
    /// shell.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).args(args);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(describes_the_running_package) {
                command.env_remove(name);
            }
        }
        command
    }

    /// The commit that is checked out, of which nothing was changed but the files in `but`.
    ///
    /// # Errors
    /// If something else was changed: what is proven must have a name.
    pub(crate) fn clean_commit(&self, but: &[&str]) -> Result<String> {
        let git = |args: &[&str]| -> Result<String> {
            let output = Command::new("git")
                .current_dir(&self.root)
                .args(args)
                .output()
                .context("cannot start git")?;
            ensure!(
                output.status.success(),
                "git {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        };
        let changed = git(&["status", "--porcelain"])?;
        let changed: Vec<&str> =
            changed.lines().filter(|line| !but.iter().any(|path| line.ends_with(path))).collect();
        ensure!(
            changed.is_empty(),
            "commit first, so that the ledger can name what was proven; changed:\n{}",
            changed.join("\n")
        );
        git(&["rev-parse", "--short", "HEAD"])
    }

    /// Asks cargo for our packages and the dependencies they declare.
    pub(crate) fn packages(&self) -> Result<Vec<Package>> {
        let output = self
            .cargo(&["metadata", "--format-version", "1", "--no-deps"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata failed: {}", output.status);
        parse_metadata(&output.stdout)
    }

    /// Every file that is, or with `git add .` would be, in the repository; relative to the root, in order.
    /// Without git (a source archive, a container) the folders are walked instead.
    pub(crate) fn files(&self) -> Result<BTreeSet<PathBuf>> {
        let listed = Command::new("git")
            .current_dir(&self.root)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .stdin(Stdio::null())
            .output();
        match listed {
            Ok(output) if output.status.success() => Ok(output
                .stdout
                .split(|byte| *byte == 0)
                .filter(|path| !path.is_empty())
                .map(|path| PathBuf::from(String::from_utf8_lossy(path).into_owned()))
                .filter(|path| self.root.join(path).is_file())
                .collect()),
            Ok(_) | Err(_) => {
                let mut files = BTreeSet::new();
                walk(&self.root, &self.root, &mut files)?;
                Ok(files)
            }
        }
    }
}

/// A package of this workspace, as far as the walls care.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Absolute path of its `Cargo.toml`.
    pub(crate) manifest: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

impl Package {
    pub(crate) fn folder(&self) -> &Path {
        self.manifest.parent().expect("a manifest is in a folder")
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    /// The package's own name, also where the importer renames it.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) default_features: bool,
    pub(crate) features: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Build,
    Dev,
}

/// Reads what `cargo metadata --format-version 1 --no-deps` prints.
pub(crate) fn parse_metadata(json: &[u8]) -> Result<Vec<Package>> {
    let metadata: Value = serde_json::from_slice(json).context("cargo metadata is not JSON")?;
    array(&metadata, "packages")?.iter().map(parse_package).collect()
}

fn parse_package(package: &Value) -> Result<Package> {
    Ok(Package {
        name: text(package, "name")?,
        manifest: PathBuf::from(text(package, "manifest_path")?),
        dependencies: array(package, "dependencies")?.iter().map(parse_dependency).collect::<Result<_>>()?,
    })
}

fn parse_dependency(dependency: &Value) -> Result<Dependency> {
    let kind = match dependency.get("kind").and_then(Value::as_str) {
        None => Kind::Normal,
        Some("build") => Kind::Build,
        Some("dev") => Kind::Dev,
        Some(other) => bail!("cargo metadata names a kind of dependency that is new to xtask: {other:?}"),
    };
    let default_features = dependency.get("uses_default_features").and_then(Value::as_bool);
    Ok(Dependency {
        name: text(dependency, "name")?,
        kind,
        default_features: default_features.context("a dependency without \"uses_default_features\"")?,
        features: array(dependency, "features")?
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
    })
}

fn text(value: &Value, key: &str) -> Result<String> {
    let text = value.get(key).and_then(Value::as_str);
    Ok(text.with_context(|| format!("cargo metadata has no text {key:?} where one is due"))?.to_owned())
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    let array = value.get(key).and_then(Value::as_array);
    array.with_context(|| format!("cargo metadata has no list {key:?} where one is due"))
}

fn describes_the_running_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
        .iter()
        .any(|start| variable.starts_with(start))
        || variable == "CARGO_PRIMARY_PACKAGE"
        || variable == "OUT_DIR"
}

/// Collects the files below `folder`, relative to `root`; what tools made is left out.
fn walk(root: &Path, folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", folder.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type().with_context(|| format!("cannot look at {}", path.display()))?;
        if is_made_by_tools(&name) {
            continue;
        }
        if kind.is_file() {
            files.insert(path.strip_prefix(root).expect("found below the root").to_path_buf());
        } else if kind.is_dir() {
            walk(root, &path, files)?;
        }
    }
    Ok(())
}

fn is_made_by_tools(name: &str) -> bool {
    MADE_BY_TOOLS.contains(&name) || name.starts_with("target-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_keeps_the_real_name_and_the_kind_of_a_dependency() {
        let packages = parse_metadata(
            br#"{"packages":[{"name":"a","manifest_path":"/r/a/Cargo.toml","dependencies":[
                {"name":"b","rename":"c","kind":null,"uses_default_features":true,"features":[]},
                {"name":"d","rename":null,"kind":"dev","uses_default_features":false,"features":["x"]}]}]}"#,
        )
        .expect("well formed");
        let [package] = packages.as_slice() else { panic!("one package, not {packages:?}") };
        assert_eq!(package.folder(), Path::new("/r/a"));
        let seen: Vec<_> = package.dependencies.iter().map(|d| (d.name.as_str(), d.kind)).collect();
        assert_eq!(seen, [("b", Kind::Normal), ("d", Kind::Dev)]);
        assert_eq!(package.dependencies[1].features, ["x"]);
    }

    #[test]
    fn metadata_of_another_shape_is_an_error_and_not_an_empty_workspace() {
        for json in [&b"{}"[..], b"{\"packages\":[{}]}", b"not json"] {
            assert!(parse_metadata(json).is_err());
        }
    }

    #[test]
    fn only_variables_about_the_running_package_are_hidden_from_cargo() {
        for hidden in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "OUT_DIR"] {
            assert!(describes_the_running_package(hidden), "{hidden}");
        }
        for kept in ["CARGO_TARGET_DIR", "CARGO_HOME", "CARGO_BUILD_JOBS", "CARGO_ENCODED_RUSTFLAGS", "PATH"]
        {
            assert!(!describes_the_running_package(kept), "{kept}");
        }
    }

    #[test]
    fn a_walk_without_git_sees_sources_and_no_build_results() {
        let workspace = Workspace::find().expect("tests run in the workspace");
        let mut files = BTreeSet::new();
        walk(workspace.root(), workspace.root(), &mut files).expect("readable");
        assert!(files.contains(Path::new("xtask/src/main.rs")));
        assert!(files.contains(Path::new(".cargo/config.toml")));
        assert!(!files.iter().any(|path| path.starts_with("target") || path.starts_with(".git")));
    }
}
