//! Copies of a model's folder with something changed, to see how the change is received.
#![allow(dead_code)] // every test file uses its own part

use models::tensors::{self, Tensors};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

/// A copy of `folder`, removed when it goes out of scope.
pub struct Copy(PathBuf);

pub fn copy(folder: &Path) -> Copy {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}", std::process::id()));
    copy_into(folder, &path);
    Copy(path)
}

fn copy_into(folder: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        let copied = to.join(file.file_name().unwrap());
        if file.is_dir() { copy_into(&file, &copied) } else { assert!(fs::copy(&file, copied).is_ok()) }
    }
}

impl Copy {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Sets a key of a JSON file. `key` may lead into objects: `text_config.hidden_act`.
    pub fn set(self, file: &str, key: &str, value: Value) -> Self {
        let path = self.0.join(file);
        let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        json.pointer_mut(&key.rfind('.').map_or(String::new(), |end| format!("/{}", key[..end].replace('.', "/"))))
            .unwrap()[key.rsplit('.').next().unwrap()] = value;
        fs::write(&path, json.to_string()).unwrap();
        self
    }

    pub fn remove(self, file: &str) -> Self {
        fs::remove_file(self.0.join(file)).unwrap();
        self
    }

    pub fn write(self, file: &str, text: &str) -> Self {
        fs::write(self.0.join(file), text).unwrap();
        self
    }

    /// Rewrites `model.safetensors`.
    pub fn weights(self, change: impl FnOnce(Tensors) -> Tensors) -> Self {
        let path = self.0.join("model.safetensors");
        let (tensors, metadata) = tensors::read(&path).unwrap();
        tensors::write(&path, &change(tensors), metadata).unwrap();
        self
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The message of an error, which must hold all these words.
#[track_caller]
pub fn assert_error<T>(result: models::Result<T>, words: &[&str]) {
    let message = result.err().expect("an error").to_string();
    println!("{message}");
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}
