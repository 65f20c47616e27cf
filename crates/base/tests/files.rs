//! Atomic files, alone and together, and the files that already have their names.

use std::fs;
use std::io::Write;
use std::path::Path;

use base::{
    AppendedFile, Fault, FileKind, GENERATOR, OLD, OutputFile, Publication, WorkFolder, symlink, write_whole,
};

/// Windows makes links for some users only.
const LINKS: &[bool] = if cfg!(unix) { &[false, true] } else { &[false] };

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// An output file for `path` with this content, not yet published.
fn output(path: &Path, text: &str) -> OutputFile {
    let mut output = OutputFile::create(path).unwrap();
    output.write_all(text.as_bytes()).unwrap();
    output
}

#[test]
fn a_file_appears_only_when_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let file = output(&path, "new");
    assert_eq!(names(dir.path()), ["x.partial"]);
    let second = OutputFile::create(&path).unwrap_err();
    assert!(second.fault() == Fault::Target && second.problem().contains("another run"), "{second}");
    file.publish().unwrap();
    assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["x".to_owned()], b"new".to_vec()));
    drop(output(&path, "newer"));
    assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["x".to_owned()], b"new".to_vec()));
    write_whole(&path, |_| Err(std::io::Error::other("no"))).unwrap_err();
    assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["x".to_owned()], b"new".to_vec()));
}

#[test]
fn an_unfinished_file_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let [path, partial] = ["x", "x.partial"].map(|name| dir.path().join(name));
    fs::write(&partial, [9; 100]).unwrap();
    #[cfg(unix)]
    fs::set_permissions(&partial, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // a process that still has the old temporary open keeps it, and cannot write to the new one
    #[cfg(unix)]
    let old = fs::File::options().write(true).open(&partial).unwrap();
    let mut file = OutputFile::create(&path).unwrap();
    assert!(file.took_over());
    #[cfg(unix)]
    old.set_len(1).unwrap();
    file.write_all(&[1; 4]).unwrap();
    file.publish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), [1; 4]);
    #[cfg(unix)]
    assert_ne!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap()) & 0o777, 0o600);
}

/// If anything else has the name of the temporary, nothing outside is written to.
#[test]
fn a_temporary_that_is_no_file_of_ours() {
    for empty in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, if empty { "" } else { "precious" }).unwrap();
        let before = fs::read(&victim).unwrap();
        let path = dir.path().join("x");
        for &link in LINKS {
            let partial = dir.path().join("x.partial");
            if link {
                symlink(&victim, &partial).unwrap()
            } else {
                fs::create_dir(&partial).unwrap()
            }
            let error = OutputFile::create(&path).unwrap_err();
            assert_eq!(error.fault(), Fault::Target, "link: {link}");
            assert!(partial.symlink_metadata().is_ok(), "link: {link}");
            if link { fs::remove_file(&partial).unwrap() } else { fs::remove_dir(&partial).unwrap() }
        }
        assert_eq!(fs::read(&victim).unwrap(), before);
    }
}

/// Each kind of output over each kind of existing file.
#[test]
fn only_files_of_the_kind_are_replaced() {
    let report = "{\n  \"schema\": 1,\n  \"tool\": \"gemma-convert 0.1.0\"\n}\n".to_owned();
    let page = format!("<!DOCTYPE html>\n{GENERATOR}");
    let there = [
        ("report", report, Some(FileKind::Report)),
        ("page", page, Some(FileKind::Page)),
        ("logits", "_logits_\0\0".to_owned(), Some(FileKind::Logits)),
        ("model", "GGUF\u{3}\0\0\0".to_owned(), None),
        ("safetensors", "@\0\0\0\0\0\0\0{\"x\":{}}".to_owned(), None),
        ("manifest", "{\"artifacts\": []}".to_owned(), None),
        ("other JSON", "{\"schema\": 1}".to_owned(), None),
        ("other page", "<html></html>".to_owned(), None),
        ("text", "a note".to_owned(), None),
    ];
    for kind in [FileKind::Report, FileKind::Page, FileKind::Logits, FileKind::StoredLayer] {
        for (name, content, is) in &there {
            for &through_link in LINKS {
                let dir = tempfile::tempdir().unwrap();
                let [path, real] = ["x", "real"].map(|name| dir.path().join(name));
                fs::write(if through_link { &real } else { &path }, content).unwrap();
                if through_link {
                    symlink(Path::new("real"), &path).unwrap();
                }
                let made = OutputFile::replacing(&path, kind, false);
                assert_eq!(made.is_ok(), *is == Some(kind), "{kind:?} over {name}");
                if let Err(error) = &made {
                    assert_eq!(error.fault(), Fault::Target);
                    assert!(error.help_text().unwrap().contains("‹force›"), "{error}");
                }
                drop(made);
                assert_eq!(fs::read_to_string(&path).unwrap(), *content);
                let mut forced = OutputFile::replacing(&path, kind, true).unwrap();
                forced.write_all(b"new").unwrap();
                forced.publish().unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), "new");
                assert_eq!(path.is_symlink(), through_link);
                assert_eq!(names(dir.path()).len(), 1 + usize::from(through_link));
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        fs::write(&path, "").unwrap();
        OutputFile::replacing(&path, kind, false).unwrap().publish().unwrap();
        assert!(OutputFile::replacing(dir.path(), kind, true).unwrap_err().problem().contains("a folder"));
    }
}

/// A model that gets the name during the work is not replaced either.
#[test]
fn a_file_that_comes_in_the_meantime() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let report = OutputFile::replacing(&path, FileKind::Report, false).unwrap();
    fs::write(&path, "GGUF....").unwrap();
    report.publish().unwrap_err();
    assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["x".to_owned()], b"GGUF....".to_vec()));
}

#[cfg(unix)]
#[test]
fn devices_take_bytes_and_stay() {
    let null = Path::new("/dev/null");
    for file in
        [OutputFile::replacing(null, FileKind::Page, false).unwrap(), OutputFile::sequential(null).unwrap()]
    {
        let mut file = file;
        file.write_all(b"x").unwrap();
        file.publish().unwrap();
    }
    write_whole(null, |file| file.write_all(b"x")).unwrap();
    AppendedFile::open(null, false).unwrap().append("x").unwrap();
    assert!(!fs::metadata(null).unwrap().is_file() && !Path::new("/dev/null.partial").exists());
    // files that are written at any position cannot be written there
    assert!(OutputFile::create(null).unwrap_err().problem().contains("not a regular file"));
    let full = Path::new("/dev/full");
    if full.exists() {
        let mut file = OutputFile::replacing(full, FileKind::Page, false).unwrap();
        assert!(file.write_all(b"x").is_err());
        AppendedFile::open(full, false).unwrap().append("x").unwrap_err();
    }
}

#[test]
fn text_is_added_to_text_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    AppendedFile::open(&path, false).unwrap().append("one\n").unwrap();
    AppendedFile::open(&path, false).unwrap().append("two\n").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    if LINKS.contains(&true) {
        let link = dir.path().join("link");
        symlink(Path::new("x"), &link).unwrap();
        AppendedFile::open(&link, false).unwrap().append("three\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\nthree\n");
    }
    for other in ["GGUF\u{3}\0", "@\0\0\0\0\0\0\0{}", "_logits_x", "{\"artifacts\": []}", "<!doctype html>"] {
        fs::write(&path, other).unwrap();
        assert_eq!(AppendedFile::open(&path, false).unwrap_err().fault(), Fault::Target, "{other}");
        assert_eq!(fs::read(&path).unwrap(), other.as_bytes());
    }
    assert!(AppendedFile::open(dir.path(), false).unwrap_err().problem().contains("a folder"));
}

/// A set of three files whose head is the first: previous files, the file at which it fails, the result.
#[test]
fn a_set_is_all_or_nothing() {
    let texts = |dir: &Path| -> Vec<(String, String)> {
        let read = |name: String| (name.clone(), fs::read_to_string(dir.join(name)).unwrap_or_default());
        names(dir).into_iter().map(read).collect()
    };
    for old in [[true; 3], [false; 3], [true, false, true], [false, true, false]] {
        for fails in [None, Some(0), Some(1), Some(2)] {
            let dir = tempfile::tempdir().unwrap();
            let paths = ["head", "b", "c"].map(|name| dir.path().join(name));
            for (path, _) in paths.iter().zip(old).filter(|(_, old)| *old) {
                fs::write(path, "old").unwrap();
            }
            let mut files: Vec<_> = paths.iter().map(|path| output(path, "new")).collect();
            // a folder that appeared in the meantime: no file can be renamed to it
            if let Some(fails) = fails {
                let _ = fs::remove_file(&paths[fails]);
                fs::create_dir(&paths[fails]).unwrap();
            }
            let mut before = texts(dir.path());
            before.retain(|(name, _)| !name.ends_with(".partial"));
            let head = files.remove(0);
            let mut publication = Publication::new();
            let run = publication
                .set_aside(&paths[0])
                .and_then(|()| files.into_iter().chain([head]).try_for_each(|file| publication.place(file)));
            match fails {
                None => {
                    run.unwrap();
                    publication.commit(true).unwrap();
                    let new = ["b", "c", "head"].map(|name| (name.to_owned(), "new".to_owned()));
                    assert_eq!(texts(dir.path()), new);
                }
                Some(_) => {
                    assert_eq!(run.unwrap_err().fault(), Fault::Target);
                    drop(publication);
                    assert_eq!(texts(dir.path()), before, "{old:?} {fails:?}");
                }
            }
        }
    }
}

/// In the middle of a publication the set has no head, and the previous head is kept.
#[test]
fn a_set_without_its_head_is_no_set() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["head", "b"].map(|name| dir.path().join(name));
    paths.iter().for_each(|path| fs::write(path, "old").unwrap());
    let [head, b] = paths.clone().map(|path| output(&path, "new"));
    let mut publication = Publication::new();
    publication.set_aside(&paths[0]).unwrap();
    publication.place(b).unwrap();
    assert_eq!(names(dir.path()), ["b", &format!("b{OLD}"), &format!("head{OLD}"), "head.partial"]);
    drop(publication);
    drop(head);
    assert_eq!(names(dir.path()), ["b", "head"]);
    assert!(paths.iter().all(|path| fs::read(path).unwrap() == b"old"));
}

#[test]
fn a_folder_of_one_s_own() {
    let dir = tempfile::tempdir().unwrap();
    // a foreign folder, and one left by a killed run
    let theirs = dir.path().join("work.7-0.partial");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("x"), "x").unwrap();
    let left = dir.path().join("work.8-0.partial");
    fs::create_dir(&left).unwrap();
    fs::write(left.join(".gemma-convert.lock"), "").unwrap();
    let [one, two] = [0, 1].map(|_| WorkFolder::create(dir.path(), "work").unwrap());
    assert_ne!(one.path(), two.path());
    assert!(one.path().is_dir() && two.path().is_dir() && theirs.is_dir() && !left.exists());
    drop((one, two));
    assert_eq!(names(dir.path()), ["work.7-0.partial"]);
}
