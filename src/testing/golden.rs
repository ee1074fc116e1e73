//! Text against files: compare, or bless.
//!
//! With `FERROVIA_BLESS=1` in the environment files are written instead of compared; the difference is then reviewed
//! like any other change.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Compares texts with the files of one folder and remembers every difference.
#[derive(Debug)]
pub struct Golden {
    folder: PathBuf,
    blessing: bool,
    compared: BTreeSet<String>,
    differences: Vec<String>,
}

impl Golden {
    /// For the files of one folder.
    pub fn new(folder: &Path) -> Golden {
        let blessing = std::env::var_os("FERROVIA_BLESS").is_some_and(|value| value == "1");
        Golden { folder: folder.to_owned(), blessing, compared: BTreeSet::new(), differences: Vec::new() }
    }

    /// The file `name` must hold `text`. A text that says nothing has no file.
    pub fn compare(&mut self, name: &str, text: &str) {
        self.compared.insert(name.to_owned());
        let path = self.folder.join(name);
        let found = fs::read_to_string(&path).unwrap_or_default();
        if found == text {
            return;
        }
        if self.blessing {
            fs::create_dir_all(&self.folder).unwrap();
            if text.is_empty() {
                fs::remove_file(&path).unwrap();
            } else {
                fs::write(&path, text).unwrap();
            }
            return;
        }
        self.differences.push(format!("{}:\n{}", path.display(), difference(&found, text)));
    }

    /// All differences, and files that nothing was compared with. Empty when all is well.
    pub fn finish(mut self) -> Vec<String> {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.compared.contains(&name) {
                continue;
            }
            if self.blessing {
                fs::remove_file(entry.path()).unwrap();
            } else {
                self.differences.push(format!("{}: nothing is compared with it", entry.path().display()));
            }
        }
        self.differences
    }
}

/// The lines that differ, with those before and after that are the same left out.
fn difference(found: &str, text: &str) -> String {
    let (found, text): (Vec<&str>, Vec<&str>) = (found.lines().collect(), text.lines().collect());
    let same = found.iter().zip(&text).take_while(|(a, b)| a == b).count();
    let (found, text) = (&found[same..], &text[same..]);
    let tail = found.iter().rev().zip(text.iter().rev()).take_while(|(a, b)| a == b).count();
    let removed = found[..found.len() - tail].iter().map(|line| format!("  - {line}\n"));
    let added = text[..text.len() - tail].iter().map(|line| format!("  + {line}\n"));
    format!("  from line {}:\n{}", same + 1, removed.chain(added).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_lines_that_differ() {
        assert_eq!(difference("a\nb\nc\n", "a\nx\ny\nc\n"), "  from line 2:\n  - b\n  + x\n  + y\n");
        assert_eq!(difference("", "a\n"), "  from line 1:\n  + a\n");
    }

    #[test]
    fn reports_what_differs_what_is_missing_and_what_nobody_wants() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("same", "1\n"), ("other", "1\n"), ("stale", "1\n")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut golden = Golden { blessing: false, ..Golden::new(folder.path()) };
        golden.compare("same", "1\n");
        golden.compare("other", "2\n");
        golden.compare("absent", "1\n");
        golden.compare("nothing", "");
        let differences = golden.finish();
        assert_eq!(differences.len(), 3, "{differences:?}");
    }

    #[test]
    fn blessing_makes_the_folder_right() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("want");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("stale"), "1\n").unwrap();
        let bless = || {
            let mut golden = Golden { blessing: true, ..Golden::new(&inside) };
            golden.compare("new", "2\n");
            golden.finish()
        };
        assert!(bless().is_empty());
        let mut golden = Golden { blessing: false, ..Golden::new(&inside) };
        golden.compare("new", "2\n");
        assert!(golden.finish().is_empty());
    }
}
