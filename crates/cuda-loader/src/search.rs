//! Where the files of a library may lie.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The environment variable that names a folder in which libraries are looked for first.
pub const FOLDER_VARIABLE: &str = "PPTOP_CUDA_LIB";

/// The places of [`candidates`], in words.
pub(crate) fn places(comes_with_python: bool) -> &'static str {
    if comes_with_python {
        "on the paths of the dynamic loader or among Python packages"
    } else {
        "on the paths of the dynamic loader"
    }
}

/// The paths of a library whose file has one of the names in `files`, in the order in which they
/// are tried. A name without a folder is for the system's dynamic loader.
pub(crate) fn candidates(
    files: &'static [&'static str],
    comes_with_python: bool,
) -> impl Iterator<Item = PathBuf> {
    let named = env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty());
    let named = named.map(PathBuf::from).into_iter();
    let named = named.flat_map(move |folder| files.iter().map(move |file| folder.join(file)));
    let of_loader = files.iter().map(PathBuf::from);
    let of_python = comes_with_python.then(|| Environment::of_process().packages());
    let of_python = of_python.into_iter().flatten();
    let of_python =
        of_python.flat_map(move |folder| files.iter().map(move |file| folder.join(file)));
    let of_python = of_python.filter(|path| path.exists());
    named.chain(of_loader).chain(of_python)
}

/// What tells where Python's packages are.
struct Environment {
    /// `VIRTUAL_ENV` and `CONDA_PREFIX`.
    active: Vec<OsString>,
    path: OsString,
    home: Option<OsString>,
}

impl Environment {
    fn of_process() -> Self {
        let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os);
        Self {
            active: active.filter(|prefix| !prefix.is_empty()).collect(),
            path: env::var_os("PATH").unwrap_or_default(),
            home: env::var_os("HOME"),
        }
    }

    /// The library folders of active environments, and the folders `nvidia/*/lib` of all Python
    /// packages, those of the active environment first.
    fn packages(&self) -> Vec<PathBuf> {
        let mut prefixes: Vec<PathBuf> = self.active.iter().map(PathBuf::from).collect();
        // Where pip installs on Debian, whichever folder its Python is in.
        prefixes.push(PathBuf::from("/usr/local"));
        for programs in env::split_paths(&self.path) {
            if programs.join("python3").exists() {
                prefixes.extend(programs.parent().map(Path::to_owned));
            }
        }
        prefixes.extend(self.home.as_ref().map(|home| Path::new(home).join(".local")));
        // conda has the libraries themselves beside those of Python.
        let mut found: Vec<PathBuf> =
            self.active.iter().map(|prefix| Path::new(prefix).join("lib")).collect();
        for prefix in prefixes {
            for python in entries(&prefix.join("lib"), "python3") {
                for packages in ["site-packages", "dist-packages"] {
                    let of_vendor = python.join(packages).join("nvidia");
                    for package in entries(&of_vendor, "") {
                        let folder = package.join("lib");
                        if folder.is_dir() && !found.contains(&folder) {
                            found.push(folder);
                        }
                    }
                }
            }
        }
        found
    }
}

/// What lies in a folder and begins with `start`, the last by name first: `python3.12` before
/// `python3.11`, and `cu13` before `cu12`.
fn entries(folder: &Path, start: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(start))
        .map(|entry| entry.path())
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_the_active_environment_come_first() {
        let root = env::temp_dir().join(format!("pp-cuda-loader-{}", std::process::id()));
        let lib = |prefix: &str, python: &str, packages: &str, package: &str| {
            let folder = root.join(prefix).join("lib").join(python).join(packages);
            let folder = folder.join("nvidia").join(package).join("lib");
            fs::create_dir_all(&folder).unwrap();
            folder
        };
        let system = lib("usr", "python3.11", "dist-packages", "cublas");
        let newest = lib("venv", "python3.12", "site-packages", "cu13");
        let of_user = lib("home/.local", "python3.11", "site-packages", "curand");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/python3"), "").unwrap();
        // A folder of programs without Python is no prefix.
        let unused = lib("opt", "python3.11", "site-packages", "cu13");
        fs::create_dir_all(root.join("opt/bin")).unwrap();
        let path = env::join_paths([root.join("opt/bin"), root.join("usr/bin")]).unwrap();
        let environment = Environment {
            active: vec![root.join("venv").into()],
            path,
            home: Some(root.join("home").into()),
        };
        let found = environment.packages();
        fs::remove_dir_all(&root).unwrap();
        let found: Vec<PathBuf> = found.into_iter().filter(|at| at.starts_with(&root)).collect();
        assert_eq!(found, [root.join("venv/lib"), newest, system, of_user]);
        assert!(!found.contains(&unused));
    }
}
