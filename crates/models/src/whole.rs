//! Files that are whole or not there, and what data are known again by.

use crate::Error;
use sha2::{Digest, Sha256};
use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::{self, Path, PathBuf},
};

const PARTIAL: &str = ".partial";
/// Letters that tell such files apart.
const RANDOM: usize = 6;

/// Removes what [`write_whole`] left in a folder, and in those inside it, when the process was killed. Nobody may be writing there.
///
/// # Errors
/// A folder that cannot be read; a file that cannot be removed.
pub fn remove_partial(folder: &Path) -> crate::Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let path = entry.path();
        if entry.file_type().map_err(Error::io(&path))?.is_dir() {
            remove_partial(&path)?;
        } else if entry.file_name().to_str().is_some_and(is_partial) {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Whether [`write_whole`] gives such names: `NAME.abc123.partial`.
fn is_partial(name: &str) -> bool {
    let random = name.strip_suffix(PARTIAL).and_then(|name| name.rsplit_once('.'));
    random.is_some_and(|(name, random)| {
        !name.is_empty() && random.len() == RANDOM && random.chars().all(|c| c.is_ascii_alphanumeric())
    })
}

/// Writes a file under a name of its own in the same folder, and gives it its real name when it is whole. What was there before stays
/// until then, and of two processes that write the same file neither sees half of the other's. A symbolic link stays one: the file that it
/// leads to is written. What is no file, such as `/dev/stdout`, is written to and stays what it is.
///
/// # Errors
/// Those of `write`, which receives the other name; of a folder that cannot be written to.
pub fn write_whole<E: From<Error>>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let place = led_to(path);
    if is_descriptor(&place) || fs::metadata(&place).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        let whole = tempfile::NamedTempFile::new().map_err(|e| E::from(Error::io(path)(e)))?.into_temp_path();
        write(&whole)?;
        let copied = File::open(&whole).and_then(|mut from| io::copy(&mut from, &mut stream(&place)?).map(drop));
        return copied.map_err(|e| E::from(Error::io(path)(e)));
    }
    let path = &place;
    let folder = folder_of(path);
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".");
    let partial = tempfile::Builder::new()
        .prefix(&name)
        .rand_bytes(RANDOM)
        .suffix(PARTIAL)
        .permissions(Permissions::from_mode(0o666)) // less what the user masks
        .tempfile_in(folder)
        .map_err(|e| E::from(Error::io(path)(e)))?
        .into_temp_path(); // removed when it is dropped
    write(&partial)?;
    partial.persist(path).map_err(|e| E::from(Error::io(path)(e.error)))
}

/// What is written to as it comes. The process's own output goes on where it is, also where a shell has led it to a file.
fn stream(place: &Path) -> io::Result<Box<dyn Write>> {
    Ok(match place.to_str() {
        Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => Box::new(io::stdout()),
        Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => Box::new(io::stderr()),
        _ => Box::new(File::options().append(true).open(place)?),
    })
}

/// Whether a path means an open file of a process, such as its output, rather than a place in a folder (`/dev/shm/a.png` is one).
fn is_descriptor(path: &Path) -> bool {
    let of_process = || path.parent().is_some_and(|folder| folder.starts_with("/proc") && folder.ends_with("fd"));
    ["/dev/stdout", "/dev/stderr"].iter().any(|name| path == Path::new(name))
        || path.starts_with("/dev/fd")
        || of_process()
}

/// One name for all the names of a file, which may not be there yet, nor its folders.
pub fn place(file: &Path) -> PathBuf {
    let file = led_to(file);
    let file = path::absolute(&file).unwrap_or(file);
    let there = file.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, real)) if above != file => real.join(file.strip_prefix(above).unwrap_or(&file)),
        Some((_, real)) => real,
        None => file,
    }
}

/// Where symbolic links lead in the end, whether a file is there or not yet; any other path as it is, and so is an open file of a
/// process, which looks like a link.
fn led_to(path: &Path) -> PathBuf {
    let mut place = path.to_owned();
    for _ in 0..40 {
        if is_descriptor(&place) {
            return place;
        }
        match fs::read_link(&place) {
            Ok(next) => place = folder_of(&place).join(next),
            Err(_) => return place,
        }
    }
    path.to_owned() // in a circle
}

/// As [`write_whole`], and it outlives a loss of power: the file is on the disk before it gets its name, and so is its name in the end.
///
/// # Errors
/// As [`write_whole`].
pub fn write_durable<E: From<Error>>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    write_whole(path, |partial| {
        write(partial)?;
        let synced = File::options().write(true).open(partial).and_then(|file| sync(&file));
        synced.map_err(|e| E::from(Error::io(path)(e)))
    })?;
    sync_folder(folder_of(&led_to(path))).map_err(E::from)
}

/// Has the system write the names in a folder to the disk.
///
/// # Errors
/// A folder that cannot be read; those of the disk.
pub fn sync_folder(folder: &Path) -> crate::Result<()> {
    let file = File::open(folder).map_err(Error::io(folder))?;
    sync(&file).map_err(Error::io(folder))
}

/// Makes a folder, and those above it that are not there, with their names on the disk in the end, where the folder above can be read.
///
/// # Errors
/// A folder that cannot be made.
pub fn make_folder(folder: &Path) -> crate::Result<()> {
    let missing = folder.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.is_dir());
    let missing: Vec<&Path> = missing.collect();
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    for made in missing {
        let _ = sync_folder(folder_of(made));
    }
    Ok(())
}

/// Has the system write a file to the disk, if it is on one: devices and some network file systems know no such thing.
///
/// # Errors
/// Those of the disk.
pub fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        done => done,
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a text, whole or not at all, and has it on the disk in the end.
///
/// # Errors
/// A folder that cannot be written to.
pub fn write_text(path: &Path, text: &str) -> crate::Result<()> {
    write_durable(path, |partial| fs::write(partial, text).map_err(Error::io(path)))
}

/// By which data are known again: the first 64 bits of their SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..8])
}

/// Two digits a byte, in lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn open_files_are_told_from_files() {
        for path in ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1", "/proc/7/fd/3"] {
            assert!(is_descriptor(Path::new(path)), "{path}");
        }
        for path in ["/dev/shm/a.png", "/dev/null", "/proc/a.png", "fd/1", "a.png", "/"] {
            assert!(!is_descriptor(Path::new(path)), "{path}");
        }
        let memory = Path::new("/dev/shm");
        if let Ok(folder) = tempfile::tempdir_in(memory) {
            let file = folder.path().join("a.txt");
            write_text(&file, "a").unwrap();
            write_text(&file, "b").unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "b");
        }
    }

    #[test]
    fn a_file_has_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        fs::write(real.join("there"), "").unwrap();
        for name in ["there", "new", "no/folder/new"] {
            for typed in [name.to_owned(), format!("./{name}"), format!("link/{name}"), format!("link/link/{name}")] {
                assert_eq!(place(&real.join(&typed)), real.join(name), "{typed}");
            }
        }
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(place(Path::new("no/such")), here.join("no/such"));
    }

    #[test]
    fn what_a_kill_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("samples/step-4");
        fs::create_dir_all(&inside).unwrap();
        let killed = write_whole(&inside.join("a.png"), |partial| {
            let kept = inside.join(partial.file_name().unwrap()).with_extension("copy");
            fs::copy(partial, &kept).map_err(Error::io(partial))?; // removed when the write fails, unlike after a kill
            Err(Error::Input("killed".into()))
        });
        assert!(killed.is_err());
        let name = fs::read_dir(&inside).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
        let partial = name.replace(".copy", PARTIAL);
        fs::rename(inside.join(&name), inside.join(&partial)).unwrap();
        let others = ["a.png", "mine.partial", "mine.abc.partial", ".abc123.partial", "a.abc123.partial.txt"];
        others.iter().for_each(|name| fs::write(inside.join(name), "").unwrap());
        remove_partial(folder.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&inside).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut expected = others.map(str::to_owned);
        expected.sort();
        assert_eq!(left, expected, "{partial} is gone, and nothing else");
    }

    #[test]
    fn links_and_devices_stay_what_they_are() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("elsewhere")).unwrap();
        symlink("elsewhere/file.txt", at("link")).unwrap();
        symlink("link", at("link-to-link")).unwrap();
        for text in ["first", "second"] {
            write_text(&at("link-to-link"), text).unwrap();
            assert_eq!(fs::read_to_string(at("elsewhere/file.txt")).unwrap(), text);
            assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        }
        symlink("circle", at("circle")).unwrap();
        write_text(&at("circle"), "no link can lead there").unwrap();
        write_text(Path::new("/dev/null"), "gone").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn whole_or_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let write = |text: &'static str| move |partial: &Path| fs::write(partial, text).map_err(Error::io(partial));
        write_whole(&path, write("one")).unwrap();
        let in_between = write_whole(&path, |partial| {
            write_whole(&path, write("two"))?; // another process, at the same time
            assert_eq!(fs::read_to_string(&path).unwrap(), "two");
            write("three")(partial)
        });
        in_between.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert!(write_whole(&path, |_| Err(Error::Input("no".into()))).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
        let error = write_whole(&folder.path().join("none/a.txt"), write("")).unwrap_err().to_string();
        assert!(error.contains("none/a.txt"), "{error}");
    }
}
