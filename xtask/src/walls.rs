//! `cargo xtask walls`: which crate may import which, as one table, and the rules of source that keep the
//! walls true.
//!
//! The table restates ARCHITECTURE.md, section 2; a wall moves there, here and in an ADR together. The checks
//! are pure functions over what cargo and the files say; `check` gathers that. The tests feed them made-up
//! packages.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::breach::{Breach, count, verdict};
use crate::source::{code_only, lines_with_word};
use crate::workspace::{Kind, Package, Workspace};

const CORE: &str = "landfall-core";
const TESTKIT: &str = "landfall-testkit";
const FFI: &str = "landfall-ffi";
const SIMDISK: &str = "landfall-simdisk";

/// What speaks with C, and so has lints of its own: the interface for other languages, and the disk of the proofs.
const UNSAFE: &[&str] = &[FFI, SIMDISK];

/// One row of the table.
struct Wall {
    package: &'static str,
    /// What its code and build script may import.
    imports: &'static [&'static str],
    /// What its tests, examples and benchmarks may import as well (dev-dependencies).
    tests: &'static [&'static str],
}

/// The suites and the reference server, and everything below them.
const SUITES: &[&str] = &[
    SIMDISK,
    "landfall-testkit",
    "landfall-server",
    "landfall-adapters",
    "landfall-sqlite",
    "landfall-engine",
    "landfall-protocol",
    "landfall-core",
];

/// THE table. A package that is not in it fails the check, so that a new crate is a decision.
const WALLS: &[Wall] = &[
    Wall { package: CORE, imports: &[], tests: &["landfall-testkit"] },
    Wall { package: "landfall-protocol", imports: &[], tests: SUITES },
    Wall { package: "landfall-engine", imports: &["landfall-core"], tests: SUITES },
    Wall { package: "landfall-sqlite", imports: &["landfall-core"], tests: SUITES },
    Wall { package: "landfall-adapters", imports: &["landfall-core", "landfall-protocol"], tests: SUITES },
    Wall { package: "landfall-server", imports: &["landfall-protocol"], tests: SUITES },
    Wall { package: "landfall-inspector", imports: &["landfall-core", "landfall-engine"], tests: SUITES },
    Wall {
        package: "landfall",
        imports: &[
            "landfall-core",
            "landfall-engine",
            "landfall-sqlite",
            "landfall-adapters",
            "landfall-inspector",
        ],
        tests: SUITES,
    },
    Wall {
        package: TESTKIT,
        imports: &["landfall-core", "landfall-protocol", "landfall-server", "landfall-adapters"],
        tests: SUITES,
    },
    Wall {
        package: "landfall-cli",
        imports: &[
            "landfall",
            "landfall-inspector",
            "landfall-testkit",
            "landfall-server",
            "landfall-adapters",
            "landfall-sqlite",
            "landfall-engine",
            "landfall-protocol",
            "landfall-core",
        ],
        tests: SUITES,
    },
    Wall { package: FFI, imports: &["landfall"], tests: SUITES },
    Wall { package: SIMDISK, imports: &[], tests: &[] },
    Wall {
        package: "landfall-proof",
        imports: &[
            SIMDISK,
            TESTKIT,
            "landfall-server",
            "landfall-adapters",
            "landfall-sqlite",
            "landfall-engine",
            "landfall-protocol",
            CORE,
        ],
        tests: SUITES,
    },
    Wall { package: "xtask", imports: &[], tests: &[] },
];

/// Crates that cannot work without an operating system, or that bring a clock, chance, threads or a network.
/// The compiler keeps `std` out of core's own code; this list keeps it from coming in by a dependency.
const NOT_IN_CORE: &[&str] = &[
    "async-std",
    "axum",
    "chrono",
    "crossbeam",
    "crossbeam-channel",
    "dashmap",
    "dirs",
    "fastrand",
    "getrandom",
    "hyper",
    "jiff",
    "libsqlite3-sys",
    "mio",
    "native-tls",
    "notify",
    "openssl",
    "parking_lot",
    "rand",
    "rayon",
    "reqwest",
    "rusqlite",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "ureq",
];

pub(crate) fn help() -> String {
    use std::fmt::Write as _;
    let mut help = String::from(
        "usage: cargo xtask walls

Fails when
  - one of our packages depends on another that the table below does not allow, or is not in the table;
  - landfall-core is not `#![no_std]`, lets std in outside its tests, or has a dependency that needs it;
  - a file of a src folder does not open with `//!`;
  - the word `unsafe` is in code outside landfall-ffi and landfall-simdisk, or another package leaves the
    lints of the workspace;
  - code in src uses landfall_testkit where it is a dev-dependency (a unit test sees two copies of each type).

The table (ARCHITECTURE.md, section 2), `package <- what it may import`; tests may import more, see WALLS:
",
    );
    for wall in WALLS {
        let imports =
            if wall.imports.is_empty() { "nothing of ours".to_owned() } else { wall.imports.join(", ") };
        let _ = write!(help, "\n  {:18} <- {imports}", wall.package);
    }
    help
}

/// Reads the workspace and reports every breach at once.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    let packages = relative_to(workspace.root(), workspace.packages()?)?;
    let mut breaches = check_edges(&packages);
    breaches.extend(check_core(&packages));

    let files = workspace.files()?;
    let mut sources = 0_usize;
    for package in &packages {
        let read = |path: &Path| {
            std::fs::read_to_string(workspace.root().join(path))
                .with_context(|| format!("cannot read {}", path.display()))
        };
        breaches.extend(check_manifest(package, &read(&package.manifest)?));
        for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
            if let Ok(path_in_package) = path.strip_prefix(package.folder()) {
                sources += 1;
                breaches.extend(check_source(package, path_in_package, &read(path)?));
            }
        }
    }
    ensure!(sources >= packages.len(), "only {sources} source files seen in {} packages", packages.len());
    let edges: usize = packages.iter().map(|package| ours(package, &packages).count()).sum();
    let summary = format!(
        "walls: {}, {}, {}: all in their places",
        count(packages.len(), "package", "packages"),
        count(edges, "import among them", "imports among them"),
        count(sources, "source file", "source files"),
    );
    verdict(&breaches, summary)
}

fn relative_to(root: &Path, mut packages: Vec<Package>) -> Result<Vec<Package>> {
    for package in &mut packages {
        let inside = package.manifest.strip_prefix(root);
        package.manifest = inside
            .with_context(|| format!("{} is outside the repository", package.manifest.display()))?
            .to_path_buf();
    }
    Ok(packages)
}

/// The dependencies of `package` that are packages of this workspace.
fn ours<'a>(package: &'a Package, packages: &'a [Package]) -> impl Iterator<Item = (&'a str, Kind)> {
    let is_ours = |name: &str| packages.iter().any(|other| other.name == name);
    package.dependencies.iter().map(|d| (d.name.as_str(), d.kind)).filter(move |(name, _)| is_ours(name))
}

/// Compares every edge between our packages with the table.
fn check_edges(packages: &[Package]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for package in packages {
        let (name, place) = (&package.name, package.manifest.display());
        let Some(wall) = WALLS.iter().find(|wall| wall.package == name) else {
            let what = format!("{name} is not in the table of walls");
            breaches.push(Breach::new(
                place,
                what,
                "add its row to WALLS (xtask/src/walls.rs) and to ARCHITECTURE.md",
            ));
            continue;
        };
        for (import, kind) in ours(package, packages) {
            let (allowed, section) = match kind {
                Kind::Normal => (wall.imports.contains(&import), "dependencies"),
                Kind::Build => (wall.imports.contains(&import), "build-dependencies"),
                Kind::Dev => {
                    (wall.imports.contains(&import) || wall.tests.contains(&import), "dev-dependencies")
                }
            };
            if !allowed {
                breaches.push(forbidden_edge(package, wall, import, kind, section));
            }
        }
    }
    breaches
}

fn forbidden_edge(package: &Package, wall: &Wall, import: &str, kind: Kind, section: &str) -> Breach {
    let mut may: Vec<&str> = wall.imports.to_vec();
    if kind == Kind::Dev {
        may.extend(wall.tests.iter().filter(|test| !wall.imports.contains(test)));
    }
    let may = if may.is_empty() { "none of our packages".to_owned() } else { may.join(", ") };
    Breach::new(
        package.manifest.display(),
        format!("{} must not import {import} ([{section}]); there it may import {may}", package.name),
        "move the shared code to a crate both may import, or pass it in through a trait of landfall-core; \
         a wall that is wrong moves by an ADR, with ARCHITECTURE.md and WALLS (xtask/src/walls.rs)",
    )
}

/// What is asked of core's dependencies: none that needs an operating system, and none with `std` switched
/// on.
fn check_core(packages: &[Package]) -> Vec<Breach> {
    let Some(core) = packages.iter().find(|package| package.name == CORE) else {
        return vec![Breach::new("Cargo.toml", format!("{CORE} is not in the workspace"), "bring it back")];
    };
    let mut breaches = Vec::new();
    for dependency in core.dependencies.iter().filter(|dependency| dependency.kind != Kind::Dev) {
        let name = &dependency.name;
        if NOT_IN_CORE.contains(&name.as_str()) {
            let remedy = "time, chance, files and network come in as arguments, from a crate that has them";
            breaches.push(Breach::new(
                core.manifest.display(),
                format!("{CORE} must not depend on {name}"),
                remedy,
            ));
        } else if dependency.default_features || dependency.features.iter().any(|feature| feature == "std") {
            let what =
                format!("{CORE} takes {name} with its default features or `std`, which breaks `no_std`");
            let remedy = "set `default-features = false` in [workspace.dependencies] and leave out `std`";
            breaches.push(Breach::new(core.manifest.display(), what, remedy));
        }
    }
    breaches
}

/// A package that does not inherit the lints escapes `unsafe_code = "forbid"`. Only those of [`UNSAFE`] have to.
fn check_manifest(package: &Package, manifest: &str) -> Option<Breach> {
    let mut section = "";
    let inherits = manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let line: String = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        (section == "[lints]" && line == "workspace=true")
            || (section.is_empty() && line == "lints.workspace=true")
    });
    let what = format!("{} does not inherit the lints of the workspace", package.name);
    let breach = Breach::new(package.manifest.display(), what, "add `[lints]` with `workspace = true`");
    (!inherits && !UNSAFE.contains(&package.name.as_str())).then_some(breach)
}

/// The rules of one source file; `path` is relative to the package's folder.
fn check_source(package: &Package, path: &Path, source: &str) -> Vec<Breach> {
    let place = package.folder().join(path);
    let place = place.display();
    let code = code_only(source);
    let in_src = path.starts_with("src");
    let mut breaches = Vec::new();

    if in_src && !source.starts_with("//!") {
        let remedy = "begin the file with what it is for, what it does not know, and where its tests are";
        breaches.push(Breach::new(&place, "the module does not open with `//!`", remedy));
    }
    if !UNSAFE.contains(&package.name.as_str()) {
        for line in lines_with_word(&code, "unsafe") {
            let what = format!("`unsafe` outside {FFI} and {SIMDISK}");
            breaches.push(Breach::new(
                format!("{place}:{line}"),
                what,
                "write it safely, or move it to crates/ffi",
            ));
        }
    }
    if in_src && package.name != TESTKIT && !imports_in_code(package, TESTKIT) {
        for line in lines_with_word(&code, "landfall_testkit") {
            let what = "landfall_testkit used in src, where it is a dev-dependency at most";
            let remedy = "call shared suites from tests folders: a unit test sees two copies of each type";
            breaches.push(Breach::new(format!("{place}:{line}"), what, remedy));
        }
    }
    if package.name == CORE
        && path == Path::new("src/lib.rs")
        && !code.lines().any(|l| l.trim() == "#![no_std]")
    {
        let remedy =
            "put `#![no_std]` below the module's `//!` text; tests may say `#[cfg(test)] extern crate std;`";
        breaches.push(Breach::new(&place, format!("{CORE} is not `#![no_std]`"), remedy));
    }
    if package.name == CORE && in_src {
        for line in std_let_in(&code) {
            let what = format!("{CORE} lets std in outside its tests");
            breaches.push(Breach::new(
                format!("{place}:{line}"),
                what,
                "use core and alloc; std only under `#[cfg(test)]`",
            ));
        }
    }
    breaches
}

fn imports_in_code(package: &Package, name: &str) -> bool {
    package.dependencies.iter().any(|dependency| dependency.name == name && dependency.kind != Kind::Dev)
}

/// Lines of `extern crate std` that are not directly under (or beside) `#[cfg(test)]`.
fn std_let_in(code: &str) -> Vec<usize> {
    let mut before = "";
    let mut lines = Vec::new();
    for (index, line) in code.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        if line.contains("extern crate std") && before != "#[cfg(test)]" && !line.starts_with("#[cfg(test)]")
        {
            lines.push(index + 1);
        }
        before = line;
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::workspace::parse_metadata;

    /// Metadata as cargo prints it, of packages that exist only here: (name, [(dependency, kind)]).
    fn packages(list: &[(&str, &[(&str, &str)])]) -> Vec<Package> {
        let packages: Vec<String> = list
            .iter()
            .map(|(name, dependencies)| {
                let dependencies: Vec<String> = dependencies
                    .iter()
                    .map(|(name, kind)| {
                        let kind = if *kind == "normal" { "null".to_owned() } else { format!("{kind:?}") };
                        format!(r#"{{"name":{name:?},"kind":{kind},"uses_default_features":false,"features":["alloc"]}}"#)
                    })
                    .collect();
                let dependencies = dependencies.join(",");
                format!(r#"{{"name":{name:?},"manifest_path":"{name}/Cargo.toml","dependencies":[{dependencies}]}}"#)
            })
            .collect();
        parse_metadata(format!(r#"{{"packages":[{}]}}"#, packages.join(",")).as_bytes())
            .expect("made-up metadata")
    }

    fn package(name: &str) -> Package {
        Package { name: name.into(), manifest: PathBuf::from(name).join("Cargo.toml"), dependencies: vec![] }
    }

    fn whats(breaches: &[Breach]) -> String {
        breaches.iter().map(|breach| format!("{}: {}\n", breach.place, breach.what)).collect()
    }

    #[test]
    fn edges_of_the_table_are_allowed() {
        let graph = packages(&[
            (CORE, &[("serde", "normal"), ("landfall-testkit", "dev")]),
            ("landfall-engine", &[(CORE, "normal"), ("landfall-sqlite", "dev"), ("landfall-testkit", "dev")]),
            ("landfall-sqlite", &[(CORE, "normal"), (CORE, "build"), ("rusqlite", "normal")]),
            ("landfall-testkit", &[("landfall-server", "normal"), ("landfall-adapters", "normal")]),
            ("landfall-server", &[("landfall-protocol", "normal")]),
            ("landfall-cli", &[("landfall", "normal"), ("landfall-testkit", "normal")]),
            ("landfall-ffi", &[("landfall", "normal")]),
            ("landfall", &[("landfall-inspector", "normal")]),
            ("landfall-inspector", &[("landfall-engine", "normal")]),
            ("landfall-adapters", &[]),
            ("landfall-protocol", &[]),
        ]);
        assert_eq!(whats(&check_edges(&graph)), "");
    }

    #[test]
    fn a_forbidden_edge_is_found_and_named_with_its_section() {
        let cases = [
            ("landfall-engine", "landfall-sqlite", "normal", "[dependencies]"),
            ("landfall-sqlite", "landfall-engine", "build", "[build-dependencies]"),
            ("landfall-server", CORE, "normal", "[dependencies]"),
            (CORE, "landfall-protocol", "normal", "[dependencies]"),
            (CORE, "landfall-server", "dev", "[dev-dependencies]"),
            ("landfall-adapters", "landfall-testkit", "normal", "[dependencies]"),
            ("landfall-ffi", CORE, "normal", "[dependencies]"),
            ("landfall-testkit", "landfall-engine", "normal", "[dependencies]"),
            ("landfall-engine", "landfall", "dev", "[dev-dependencies]"),
            ("landfall-sqlite", "landfall-cli", "dev", "[dev-dependencies]"),
            ("xtask", CORE, "normal", "[dependencies]"),
            ("xtask", CORE, "dev", "[dev-dependencies]"),
        ];
        for (from, to, kind, section) in cases {
            let found = whats(&check_edges(&packages(&[(from, &[(to, kind)]), (to, &[])])));
            let expected = format!("{from}/Cargo.toml: {from} must not import {to} ({section})");
            assert!(found.starts_with(&expected) && found.lines().count() == 1, "{from} to {to}: {found:?}");
        }
    }

    #[test]
    fn a_package_that_is_not_in_the_table_is_a_breach() {
        let found = whats(&check_edges(&packages(&[("landfall-extra", &[])])));
        assert!(found.contains("landfall-extra is not in the table"), "{found}");
    }

    #[test]
    fn the_table_names_only_packages_of_its_own_and_allows_no_circle() {
        let row = |name: &str| WALLS.iter().position(|wall| wall.package == name);
        for wall in WALLS {
            for import in wall.imports.iter().chain(wall.tests) {
                assert!(row(import).is_some(), "{} names {import}, which has no row", wall.package);
            }
        }
        // Take away, again and again, what imports nothing that is left; a circle stays for ever.
        let mut left: Vec<&Wall> = WALLS.iter().collect();
        loop {
            let free =
                left.iter().position(|w| !w.imports.iter().any(|i| left.iter().any(|l| l.package == *i)));
            match free {
                Some(index) => drop(left.swap_remove(index)),
                None => break,
            }
        }
        assert_eq!(left.iter().map(|wall| wall.package).collect::<Vec<_>>(), Vec::<&str>::new());
    }

    #[test]
    fn core_takes_no_dependency_that_needs_an_operating_system() {
        let bad = packages(&[(CORE, &[("tokio", "normal"), ("rusqlite", "build"), ("tempfile", "dev")])]);
        let found = whats(&check_core(&bad));
        assert!(found.contains("must not depend on tokio") && found.contains("rusqlite"), "{found}");
        assert!(!found.contains("tempfile"), "tests may use std: {found}");
        assert_eq!(check_core(&packages(&[("landfall", &[])])).len(), 1, "no core at all is a breach");
    }

    #[test]
    fn core_takes_its_dependencies_without_std() {
        let mut graph = packages(&[(CORE, &[("serde", "normal")])]);
        assert_eq!(whats(&check_core(&graph)), "");
        graph[0].dependencies[0].features.push("std".into());
        assert!(whats(&check_core(&graph)).contains("takes serde with"));
        graph[0].dependencies[0].features.clear();
        graph[0].dependencies[0].default_features = true;
        assert!(whats(&check_core(&graph)).contains("takes serde with"));
    }

    #[test]
    fn core_is_no_std_in_code_and_not_only_in_words() {
        let lib = |source: &str| whats(&check_source(&package(CORE), Path::new("src/lib.rs"), source));
        assert_eq!(lib("//! Core.\n#![no_std]\nextern crate alloc;\n#[cfg(test)]\nextern crate std;\n"), "");
        assert!(lib("//! Core, which is\n// #![no_std]\n").contains("not `#![no_std]`"));
        assert!(
            lib("//! Core.\n#![no_std]\nextern crate std;\n")
                .contains("src/lib.rs:3: landfall-core lets std in")
        );
        let other = check_source(&package("landfall-engine"), Path::new("src/lib.rs"), "//! Engine.\n");
        assert_eq!(whats(&other), "");
    }

    #[test]
    fn a_module_opens_with_its_purpose() {
        let source = "use std::fmt;\n//! Too late.\n";
        let found = |path: &str| whats(&check_source(&package("landfall"), Path::new(path), source));
        assert!(found("src/lib.rs").contains("does not open with"));
        assert!(found("src/deep/er.rs").contains("does not open with"));
        assert_eq!(found("tests/suite.rs"), "");
    }

    #[test]
    fn unsafe_code_is_found_in_every_package_but_ffi() {
        let source = "//! Never unsafe.\nfn f() { let s = \"unsafe\"; }\n#[unsafe(no_mangle)]\nfn g() {}\n";
        let found = |name: &str, path: &str| whats(&check_source(&package(name), Path::new(path), source));
        assert_eq!(
            found("landfall-engine", "src/a.rs"),
            "landfall-engine/src/a.rs:3: `unsafe` outside landfall-ffi and landfall-simdisk\n"
        );
        assert!(found("landfall-engine", "tests/a.rs").contains(":3:"));
        assert_eq!(found("landfall-ffi", "src/a.rs"), "");
        assert_eq!(found("landfall-simdisk", "src/a.rs"), "");
    }

    #[test]
    fn the_suites_are_called_from_tests_folders() {
        let source = "//! See landfall_testkit.\nuse landfall_testkit::store;\n";
        let found = |name: &str, path: &str| whats(&check_source(&package(name), Path::new(path), source));
        assert!(found("landfall-sqlite", "src/tx.rs").contains("src/tx.rs:2: landfall_testkit used in src"));
        assert_eq!(found("landfall-sqlite", "tests/store.rs"), "");
        let cli = &packages(&[("landfall-cli", &[("landfall-testkit", "normal")])])[0];
        assert_eq!(whats(&check_source(cli, Path::new("src/demo.rs"), source)), "");
    }

    #[test]
    fn a_package_inherits_the_lints() {
        let inherits = |name: &str, text: &str| check_manifest(&package(name), text).is_none();
        assert!(inherits(
            "landfall",
            "[package]\nname = \"x\"\n[lints]\nworkspace = true # all\n[dependencies]"
        ));
        assert!(!inherits("landfall", "[package]\nname = \"x\"\n"));
        assert!(!inherits("landfall", "[dependencies.serde]\nworkspace = true\n"));
        assert!(!inherits("landfall", "[lints]\n# workspace = true\n"));
        assert!(inherits("landfall-ffi", "[package]\nname = \"x\"\n"));
    }
}
