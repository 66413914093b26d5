//! Which folders checkpoints may be read from.

use std::io;
use std::path::{Path, PathBuf};

/// Why a folder may not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    /// No root is configured.
    #[error("no folder is configured that weights may be read from (weights_root)")]
    NoRoots,
    /// A path or something in it does not exist or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The path is no folder.
    #[error("{} is not a folder with a checkpoint", .0.display())]
    NoDirectory(PathBuf),
    /// The path, or a file in it, is outside of all roots once symbolic links are followed.
    #[error("{} is outside of the folders that weights may be read from", .0.display())]
    Outside(PathBuf),
}

/// The roots that checkpoints must be inside of.
#[derive(Debug)]
pub(crate) struct Confined {
    roots: Vec<PathBuf>,
}

impl Confined {
    pub(crate) fn new(roots: &[PathBuf]) -> Self {
        Self { roots: roots.to_vec() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The folder at `path` with all links resolved, if it and every file in it are inside a root. A relative path is one
    /// inside the first root that has it.
    pub(crate) fn directory(&self, path: &Path) -> Result<PathBuf, ConfineError> {
        // Resolved anew each time: a root may be mounted after the server has started.
        let roots = self.roots.iter().map(|root| resolve(root)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = roots.first() else { return Err(ConfineError::NoRoots) };
        let base = roots.iter().find(|root| root.join(path).exists()).unwrap_or(first);
        let named = base.join(path);
        let inside = |path: &Path| roots.iter().any(|root| path.starts_with(root));
        let directory = match resolve(&named) {
            // Nothing is said about what is outside, not even whether it exists.
            Err(error) => return Err(if climbs(path, &inside) { ConfineError::Outside(path.into()) } else { error }),
            Ok(directory) if !inside(&directory) => return Err(ConfineError::Outside(path.into())),
            Ok(directory) => directory,
        };
        if !directory.is_dir() {
            return Err(ConfineError::NoDirectory(path.into()));
        }
        let unreadable = |source| ConfineError::Unreadable { path: path.into(), source };
        for entry in std::fs::read_dir(&directory).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            if !inside(&resolve(&file)?) {
                return Err(ConfineError::Outside(path.join(file.file_name().unwrap_or_default())));
            }
        }
        Ok(directory)
    }
}

/// Whether a path that does not exist could only be outside: it is absolute and under no root, or goes up.
fn climbs(path: &Path, inside: &impl Fn(&Path) -> bool) -> bool {
    let goes_up = path.components().any(|part| part == std::path::Component::ParentDir);
    goes_up || (path.is_absolute() && !inside(path))
}

fn resolve(path: &Path) -> Result<PathBuf, ConfineError> {
    path.canonicalize().map_err(|source| ConfineError::Unreadable { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        /// `root/step_1/{config.json}`, `outside/secret`.
        fn new(name: &str) -> Self {
            let base = std::env::temp_dir().join(format!("plumbline-confine-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&base);
            fs::create_dir_all(base.join("root/step_1")).unwrap();
            fs::create_dir_all(base.join("outside/step_2")).unwrap();
            fs::write(base.join("root/step_1/config.json"), "{}").unwrap();
            fs::write(base.join("outside/secret"), "s").unwrap();
            Self(base.canonicalize().unwrap())
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.join(path)
        }

        fn directory(&self, path: impl AsRef<Path>) -> Result<PathBuf, ConfineError> {
            Confined::new(&[self.path("root")]).directory(path.as_ref())
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn folders_inside_a_root_are_found_by_both_kinds_of_path() {
        let tree = Tree::new("inside");
        let expected = tree.path("root/step_1");
        assert_eq!(tree.directory(tree.path("root/step_1")).unwrap(), expected);
        assert_eq!(tree.directory("step_1").unwrap(), expected);
        assert_eq!(tree.directory("step_1/../step_1/.").unwrap(), expected, "what stays inside is inside");
        let both = Confined::new(&[tree.path("outside"), tree.path("root")]);
        assert_eq!(both.directory(Path::new("step_1")).unwrap(), expected, "the second root has it");
        symlink(tree.path("root/step_1"), tree.path("root/latest")).unwrap();
        assert_eq!(tree.directory("latest").unwrap(), expected);
    }

    #[test]
    fn everything_that_leads_outside_is_refused() {
        let tree = Tree::new("outside");
        symlink(tree.path("outside/step_2"), tree.path("root/linked")).unwrap();
        fs::create_dir(tree.path("root/step_3")).unwrap();
        symlink(tree.path("outside/secret"), tree.path("root/step_3/model.safetensors")).unwrap();
        // A folder whose name only begins like the root's.
        fs::create_dir_all(tree.path("root-other/step_1")).unwrap();
        for path in [
            tree.path("outside/step_2"),
            tree.path("root/../outside/step_2"),
            "../outside/step_2".into(),
            "step_1/../../outside/step_2".into(),
            tree.path("root-other/step_1"),
            "linked".into(),
            "step_3".into(),
            "/etc".into(),
            "/no/such/place".into(),
            "../no/such/place".into(),
        ] {
            let error = tree.directory(&path).unwrap_err();
            assert!(matches!(error, ConfineError::Outside(_)), "{}: {error}", path.display());
        }
    }

    #[test]
    fn what_is_missing_or_no_folder_says_so() {
        let tree = Tree::new("missing");
        assert!(matches!(tree.directory("step_9").unwrap_err(), ConfineError::Unreadable { .. }));
        assert!(matches!(tree.directory("step_1/config.json").unwrap_err(), ConfineError::NoDirectory(_)));
        assert!(matches!(Confined::new(&[]).directory(Path::new("x")).unwrap_err(), ConfineError::NoRoots));
        let unmounted = Confined::new(&[tree.path("not-mounted")]);
        assert!(matches!(unmounted.directory(Path::new("x")).unwrap_err(), ConfineError::Unreadable { .. }));
    }
}
