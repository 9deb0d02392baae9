//! A scratch copy of the repository in which the core holds all its mutants, and the building of it.
//!
//! Mutants that do not compile are found by the compiler's own words: its messages point into a mutant's text, that
//! mutant is dropped, and the core is checked again until nothing is left to say. It knows nothing of running tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::schema;
use crate::sites::{self, Site};

/// The crate that is broken, from the root.
pub(crate) const CORE: &str = "crates/core";
/// Rounds of dropping what does not compile: the compiler speaks of names, types and borrows one after the other.
const ROUNDS: usize = 40;
/// The packages whose tests are asked.
const PACKAGES: [&str; 2] = ["landfall-core", "landfall-testkit"];

/// A source file of the core with what can be broken in it.
#[derive(Debug)]
pub(crate) struct File {
    /// From the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) sites: Vec<Site>,
    /// The number of its first mutant.
    pub(crate) first: u32,
}

impl File {
    /// The mutants of one function.
    fn numbers_in(&self, function: &str) -> Vec<u32> {
        let mut next = self.first;
        let mut numbers = Vec::new();
        for site in &self.sites {
            let count = u32::try_from(site.mutations.len()).unwrap_or(0);
            if site.function == function {
                numbers.extend(next..next + count);
            }
            next += count;
        }
        numbers
    }
}

/// Functions that constants and statics call (E0015), by the names that the messages give them.
fn called_in_constants(errors: &[Value]) -> BTreeSet<String> {
    let of_code = errors.iter().filter(|error| error["code"]["code"] == "E0015");
    of_code.filter_map(|error| error["message"].as_str()?.split('`').nth(1).map(ToOwned::to_owned)).collect()
}

/// Reads the core's sources. Numbers of mutants begin with one.
pub(crate) fn read(root: &Path) -> Result<Vec<File>> {
    let mut paths = Vec::new();
    sources(&root.join(CORE).join("src"), &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    let mut first = 1;
    for path in paths {
        let text = fs::read_to_string(&path)?;
        let sites = sites::find(&text).with_context(|| path.display().to_string())?;
        let path = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
        let count: usize = sites.iter().map(|site| site.mutations.len()).sum();
        files.push(File { path, text, sites, first });
        first += u32::try_from(count)?;
    }
    ensure!(first < 65_536, "more mutants than the schema has room for");
    Ok(files)
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// One program of tests.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    pub(crate) folder: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Scratch {
    root: PathBuf,
}

impl Scratch {
    /// Copies what git has, or would have, to `to`; a file that is there already with the same text is left alone.
    pub(crate) fn copy(from: &Path, to: &Path) -> Result<Self> {
        let listed = Command::new("git")
            .current_dir(from)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .output()
            .context("cannot start git")?;
        ensure!(listed.status.success(), "git ls-files failed");
        for path in listed.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            let path = String::from_utf8_lossy(path).into_owned();
            let is_mutated = path.starts_with("crates/core/src/");
            if is_mutated || path.starts_with("tools/") || !from.join(&path).is_file() {
                continue;
            }
            put(&to.join(&path), &fs::read(from.join(&path))?)?;
        }
        Ok(Self { root: to.to_path_buf() })
    }

    /// Writes the files with all mutants but the dropped ones.
    fn write(&self, files: &[File], dropped: &BTreeSet<u32>, constant: &BTreeSet<String>) -> Result<()> {
        for file in files {
            let mut text = schema::write(&file.text, &file.sites, file.first, dropped, constant);
            if file.path.ends_with("src/lib.rs") {
                // What the compiler foresees to panic is for a test to find.
                text = text
                    .replace("#![no_std]", "#![no_std]\n#![allow(arithmetic_overflow, unconditional_panic)]");
                text = text.replace("#[cfg(test)]\nextern crate std;", "extern crate std;");
                ensure!(text.contains("extern crate std;"), "the core's lib.rs names std no more");
                text.push_str("\n#[doc(hidden)]\npub mod mutant;\n");
            }
            put(&self.root.join(&file.path), text.as_bytes())?;
        }
        put(&self.root.join(CORE).join("src/mutant.rs"), schema::MODULE.as_bytes())
    }

    /// Finds out which mutants do not compile.
    pub(crate) fn drop_what_does_not_compile(&self, files: &[File], target: &Path) -> Result<BTreeSet<u32>> {
        let mut dropped = BTreeSet::new();
        let mut constant = BTreeSet::new();
        for round in 1..=ROUNDS {
            self.write(files, &dropped, &constant)?;
            let (errors, _) = self.cargo(&["check", "-p", "landfall-core", "--lib"], target)?;
            if errors.is_empty() {
                return Ok(dropped);
            }
            let mut bad = self.blamed(&errors)?;
            for function in called_in_constants(&errors) {
                for file in files {
                    bad.extend(file.numbers_in(&function));
                }
                constant.insert(function);
            }
            eprintln!("round {round}: {} errors, {} mutants dropped", errors.len(), bad.len());
            if bad.is_empty() {
                let first: Vec<&str> =
                    errors.iter().filter_map(|error| error["rendered"].as_str()).take(5).collect();
                bail!("errors that no mutant is to blame for:\n{}", first.join("\n"));
            }
            dropped.extend(bad);
        }
        bail!("still errors after {ROUNDS} rounds")
    }

    /// The mutants that messages of the compiler point at: of all marks around its spans, the closest.
    fn blamed(&self, errors: &[Value]) -> Result<BTreeSet<u32>> {
        let mut marks = BTreeMap::new();
        let mut bad = BTreeSet::new();
        for error in errors {
            let mut spans = Vec::new();
            collect_spans(error, &mut spans);
            let mut closest: Option<(usize, u32)> = None;
            for (file, from, to) in spans {
                let path = self.root.join(&file);
                if !marks.contains_key(&file) {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    marks.insert(file.clone(), schema::marks(&text));
                }
                for (number, range) in &marks[&file] {
                    if range.start <= from
                        && to <= range.end
                        && closest.is_none_or(|(len, _)| range.len() < len)
                    {
                        closest = Some((range.len(), *number));
                    }
                }
            }
            bad.extend(closest.map(|(_, number)| number));
        }
        Ok(bad)
    }

    /// Builds all programs of tests.
    pub(crate) fn build(&self, target: &Path) -> Result<Vec<Program>> {
        let mut args = vec!["test", "--no-run"];
        for package in PACKAGES {
            args.extend(["-p", package]);
        }
        let (errors, programs) = self.cargo(&args, target)?;
        let first: Vec<&str> = errors.iter().filter_map(|error| error["rendered"].as_str()).take(5).collect();
        ensure!(errors.is_empty(), "the tests do not compile with the mutants in:\n{}", first.join("\n"));
        ensure!(!programs.is_empty(), "no programs of tests");
        Ok(programs)
    }

    fn cargo(&self, args: &[&str], target: &Path) -> Result<(Vec<Value>, Vec<Program>)> {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in std::env::vars_os() {
            // What `cargo run` says of this program would be taken for the scratch copy's.
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
            {
                command.env_remove(name);
            }
        }
        let output = command
            .current_dir(&self.root)
            .args(args)
            .args(["--locked", "--message-format=json"])
            .env("CARGO_TARGET_DIR", target)
            // Linking is what a build here waits for.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .context("cannot start cargo")?;
        let mut errors = Vec::new();
        let mut programs = Vec::new();
        for line in output.stdout.split(|byte| *byte == b'\n') {
            let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
            match value["reason"].as_str() {
                Some("compiler-message") if value["message"]["level"] == "error" => {
                    let message = &value["message"];
                    if message["spans"].as_array().is_some_and(|spans| !spans.is_empty()) {
                        errors.push(message.clone());
                    }
                }
                Some("compiler-artifact") if value["profile"]["test"] == true => {
                    let manifest = value["manifest_path"].as_str().context("no manifest")?;
                    if let Some(executable) = value["executable"].as_str() {
                        let folder = Path::new(manifest).parent().context("no folder")?.to_path_buf();
                        let package = folder.file_name().context("no name")?.to_string_lossy().into_owned();
                        let target = value["target"]["name"].as_str().context("no name")?;
                        let name = format!("{package}/{target}");
                        programs.push(Program { name, executable: executable.into(), folder });
                    }
                }
                _ => {}
            }
        }
        if !output.status.success() && errors.is_empty() {
            bail!("cargo {args:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok((errors, programs))
    }
}

fn collect_spans(value: &Value, into: &mut Vec<(String, usize, usize)>) {
    for span in value["spans"].as_array().into_iter().flatten() {
        let (Some(file), Some(from), Some(to)) =
            (span["file_name"].as_str(), span["byte_start"].as_u64(), span["byte_end"].as_u64())
        else {
            continue;
        };
        into.push((file.to_owned(), usize::try_from(from).unwrap_or(0), usize::try_from(to).unwrap_or(0)));
    }
    for child in value["children"].as_array().into_iter().flatten() {
        collect_spans(child, into);
    }
}

/// Writes a file unless it is there with this text: what did not change is not compiled again.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| path.display().to_string())
}
